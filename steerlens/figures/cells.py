"""A comparison's numbers as cells of a table, on a page and in LaTeX."""

import math

import pandas as pd

from steerlens.comparison.tables import UNREACHED
from steerlens.measures.effect import Quantity

NOTHING = "\N{EN DASH}"
QUANTITIES: tuple[tuple[Quantity, str], ...] = (
    ("odd", ".2f"),
    ("even", ".2f"),
    ("odd_per_token", ".3f"),
    ("even_per_token", ".3f"),
)
SIDES: tuple[tuple[Quantity, str], ...] = (("even_chosen", "chosen, even"), ("even_rejected", "rejected, even"))
"""what either sign does to log p of each response, beside the margin's parts"""


def cell(row: pd.Series, quantity: Quantity, digits: str) -> str:
    """A mean with its interval; of random directions the range of their means."""
    mean, low, high = (row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"])
    if row["strength"] == UNREACHED:
        return NOTHING
    if math.isnan(mean):
        return f"from {low:+{digits}} to {high:+{digits}}"
    return f"{mean:+{digits}} [{low:+{digits}}, {high:+{digits}}]"


def norm_cell(row: pd.Series) -> str:
    """The norm that was steered with, where there was one."""
    return NOTHING if math.isnan(row["norm"]) else f"{row['norm']:.3g}"


def spread_cell(row: pd.Series, quantity: str, digits: str) -> str:
    """A mean over seeds with the lowest and the highest of them."""
    mean, low, high = (row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"])
    return f"{mean:+{digits}} (from {low:+{digits}} to {high:+{digits}})"


def wrong_cell(row: pd.Series) -> str:
    """The shares of pairs whose margin moves against the sign, at +1 and at -1."""
    if math.isnan(row["wrong_way"]):
        return NOTHING
    return f"{row['wrong_way']:.0%}, {row['wrong_way_opposite']:.0%}"


def fall_cell(row: pd.Series) -> str:
    """The signs at which both responses become less likely."""
    return str(row["both_fall"]) or NOTHING
