"""Curves over multipliers: what a vector does at each strength, with intervals and beside its controls."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.comparison.comparison import Comparison, Strength
from steerlens.errors import FigureError
from steerlens.figures.theme import LINE, colour, dash, display_name, faded, plain, style, symbol, width
from steerlens.measures.effect import PreferenceShift, Quantity
from steerlens.vectors.names import without_seed

UNITS = {q: "nats per token" if "per_token" in q else "nats" for q in get_args(Quantity)}


SIDES: dict[Quantity, str] = {"chosen": "log p(chosen)", "rejected": "log p(rejected)"}
_STYLES: dict[Quantity, tuple[str, str]] = {
    "chosen": ("solid", "triangle-up"),
    "rejected": ("dot", "triangle-down-open"),
}


def dose_response(shifts: Sequence[PreferenceShift], quantity: Quantity = "values") -> go.Figure:
    """Mean shift of the held-out margin over multipliers, one curve per vector, with 95% bootstrap intervals.

    A single vector's margin in nats stands between what it is the difference of: the shifts of log p of both responses.
    """
    if not shifts:
        raise FigureError("there is nothing to draw: expected at least one PreferenceShift")
    figure = go.Figure()
    labels = [shift.label for shift in shifts]
    with_sides = len(shifts) == 1 and quantity == "values"
    for shift in shifts:
        curve = _curve(shift, quantity, labels)
        if with_sides:
            curve[-1].name = f"{curve[-1].name}: margin"
        figure.add_traces(curve)
    if with_sides:
        for side, name in SIDES.items():
            figure.add_trace(_side(shifts[0], side, LINE).update(name=name, showlegend=True))
    figure.update_xaxes(title_text="multiplier")
    title = "shift (nats)" if with_sides else f"shift of the held-out margin<br>({UNITS[quantity]})"
    figure.update_yaxes(title_text=title)
    return style(figure, width=520)


def side_by_side(comparison: Comparison) -> go.Figure:
    """Left: each vector at its own norm. Right: all at one norm, beside random and shuffled-label vectors of that norm.

    Above, the margin; below, the shifts of log p(chosen) and log p(rejected) that it is the difference of. Several seeds of
    a method are a thin line each, and their mean, with its interval over pairs, is the method's curve; below, the mean alone.
    """
    if not comparison.own:
        return _cosine_bars(comparison)
    strengths: dict[Strength, str] = {
        "own norm": "own norm",
        "equal norm": f"equal norm ({comparison.matched_norm:.3g})",
    }
    titles = [*strengths.values(), *(f"both responses, {at}" for at in strengths)]
    spacing = {"horizontal_spacing": 0.04, "vertical_spacing": 0.12}
    figure = make_subplots(2, 2, shared_yaxes=True, subplot_titles=titles, **spacing)
    figure.add_traces(_all_curves(comparison, "own norm"), rows=1, cols=1)
    for name, group in comparison.controls.items():
        for i, shift in enumerate(group):
            traces = _control_points(shift, i == 0) if name == "random" else _curve(shift, "values", comparison.labels)
            figure.add_traces(traces, rows=1, cols=2)
    figure.add_traces(_all_curves(comparison, "equal norm"), rows=1, cols=2)
    for column, at in enumerate(strengths, 1):
        figure.add_traces(_both_sides(comparison, at), rows=2, cols=column)
    for side, name in SIDES.items():  # a vector's colour, and of the two lines the one that is meant
        figure.add_trace(_key(side, name), row=2, col=1)
    figure.update_xaxes(title_text="multiplier", row=2)
    figure.update_yaxes(title_text="shift of the held-out margin<br>(nats)", row=1, col=1)
    figure.update_yaxes(title_text="shift of log p of each response<br>(nats)", row=2, col=1)
    return style(figure, height=700).update_layout(legend={"y": -0.11})


def _both_sides(comparison: Comparison, at: Strength) -> list[go.Scatter]:
    names = dict.fromkeys(without_seed(x) if without_seed(x) in comparison.seeds else x for x in comparison.labels)
    shifts = [comparison.shift(name, at) for name in names]
    return [_side(shift, side, colour(shift.label, comparison.labels)) for shift in shifts for side in SIDES]


def _side(shift: PreferenceShift, side: Quantity, paint: str) -> go.Scatter:
    """The mean shift of one response's log-probability, as a thin line."""
    order = np.argsort(shift.multipliers)
    low, high = shift.interval(side)
    stroke, marker = _STYLES[side]
    name = f"{plain(display_name(shift.label))}, norm {shift.norm:.3g}<br>{SIDES[side]}"
    return go.Scatter(
        x=np.asarray(shift.multipliers)[order],
        y=shift.mean(side)[order],
        customdata=np.stack([low, high], axis=1)[order],
        mode="lines+markers",
        line={"color": paint, "width": 1.5, "dash": stroke},
        marker={"size": 6, "symbol": marker},
        legendgroup=shift.label,
        showlegend=False,
        hovertemplate=f"{name} at multiplier %{{x:+g}}<br>%{{y:+.3f}} [%{{customdata[0]:+.3f}}, %{{customdata[1]:+.3f}}] nats"
        "<extra></extra>",
    )


def _key(side: Quantity, name: str) -> go.Scatter:
    stroke, marker = _STYLES[side]
    return go.Scatter(
        x=[None],
        y=[None],
        mode="lines+markers",
        line={"color": LINE, "width": 1.5, "dash": stroke},
        marker={"size": 6, "symbol": marker},
        name=name,
    )


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
    measured = shift.columns(quantity)
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
