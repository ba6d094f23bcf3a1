"""BiPO T6: do vectors add up? Scores of two behaviours under each vector alone and both, a grid of multipliers, interference.

    python -m analyses.composition --model toy --behaviour wealth --other power
    python -m analyses.composition --model smollm2 --behaviour wealth-seeking --other power-seeking

Effects are preference shifts on a behaviour's test pairs (nats): the table and the grid hold the shift at each multiplier, the
interference matrix and the last sentence the odd part. The orthogonalised sum leaves out of the second vector what points
along the first.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

import steerlens as sl
from analyses.contenders import make
from analyses.shifts import Shifts
from analyses.study import Finding, StudyConfig, main, store_of, weights_of, with_interval
from steerlens._stats import curve_interval
from steerlens.figures.matrices import composition_matrix, matrix


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is combined."""

    other: str = "power"
    behaviours: tuple[str, ...] = ()
    """for the interference matrix; default: --behaviour and --other"""
    grid: tuple[float, ...] = (-1, 0, 1)


def run(config: Config) -> Finding:
    """Both behaviours under both vectors, alone and together."""
    model, store = config.load(), store_of(config)
    behaviours = tuple(dict.fromkeys((config.behaviour, config.other, *config.behaviours)))
    vectors = {name: make(config, model, name, ("bipo",))["bipo"] for name in behaviours}
    tests = {name: config.pairs(name).test for name in behaviours}

    measure = Shifts(model)

    def shift(vector: sl.SteeringVector, on: str) -> sl.PreferenceShift:
        told = {"weights": weights_of(model), "on": tests[on].described(), "vector": digest(vector)}
        return store.result("composition", told, partial(measure, vector, tests[on]))

    one, two = config.behaviour, config.other
    both = vectors[one] + vectors[two]
    orthogonal = vectors[one] + vectors[two].off(vectors[one])
    ways = {one: vectors[one], two: vectors[two], "both": both, "both, orthogonalised": orthogonal}
    rows: list[dict[str, Any]] = []
    for on, (way, vector) in product((one, two), ways.items()):
        measured = shift(vector, on)
        low, high = measured.interval()
        for i, m in enumerate(measured.multipliers):
            rows.append(
                {
                    "behaviour": on,
                    "steered with": way,
                    "multiplier": m,
                    "shift": measured.mean()[i],
                    "low": low[i],
                    "high": high[i],
                }
            )
    grid = []
    for m1, m2 in product(config.grid, repeat=2):
        sign = -1 if (m1, m2) < (0, 0) else 1  # a vector is measured with both signs at once
        for on in (one, two):
            at = shift(sign * (m1 * vectors[one] + m2 * vectors[two]), on) if m1 or m2 else None
            grid.append({"m1": m1, "m2": m2, "behaviour": on, "shift": at.mean()[1 + sign] if at else 0.0})
    effects = [[shift(vectors[by], on) for on in behaviours] for by in behaviours]
    odd = [[s.mean("odd")[0] for s in row] for row in effects]
    table = pd.DataFrame(rows)
    return Finding(
        study="composition",
        title=f"Composition of {one} and {two} on {config.name}",
        item="BiPO T6",
        published="judge score at m = -1/0/1: power 1.2/1.67/2.38, with wealth 1.18/1.67/2.67; wealth 1.25/1.46/1.89, "
        "with power 1.14/1.46/2.30",
        found=[
            f"cosine({one}, {two}) = {float(vectors[one].direction @ vectors[two].direction):+.2f}",
            *(said(table, on, way) for on, way in product((one, two), ways)),
            f"{one}'s vector moves {two} by {share_of(effects[0][1], effects[1][1])} of what {two}'s own vector does (odd parts)",
        ],
        figures={
            "interference": composition_matrix(np.array(odd), behaviours, behaviours),
            **{f"grid-{on}": grid_figure(pd.DataFrame(grid), on, one, two) for on in (one, two)},
        },
        tables={"composition": table, "grid": pd.DataFrame(grid)},
    )


def share_of(moved: sl.PreferenceShift, own: sl.PreferenceShift) -> str:
    """One vector's odd part on a behaviour's pairs as a share of another's on the same pairs, with its bootstrap interval."""
    odd = np.column_stack([moved.odd[:, 0], own.odd[:, 0]])

    def share(means: Float[np.ndarray, "resample column"]) -> Float[np.ndarray, " resample"]:
        return np.divide(means[:, 0], means[:, 1], out=np.full(len(means), np.nan), where=means[:, 1] != 0)

    low, high = curve_interval(odd, share)
    return f"{share(odd.mean(0, keepdims=True))[0]:+.0%} [{low:+.0%}, {high:+.0%}]"


def said(table: pd.DataFrame, on: str, way: str) -> str:
    """One row of the paper's table, in nats."""
    rows = table[(table.behaviour == on) & (table["steered with"] == way)]
    cells = [f"{r.multiplier:+g}: {with_interval(r.shift, r.low, r.high)}" for r in rows.itertuples() if r.multiplier]
    return f"{on} (shift in nats), steered with {way}: " + ", ".join(cells)


def grid_figure(grid: pd.DataFrame, on: str, one: str, two: str) -> Any:
    """A behaviour's shift over both multipliers."""
    wide = grid[grid.behaviour == on].pivot(index="m1", columns="m2", values="shift")
    names = [[f"{m:+g}" if m else "0" for m in axis] for axis in (wide.index, wide.columns)]
    return matrix(wide.to_numpy(), *names, row_title=f"multiplier of {one}", column_title=f"multiplier of {two}")


def digest(vector: sl.SteeringVector) -> list[float]:
    """Numbers that tell vectors apart in the store."""
    tensor = vector.tensor.double()
    return [round(float(tensor.norm()), 9), round(float(tensor.sum()), 9), round(float(tensor[0]), 9), vector.layer]


if __name__ == "__main__":
    main(run, Config)
