"""Curves over multipliers: what a vector does at each strength, with intervals and beside its controls."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens._comparison import Comparison, Strength
from steerlens._names import without_seed
from steerlens.errors import FigureError
from steerlens.figures.theme import colour, dash, display_name, faded, plain, style, symbol, width
from steerlens.measures.effect import PreferenceShift, Quantity

UNITS = {q: "nats per token" if "per_token" in q else "nats" for q in get_args(Quantity)}


def dose_response(shifts: Sequence[PreferenceShift], quantity: Quantity = "values") -> go.Figure:
    """Mean shift of the held-out margin over multipliers, one curve per vector, with 95% bootstrap intervals."""
    if not shifts:
        raise FigureError("there is nothing to draw: expected at least one PreferenceShift")
    figure = go.Figure()
    labels = [shift.label for shift in shifts]
    for shift in shifts:
        figure.add_traces(_curve(shift, quantity, labels))
    figure.update_xaxes(title_text="multiplier")
    figure.update_yaxes(title_text=f"shift of the held-out margin<br>({UNITS[quantity]})")
    return style(figure, width=520)


def side_by_side(comparison: Comparison) -> go.Figure:
    """Left: each vector at its own norm. Right: all at one norm, beside random and shuffled-label vectors of that norm.

    Several seeds of a method are a thin line each, and their mean, with its interval over pairs, is the method's curve.
    """
    if not comparison.own:
        return _cosine_bars(comparison)
    titles = ["own norm", f"equal norm ({comparison.matched_norm:.3g})"]
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    figure.add_traces(_all_curves(comparison, "own norm"), rows=1, cols=1)
    for name, group in comparison.controls.items():
        for i, shift in enumerate(group):
            traces = _control_points(shift, i == 0) if name == "random" else _curve(shift, "values", comparison.labels)
            figure.add_traces(traces, rows=1, cols=2)
    figure.add_traces(_all_curves(comparison, "equal norm"), rows=1, cols=2)
    figure.update_xaxes(title_text="multiplier")
    figure.update_yaxes(title_text="shift of the held-out margin<br>(nats)", col=1)
    return style(figure)


def _all_curves(comparison: Comparison, at: Strength) -> list[go.Scatter]:
    traces: list[go.Scatter] = []
    for label in comparison.labels:
        group = without_seed(label)
        if group not in comparison.seeds:
            traces += _curve(comparison.shift(label, at), "values", comparison.labels, legend=at == "own norm")
            continue
        seed = _curve(comparison.shift(label, at), "values", comparison.labels, legend=False)[-1]
        traces.append(seed.update(legendgroup=group, marker={"size": 3}))
        if label == comparison.seeds[group][-1]:
            mean = _curve(comparison.shift(group, at), "values", comparison.labels, legend=at == "own norm")
            mean[-1].name += f", mean of {len(comparison.seeds[group])} seeds"
            traces += mean
    return traces


def _curve(
    shift: PreferenceShift, quantity: Quantity, among: Sequence[str], *, legend: bool = True
) -> list[go.Scatter]:
    measured = shift.multipliers if quantity in ("values", "per_token") else shift.odd_multipliers
    hover = f"{plain(display_name(shift.label))}, norm {shift.norm:.3g}"
    bounds = shift.interval(quantity)
    return band_and_line(
        shift.label,
        among,
        measured,
        shift.mean(quantity),
        *bounds,
        hover=hover,
        unit=f" {UNITS[quantity]}",
        legend=legend,
    )


def band_and_line(
    label: str,
    among: Sequence[str],
    multipliers: Sequence[float],
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    hover: str,
    number: str = "+.3f",
    unit: str = "",
    legend: bool = True,
) -> list[go.Scatter]:
    """A vector's curve over multipliers, and its interval as a band behind it.

    among: all labels of the figure, which share out its colours.
    hover, number, unit: the hover label's first line, and how it writes a value.
    """
    order = np.argsort(multipliers)
    x, mean, low, high = (np.asarray(values)[order] for values in (multipliers, mean, low, high))
    paint = colour(label, among)
    band = go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=faded(paint, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=label,
    )
    line = go.Scatter(
        x=x,
        y=mean,
        customdata=np.stack([low, high], axis=1),
        mode="lines+markers",
        line={"color": paint, "width": width(label, among), "dash": dash(label, among)},
        marker={"size": 7, "symbol": symbol(label)},
        name=plain(display_name(label)),
        legendgroup=label,
        showlegend=legend,
        hovertemplate=f"{hover}<br>multiplier %{{x:+g}}<br>%{{y:{number}}} "
        f"[%{{customdata[0]:{number}}}, %{{customdata[1]:{number}}}]{unit}<extra></extra>",
    )
    return [band, line]


def _control_points(shift: PreferenceShift, first: bool) -> go.Scatter:
    return go.Scatter(
        x=shift.multipliers,
        y=shift.mean(),
        mode="markers",
        marker={"size": 7, "color": colour(shift.label), "symbol": "line-ew-open", "line": {"width": 2}},
        name=display_name(shift.label),
        legendgroup=shift.label,
        showlegend=first,
        hovertemplate=f"a random direction of norm {shift.norm:.3g}<br>multiplier %{{x:+g}}<br>%{{y:+.3f}} nats<extra></extra>",
    )


def _cosine_bars(comparison: Comparison) -> go.Figure:
    """Without a model there are only cosines: one bar per vector, to the first."""
    names = [plain(display_name(label)) for label in comparison.labels[1:]]
    paint = [colour(label, comparison.labels) for label in comparison.labels[1:]]
    figure = go.Figure(go.Bar(x=comparison.cosines[0, 1:], y=names, orientation="h", marker={"color": paint}))
    figure.update_xaxes(title_text=f"cosine to {plain(display_name(comparison.labels[0]))}", range=[-1, 1])
    return style(figure, width=520, height=180 + 40 * len(names))
