"""Hostile inputs: each is sent to real workers while good jobs go on. No worker ends, each gets its error, and none costs much.

The inputs are those of attacks that once ended or stalled a worker, and their neighbours (`inputs/`). `budget.py` measures what each one
costs; `docs/reliability.md` lists them.
"""
