"""Curves over layers: effect, norm or cosine of several methods, with intervals and a point per seed."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.comparison.sweep import Sweep
from steerlens.errors import FigureError
from steerlens.figures.theme import colour, dash, display_name, plain, style, symbol


def layer_sweep(sweep: Sweep, multiplier: float = 1.0) -> go.Figure:
    """Odd part of every method's shift at one multiplier, what either sign does to both responses, and the norms, over layers.

    Bars are 95% bootstrap intervals over pairs, averaged over seeds; every seed is a point.

    Raises:
        MeasureError: that multiplier was not measured with both signs.
    """
    panels = {
        "odd": "odd part of the margin:<br>the direction (nats)",
        "even_chosen": "log p(chosen):<br>what either sign does (nats)",
        "even_rejected": "log p(rejected):<br>what either sign does (nats)",
        "norm": "norm<br>(residual stream)",
    }
    at = ["method", "layer", "seed"]
    table = sweep.scores("odd", multiplier)[[*at, "norm"]]
    for q in ("odd", "even_chosen", "even_rejected"):
        found = sweep.scores(q, multiplier).rename(columns={"low": f"{q}_low", "high": f"{q}_high"})
        table = table.merge(found[[*at, q, f"{q}_low", f"{q}_high"]], on=at)
    return over_layers(table, panels)


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
    across = len(panels) if len(panels) < 4 else 2
    down = -(-len(panels) // across)
    figure = make_subplots(
        down, across, horizontal_spacing=(0.28 if down == 1 else 0.38) / across, vertical_spacing=0.14
    )
    methods = [str(method) for method in table["method"].unique()]
    at = {quantity: {"row": i // across + 1, "col": i % across + 1} for i, quantity in enumerate(panels)}
    for quantity, title in panels.items():
        for method, rows in table.groupby("method", sort=False):
            for trace in _curve(str(method), methods, rows, quantity, legend=quantity == next(iter(panels))):
                figure.add_trace(trace, **at[quantity])
        figure.update_yaxes(title_text=title, **at[quantity])
    figure.update_xaxes(title_text="layer (0-based block)", row=down)
    if np.ptp(table["layer"]) < 10:
        figure.update_xaxes(dtick=1)  # there is no layer 0.5
    drawn = style(figure, width=max(520, 380 * across), height=380 + 300 * (down - 1))
    for quantity, place in at.items():
        if quantity.startswith("cosine"):
            drawn.update_yaxes(range=[-1.04, 1.04], **place)
        elif quantity.startswith("norm"):
            drawn.update_yaxes(rangemode="tozero", **place)
    legend_below = {"y": -0.22 * 380 / (380 + 300 * (down - 1))}
    return drawn.update_layout(margin={"t": 20}, legend=legend_below)


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
