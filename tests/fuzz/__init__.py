"""Seeded mutations of valid files of every kind that steerlens reads: each loads right or raises a SteerLensError, in bounds."""
