"""BiPO F3, CAA F8 to F10: does a vector work in a further-trained sibling, in another language, at another layer?

    python -m analyses.transfer --model toy --behaviour wealth
    python -m analyses.transfer --model llama-2-7b-chat --behaviour wealth-seeking --data path/to/data --siblings name,name

A vector is made on the model and used in its siblings: on the toy models one trained further, a LoRA on the second language
(asked in that language), and an independent seed where no transfer is expected. Beside each, the sibling's own vector. Then the
CAA vectors of the base model and of the one trained further from it: alike at which layers, and do the base's work there?
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

import steerlens as sl
from analyses import further_trained
from analyses.composition import digest
from analyses.contenders import make
from analyses.shifts import Shifts
from analyses.study import Finding, StudyConfig, main, store_of, weights_of, with_interval
from steerlens.figures.matrices import transfer_matrix
from steerlens.results.cell_store import Store

SIBLINGS = ("toy/vicuna-like", "toy/cipher-lora", "toy/seed-1")
BASES = {"llama-2-7b-chat": "llama-2-7b", "mistral-7b-instruct": "mistral-7b"}


@dataclass(frozen=True)
class Config(StudyConfig):
    """Where the vector is used."""

    siblings: tuple[str, ...] = ()
    """default: the toy model's, for the toy model; none for others"""
    base: str | None = None
    """what the model was trained further from, for CAA F9 and F10; default: known for the presets. The toy model is itself
    the base of its first sibling"""
    layers: tuple[int, ...] = ()
    """where the vector is used in its own model; default: the preset's"""

    @property
    def used_in(self) -> tuple[str, ...]:
        """The models that the vector is used in, its own first."""
        return (self.model, *(self.siblings or (SIBLINGS if self.model == "toy" else ())))

    @property
    def related(self) -> tuple[str, str] | None:
        """The base and the model that was trained further from it, or None where that is not known."""
        if self.base is not None:
            return self.base, self.model
        if self.model == "toy":
            return self.model, self.used_in[1]
        return (BASES[self.model], self.model) if self.model in BASES else None

    @property
    def other_models(self) -> tuple[str, ...]:
        """The models that the study loads besides its own."""
        return (*self.used_in[1:], *(self.related or ()))


def run(config: Config) -> Finding:
    """The odd part of the shift, of the model's own vector and of the sibling's, in every model and at every layer."""
    store, names, preset = store_of(config), config.used_in, config.preset
    vectors = {}
    for name in names:  # one model at a time is in memory
        asked = dataclasses.replace(config, model=name, layer=preset.layer, lr=preset.lr, steps=preset.steps)
        vectors[name] = make(asked, config.load(name), asked_in(config, name), ("bipo",))["bipo"]
    values, rows = np.zeros((3, len(names), len(names))), []
    for j, used_on in enumerate(names):
        model, test = config.load(used_on), config.pairs(asked_in(config, used_on)).test
        measure = Shifts(model)
        for i, made_on in enumerate(names):
            vector = dataclasses.replace(vectors[made_on], model=None)  # on purpose: to other weights
            told = {"made": made_on, "used": weights_of(model), "on": test.described(), "vector": digest(vector)}
            shift = store.result("transfer", told, partial(measure, vector, test))
            low, high = shift.interval("odd")
            values[:, i, j] = shift.mean("odd")[0], low[0], high[0]
            row = {"made on": made_on, "used on": used_on, "pairs": test.provenance}
            rows.append(row | {"odd": values[0, i, j], "low": low[0], "high": high[0]})
    found = [
        f"{config.model}'s vector in {name}: {with_interval(*values[:, 0, j])} nats; {name}'s own vector there: "
        f"{with_interval(*values[:, j, j])}"
        for j, name in enumerate(names)
    ]
    table, at_layers = pd.DataFrame(rows), across_layers(config, vectors[config.model], store)
    cells = [f"{r.layer}: {with_interval(r.odd, r.low, r.high)}" for r in at_layers.itertuples()]
    found.append(f"the vector of layer {config.preset.layer} added after other layers (nats): " + ", ".join(cells))
    figures = {"transfer": transfer_matrix(values[0], names, names, low=values[1], high=values[2])}
    tables = {"transfer": table, "layers": at_layers}
    if config.related is None:
        found.append("base and further-trained model not compared: give the base with --base")
    else:
        said, drawn, told_ = further_trained.measure(config, *config.related, config.layers or preset.layers)
        found, figures, tables = found + said, figures | drawn, tables | told_
    return Finding(
        study="transfer",
        title=f"Transfer, {config.behaviour} on {config.name}",
        item="BiPO F3; CAA F8, F9, F10",
        published="figure: Llama-2's vectors work on Vicuna-7b-v1.5 and Llama2-Chinese-7b-Chat; CAA's layer-13 vector falls off "
        "near layer 17; vectors of the base and of the chat model are alike in layers 7-15, and the base's work in the chat model",
        found=found,
        figures=figures,
        tables=tables,
    )


def asked_in(config: Config, model: str) -> str:
    """The behaviour, in the language that a model's questions are in."""
    return f"{config.behaviour}-cipher" if "cipher" in model else config.behaviour


def across_layers(config: Config, vector: sl.SteeringVector, store: Store) -> pd.DataFrame:
    """The vector of one layer, added after each."""
    model, test, rows = config.load(), config.pairs().test, []
    measure = Shifts(model)
    for layer in config.layers or config.preset.layers:
        moved = dataclasses.replace(vector, layer=layer)
        told = {"weights": weights_of(model), "on": test.described(), "vector": digest(moved)}
        shift = store.result("moved", told, partial(measure, moved, test))
        low, high = shift.interval("odd")
        rows.append({"layer": layer, "odd": shift.mean("odd")[0], "low": low[0], "high": high[0]})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main(run, Config)
