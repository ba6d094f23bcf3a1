"""What each vector does at one multiplier, with its parts and controls; and what two vectors do to each pair."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens._stats import mean_interval
from steerlens.comparison.comparison import Comparison
from steerlens.errors import FigureError
from steerlens.figures.theme import FAINT, INK, colour, display_name, faded, plain, style, symbol, width
from steerlens.measures.effect import PreferenceShift, Quantity
from steerlens.vectors.names import without_seed

_PANELS: tuple[tuple[Quantity, str], ...] = (
    ("odd", "margin: odd part"),
    ("even", "margin: even part"),
)
_SIDES: tuple[Quantity, ...] = ("even_chosen", "even_rejected")


def effects_at(comparison: Comparison, multiplier: float = 1.0) -> go.Figure:
    """Odd and even part of the margin of every measured vector, part and control at one multiplier, with 95% bootstrap intervals.

    Beside them the even parts of log p(chosen), filled, and of log p(rejected), open: where both lie below 0, either sign makes
    both responses less likely, which the margin does not tell. Intervals are over pairs; random directions are a bar over the
    range of their means. Several seeds of a method share a row, a point for each.

    Raises:
        FigureError: nothing was measured at that multiplier and its opposite.
    """
    effects = comparison.effects(multiplier)
    if effects.empty:
        raise FigureError(f"nothing was measured at multipliers {multiplier:g} and {-multiplier:g}")
    names, places = _places(effects, comparison)
    titles = [*(t for _, t in _PANELS), "even part: chosen \N{BLACK CIRCLE}, rejected \N{WHITE CIRCLE}"]
    figure = make_subplots(1, 3, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.035)
    panels: list[tuple[Quantity, ...]] = [*((q,) for q, _ in _PANELS), _SIDES]
    for column, shown in enumerate(panels, 1):
        for quantity in shown:
            for at, (_, row) in zip(places, effects.iterrows(), strict=True):
                figure.add_trace(_range(row, quantity, at, comparison.labels), row=1, col=column)
        reach = effects[[f"{q}{end}" for q in shown for end in ("", "_low", "_high")]].to_numpy(dtype=float)
        low, high = min(0.0, float(np.nanmin(reach))), max(0.0, float(np.nanmax(reach)))
        margin = 0.06 * (high - low)
        unit = "nats" if column < 3 else "log p of each response (nats)"
        figure.update_xaxes(title_text=unit, range=[low - margin, high + margin], col=column)
    style(figure, width=980, height=150 + 34 * len(names))
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], zeroline=False
    )  # fmt: skip
    return figure.update_layout(showlegend=False, margin={"l": 20 + 7 * max(map(len, names)), "b": 60})


def _places(effects: pd.DataFrame, comparison: Comparison) -> tuple[list[str], list[float]]:
    """The names of the figure's rows, and the height of each of the table's; a method's seeds stand around one row."""
    keys = []
    for label, strength in zip(effects["vector"], effects["strength"], strict=True):
        group = without_seed(label)
        keys.append((group if label in comparison.seeds.get(group, ()) else label, strength))
    rows = list(dict.fromkeys(keys))
    names, places = [], [0.0] * len(keys)
    for at, key in enumerate(rows):
        mine = [i for i, other in enumerate(keys) if other == key]
        spread = np.linspace(-0.22, 0.22, len(mine)) if len(mine) > 1 else [0.0]
        for i, apart in zip(mine, spread, strict=True):
            places[i] = at + float(apart)
        strength = key[1].split(",")[0].removeprefix("control at ")
        seeds = f" ({len(mine)} seeds)" if len(mine) > 1 else ""
        kept = "" if strength in ("part", "control") else f", {strength}"
        names.append(plain(f"{display_name(key[0] if seeds else effects['vector'].iloc[mine[0]])}{seeds}{kept}"))
    return names, places


def _range(row: "pd.Series", quantity: Quantity, at: float, among: Sequence[str]) -> go.Scatter:
    mean, low, high = (float(row[key]) for key in (quantity, f"{quantity}_low", f"{quantity}_high"))
    label, paint = row["vector"], colour(row["vector"], among)
    thick = 2 if width(label, among) > 2 else 1
    name = f"{plain(display_name(label))}, {row['strength']}, norm {row['norm']:.3g}"
    name += {"even_chosen": "<br>log p(chosen)", "even_rejected": "<br>log p(rejected)"}.get(quantity, "")
    marker = f"{symbol(label).removesuffix('-open')}{'-open' if quantity == 'even_rejected' else ''}"
    marker = symbol(label) if quantity in ("odd", "even") else marker
    at += {"even_chosen": -0.12, "even_rejected": 0.12}.get(quantity, 0.0)
    if np.isnan(low):  # its row's name says so
        return go.Scatter(x=[None], y=[at], mode="markers", hoverinfo="skip")
    if np.isnan(mean):
        return go.Scatter(
            x=[low, high],
            y=[at, at],
            mode="lines",
            line={"color": faded(paint, 0.6), "width": 12 if quantity in ("odd", "even") else 6},
            hovertemplate=f"{name}<br>means from {low:+.3f} to {high:+.3f} nats<extra></extra>",
        )
    return go.Scatter(
        x=[mean],
        y=[at],
        mode="markers",
        marker={"size": 6 + 2 * thick, "color": paint, "symbol": marker},
        error_x={"array": [high - mean], "arrayminus": [mean - low], "color": paint, "thickness": thick, "width": 4},
        hovertemplate=f"{name}<br>{mean:+.3f} [{low:+.3f}, {high:+.3f}] nats<extra></extra>",
    )


def pair_by_pair(comparison: Comparison, multiplier: float | None = None) -> go.Figure:
    """Odd part of each pair's shift under the two vectors at equal norm (the mean of several seeds'), a point per pair.

    Args:
        multiplier: default: the smallest positive one that was measured with its opposite.

    Raises:
        FigureError: nothing was measured at equal norm, at that multiplier.
    """
    shifts = [comparison.shift(name) for name in comparison.two] if comparison.matched else []
    known = min((shift.odd_multipliers for shift in shifts), key=len) if len(shifts) == 2 else ()
    multiplier = min(known, default=None) if multiplier is None else multiplier
    if multiplier not in known:
        raise FigureError(
            f"multiplier={multiplier!r} was not measured at equal norm with its opposite; there are {known}"
        )
    x, y = (shift.odd[:, shift.odd_multipliers.index(multiplier)] for shift in shifts)
    low, high = min(x.min(), y.min(), 0.0), max(x.max(), y.max(), 0.0)
    ends = [low - 0.05 * (high - low), high + 0.05 * (high - low)]
    names = [plain(display_name(shift.label)) for shift in shifts]
    figure = go.Figure(
        [
            go.Scatter(
                x=ends, y=ends, mode="lines", line={"color": FAINT, "width": 1.5, "dash": "dot"}, hoverinfo="skip", showlegend=False
            ),
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                marker={"size": 8, "color": faded(colour(shifts[0].label, comparison.labels), 0.8)},
                text=[wrapped(prompt) for prompt in shifts[0].prompts],
                hovertemplate=f"%{{text}}<br>{names[0]} %{{x:+.2f}}, {names[1]} %{{y:+.2f}} nats<extra></extra>",
                showlegend=False,
            ),
        ]
    )  # fmt: skip
    figure.update_xaxes(title_text=f"{names[0]}: odd part of a pair's shift (nats)", range=ends)
    figure.update_yaxes(title_text=f"{names[1]}: odd part<br>of a pair's shift (nats)", range=ends)
    style(figure, width=480, height=430)
    return figure.update_layout(margin={"b": 60, "t": 20})


def pair_strip(shifts: Sequence[PreferenceShift], quantity: Quantity = "odd", multiplier: float = 1.0) -> go.Figure:
    """Every pair's shift at one multiplier, a column of points per vector with the pair's prompt, and the mean with its interval.

    Raises:
        FigureError: there is nothing to draw, or that multiplier was not measured.
    """
    if not shifts:
        raise FigureError("there is nothing to draw: expected at least one PreferenceShift")
    figure = go.Figure()
    for at, shift in enumerate(shifts):
        known = shift.columns(quantity)
        if multiplier not in known:
            raise FigureError(f"multiplier={multiplier!r} was not measured for {shift.label}; {quantity} has {known}")
        values = getattr(shift, quantity)[:, [known.index(multiplier)]]
        (low,), (high,), mean = *mean_interval(values), float(values.mean())
        # Multiples of the golden ratio fill a width evenly, the same way every time.
        spread = 0.56 * ((np.arange(len(values)) * 0.6180339887) % 1 - 0.5)
        name, paint = plain(display_name(shift.label)), colour(shift.label, [of.label for of in shifts])
        figure.add_trace(
            go.Scatter(
                x=at + spread,
                y=values[:, 0],
                mode="markers",
                marker={"size": 6, "color": faded(paint, 0.5)},
                text=[wrapped(prompt) for prompt in shift.prompts],
                hovertemplate=f"%{{text}}<br>{name} %{{y:+.2f}}<extra></extra>",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[at],
                y=[mean],
                mode="markers",
                marker={"size": 11, "color": INK, "symbol": "line-ew-open", "line": {"width": 3}},
                error_y={"array": [high - mean], "arrayminus": [mean - low], "color": INK, "thickness": 2, "width": 6},
                hovertemplate=f"{name}: mean {mean:+.3f} [{low:+.3f}, {high:+.3f}], {len(values)} pairs<extra></extra>",
            )
        )
    names = [plain(display_name(shift.label)) for shift in shifts]
    unit = "nats per token" if "per_token" in quantity else "nats"
    part = {"odd": "odd part of ", "even": "even part of "}.get(quantity.split("_")[0], "")
    figure.update_xaxes(tickmode="array", tickvals=list(range(len(names))), ticktext=names)
    figure.update_yaxes(title_text=f"{part}each pair's shift<br>at multiplier {multiplier:g} ({unit})")
    style(figure, width=max(360, 130 + 120 * len(names)))
    figure.update_xaxes(zeroline=False, showgrid=False, range=[-0.5, len(names) - 0.5])
    return figure.update_layout(showlegend=False, margin={"b": 50, "t": 20})


def wrapped(text: str, width: int = 70, most: int = 280) -> str:
    """A text for a hover label: in lines, cut where it is long, never markup."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return "<br>".join(plain(line) for line in textwrap.wrap(cut, width)) or "(empty)"
