"""Vectors (and a model) -> results, one measure per file."""
