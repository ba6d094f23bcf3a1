"""Curves over layers: effect, damage, norm or cosine of several methods, with intervals and a point per seed."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens._sweep import Sweep
from steerlens.errors import FigureError
from steerlens.figures.theme import colour, dash, display_name, plain, style, symbol


def layer_sweep(sweep: Sweep, multiplier: float = 1.0) -> go.Figure:
    """Odd and even part of every method's shift at one multiplier, and its vectors' norms, over layers.

    Bars are 95% bootstrap intervals over pairs, averaged over seeds; every seed is a point.

    Raises:
        MeasureError: that multiplier was not measured with both signs.
    """
    at = ["method", "layer", "seed"]
    odd, even = (
        sweep.scores(q, multiplier).rename(columns={"low": f"{q}_low", "high": f"{q}_high"}) for q in ("odd", "even")
    )
    table = odd.merge(even.drop(columns=["norm", "norm_ratio"]), on=at)
    panels = {
        "odd": "odd part: the direction (nats)",
        "even": "even part: damage (nats)",
        "norm": "norm (residual stream)",
    }
    return over_layers(table, panels)  # fmt: skip


def over_layers(table: pd.DataFrame, panels: Mapping[str, str]) -> go.Figure:
    """A panel per column of a table over layers, a curve per method: the mean over seeds, and a point per seed.

    Args:
        table: a row per method, layer and seed, with columns of those names ("seed" may be missing), and the panels' columns;
            intervals from columns "<column>_low" and "<column>_high" where there are such.
        panels: column -> title of its axis, units included. Axes of columns called "cosine..." go from -1 to 1.

    Raises:
        FigureError: no rows, or a column that the table doesn't have.
    """
    missing = [name for name in ("method", "layer", *panels) if name not in table]
    if missing or table.empty or not panels:
        raise FigureError(
            f"a table of {len(table)} rows without columns {missing}; expected at least one row and one panel, and "
            f"method, layer and the panels among its columns {list(table)}"
        )
    figure = make_subplots(1, len(panels), horizontal_spacing=0.28 / len(panels))
    methods = [str(method) for method in table["method"].unique()]
    for column, quantity in enumerate(panels, 1):
        for method, rows in table.groupby("method", sort=False):
            for trace in _curve(str(method), methods, rows, quantity, legend=column == 1):
                figure.add_trace(trace, 1, column)
    figure.update_xaxes(title_text="layer (0-based block)")
    for column, title in enumerate(panels.values(), 1):
        figure.update_yaxes(title_text=title, col=column)
    drawn = style(figure, width=max(520, 380 * len(panels)), height=380)
    for column, quantity in enumerate(panels, 1):
        if quantity.startswith("cosine"):
            drawn.update_yaxes(range=[-1.04, 1.04], col=column)
        elif quantity.startswith("norm"):
            drawn.update_yaxes(rangemode="tozero", col=column)
    return drawn.update_layout(margin={"t": 20})


def _curve(method: str, methods: Sequence[str], rows: pd.DataFrame, quantity: str, *, legend: bool) -> list[go.Scatter]:
    ends = [name for name in (f"{quantity}_low", f"{quantity}_high") if name in rows]
    mean = rows.groupby("layer", as_index=False)[[quantity, *ends]].mean().dropna(subset=[quantity])
    name, paint = plain(display_name(method)), colour(method, methods)
    bars, interval = None, ""
    if len(ends) == 2:
        low, high = (mean[end] for end in ends)
        bars = {"array": high - mean[quantity], "arrayminus": mean[quantity] - low, "thickness": 1.5, "width": 4}
        interval = " [%{customdata[0]:+.3g}, %{customdata[1]:+.3g}]"
    traces = [
        go.Scatter(
            x=mean["layer"],
            y=mean[quantity],
            error_y=bars,
            customdata=mean[ends] if bars else None,
            mode="lines+markers",
            line={"color": paint, "width": 2.5, "dash": dash(method, methods)},
            marker={"size": 7, "symbol": symbol(method)},
            name=name,
            legendgroup=method,
            showlegend=legend,
            hovertemplate=f"{name}, layer %{{x}}<br>%{{y:+.3g}}{interval}<extra></extra>",
        )
    ]
    if "seed" in rows and rows["seed"].nunique() > 1:  # few seeds are points, not a band
        traces.append(
            go.Scatter(
                x=rows["layer"],
                y=rows[quantity],
                customdata=np.asarray(rows["seed"]),
                mode="markers",
                marker={"size": 6, "color": paint, "symbol": f"{symbol(method).removesuffix('-open')}-open"},
                legendgroup=method,
                showlegend=False,
                hovertemplate=f"{name}, layer %{{x}}, seed %{{customdata}}<br>%{{y:+.3g}}<extra></extra>",
            )
        )
    return traces
