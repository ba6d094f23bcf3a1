"""A dose-response with the numbers that sum it up, and the search for a matching multiplier."""

import math

import numpy as np
import plotly.graph_objects as go

from steerlens.figures.curves import dose_response
from steerlens.figures.theme import INK, LINE, colour, display_name, plain, style
from steerlens.measures.dose_response import DoseResponse
from steerlens.measures.matched import Match

AXES = {
    "kl": "KL on neutral text<br>(nats per token)",
    "perplexity": "perplexity of answers<br>under the unsteered model",
    "shift": "shift of the held-out margin<br>(nats)",
    "norm": "norm<br>(residual stream)",
}


def dose_curve(dose: DoseResponse) -> go.Figure:
    """The mean shift over multipliers with its band, random directions, the slope at 0, and where it saturates or breaks."""
    figure = dose_response([dose.shift])
    for i, control in enumerate(dose.controls):
        figure.add_trace(_points(control.multipliers, control.mean(), control.label, first=i == 0))
    widest = max(map(abs, dose.shift.multipliers))
    if dose.shift.odd_multipliers:
        slope, reach = dose.slope().value, widest / 3
        figure.add_trace(
            go.Scatter(
                x=[-reach, reach],
                y=[-reach * slope, reach * slope],
                mode="lines",
                line={"color": INK, "width": 1.5, "dash": "dot"},
                name=f"slope at 0: {slope:+.3g} nats",
                hoverinfo="skip",
            )
        )
    for sign in (1, -1):
        if any(sign * m > 0 for m in dose.shift.multipliers):
            _mark(figure, sign * dose.saturates(sign).value, "saturates", LINE, 0)
        if dose.side_effects is not None and any(sign * m > 0 for m in dose.side_effects.multipliers):
            _mark(figure, sign * dose.breaks(sign).value, "text breaks", INK, 1)
    return style(figure, width=620, height=420)


def _mark(figure: go.Figure, at: float, text: str, paint: str, line: int) -> None:
    """A dashed line at a multiplier, named above the plot; nothing where it is infinite."""
    if math.isfinite(at):
        figure.add_vline(at, line={"color": paint, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=at, y=1, yref="paper", yshift=18 * line, text=text, showarrow=False, font={"color": paint},
            xanchor="right" if at > 0 else "left", yanchor="bottom",
        )  # fmt: skip


def _points(x: tuple[float, ...], y: np.ndarray, label: str, *, first: bool) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 7, "color": colour(label), "symbol": "line-ew-open", "line": {"width": 2}},
        name=display_name(label),
        legendgroup=label,
        showlegend=first,
        hovertemplate="a random direction of the same norm<br>multiplier %{x:+g}<br>%{y:+.3f} nats<extra></extra>",
    )


def match_search(match: Match) -> go.Figure:
    """Every multiplier that was measured, the target with its tolerance, and the match with its interval."""
    name, paint = plain(display_name(match.label)), colour(match.label)
    order = np.argsort(match.tried)
    figure = go.Figure()
    if match.evaluations:
        values = match.values[order]
        figure.add_trace(
            go.Scatter(
                x=match.tried[order],
                y=values,
                mode="lines+markers",
                line={"color": paint, "width": 1.5},
                marker={"size": 6, "color": "white", "line": {"color": paint, "width": 1.5}},
                name=f"{name}, tried",
                hovertemplate=f"{name}<br>multiplier %{{x:.4g}}<br>%{{y:.4g}}<extra></extra>",
            )
        )
    low, high = match.interval()
    figure.add_trace(
        go.Scatter(
            x=[match.multiplier],
            y=[match.value],
            error_y={"type": "data", "array": [high - match.value], "arrayminus": [match.value - low]},
            mode="markers",
            marker={"size": 11, "color": paint},
            name=f"match at {match.multiplier:.4g}",
            hovertemplate=f"{name}<br>multiplier %{{x:.4g}}<br>%{{y:.4g}} [{low:.4g}, {high:.4g}]<extra></extra>",
        )
    )
    edges = match.target - match.tolerance, match.target + match.tolerance
    figure.add_hrect(*edges, fillcolor="#009E73", opacity=0.25, line_width=0)
    of = f" of {plain(display_name(match.like))}" if match.like else ""
    figure.add_hline(match.target, line={"color": "#009E73", "width": 1.5}, annotation={"text": f"target{of}"})
    figure.update_xaxes(title_text="multiplier")
    figure.update_yaxes(title_text=AXES[match.by])
    return style(figure, width=520).update_layout(margin={"t": 20})
