"""What a judge made of answers, over multipliers; and the answers themselves."""

import textwrap

import numpy as np
import plotly.graph_objects as go

from steerlens.figures.theme import colour, dash, display_name, plain, style, symbol
from steerlens.measures.answers import Answers
from steerlens.measures.judged import Judged

LONGEST = 280
"""characters of an answer that a table shows"""


def score_curves(judged: Judged) -> go.Figure:
    """Mean score over multipliers, one curve per vector, with 95% intervals over prompts.

    Points at one multiplier stand a little apart, so that their bars can be told from each other.
    """
    x = np.sort(judged.multipliers)
    n, gap = len(judged.labels), np.diff(x).min() if len(x) > 1 else 1.0
    apart = 0.09 * gap * (np.arange(n) - (n - 1) / 2)
    bounds = judged.interval()
    figure = go.Figure([_curve(judged, j, float(apart[j]), bounds) for j in range(n)])
    bottom, top = judged.scale
    margin = 0.04 * (top - bottom)
    shown = "share of answers" if judged.scale == (0, 1) else f"score, {bottom:g} to {top:g}"
    figure.update_xaxes(title_text="multiplier")
    figure.update_yaxes(title_text=f"{plain(judged.judge)}<br>({shown})", range=[bottom - margin, top + margin])
    if _whole(judged):
        figure.update_yaxes(tickvals=list(range(int(bottom), int(top) + 1)))
    if len(x) <= 9:
        figure.update_xaxes(tickvals=x)
    if judged.unjudged:
        figure.add_annotation(
            text=f"{len(judged.unjudged)} of {judged.scores.size} answers not judged",
            xref="paper",
            yref="paper",
            x=1,
            y=1.01,
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
        )
    style(figure, width=520).update_annotations(font_size=13)
    return figure.update_layout(showlegend=True, margin_t=40 if judged.unjudged else 20)


def _whole(judged: Judged) -> bool:
    bottom, top = judged.scale
    return bottom == int(bottom) and top == int(top) and 1 < top - bottom <= 10


def _curve(judged: Judged, j: int, apart: float, bounds: tuple[np.ndarray, np.ndarray]) -> go.Scatter:
    order = np.argsort(judged.multipliers)
    x, mean = np.asarray(judged.multipliers)[order], judged.mean()[j][order]
    low, high = (side[j][order] for side in bounds)
    label = judged.labels[j]
    name, paint = plain(display_name(label)), colour(label, judged.labels)
    return go.Scatter(
        x=x + apart,
        y=mean,
        error_y={"array": high - mean, "arrayminus": mean - low, "thickness": 1.5, "width": 3},
        customdata=np.stack([x, low, high, judged.counts[j][order]], axis=1),
        mode="lines+markers",
        line={"color": paint, "width": 2.5, "dash": dash(label, judged.labels)},
        marker={"size": 7, "symbol": symbol(label)},
        name=name,
        hovertemplate=f"{name}, norm {judged.norms[j]:.3g}<br>multiplier %{{customdata[0]:+g}}<br>%{{y:.3f}} "
        "[%{customdata[1]:.3f}, %{customdata[2]:.3f}], %{customdata[3]:.0f} prompts<extra></extra>",
    )


def answer_table(answers: Answers, *, prompts: int = 4) -> go.Figure:
    """The first prompts' answers, one column per multiplier and one row per prompt and vector; long ones are cut."""
    rows = [(i, j) for i in range(min(prompts, len(answers.prompts))) for j in range(len(answers.labels))]
    columns = {"prompt": [_lines(answers.prompts[i] if j == 0 else "", 20) for i, j in rows]}
    if len(answers.labels) > 1:
        columns["vector"] = [_lines(display_name(answers.labels[j]), 12) for _, j in rows]
    for m, multiplier in enumerate(answers.multipliers):
        cells = [_cut(answers.texts[i][j][m][0], bool(answers.ended[i, j, m, 0])) for i, j in rows]
        columns[f"multiplier {multiplier:+g}" if multiplier else "unsteered"] = [_lines(text, 30) for text in cells]
    widths = [150 if name == "prompt" else 95 if name == "vector" else 205 for name in columns]
    longest = [max(cell.count("<br>") + 1 for cell in row) for row in zip(*columns.values(), strict=True)]
    look = {"align": "left", "line_color": "#dcdce0"}
    figure = go.Figure(
        go.Table(
            header={"values": list(columns), "fill_color": "#f1f1f4", "font": {"size": 13}, "height": 28, **look},
            cells={"values": list(columns.values()), "fill_color": "#ffffff", "font": {"size": 12}, **look},
            columnwidth=widths,
        )
    )
    style(figure, width=sum(widths) + 20, height=52 + sum(16 * lines + 12 for lines in longest))
    return figure.update_layout(margin={"l": 10, "r": 10, "t": 10, "b": 10})


def _cut(text: str, ended: bool) -> str:
    return text if ended and len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"


def _lines(text: str, width: int) -> str:
    """A text broken into lines, for a table breaks none that holds a line break of its own."""
    found = [line for part in text.splitlines() for line in textwrap.wrap(part, width)]
    return "<br>".join(map(plain, found))
