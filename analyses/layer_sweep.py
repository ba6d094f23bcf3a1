"""BiPO F4, F8 and CAA F3: which layer carries a behaviour, for each method, on validation and on test pairs.

    python -m analyses.layer_sweep --model toy --behaviour wealth
    python -m analyses.layer_sweep --model smollm2 --behaviour wealth-seeking --layers 5,9,13,17,21,25

The layer is chosen on validation pairs (by the mean over seeds) and reported on test pairs; the effect is the odd part of the
preference shift, each vector at its own norm. "caa" is the mean over free-form answers.
"""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import steerlens as sl
from analyses.study import Finding, StudyConfig, main, store_of, with_interval
from steerlens.comparison.sweep import MethodName
from steerlens.figures.theme import colour, display_name, style


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is swept."""

    layers: tuple[int, ...] = ()
    """default: the model's preset"""
    methods: tuple[str, ...] = ("bipo", "caa")

    @property
    def known_methods(self) -> tuple[str, ...]:
        """Those of `sl.sweep`."""
        return get_args(MethodName)


def run(config: Config) -> Finding:
    """A vector per method, layer and seed; effect and norm at every layer."""
    pairs, layers = config.pairs(), config.layers or config.preset.layers
    model = config.load()
    asked: dict[str, Any] = {
        "layers": layers,
        "methods": config.methods,
        "seeds": config.seeds,
        "store": store_of(config).folder,
    }
    options = {"bipo": config.bipo_options()} if "bipo" in config.methods else {}
    by_val = sl.sweep(model, pairs.train, pairs.val, options=options, **asked)
    on_test = sl.sweep(model, pairs.train, pairs.test, options=options, **asked)
    table = by_val.scores().merge(
        on_test.scores(), on=["method", "layer", "seed", "norm", "norm_ratio"], suffixes=("_val", "_test")
    )
    table["even_test"] = on_test.scores("even")["even"]
    found = []
    for method in config.methods:
        best = by_val.best_layer(method)
        row = table[(table.method == method) & (table.layer == best)].iloc[0]
        interval = with_interval(row["odd_test"], row["low_test"], row["high_test"])
        found.append(
            f"{display_name(method)}: validation pairs choose layer {best}; on test pairs its odd part there is {interval} "
            f"nats at norm {row['norm']:.3g}"
        )
    return Finding(
        study="layer_sweep",
        title=f"Effect over layers, {config.behaviour} on {config.name}",
        item="BiPO F4, F8; CAA F3",
        published="BiPO: layer 15 best on Llama-2-7b-chat; CAA: layer 13 best on Llama-2-7b-chat, 14-15 on 13b",
        found=found,
        figures={"layers": figure(table)},
        tables={"layers": table},
    )


def figure(table: pd.DataFrame) -> go.Figure:
    """Effect on test pairs with intervals, and norm, over layers; a point per seed."""
    drawn = make_subplots(1, 2, subplot_titles=["effect on test pairs", "norm"], horizontal_spacing=0.14)
    for method, rows in table.groupby("method", sort=False):
        mean = rows.groupby("layer", as_index=False)[["odd_test", "low_test", "high_test", "norm"]].mean()
        paint, name = colour(str(method)), display_name(str(method))
        bars = {
            "type": "data",
            "array": mean["high_test"] - mean["odd_test"],
            "arrayminus": mean["odd_test"] - mean["low_test"],
        }
        drawn.add_trace(
            go.Scatter(
                x=mean["layer"], y=mean["odd_test"], error_y=bars, name=name, line={"color": paint}, legendgroup=name
            ),
            1,
            1,
        )
        drawn.add_trace(
            go.Scatter(
                x=mean["layer"], y=mean["norm"], name=name, line={"color": paint}, legendgroup=name, showlegend=False
            ),
            1,
            2,
        )
        if rows["seed"].nunique() > 1:  # few seeds are points, not a band
            points = go.Scatter(
                x=rows["layer"],
                y=rows["odd_test"],
                customdata=np.asarray(rows["seed"]),
                mode="markers",
                marker={"color": paint, "symbol": "circle-open"},
                showlegend=False,
                legendgroup=name,
                hovertemplate="seed %{customdata}<br>%{y:.3g} nats<extra></extra>",
            )
            drawn.add_trace(points, 1, 1)
    drawn.update_xaxes(title_text="layer (0-based block)")
    drawn.update_yaxes(title_text="odd part at multiplier 1 (nats)", col=1)
    drawn.update_yaxes(title_text="norm (residual stream)", rangemode="tozero", col=2)
    return style(drawn)


if __name__ == "__main__":
    main(run, Config)
