"""One folder per endpoint: `handler.py`, `generate.py`, and what only it uses."""
