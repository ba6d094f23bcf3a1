"""Multiple choice over multipliers: how probable the right option is and how often it is the likeliest, beside chance."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from steerlens.figures.theme import colour, dash, display_name, plain, style, symbol
from steerlens.measures.choice_scores import ChoiceScores, TruthfulScores
from steerlens.measures.option_scores import OptionScores, Quantity

TITLES: dict[Quantity, str] = {
    "probability": "probability of the right options",
    "accuracy": "right option likeliest (rate)",
    "letter_mass": "probability of any letter",
    "probability_per_token": "probability of the right options<br>(log p per token)",
    "accuracy_per_token": "right option likeliest (rate)<br>(log p per token)",
    "mc1": "MC1: best answer above all<br>incorrect ones (rate)",
    "mc2": "MC2: probability of the<br>correct answers",
}


def choice_curves(
    scores: ChoiceScores | TruthfulScores, quantities: tuple[Quantity, Quantity] | None = None
) -> go.Figure:
    """Two panels over multipliers, a curve per vector: means with bootstrap bars, rates with Clopper and Pearson's, and chance.

    Points at one multiplier stand a little apart, so that their bars can be told from each other.

    quantities: of the panels; by default probability and accuracy, or MC1 and MC2.
    """
    panels = quantities or (("mc1", "mc2") if isinstance(scores, TruthfulScores) else ("probability", "accuracy"))
    figure = make_subplots(1, 2, horizontal_spacing=0.14)
    x = np.sort(scores.multipliers)
    n, gap = len(scores.labels), np.diff(x).min() if len(x) > 1 else 1.0
    apart = 0.09 * gap * (np.arange(n) - (n - 1) / 2)
    for column, quantity in enumerate(panels, start=1):
        chance = {"color": "#555", "width": 1.5, "dash": "dot"}
        figure.add_trace(
            go.Scatter(
                x=[x[0] + 2 * apart[0], x[-1] + 2 * apart[-1]],
                y=[scores.chance(quantity)] * 2,
                mode="lines",
                line=chance,
                name="chance",
                showlegend=column == 1,
                hovertemplate="a guess at random: %{y:.3f}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        for i in range(len(scores.labels)):
            figure.add_trace(_curve(scores, i, quantity, float(apart[i]), legend=column == 1), row=1, col=column)
        figure.update_yaxes(title_text=TITLES[quantity], row=1, col=column)
    figure.update_xaxes(title_text="multiplier")
    style(figure).update_layout(margin_t=20)
    if len(x) <= 9:
        figure.update_xaxes(tickvals=x)
    return figure


def _curve(scores: OptionScores, i: int, quantity: Quantity, apart: float, *, legend: bool) -> go.Scatter:
    order = np.argsort(scores.multipliers)
    x, mean = np.asarray(scores.multipliers)[order], scores.mean(quantity)[i, order]
    low, high = (side[i, order] for side in scores.interval(quantity))
    label = scores.labels[i]
    name, paint = plain(display_name(label)), colour(label, scores.labels)
    return go.Scatter(
        x=x + apart,
        y=mean,
        error_y={"array": high - mean, "arrayminus": mean - low, "thickness": 1.5, "width": 3},
        customdata=np.stack([x, low, high], axis=1),
        mode="lines+markers",
        line={"color": paint, "width": 2.5, "dash": dash(label, scores.labels)},
        marker={"size": 7, "symbol": symbol(label)},
        name=name,
        legendgroup=label,
        showlegend=legend,
        hovertemplate=f"{name}, norm {scores.norms[i]:.3g}<br>multiplier %{{customdata[0]:+g}}<br>%{{y:.3f}} "
        f"[%{{customdata[1]:.3f}}, %{{customdata[2]:.3f}}], {len(scores.questions)} questions<extra></extra>",
    )
