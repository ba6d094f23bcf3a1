"""Rows of texts, checked before they become pairs: what is bad is named by its row, and dropped only when asked."""

import logging
import random
import re
from collections.abc import Sequence
from typing import Literal

from steerlens.checks.values import checked_number, checked_seed
from steerlens.errors import PairsError

log = logging.getLogger(__name__)
OnBad = Literal["raise", "drop"]
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: no character, and no encoding takes it


def check_columns(columns: dict[str, Sequence[str]]) -> None:
    """Raise PairsError unless the columns are lists of one length."""
    for name, column in columns.items():
        if isinstance(column, str):
            raise PairsError(f"{name} is one string; expected a list with one text per pair")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise PairsError(f"the columns differ in length: {lengths}; expected one text each per pair")
    if not next(iter(lengths.values())):
        raise PairsError("there are no pairs: expected at least one prompt with its two responses")


def why_no_text(text: object) -> str | None:
    """Why something can't be read as a text that says something, or None: "X is null", "X holds a float", ..., without the X."""
    if text is None:
        return "is null"
    if not isinstance(text, str):
        return f"holds a {type(text).__name__}"
    if not text.strip():
        return "is empty"
    return "holds half of a surrogate pair, which is no character" if _HALF.search(text) else None


def good_rows(columns: dict[str, Sequence[str]], on_bad: OnBad, provenance: str) -> list[int]:
    """The rows that can be used; the others raise PairsError, or are dropped with a logged count."""
    n, bad = len(columns["prompts"]), dict[str, list[int]]()
    for name, column in columns.items():
        for i, text in enumerate(column):
            why = why_no_text(text)
            if why is not None:
                bad.setdefault(f"empty {name}" if why == "is empty" else f"{name} {why}", []).append(i)
    if "rejected_prompts" not in columns:
        both = list(zip(columns["chosen"], columns["rejected"], strict=True))
        same = [
            i for i, (a, b) in enumerate(both) if isinstance(a, str) and isinstance(b, str) and a == b and a.strip()
        ]
        bad["chosen equal to rejected"] = same
    return _kept(bad, n, on_bad, provenance, "pairs")


def good_reasons(reasons: Sequence[str | None], on_bad: OnBad, provenance: str, what: str) -> list[int]:
    """The rows without a reason against them; the others raise PairsError, or are dropped with a logged count.

    reasons: several of one row stand on lines of their own.
    """
    bad: dict[str, list[int]] = {}
    for row, found in enumerate(reasons):
        for why in () if found is None else found.split("\n"):
            bad.setdefault(why, []).append(row)
    return _kept(bad, len(reasons), on_bad, provenance, what)


def _kept(bad: dict[str, list[int]], n: int, on_bad: OnBad, provenance: str, what: str) -> list[int]:
    bad = {why: rows for why, rows in bad.items() if rows}
    dropped = {i for rows in bad.values() for i in rows}
    if bad and (on_bad == "raise" or len(dropped) == n):
        reasons = "; ".join(f"{why}: rows {listed(rows)}" for why, rows in bad.items())
        raise PairsError(
            f"{len(dropped)} of the {n} {what} of {provenance} can't be used ({reasons}; 0-based). "
            "Mend them, or leave them out: on_bad='drop'"
        )
    if bad:
        counts = {why: len(rows) for why, rows in bad.items()}
        log.warning("dropped %d of %d %s of %s: %s", len(dropped), n, what, provenance, counts)
    return [i for i in range(n) if i not in dropped]


def drawn_parts(prompts: Sequence[str], seed: int = 0, *, val: float = 0.15, test: float = 0.25) -> list[SplitName]:
    """The part that each prompt falls to, drawn with `seed`; equal prompts go to the same part.

    val, test: the parts' shares of all prompts.
    """
    seed = checked_seed(seed, error=PairsError)
    val, test = (checked_number(name, share, error=PairsError) for name, share in (("val", val), ("test", test)))
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise PairsError(f"val={val} and test={test} are shares of the pairs; expected a sum from 0 to below 1")
    groups: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt.strip().lower(), []).append(i)
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)
    wanted: dict[SplitName, int] = {"test": round(test * len(prompts)), "val": round(val * len(prompts))}
    parts: list[SplitName] = ["train"] * len(prompts)
    for key in keys:
        fit = next((name for name, room in wanted.items() if len(groups[key]) <= room), None)
        if fit is not None:
            wanted[fit] -= len(groups[key])
            for i in groups[key]:
                parts[i] = fit
    return parts


def listed(rows: Sequence[int], limit: int = 12) -> str:
    """Some row numbers as text."""
    shown = ", ".join(map(str, rows[:limit]))
    return shown if len(rows) <= limit else f"{shown}, ... ({len(rows)} in all)"
