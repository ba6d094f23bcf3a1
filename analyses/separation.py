"""CAA F2: from which layer on do a behaviour's two sides come apart, in the plane of their principal components and along CAA?

    python -m analyses.separation --model toy --behaviour wealth
    python -m analyses.separation --model llama-2-7b-chat --behaviour wealth-seeking --data path/to/data

Activations are read at the letter of A/B answers, as CAA's authors do. At every layer each way of looking is fixed on the
training pairs, and held-out pairs say how well it tells the two sides apart: the area under the ROC curve (AUC), 0.5 for chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from scipy import stats
from sklearn.decomposition import PCA

import steerlens as sl
from analyses.study import Finding, StudyConfig, main
from steerlens.figures.theme import COLOURS, SYMBOLS, style
from steerlens.forward.steer import make_vector
from steerlens.measures.activations import residuals
from steerlens.pairs.lettered import LETTER

APART = 0.9  # an AUC that the held-out pairs' interval must lie above for the sides to count as apart
LOOKS = {  # colour, marker, and how far beside the layer: the lines often lie on one another
    "CAA's direction": (COLOURS["caa"], SYMBOLS["caa"], -0.09),
    "best in the plane": (COLOURS["supervised"], SYMBOLS["supervised"], -0.03),
    "first component": (COLOURS["pca"], SYMBOLS["pca"], 0.03),
    "shuffled labels": (COLOURS["shuffled labels"], SYMBOLS["shuffled labels"], 0.09),
}
Letters = Float[np.ndarray, "side pair layer d_model"]


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is looked at."""

    layers: tuple[int, ...] = ()
    """default: all of the model's"""


def at_letters(model: Any, pairs: sl.PreferencePairs, layers: Sequence[int]) -> Letters:
    """The residual stream at the letter of both answers of every pair, after each layer."""
    found = np.zeros((2, len(pairs), len(layers), model.cfg.d_model), np.float32)
    for row, pair, streams in residuals(model, pairs, layers):
        start = len(pair.prompt)
        for side, (response, at) in enumerate(zip(pair.sides, pair.read_at("answer"), strict=True)):
            found[side, row] = [stream[start + at.start].cpu().numpy() for stream in streams]
            start += len(response)
    return found


def caa_at(
    model: Any, pairs: sl.PreferencePairs, read: Float[np.ndarray, "side pair d_model"], layer: int
) -> sl.SteeringVector:
    """`sl.extract_caa(position="answer")` from activations that were read already."""
    gap = torch.from_numpy((read[0] - read[1]).mean(0, dtype=np.float64))
    return make_vector(
        model, gap, layer, method="caa", settings={"position": "answer", **pairs.described()}, pairs=pairs
    )


def run(config: Config) -> Finding:
    """AUC over layers on held-out pairs, and the plane at the layer that validation pairs choose."""
    model, pairs = config.load(), config.letter_pairs()
    layers = config.layers or tuple(range(model.cfg.n_layers))
    train, val, test = (at_letters(model, part, layers) for part in (pairs.train, pairs.val, pairs.test))
    is_a = np.array([[letter(text) == "A" for text in side] for side in (pairs.test.chosen, pairs.test.rejected)])
    rows, on_val = [], []
    for i, layer in enumerate(layers):
        ways = directions(train[:, :, i])
        on_val.append(auc(*(val[:, :, i] @ ways["CAA's direction"])))
        for way, direction in ways.items():
            along = test[:, :, i] @ direction
            low, high = interval(along)
            by_letter = auc(along[is_a], along[~is_a])
            row = {"layer": layer, "way": way, "auc": auc(*along), "low": low, "high": high}
            rows.append(row | {"auc of the letter": max(by_letter, 1 - by_letter)})
        shuffled = chance(train[:, :, i], test[:, :, i])
        low, high = np.quantile(shuffled, [0.025, 0.975])
        rows.append({"layer": layer, "way": "shuffled labels", "auc": shuffled.mean(), "low": low, "high": high})
    table = pd.DataFrame(rows)
    best = layers[int(np.argmax(on_val))]
    figures = {"separation": figure(table)}
    for layer in dict.fromkeys((layers[0], best, layers[-1])):
        vector = caa_at(model, pairs.train, train[:, :, layers.index(layer)], layer)
        figures[f"plane-layer-{layer}"] = sl.activation_map(
            model, {"caa": vector}, pairs.test, position="answer", progress=False
        ).figure()
    return Finding(
        study="separation",
        title=f"Where the two sides come apart, {config.behaviour} on {config.name}",
        item="CAA F2",
        published="figure: in the plane of two principal components the sides come apart from some layer on",
        found=sentences(table, best, len(pairs.test)),
        figures=figures,
        tables={"separation": table},
    )


def letter(text: str) -> str:
    """The letter that an answer opens with."""
    found = LETTER.match(text)
    if found is None:
        raise sl.PairsError(f"got the answer {text!r}; expected one that opens with a letter, such as '(A)'")
    return found[1]


def directions(train: Float[np.ndarray, "side pair d_model"]) -> dict[str, Float[np.ndarray, " d_model"]]:
    """Each way to look, as a direction that training pairs fix: chosen lies further along it."""
    caa = (train[0] - train[1]).mean(0, dtype=np.float64)
    axes = PCA(n_components=2, svd_solver="full").fit(train.reshape(-1, train.shape[-1]).astype(np.float64)).components_
    inside = train @ axes.T
    within = sum(np.cov(side.T) for side in inside)
    return {
        "CAA's direction": caa,
        # Fisher's: the difference of the means, by the spread about them.
        "best in the plane": np.linalg.solve(within, axes @ caa) @ axes,
        "first component": axes[0] * (1 if axes[0] @ caa >= 0 else -1),
    }


def chance(train: Float[np.ndarray, "side pair d_model"], test: Float[np.ndarray, "side pair d_model"]) -> np.ndarray:
    """The AUC along mean differences of training pairs a random half of which is turned round, 40 draws.

    Such a direction has no sign: of AUC and 1 - AUC the larger counts, as in the letter's.
    """
    gap = train[0] - train[1]
    drawn = half_turned(len(gap), 40) @ gap / len(gap)
    found = np.array([auc(*(test @ direction)) for direction in drawn])
    return np.maximum(found, 1 - found)


def half_turned(n: int, draws: int) -> Float[np.ndarray, "draw pair"]:
    """Signs that turn a random half of n pairs round: mean differences under shuffled labels."""
    signs, rng = np.where(np.arange(n) < n // 2, -1.0, 1.0), np.random.default_rng(0)
    return np.stack([rng.permutation(signs) for _ in range(draws)])


def auc(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """The share of (chosen, rejected) in which chosen lies higher, ties counting half."""
    return float(stats.mannwhitneyu(chosen, rejected).statistic / (len(chosen) * len(rejected)))


def interval(along: Float[np.ndarray, "side pair"]) -> tuple[float, float]:
    """A percentile bootstrap interval of the AUC, resampling pairs: both sides of a pair stay together.

    Where no pair is out of order, a bootstrap would claim to know the AUC exactly: there the interval allows for as many
    other pairs as Clopper and Pearson's does that were never seen.
    """
    higher = np.sign(along[0][:, None] - along[1]) / 2 + 0.5
    n = len(higher)
    if higher.min() == higher.max() != 0.5:
        unseen = stats.binomtest(0, n).proportion_ci(confidence_level=0.95, method="exact").high
        least = (1 - unseen) ** 2
        return (least, 1.0) if higher.min() == 1 else (0.0, 1 - least)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=2000) / n
    low, high = np.quantile(np.einsum("ri,ij,rj->r", drawn, higher, drawn, optimize=True), [0.025, 0.975])
    return float(low), float(min(high, 1.0))


def sentences(table: pd.DataFrame, best: int, n: int) -> list[str]:
    """From where on the sides are apart, for each way to look, and what the first component tells apart instead."""
    found = []
    for way, rows in table[table["way"] != "shuffled labels"].groupby("way", sort=False):
        apart = rows[rows["low"] > APART]["layer"]
        top = rows.loc[rows["auc"].idxmax()]
        since = (
            f"interval above {APART} first at layer {apart.iloc[0]}"
            if len(apart)
            else f"interval nowhere above {APART}"
        )
        found.append(
            f"{way}: {since}; largest AUC on {n} held-out pairs {top['auc']:.2f} [{top['low']:.2f}, {top['high']:.2f}] at layer "
            f"{top['layer']}"
        )
    first = table[table["way"] == "first component"].set_index("layer")
    shuffled = table[table["way"] == "shuffled labels"].set_index("layer").loc[best]
    found.append(
        f"at layer {best}, which validation pairs choose by CAA's direction, the first component tells the behaviour apart at "
        f"{first['auc'][best]:.2f} and the letter (A from B) at {first['auc of the letter'][best]:.2f}; "
        f"mean differences with shuffled labels reach {shuffled['auc']:.2f} [{shuffled['low']:.2f}, {shuffled['high']:.2f}] there"
    )
    return found


def figure(table: pd.DataFrame) -> go.Figure:
    """AUC over layers, with intervals."""
    drawn, spacing = go.Figure(), float(np.diff(sorted(table["layer"].unique())).min(initial=1))
    for way, rows in table.groupby("way", sort=False):
        paint, symbol, beside = LOOKS[str(way)]
        bars = {"type": "data", "array": rows["high"] - rows["auc"], "arrayminus": rows["auc"] - rows["low"]}
        drawn.add_trace(
            go.Scatter(
                x=rows["layer"] + beside * spacing,
                y=rows["auc"],
                error_y=bars,
                name=str(way),
                line={"color": paint},
                marker={"symbol": symbol, "size": 7},
                mode="lines+markers",
            )
        )
    drawn.add_hline(y=0.5, line={"dash": "dot", "width": 1})
    drawn.update_xaxes(title_text="layer (0-based block)", dtick=1 if table["layer"].nunique() < 13 else None)
    drawn.update_yaxes(
        title_text="AUC on held-out pairs (0.5: chance)", range=[min(0.4, table["low"].min() - 0.03), 1.03]
    )
    return style(drawn).update_xaxes(zeroline=False)


if __name__ == "__main__":
    main(run, Config)
