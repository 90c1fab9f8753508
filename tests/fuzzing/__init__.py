"""What nobody would think of sending: requests from the schemas, pictures from damaged bytes, jobs from chance.

All of it is drawn by Hypothesis from a fixed seed, so that a run says the same as the one before. Everyday tests draw little; the same
sentences are tested with `slow` on much more (`explored.py`).
"""
