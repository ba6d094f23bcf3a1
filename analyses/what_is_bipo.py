"""What is BiPO? At equal norm and at equal side effect: is it better by its direction, its norm or its layer; how much is CAA?

    python -m analyses.what_is_bipo --model toy --behaviour wealth --seeds 0,1,2
    python -m analyses.what_is_bipo --model smollm2 --behaviour wealth-seeking --seeds 0,1,2

Each method's layer is chosen on validation pairs. Then, on test pairs and with differences paired by pair: every vector at
its own norm, all at one norm, all at the multiplier that costs BiPO's KL on neutral text (the mean of +m and -m); and BiPO
taken apart into what points along CAA and the rest, each steered by itself.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

import steerlens as sl
from analyses.shifts import Shifts
from analyses.study import Finding, StudyConfig, main, store_of, weights_of, with_interval
from steerlens._stats import mean_interval
from steerlens.figures.theme import COLOURS, style


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is compared."""

    seeds: tuple[int, ...] = (0, 1, 2)
    layers: tuple[int, ...] = ()
    """the layers that validation pairs choose among; default: the model's preset"""


def run(config: Config) -> Finding:
    """Choose layers on validation pairs, then compare on test pairs at three strengths and in parts."""
    pairs, model, layers = config.pairs(), config.load(), config.layers or config.preset.layers
    options = {"bipo": config.bipo_options()}
    store = store_of(config)
    by_val = sl.sweep(
        model,
        pairs.train,
        pairs.val,
        layers,
        methods=("bipo", "caa"),
        seeds=config.seeds[:1],
        options=options,
        store=store.folder,
    )
    chosen = {method: by_val.best_layer(method) for method in ("bipo", "caa")}
    layer = chosen["bipo"]
    told = {"weights": weights_of(model), "pairs": pairs.train.described(), "layer": layer, **config.bipo_options()}
    caa = store.vector("caa", told, lambda: sl.extract_caa(model, pairs.train, layer))
    best_caa = store.vector(
        "caa", {**told, "layer": chosen["caa"]}, lambda: sl.extract_caa(model, pairs.train, chosen["caa"])
    )
    on = pairs.test.described()
    match = partial(sl.match_multiplier, model, by="kl", both_signs=True, progress=False)
    measure, rows = Shifts(model), list[dict[str, Any]]()
    for seed in config.seeds:
        bipo = store.vector(
            "bipo",
            {**told, "seed": seed},
            partial(sl.train_bipo, model, pairs.train, layer, seed=seed, **config.bipo_options()),
        )
        ways = {
            "BiPO": bipo,
            "CAA, own norm": caa,
            "CAA, its own best layer, own norm": best_caa,
            "CAA, BiPO's norm": caa.scaled_to(bipo.norm),
            "BiPO, CAA's norm": bipo.scaled_to(caa.norm),
            "CAA, BiPO's KL": caa * match(caa, like=bipo).multiplier,
            "BiPO's part along CAA": bipo.along(caa),
            "BiPO's part off CAA": bipo.off(caa),
        }
        shifts = {
            name: store.result(
                "shift",
                {**told, "seed": seed, "way": name, "norm": vector.norm, "on": on},
                partial(measure, vector, pairs.test),
            )
            for name, vector in ways.items()
        }
        for name, shift in shifts.items():
            gap = shift.odd - shifts["BiPO"].odd
            (low, high), (gap_low, gap_high) = shift.interval("odd"), mean_interval(gap)
            row = {"seed": seed, "way": name, "norm": shift.norm, "cosine": bipo.direction @ ways[name].direction}
            row |= {"odd": shift.odd.mean(), "low": low[0], "high": high[0], "even": shift.even.mean()}
            rows.append(row | {"less BiPO": gap.mean(), "gap_low": gap_low[0], "gap_high": gap_high[0]})
    table = pd.DataFrame(rows)
    table["cosine"] = table["cosine"].astype(float)
    return Finding(
        study="what_is_bipo",
        title=f"What BiPO adds to CAA, {config.behaviour} on {config.name}",
        item="not in the paper",
        published="nobody has compared the two side by side at equal norm and equal side effect",
        found=sentences(table, chosen),
        figures={"ways": figure(table)},
        tables={"ways": table, "layers": by_val.scores()},
    )


def sentences(table: pd.DataFrame, chosen: dict[str, int]) -> list[str]:
    """The answer in numbers, for every seed."""
    found = [f"validation pairs choose layer {chosen['bipo']} for BiPO and {chosen['caa']} for CAA"]
    for name, rows in table[table.way != "BiPO"].groupby("way", sort=False):
        gaps = "; ".join(with_interval(r["less BiPO"], r["gap_low"], r["gap_high"]) for _, r in rows.iterrows())
        clear = int(((rows["gap_low"] > 0) | (rows["gap_high"] < 0)).sum())
        found.append(f"{name}, less BiPO (odd part, nats, by seed): {gaps}; clear for {clear} of {len(rows)} seeds")
    along = table[table.way == "BiPO's part along CAA"]
    found.append(f"|BiPO's part along CAA| is {np.mean(np.abs(along['cosine'])):.0%} of BiPO's norm (mean over seeds)")
    return found


def figure(table: pd.DataFrame) -> go.Figure:
    """The odd part of every way, a point with its interval per seed."""
    drawn = go.Figure()
    seeds, names = sorted(table["seed"].unique()), list(dict.fromkeys(table["way"]))
    for i, seed in enumerate(seeds):
        rows = table[table["seed"] == seed].set_index("way").loc[names]
        y = np.arange(len(names)) + 0.18 * (i - (len(seeds) - 1) / 2)
        bars = {"type": "data", "array": rows["high"] - rows["odd"], "arrayminus": rows["odd"] - rows["low"]}
        paint = [COLOURS["bipo"] if name.startswith("BiPO") else COLOURS["caa"] for name in names]
        drawn.add_trace(
            go.Scatter(
                x=rows["odd"],
                y=y,
                error_x={**bars, "color": "#777", "thickness": 1.2},
                mode="markers",
                marker={"color": paint, "size": 9},
                showlegend=False,
                hovertemplate=f"seed {seed}<br>%{{x:+.3g}} nats<extra></extra>",
            )
        )
    drawn.update_yaxes(tickmode="array", tickvals=list(range(len(names))), ticktext=names, autorange="reversed")
    drawn.update_xaxes(title_text="odd part at multiplier 1 on test pairs (nats); a point per seed")
    drawn = style(drawn, width=820, height=460)
    return drawn.update_yaxes(zeroline=False, automargin=True)


if __name__ == "__main__":
    main(run, Config)
