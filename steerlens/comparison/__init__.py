"""Vectors side by side: compare, sweeps, matched strengths. Stands on methods and measures."""
