"""BiPO F7: a DPO-trained LoRA, and a vector trained on chosen responses alone, beside BiPO and CAA.

    python -m analyses.baselines --model toy --behaviour wealth

The margin that each adds on the same test pairs (a LoRA has no multiplier: it is measured as it is, and so are the vectors, at 1).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

import steerlens as sl
from analyses.contenders import make
from analyses.study import Finding, StudyConfig, main, store_of, weights_of, with_interval
from steerlens.figures.theme import colour, display_name, style


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is trained."""

    epochs: int = 2
    """of the LoRA, as the paper has it"""


def run(config: Config) -> Finding:
    """Gains of the margin on test pairs."""
    model, pairs, store = config.load(), config.pairs(), store_of(config)
    vectors = make(config, model, methods=("bipo", "freeform", "random"))
    told = {
        "weights": weights_of(model),
        "pairs": pairs.train.described(),
        "layer": config.preset.layer,
        **config.bipo_options(),
    }
    vectors["supervised"] = store.vector(
        "supervised",
        told,
        lambda: sl.train_supervised(model, pairs.train, config.preset.layer, **config.bipo_options()),
    )
    shifts = {name: sl.preference_shift(model, v, pairs.test, (1,), progress=False) for name, v in vectors.items()}

    def tune() -> sl.PreferenceShift:
        return sl.margin_shift(model, sl.train_dpo_lora(model, pairs.train, epochs=config.epochs), pairs.test)

    shifts["dpo-lora"] = store.result("dpo-lora", {**told, "epochs": config.epochs, "on": pairs.test.described()}, tune)
    rows: list[dict[str, Any]] = []
    for name, shift in shifts.items():
        low, high = shift.interval()
        rows.append({"method": name, "norm": shift.norm, "gain": shift.mean()[0], "low": low[0], "high": high[0]})
    table = pd.DataFrame(rows)
    return Finding(
        study="baselines",
        title=f"DPO-LoRA and supervised vectors, {config.behaviour} on {config.name}",
        item="BiPO F7",
        published="figure: a DPO-trained LoRA (r 8, alpha 16, lr 2e-4, 2 epochs) beside BiPO on Llama-2",
        found=[
            f"{display_name(r['method'])}: {with_interval(r['gain'], r['low'], r['high'])} nats on test pairs"
            for r in rows
        ],
        figures={"baselines": figure(table)},
        tables={"baselines": table},
    )


def figure(table: pd.DataFrame) -> go.Figure:
    """A point with its interval per method."""
    bars = {
        "type": "data",
        "array": table["high"] - table["gain"],
        "arrayminus": table["gain"] - table["low"],
        "color": "#777",
    }
    paint = [colour(name) for name in table["method"]]
    drawn = go.Figure(
        go.Scatter(
            x=table["gain"], y=np.arange(len(table)), error_x=bars, mode="markers", marker={"color": paint, "size": 10}
        )
    )
    drawn.update_yaxes(
        tickvals=list(range(len(table))), ticktext=[display_name(n) for n in table["method"]], autorange="reversed"
    )
    drawn.update_xaxes(title_text="gain of the margin on test pairs (nats)")
    return style(drawn, width=640, height=340).update_yaxes(zeroline=False, automargin=True)


if __name__ == "__main__":
    main(run, Config)
