"""BiPO F8: effect, cosine to CAA, norm and text over training; where over-training begins.

    python -m analyses.epochs --model toy --behaviour wealth
    python -m analyses.epochs --model smollm2 --behaviour wealth-seeking --steps 120

The vector of every epoch is measured on validation pairs and, side by side, on test pairs; over-training begins where the
validation pairs' two-sided margin stops rising, or where steered text leaves the unsteered model's perplexity.
"""

from dataclasses import dataclass
from functools import partial

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import steerlens as sl
from analyses.shifts import Shifts
from analyses.study import Finding, StudyConfig, main, store_of, weights_of, with_interval
from steerlens.figures.theme import COLOURS, style
from steerlens.measures.similarity import cosines


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is trained, and how it is looked at."""

    prompts: int = 12
    """questions answered with each epoch's vector, for the text's perplexity"""


def run(config: Config) -> Finding:
    """Train once, then measure the vector of every epoch."""
    pairs, model, preset = config.pairs(), config.load(), config.preset
    store = store_of(config)
    told = {
        "pairs": pairs.train.described(),
        "weights": weights_of(model),
        "layer": preset.layer,
        **config.bipo_options(),
    }
    seed = config.seeds[0]
    bipo = store.vector(
        "epochs",
        {**told, "seed": seed},
        lambda: sl.train_bipo(model, pairs.train, preset.layer, seed=seed, **config.bipo_options()),
    )
    caa = store.vector("caa", told, lambda: sl.extract_caa(model, pairs.train, preset.layer))
    asked = pairs.test.prompts[: config.prompts]
    measure, rows = Shifts(model), []
    for steps in bipo.snapshots:
        vector = bipo.after(steps)
        cell = {**told, "seed": seed, "steps": steps}
        row = {"steps": steps, "norm": vector.norm, "cosine to CAA": float(cosines([vector, caa])[0, 1])}
        for part, on in (("val", pairs.val), ("test", pairs.test)):
            shift = store.result(
                f"shift-{part}",
                cell | {"on": on.described()},
                partial(measure, vector, on),
            )
            low, high = shift.interval("odd")
            row |= {f"odd_{part}": shift.mean("odd")[0], f"low_{part}": low[0], f"high_{part}": high[0]}
            row[f"even_{part}"] = shift.mean("even")[0]
        effects = store.result(
            "text",
            {**cell, "prompts": asked},
            partial(sl.side_effects, model, vector, multipliers=(-1, 0, 1), prompts=asked, progress=False),
        )
        rows.append(row | text_of(effects))
    table = pd.DataFrame(rows)
    best = table.loc[table["odd_val"].idxmax()]
    last = table.iloc[-1]
    return Finding(
        study="epochs",
        title=f"BiPO over training, {config.behaviour} on {config.name}",
        item="BiPO F8",
        published="the effect grows over epochs on Llama-2-7b-chat; the paper trains 20 and shows no validation curve",
        found=[
            f"the odd part on validation pairs is largest after {best['steps']:.0f} of {last['steps']:.0f} steps "
            f"({best['odd_val']:+.2f} nats; on test pairs {with_interval(best['odd_test'], best['low_test'], best['high_test'])})",
            f"after the last step it is {last['odd_val']:+.2f} on validation and "
            f"{with_interval(last['odd_test'], last['low_test'], last['high_test'])} nats on test pairs, norm {last['norm']:.3g}, "
            f"cosine to CAA {table['cosine to CAA'].iloc[0]:+.2f} after the first epoch, {last['cosine to CAA']:+.2f} at the end",
            f"perplexity of the answers under the unsteered model, unsteered {last['perplexity at 0']:.3g}: at +1 "
            f"{table['perplexity at +1'].iloc[0]:.3g} after the first epoch and {last['perplexity at +1']:.3g} at the end",
        ],
        figures={"epochs": figure(table)},
        tables={"epochs": table},
    )


def text_of(effects: sl.SideEffects) -> dict[str, float]:
    """Perplexity of the steered answers under the unsteered model, by multiplier."""
    found = effects.perplexity()[0][0]
    names = [f"perplexity at {m:+g}" if m else "perplexity at 0" for m in effects.multipliers]
    return dict(zip(names, map(float, found), strict=True))


def figure(table: pd.DataFrame) -> go.Figure:
    """Effect on validation and test pairs, norm and cosine, and perplexity, over steps."""
    titles = ["effect (nats)", "norm", "cosine to CAA", "perplexity of answers"]
    drawn = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.12, vertical_spacing=0.2)
    blue, orange, grey = COLOURS["bipo"], COLOURS["caa"], COLOURS["random"]
    for part, dash in (("val", "dot"), ("test", "solid")):
        bars = {"type": "data", "array": table[f"high_{part}"] - table[f"odd_{part}"]}
        bars["arrayminus"] = table[f"odd_{part}"] - table[f"low_{part}"]
        line = {"color": blue, "dash": dash}
        name = {"val": "validation pairs", "test": "test pairs"}[part]
        drawn.add_trace(go.Scatter(x=table["steps"], y=table[f"odd_{part}"], error_y=bars, line=line, name=name), 1, 1)
    drawn.add_trace(go.Scatter(x=table["steps"], y=table["norm"], line={"color": blue}, showlegend=False), 1, 2)
    drawn.add_trace(
        go.Scatter(x=table["steps"], y=table["cosine to CAA"], line={"color": blue}, showlegend=False), 2, 1
    )
    for column, paint in (("perplexity at -1", orange), ("perplexity at 0", grey), ("perplexity at +1", blue)):
        name = column.replace("perplexity at", "multiplier")
        drawn.add_trace(go.Scatter(x=table["steps"], y=table[column], line={"color": paint}, name=name), 2, 2)
    drawn.update_xaxes(title_text="step", row=2)
    return style(drawn, height=560)


if __name__ == "__main__":
    main(run, Config)
