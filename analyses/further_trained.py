"""CAA F9 and F10: a model and the one that was trained further from it. Are their CAA vectors alike, and do they transfer?

The weights differ, so `sl.compare` refuses these vectors: they lie in two spaces. That further training leaves the space
nearly as it was is what is asked here, so the cosines are computed on purpose, beside those of shuffled labels.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

import steerlens as sl
from analyses.separation import Letters, at_letters, caa_at, half_turned
from analyses.study import StudyConfig, store_of, weights_of, with_interval
from steerlens.figures.theme import COLOURS, FAINT, style

DRAWS = 200


def alike(base: Letters, further: Letters, layers: Sequence[int]) -> pd.DataFrame:
    """The cosine of the two models' CAA vectors at every layer, and the |cosine| that 95% of shuffled labels stay under.

    Shuffled: the further model's labels of a random half of the pairs are exchanged.
    """
    if base.shape != further.shape:
        raise sl.MeasureError(
            f"activations of shapes {base.shape} and {further.shape} have no cosine; expected two models of one architecture, "
            "one trained further from the other"
        )
    gaps = [(read[0] - read[1]).astype(np.float64) for read in (base, further)]
    drawn = half_turned(len(gaps[1]), DRAWS)
    rows = []
    for i, layer in enumerate(layers):
        one, two = gaps[0][:, i].mean(0), gaps[1][:, i].mean(0)
        shuffled = drawn @ gaps[1][:, i] / len(drawn[0])
        limit = np.quantile(np.abs(_cosine(shuffled, one)), 0.95)
        rows.append({"layer": layer, "cosine": float(_cosine(two, one)), "limit": limit})
    return pd.DataFrame(rows)


def _cosine(a: Float[np.ndarray, "*draw d_model"], b: Float[np.ndarray, " d_model"]) -> Float[np.ndarray, "*draw"]:
    return a @ b / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b))


def letter_questions(config: StudyConfig) -> sl.ChoiceQuestions:
    """The held-out pairs as questions with lettered options."""
    pairs = config.letter_pairs() if config.is_toy else config.pairs()
    return pairs.test.as_choices(seed=0)


def measure(
    config: StudyConfig, base: str, further: str, layers: Sequence[int]
) -> tuple[list[str], dict[str, go.Figure], dict[str, pd.DataFrame]]:
    """Sentences, figures and tables: cosines at every layer, and both models' CAA vectors steering the further one."""
    pairs = config.letter_pairs().train
    read, vectors = {}, {}
    for name in (base, further):
        model = config.load(name)
        every = tuple(range(model.cfg.n_layers))
        read[name] = at_letters(model, pairs, every)
        for layer in layers:
            vectors[name, layer] = caa_at(model, pairs, read[name][:, :, layer], layer)
    cosines = alike(read[base], read[further], every)
    questions, store, rows = letter_questions(config), store_of(config), []
    for layer in layers:
        own = vectors[further, layer]
        moved = dataclasses.replace(vectors[base, layer], model=None)  # on purpose: to other weights
        group = {"caa": own, "caa of the base": moved, "random": sl.random_vectors(own, 1, seed=0)[0]}
        told = {
            "base": base,
            "weights": weights_of(model),
            "on": questions.provenance,
            "n": len(questions),
            "layer": layer,
        }
        told["vectors"] = [(round(v.norm, 6), round(float(v.tensor.sum()), 6)) for v in group.values()]
        scores = store.result(
            "further",
            told,
            partial(sl.multiple_choice, model, group, questions, positions="response", progress=False),
        )
        change, low, high = scores.change("probability")
        for i, label in enumerate(scores.labels):
            for j, m in enumerate(scores.multipliers):
                row = {"layer": layer, "vector": label, "multiplier": m, "norm": scores.norms[i]}
                row |= {"probability": scores.mean("probability")[i, j], "change": change[i, j]}
                rows.append(row | {"low": low[i, j], "high": high[i, j]})
    effects = pd.DataFrame(rows)
    figures = {"base-cosines": cosine_figure(cosines), "base-effects": effect_figure(effects)}
    said = [sentence(cosines, base, further), *effect_sentences(effects, config.preset.layer, further)]
    return said, figures, {"base-cosines": cosines, "base-effects": effects}


def sentence(cosines: pd.DataFrame, base: str, further: str) -> str:
    """How alike the vectors are over layers."""
    cells = ", ".join(f"{r.layer}: {r.cosine:+.2f}" for r in cosines.itertuples())
    return (
        f"CAA vectors at the letter, {base} and {further}: cosine by layer {cells} (95% of shuffled labels stay under "
        f"{cosines['limit'].max():.2f} in absolute value at every layer)"
    )


def effect_sentences(effects: pd.DataFrame, layer: int, further: str) -> list[str]:
    """What each vector does to the probability of the matching letter at the study's layer, or the first one measured."""
    layer = layer if layer in set(effects["layer"]) else int(effects["layer"].iloc[0])
    rows = effects[effects["layer"] == layer]
    unsteered = rows[rows["multiplier"] == 0]["probability"].iloc[0]
    found = []
    for label, mine in rows[rows["multiplier"] != 0].groupby("vector", sort=False):
        cells = ", ".join(f"{r.multiplier:+g}: {with_interval(r.change, r.low, r.high, 3)}" for r in mine.itertuples())
        found.append(
            f"p(matching letter) in {further}, unsteered {unsteered:.3f}; change with {label} of layer {layer} (steered from "
            f"the prompt's last token on) at {cells}"
        )
    return found


def cosine_figure(cosines: pd.DataFrame) -> go.Figure:
    """The cosine over layers, above what shuffled labels give."""
    drawn = go.Figure()
    drawn.add_trace(
        go.Scatter(
            x=cosines["layer"], y=cosines["cosine"], name="base and further-trained", line={"color": COLOURS["caa"]}
        )
    )
    limit = {"color": FAINT, "dash": "dot"}
    drawn.add_trace(go.Scatter(x=cosines["layer"], y=cosines["limit"], name="shuffled labels, 95%", line=limit))
    drawn.update_xaxes(title_text="layer (0-based block)")
    drawn.update_yaxes(title_text="cosine of the CAA vectors", range=[min(0, cosines["cosine"].min()) - 0.03, 1.03])
    return style(drawn).update_xaxes(zeroline=False)


def effect_figure(effects: pd.DataFrame) -> go.Figure:
    """The change of p(matching letter) at multipliers 1 and -1 over layers, with intervals."""
    drawn = go.Figure()
    paints = {"caa": COLOURS["caa"], "caa of the base": COLOURS["supervised"], "random": COLOURS["random"]}
    names = {"caa": "own CAA vector", "caa of the base": "the base's CAA vector", "random": "random direction"}
    for (label, m), rows in effects[effects["multiplier"] != 0].groupby(["vector", "multiplier"], sort=False):
        bars = {"type": "data", "array": rows["high"] - rows["change"], "arrayminus": rows["change"] - rows["low"]}
        line = {"color": paints[label], "dash": "solid" if m > 0 else "dot"}
        drawn.add_trace(
            go.Scatter(x=rows["layer"], y=rows["change"], error_y=bars, line=line, name=f"{names[label]}, {m:+g}")
        )
    drawn.update_xaxes(title_text="layer (0-based block)")
    drawn.update_yaxes(title_text="change of p(matching letter)")
    return style(drawn, height=440).update_xaxes(zeroline=False)
