"""What runs a model: steering, the packed and the hooked route, log-probabilities of pairs and continuations.

Stands on models, pairs and vectors.
"""
