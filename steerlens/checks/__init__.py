"""What a caller passes, checked before any work: single values, and every argument of a call by its name."""
