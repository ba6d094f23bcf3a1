"""Runnable studies: `python -m analyses.NAME --help`; each is Config -> run -> result -> figure."""
