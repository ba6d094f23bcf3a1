"""Side effects over multipliers: KL on neutral text, and perplexity, repetition and length of the answers."""

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.figures.curves import band_and_line
from steerlens.figures.theme import display_name, plain, style
from steerlens.measures.side_effects import Effect, SideEffects

TITLES: dict[Effect, str] = {
    "kl": "KL on neutral text<br>(nats per token)",
    "answer_nats": "perplexity of answers<br>under the unsteered model",
    "repetition": "repeated runs of 3 tokens<br>(share)",
    "tokens": "answer length<br>(tokens)",
    "ended": "answers that end<br>by themselves (rate)",
}
ACCURACY = "right answers in the quiz<br>(rate)"


class Panel(NamedTuple):
    """One quantity: its axis, and mean, low and high by vector and multiplier."""

    title: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def side_effect_curves(result: SideEffects) -> go.Figure:
    """A panel per quantity, one curve per vector, with 95% intervals; with a quiz two panels more."""
    order: list[Effect] = ["kl", "answer_nats", "repetition", "tokens"]
    panels = [_panel(result, quantity) for quantity in order]
    if result.quiz is not None:
        quiz = Panel(ACCURACY, result.quiz.mean("accuracy"), *result.quiz.interval("accuracy"))
        panels = [*panels[:2], quiz, *panels[2:], _panel(result, "ended")]
    columns = len(panels) // 2
    figure = make_subplots(2, columns, shared_xaxes=True, horizontal_spacing=0.32 / columns, vertical_spacing=0.06)
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        for i, label in enumerate(result.labels):
            values = (panel.mean[i], panel.low[i], panel.high[i])
            name = f"{plain(display_name(label))}, norm {result.norms[i]:.3g}"
            traces = band_and_line(
                label, result.labels, result.multipliers, *values, hover=name, number=".3g", legend=place == 0
            )
            figure.add_traces(traces, rows=row + 1, cols=column + 1)
        figure.update_yaxes(title_text=panel.title, row=row + 1, col=column + 1)
    figure.update_xaxes(title_text="multiplier", row=2)
    if len(result.multipliers) <= 9:
        figure.update_xaxes(tickvals=sorted(result.multipliers))
    style(figure, width=380 * columns, height=530)
    return figure.update_layout(legend={"y": -0.14}, margin={"t": 20})


def _panel(result: SideEffects, quantity: Effect) -> Panel:
    if quantity == "answer_nats":
        return Panel(TITLES[quantity], *result.perplexity())
    return Panel(TITLES[quantity], result.mean(quantity), *result.interval(quantity))
