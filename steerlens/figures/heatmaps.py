"""Cosines as a map of signed colours with the numbers in the cells, and as points between groups of vectors."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from steerlens.errors import FigureError
from steerlens.figures.tables import DOWN, UP
from steerlens.figures.theme import display_name, method_of, plain, style
from steerlens.measures.similarity import Null, Similarity, Space

SIGNED = ((0.0, DOWN), (0.5, "#FFFFFF"), (1.0, UP))
MOST_WRITTEN = 12  # rows or columns whose numbers can still be read in a figure of one column


def cosine_map(
    similarity: Similarity,
    *,
    space: Space = "plain",
    null: Null | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> go.Figure:
    """The cosine of every two vectors; bold where p < 0.05 under the null.

    Args:
        space: "plain" or "whitened".
        null: that of the p-values; default: the most demanding that was drawn.
        rows, columns: labels; default: all, on both axes. Methods in the rows and behaviours in the columns, say.
    """
    at = [_indices(similarity, chosen) for chosen in (rows, columns)]
    null = null or similarity.best_null
    cell = np.ix_(*at)
    values, p = similarity.matrix(space)[cell], similarity.p_values(null, space)[cell]
    names = [_ticks(similarity, chosen) for chosen in at]
    figure = go.Figure(
        go.Heatmap(
            z=values, zmin=-1, zmax=1, colorscale=SIGNED, xgap=1, ygap=1, customdata=p,
            x=list(range(len(at[1]))), y=list(range(len(at[0]))),
            text=[[f"{names[0][i]}, {names[1][j]}" for j in range(len(at[1]))] for i in range(len(at[0]))],
            hovertemplate=f"%{{text}}<br>cosine %{{z:+.3f}}<br>p = %{{customdata:.2g}}, {null} null<extra></extra>",
            colorbar={
                "title": {"text": "cosine" if space == "plain" else "whitened cosine", "side": "right"}, "thickness": 12,
                "tickvals": [-1, -0.5, 0, 0.5, 1], "ticktext": ["-1", "-0.5", "0", "0.5", "1"], "outlinewidth": 0,
            },
        )
    )  # fmt: skip
    written = max(values.shape) <= MOST_WRITTEN
    if written:
        for i, j in np.ndindex(*values.shape):
            figure.add_annotation(
                x=j, y=i, text=_number(float(values[i, j]), bool(p[i, j] < 0.05)), showarrow=False,
                font={"color": "#fff" if abs(values[i, j]) > 0.78 else "#111", "size": 14},
            )  # fmt: skip
    by_layer = names[0] == names[1] and all(name.isdigit() for name in names[0])
    step = 1 if written else -(-len(names[0]) // MOST_WRITTEN)
    for axes, labels in ((figure.update_xaxes, names[1]), (figure.update_yaxes, names[0])):
        shown = list(range(0, len(labels), step if by_layer else 1))
        axes(
            tickmode="array",
            tickvals=shown,
            ticktext=[labels[i] for i in shown],
            title_text="layer" if by_layer else None,
        )
    side = 50 if written else max(14, 560 // max(values.shape))
    below = 45 if by_layer else 20 + 6 * max(len(name) for name in names[1])
    if written:
        figure.add_annotation(
            text=f"bold: p < 0.05, {null} null", xref="paper", yref="paper", x=0, y=0, xanchor="left", yanchor="top",
            yshift=-below - 8, showarrow=False, font={"size": 13},
        )  # fmt: skip
    longest = 8 * max(len(name) for name in names[0]) + 40
    style(figure, width=longest + side * values.shape[1] + 110, height=side * values.shape[0] + below + 55)
    plainly = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    figure.update_xaxes(**plainly, constrain="domain", tickangle=0 if by_layer else -35)
    figure.update_yaxes(**plainly, autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_layout(margin={"l": longest, "r": 10, "t": 15, "b": below + 40})
    return figure


def cosine_points(similarity: Similarity, *, space: Space = "plain", null: Null | None = None) -> go.Figure:
    """The cosines between and within groups of vectors, a point for every two; a group is a label without its number.

    Seeds are few, so each is a point. The grey bar is the null's: 95% of unrelated vectors' cosines.
    """
    null = null or similarity.best_null
    cosines, limits = similarity.matrix(space), similarity.limits(null, space)
    groups = [method_of(label) or label for label in similarity.labels]
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for i, j in zip(*np.triu_indices(len(groups), 1), strict=True):
        found.setdefault((groups[i], groups[j]), []).append((int(i), int(j)))
    figure = go.Figure()
    names = []
    for at, ((a, b), cells) in enumerate(found.items()):
        limit = max(limits[cell] for cell in cells)
        names.append(f"{plain(display_name(a))} \N{EN DASH}<br>{plain(display_name(b))}")
        figure.add_shape(
            type="rect",
            x0=-limit,
            x1=limit,
            y0=at - 0.32,
            y1=at + 0.32,
            fillcolor="#e2e2e2",
            line={"width": 0},
            layer="below",
        )
        # Points of one group are spread a little, in order, so that equal ones can be counted.
        spread = np.linspace(-0.18, 0.18, len(cells)) if len(cells) > 1 else np.zeros(1)
        figure.add_trace(
            go.Scatter(
                x=[cosines[cell] for cell in cells], y=at + spread, mode="markers", showlegend=False,
                marker={"size": 9, "color": UP, "line": {"width": 1, "color": "#fff"}},
                text=[f"{plain(similarity.labels[i])}, {plain(similarity.labels[j])}" for i, j in cells],
                hovertemplate="%{text}<br>cosine %{x:+.3f}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(
        title_text=f"{'whitened ' if space == 'whitened' else ''}cosine (grey: 95% of the {null} null)",
        range=[-1.04, 1.04],
    )
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5]
    )
    style(figure, width=520, height=120 + 62 * len(names))
    figure.update_yaxes(zeroline=False, showgrid=False, automargin=True)
    figure.update_layout(margin={"b": 70, "t": 15})
    return figure


def _indices(similarity: Similarity, labels: Sequence[str] | None) -> list[int]:
    known = similarity.labels
    if labels is None:
        return list(range(len(known)))
    if isinstance(labels, str) or not len(labels) or any(label not in known for label in labels):
        raise FigureError(f"got {labels!r:.80}; expected a list of labels out of {list(known)}")
    return [known.index(label) for label in labels]


def _ticks(similarity: Similarity, at: Sequence[int]) -> list[str]:
    """The labels; or the layers, where all are one method's at different ones."""
    methods = {method_of(similarity.labels[i]) for i in at}
    layers = [similarity.layers[i] for i in at]
    if len(at) > 1 and len(methods) == 1 and len(set(layers)) == len(layers):
        return [str(layer) for layer in layers]
    return [plain(display_name(similarity.labels[i])) for i in at]


def _number(value: float, bold: bool) -> str:
    text = "1" if value > 0.9995 else f"{value:+.2f}".replace("0.", ".", 1).replace("-", "\N{MINUS SIGN}")
    return f"<b>{text}</b>" if bold else text
