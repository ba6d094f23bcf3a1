"""A comparison's tables: effects at one multiplier, the spread of seeds, and every mean in tidy form."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steerlens.measures.effect import PreferenceShift, Quantity

if TYPE_CHECKING:
    from steerlens.comparison.comparison import Comparison

PARTS: tuple[Quantity, ...] = (
    "odd", "even", "odd_per_token", "even_per_token", "even_chosen", "even_rejected", "chosen", "rejected"
)  # fmt: skip
UNREACHED = "equal KL: not reached"


def mean_shift(label: str, shifts: Sequence[PreferenceShift]) -> PreferenceShift:
    """The mean of several vectors' shifts of the same pairs: each pair's log-probabilities, and the norms."""
    return replace(
        shifts[0],
        label=label,
        norm=float(np.mean([shift.norm for shift in shifts])),
        chosen=np.mean([shift.chosen for shift in shifts], axis=0),
        rejected=np.mean([shift.rejected for shift in shifts], axis=0),
    )


def effects(comparison: "Comparison", multiplier: float) -> pd.DataFrame:
    """`Comparison.effects`."""
    rows: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    at_random: dict[str, list[PreferenceShift]] = {}
    for strength, shift in comparison.shifts():
        if multiplier not in shift.odd_multipliers:
            continue
        is_control = strength.startswith("control")
        if is_control and shift.label == "random":
            at_random.setdefault(strength, []).append(shift)
            continue
        row: dict[str, Any] = {"vector": shift.label, "strength": strength, "norm": shift.norm}
        for q in PARTS:
            at = shift.columns(q).index(multiplier)
            low, high = (float(side[at]) for side in shift.interval(q))
            row |= {q: float(shift.mean(q)[at]), f"{q}_low": low, f"{q}_high": high}
        row |= _moved([shift], multiplier)
        (controls if is_control else rows).append(row)
    if rows and multiplier == 1:
        rows += _unreached(comparison)
    drawn = [_drawn(comparison, strength, group, multiplier) for strength, group in at_random.items()]
    return pd.DataFrame([*rows, *controls, *drawn])


def _moved(shifts: Sequence[PreferenceShift], multiplier: float) -> dict[str, Any]:
    """The shares of pairs that go the wrong way under both signs, and the signs at which both responses of any shift fall."""
    both = [[shift.multipliers.index(sign * multiplier) for sign in (1, -1)] for shift in shifts]
    wrong = np.mean([shift.wrong_way[at] for shift, at in zip(shifts, both, strict=True)], axis=0)
    fall = np.any([shift.both_fall[at] for shift, at in zip(shifts, both, strict=True)], axis=0)
    told = ", ".join(f"{sign * multiplier:+g}" for sign, falls in zip((1, -1), fall, strict=True) if falls)
    return {"wrong_way": float(wrong[0]), "wrong_way_opposite": float(wrong[1]), "both_fall": told}


def _unreached(comparison: "Comparison") -> Iterator[dict[str, Any]]:
    numbers = [
        "norm",
        "wrong_way",
        "wrong_way_opposite",
        *(f"{q}{end}" for q in PARTS for end in ("", "_low", "_high")),
    ]
    for label in comparison.equal_kl.unreached if comparison.equal_kl is not None else ():
        yield {"vector": label, "strength": UNREACHED, "both_fall": ""} | dict.fromkeys(numbers, np.nan)


def _drawn(
    comparison: "Comparison", strength: str, shifts: Sequence[PreferenceShift], multiplier: float
) -> dict[str, Any]:
    """Random directions as one row: the range of their means."""
    n, asked, norm = len(shifts), len(shifts), comparison.matched_norm
    if comparison.equal_kl is not None and strength != "control":
        asked, norm = comparison.equal_kl.n_random, float(np.mean([shift.norm for shift in shifts]))
    told = f"{n}" if n == asked else f"{n} of {asked}"
    row: dict[str, Any] = {"vector": "random", "strength": f"{strength}, {told} drawn", "norm": norm}
    for q in PARTS:
        at = shifts[0].columns(q).index(multiplier)
        means = [float(shift.mean(q)[at]) for shift in shifts]
        low, high = min(means), max(means)
        if q.startswith("odd"):
            low, high = -max(-low, high), max(-low, high)
        row |= {q: np.nan, f"{q}_low": low, f"{q}_high": high}
    return row | _moved(shifts, multiplier)


def seed_spread(comparison: "Comparison", multiplier: float) -> pd.DataFrame:
    """`Comparison.seed_spread`."""
    rows: list[dict[str, Any]] = []
    for name, labels in comparison.seeds.items():
        about = {"vector": name, "seeds": len(labels), **_range("cosine", _alike(comparison, labels))}
        found = list(_spread(comparison, labels, multiplier))
        empty = {f"{q}{end}": np.nan for q in PARTS for end in ("", "_low", "_high")}
        rows += [about | row for row in found] or [about | {"strength": "not measured"} | empty]
    return pd.DataFrame(rows)


def _spread(comparison: "Comparison", labels: Sequence[str], multiplier: float) -> Iterator[dict[str, Any]]:
    for strength in ("own norm", "equal norm", "equal KL"):
        mine = [
            shift
            for at, shift in comparison.shifts()
            if at == strength and shift.label in labels and multiplier in shift.odd_multipliers
        ]
        if len(mine) > 1:  # at equal KL a seed may not be there
            alike = _alike(comparison, [shift.label for shift in mine])
            row: dict[str, Any] = {"strength": strength, "seeds": len(mine), **_range("cosine", alike)}
            for q in PARTS:
                row |= _range(q, np.array([shift.mean(q)[shift.columns(q).index(multiplier)] for shift in mine]))
            yield row


def _alike(comparison: "Comparison", labels: Sequence[str]) -> np.ndarray:
    """The cosines between every two of the vectors."""
    at = [comparison.labels.index(label) for label in labels]
    return comparison.cosines[np.ix_(at, at)][np.triu_indices(len(at), 1)]


def _range(name: str, values: np.ndarray) -> dict[str, float]:
    return {name: float(values.mean()), f"{name}_low": float(values.min()), f"{name}_high": float(values.max())}


def tidy(comparison: "Comparison") -> pd.DataFrame:
    """`Comparison.to_frame`."""
    rows: list[dict[str, Any]] = []
    for strength, shift in comparison.shifts():
        sides = {"chosen_nats": shift.mean("chosen"), "rejected_nats": shift.mean("rejected")}
        sides |= {"wrong_way": shift.wrong_way, "both_fall": shift.both_fall}
        for quantity, unit in (("values", "nats"), ("per_token", "nats per token")):
            low, high = shift.interval(quantity)  # type: ignore[arg-type]
            mean = shift.mean(quantity)  # type: ignore[arg-type]
            for i, m in enumerate(shift.multipliers):
                row = {"vector": shift.label, "strength": strength, "norm": shift.norm, "multiplier": m, "unit": unit}
                row |= {"mean": mean[i], "low": low[i], "high": high[i], "pairs": len(shift.prompts)}
                rows.append(row | {name: values[i] for name, values in sides.items()})
    if rows and comparison.equal_kl is not None:
        for label in comparison.equal_kl.unreached:
            row = {"vector": label, "strength": UNREACHED, "multiplier": 1.0, "unit": "nats", "pairs": 0}
            numbers = ("norm", "mean", "low", "high", "chosen_nats", "rejected_nats", "wrong_way")
            rows.append(row | dict.fromkeys(numbers, np.nan) | {"both_fall": False})
    if rows:
        return pd.DataFrame(rows)
    cosine = dict(zip(comparison.labels, comparison.cosines[0], strict=True))
    norms, layers, to = comparison.norms, comparison.layers, f"cosine to {comparison.labels[0]}"
    return pd.DataFrame({"vector": v, "layer": layers[v], "norm": norms[v], to: cosine[v]} for v in comparison.labels)
