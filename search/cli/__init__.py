"""The command line of `search/run.py` and what it resolves to."""
