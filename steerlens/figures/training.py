"""Curves over training: the loss and the validation margins, and where the vector goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.comparison.comparison import Comparison
from steerlens.errors import FigureError
from steerlens.figures.theme import colour, dash, display_name, faded, plain, style, width
from steerlens.vectors.names import without_seed

History = Sequence[Mapping[str, Any]]
_SMOOTH = 10  # steps: a step's loss is that of one small batch


def training_curves(histories: Mapping[str, History]) -> go.Figure:
    """Loss, validation margins at +v and -v (where there are any), and |v| over the stream's norm, one set of curves per history.

    Args:
        histories: label -> `vector.history`.

    Raises:
        FigureError: no history has a step.
    """
    histories = {label: history for label, history in histories.items() if history}
    if not histories:
        raise FigureError(
            "there is no history to draw: only trained vectors have one, and their multiples don't keep it"
        )
    labels = list(histories)
    measured = {label: [row for row in history if row["val_plus"] is not None] for label, history in histories.items()}
    margins = ["validation margin (nats)"] if any(measured.values()) else []
    titles = ["loss (nats)", *margins, "|v| / stream's norm"]
    figure = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=0.3 / len(titles))
    for label, history in histories.items():
        steps = np.array([row["step"] + 1 for row in history])
        loss = np.array([row["loss"] for row in history], dtype=float)
        paint = colour(label, labels)
        line = {"color": paint, "dash": dash(label, labels), "width": width(label, labels)}
        faint = {"color": faded(paint, 0.35), "width": 1}
        name = plain(display_name(label))
        figure.add_trace(_line(steps, loss, faint, name, legend=False, skip=True), 1, 1)
        figure.add_trace(_line(steps, _running_mean(loss), line, name), 1, 1)
        for key, sign in (("val_plus", "+v"), ("val_minus", "\N{MINUS SIGN}v")) if measured[label] else ():
            at = np.array([row["step"] + 1 for row in measured[label]])
            values = np.array([row[key] for row in measured[label]], dtype=float)
            trace = _line(at, values, line, f"{name}, {sign}", legend=False)
            trace.update(mode="lines+markers", legendgroup=name)
            figure.add_trace(trace, 1, 2)
        ratio = np.array([row["norm_ratio"] for row in history], dtype=float)
        figure.add_trace(_line(steps, ratio, line, name, legend=False), 1, len(titles))
    figure.update_xaxes(title_text="step", rangemode="tozero")
    drawn = style(figure, width=320 * len(titles), height=380)
    drawn.update_yaxes(rangemode="tozero", col=len(titles))
    return drawn


def path(comparison: Comparison) -> go.Figure:
    """Norm and cosine to the other vectors over the epochs of training, for vectors that kept their snapshots.

    Raises:
        FigureError: no vector has a snapshot.
    """
    frame = comparison.paths()
    if frame.empty:
        raise FigureError("no vector kept its snapshots: train_bipo keeps one for every epoch")
    figure = make_subplots(1, 2, subplot_titles=["norm (residual-stream units)", "cosine"], horizontal_spacing=0.12)
    for label, rows in frame.groupby("vector", sort=False):
        name = plain(display_name(str(label)))
        paint, dashed = colour(str(label), comparison.labels), dash(str(label), comparison.labels)
        thick = width(str(label), comparison.labels)
        line = {"color": paint, "dash": dashed, "width": thick}
        trace = _line(rows["steps"], rows["norm"], line, name)
        figure.add_trace(trace.update(mode="lines+markers"), 1, 1)
        foreign = [other for other in comparison.labels if without_seed(other) != without_seed(str(label))]
        for other in foreign or [other for other in comparison.labels if other != label]:
            paint, dashed = colour(other, comparison.labels), dash(other, comparison.labels)
            to = {"color": paint, "dash": dashed, "width": thick}
            trace = _line(rows["steps"], rows[f"cosine to {other}"], to, f"{name} to {plain(display_name(other))}")
            figure.add_trace(trace.update(mode="lines+markers"), 1, 2)
    figure.update_xaxes(title_text="step", rangemode="tozero")
    drawn = style(figure)
    drawn.update_yaxes(rangemode="tozero", col=1)
    drawn.update_yaxes(range=[-1.02, 1.02], col=2)
    return drawn


def _line(x: Any, y: Any, line: Mapping[str, Any], name: str, *, legend: bool = True, skip: bool = False) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line=line,
        name=name,
        legendgroup=name,
        showlegend=legend,
        hoverinfo="skip" if skip else None,
        hovertemplate=None if skip else f"{name}<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>",
    )


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean of each value and up to nine before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - _SMOOTH)
    return (sums[ends] - sums[starts]) / (ends - starts)
