"""Rows of texts, checked before they become pairs: what is bad is named by its row, and dropped only when asked."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from steerlens.errors import PairsError

log = logging.getLogger(__name__)
OnBad = Literal["raise", "drop"]


def check_columns(columns: dict[str, Sequence[str]]) -> None:
    """Raise PairsError unless the columns are lists of texts of one length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise PairsError(f"the columns differ in length: {lengths}; expected one text each per pair")
    if not next(iter(lengths.values())):
        raise PairsError("there are no pairs: expected at least one prompt with its two responses")
    for name, column in columns.items():
        if isinstance(column, str):
            raise PairsError(f"{name} is one string; expected a list with one text per pair")
        wrong = [i for i, text in enumerate(column) if not isinstance(text, str)]
        if wrong:
            raise PairsError(
                f"{name} holds a {type(column[wrong[0]]).__name__} in rows {listed(wrong)}; expected texts"
            )


def good_rows(columns: dict[str, Sequence[str]], on_bad: OnBad, provenance: str) -> list[int]:
    """The rows that can be used; the others raise PairsError, or are dropped with a logged count."""
    if on_bad not in ("raise", "drop"):
        raise PairsError(f"on_bad={on_bad!r} is not known; expected 'raise' or 'drop'")
    n = len(columns["prompts"])
    bad = {f"empty {name}": [i for i in range(n) if not column[i].strip()] for name, column in columns.items()}
    if "rejected_prompts" not in columns:
        same = [i for i in range(n) if columns["chosen"][i] == columns["rejected"][i] and columns["chosen"][i].strip()]
        bad["chosen equal to rejected"] = same
    bad = {why: rows for why, rows in bad.items() if rows}
    dropped = {i for rows in bad.values() for i in rows}
    if bad and (on_bad == "raise" or len(dropped) == n):
        reasons = "; ".join(f"{why}: rows {listed(rows)}" for why, rows in bad.items())
        raise PairsError(
            f"{len(dropped)} of the {n} pairs of {provenance} can't be used ({reasons}; 0-based). "
            "Mend them, or leave them out: on_bad='drop'"
        )
    if bad:
        log.warning(
            "dropped %d of %d pairs of %s: %s",
            len(dropped),
            n,
            provenance,
            dict(Counter({w: len(r) for w, r in bad.items()})),
        )
    return [i for i in range(n) if i not in dropped]


def listed(rows: Sequence[int], limit: int = 12) -> str:
    """Some row numbers as text."""
    shown = ", ".join(map(str, rows[:limit]))
    return shown if len(rows) <= limit else f"{shown}, ... ({len(rows)} in all)"
