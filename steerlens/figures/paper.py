"""Figures for print: one or two columns of a paper, text of 7 points or more, legends below the plot."""

import math
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go

from steerlens.errors import FigureError

Columns = Literal[1, 2]
INCHES = {1: 3.3, 2: 6.9}
PIXELS = 96  # per inch, as browsers count
POINT = PIXELS / 72
TEXT, SMALL = 8 * POINT, 7 * POINT
_BETWEEN, _LINE = 26, 18  # pixels between panels for tick labels; for a line of text, a title, besides
_THINNER = 0.6
_SHRINK = TEXT / 15  # from the theme's text on the screen
_KEY = 40  # pixels of a legend entry beside its text


def for_print(figure: go.Figure, *, columns: Columns = 1) -> go.Figure:
    """The same figure at the width of one (3.3 in) or two (6.9 in) columns of a paper; the one given stays as it is.

    Text has 7 or 8 points, lines and markers are finer. In one column, panels that stand side by side come to stand one
    below the other. Saved as PDF it has that size: place it without scaling.

    Raises:
        FigureError: columns is neither 1 nor 2.
    """
    if columns not in get_args(Columns):
        raise FigureError(f"columns={columns!r}; expected 1 (3.3 inches) or 2 (6.9 inches)")
    paper = go.Figure(figure)
    old = paper.layout
    width, old_width = INCHES[columns] * PIXELS, old.width or 700
    plot = (old.height or 450) - (100 if old.margin.t is None else old.margin.t)
    plot = (plot - (80 if old.margin.b is None else old.margin.b)) * min(1.0, max(0.62, width / old_width))
    plot = _stack(paper, plot) if columns == 1 else plot
    legend = _legend_rows(paper, width) * 1.5 * TEXT
    top = 20 if any(a.yref == "paper" and a.y >= 0.99 for a in old.annotations) else 8
    notes = [a for a in old.annotations if a.yref == "paper" and a.y <= 0 and a.yshift]
    below = max([40 + legend, *(18 - _SHRINK * a.yshift for a in notes)])
    for note in notes:
        note.yshift *= _SHRINK
    _refine(paper)
    paper.update_layout(
        width=width,
        height=top + plot + below,
        margin={"l": 12, "r": 8, "t": top, "b": below},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0.5,
            "xanchor": "center",
            "tracegroupgap": 0,
        },
    )
    return paper


def _panels(figure: go.Figure) -> list[tuple[Any, Any]]:
    """The axes of each panel, row by row; empty where there is one, or where panels lie over each other."""
    names = list(dict.fromkeys((t.xaxis or "x", t.yaxis or "y") for t in figure.data if hasattr(t, "xaxis")))
    axes = [(figure.layout[_long(x)], figure.layout[_long(y)]) for x, y in names]
    if len(axes) < 2 or any(axis.domain is None for pair in axes for axis in pair):
        return []
    if len({tuple(x.domain) + tuple(y.domain) for x, y in axes}) < len(axes):
        return []
    return sorted(axes, key=lambda pair: (-pair[1].domain[1], pair[0].domain[0]))


def _stack(figure: go.Figure, plot: float) -> float:
    """Put the panels of a plot that is `plot` pixels high below each other; how high it is then."""
    axes = _panels(figure)
    if not axes:
        return plot
    titles = [_title(figure, x, y) for x, y in axes]  # all of them before any panel moves
    named = {x.title.text for x, _ in axes} - {None}
    between = _BETWEEN + _LINE * ((len(named) > 1) + any(title is not None for title in titles))
    high = plot * float(np.mean([y.domain[1] - y.domain[0] for _, y in axes]))
    total = high * len(axes) + between * (len(axes) - 1)
    for i, ((x, y), title) in enumerate(zip(axes, titles, strict=True)):
        top = 1 - i * (high + between) / total
        low = max(0.0, top - high / total)
        if title is not None:
            title.update(x=0.5, y=top)
        for trace in figure.data:
            if "colorbar" in trace and figure.layout[_long(trace.xaxis)] is x:
                trace.colorbar.update(x=1.02, y=(low + top) / 2, len=high / total)
        if len(named) == 1:
            x.title.text = next(iter(named)) if i == len(axes) - 1 else None
        if y.title.text is None and y.matches is not None:
            y.title.text = figure.layout[_long(y.matches)].title.text
        x.update(domain=(0, 1), showticklabels=None)
        y.update(domain=(low, top), showticklabels=None)
    return total


def _title(figure: go.Figure, x: Any, y: Any) -> Any:
    """The annotation that stands over the middle of a panel."""
    for note in figure.layout.annotations:
        above = note.xref == note.yref == "paper" and math.isclose(note.y, y.domain[1], abs_tol=1e-3)
        if above and math.isclose(note.x, sum(x.domain) / 2, abs_tol=1e-3):
            return note
    return None


def _long(axis: str | None) -> str:
    return f"{axis[0]}axis{axis[1:]}" if axis else "xaxis"


def _legend_rows(figure: go.Figure, width: float) -> int:
    shown = [t for t in figure.data if t.name and t.showlegend is not False]
    if figure.layout.showlegend is False or (len(figure.data) == 1 and not figure.data[0].showlegend):
        return 0
    widths = [_KEY + 0.52 * SMALL * len(t.name) for t in shown]
    if sum(widths) <= width:
        return min(1, len(shown))
    return math.ceil(len(shown) / max(1, int(width // max(widths))))


def _refine(figure: go.Figure) -> None:
    figure.update_layout(font={"size": TEXT}, legend={"font": {"size": SMALL}})
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        axis.update(automargin=True, tickfont={"size": SMALL}, title={"font": {"size": TEXT}, "standoff": 4}, ticklen=3)
    for note in figure.layout.annotations:
        note.font.size = max(SMALL, min(TEXT, _SHRINK * (note.font.size or 15)))
        if note.showarrow:
            note.arrowwidth = _THINNER * (note.arrowwidth or 2)
    for shape in figure.layout.shapes:
        if shape.line.width:
            shape.line.width *= _THINNER
    for trace in figure.data:
        for own, name in (("line", "width"), ("marker", "size"), ("error_x", "thickness"), ("error_y", "thickness")):
            owner: Any = getattr(trace, own) if own in trace else None
            value = owner[name] if owner is not None and name in owner else None
            if isinstance(value, (int, float)):
                owner[name] = value * _THINNER
        if "textfont" in trace:  # of text that is laid out by its width, a strip of tokens, as of any other
            trace.textfont.size = min(SMALL, (trace.textfont.size or 15) * max(_SHRINK, 0.73))
        # To touch the colour bar of a marker that shows none would make it show one.
        scaled = (
            trace if trace.type == "heatmap" else trace.marker if "marker" in trace and trace.marker.showscale else None
        )
        if scaled is not None:
            scaled.colorbar.update(thickness=8, tickfont={"size": SMALL}, title={"font": {"size": SMALL}})
