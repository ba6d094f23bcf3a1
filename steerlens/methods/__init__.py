"""Pairs -> SteeringVector, one method per file, one signature."""
