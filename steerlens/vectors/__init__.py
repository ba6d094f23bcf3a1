"""Steering vectors: what one is, its files, names and origin. Stands on models and pairs."""
