"""Preference pairs and multiple-choice questions, and where they come from: any table, published sets, our own.

Stands on text and the laboratory.
"""
