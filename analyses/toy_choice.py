"""The vectors that `toy_methods` compares: how each is made, scored by rule, and chosen on validation questions."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens._stats import paired_difference
from steerlens.methods.caa import caa_differences
from steerlens.methods.controls import shuffled_vectors
from steerlens.toy import Question

Positions = Literal["all", "response"]
COHERENT = 0.8
"""the share of grammatical answers from which a strength counts"""
TIED = 0.05
"""ranges that differ by no more are taken as equal: the least strength wins"""


@dataclass(frozen=True)
class Config:
    """What is tried on validation questions and measured on test questions."""

    model: str = "toy"
    elsewhere: tuple[str, ...] = tuple(name for name in sl.toy.MODELS if name != "toy")
    """the models that the vectors are taken to"""
    behaviours: tuple[str, ...] = sl.toy.BEHAVIOURS
    layers: tuple[int, ...] = (1, 2, 3)
    positions: tuple[Positions, ...] = ("all", "response")
    norms: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """lengths that every vector is tried at, both signs; the residual stream's median norm is 2"""
    lrs: tuple[float, ...] = (5e-4, 2e-3)
    """of BiPO; the supervised vector takes the last"""
    steps: int = 300
    val: int = 50
    test: int = 100
    out: Path = Path("out")


@dataclass(frozen=True)
class Chosen:
    """A vector as validation chose it: its multiplier 1 has the chosen strength."""

    method: str
    behaviour: str
    vector: sl.SteeringVector
    positions: Positions
    own_norm: float
    val_range: float


# -- methods ----------------------------------------------------------------------------------------------------------

Maker = Callable[[HookedTransformer, str, Config], list[sl.SteeringVector]]
"""model, behaviour, config -> the candidates, one or more for each layer"""


def _bipo(model: HookedTransformer, behaviour: str, config: Config) -> list[sl.SteeringVector]:
    pairs = sl.load_pairs(f"toy/{behaviour}").train
    options: dict[str, Any] = {"lrs": config.lrs, "max_steps": config.steps, "progress": False}
    return sl.train_bipo_grid(model, pairs, config.layers, **options)


def _supervised(model: HookedTransformer, behaviour: str, config: Config) -> list[sl.SteeringVector]:
    pairs = sl.load_pairs(f"toy/{behaviour}").train
    options: dict[str, Any] = {"lr": config.lrs[-1], "max_steps": config.steps, "progress": False}
    return [sl.train_supervised(model, pairs, layer, **options) for layer in config.layers]


def _extracted(name: str, form: str, **options: str) -> Maker:
    def make(model: HookedTransformer, behaviour: str, config: Config) -> list[sl.SteeringVector]:
        pairs = sl.load_pairs(f"toy/{behaviour}{form}").train
        return [getattr(sl, name)(model, pairs, layer, progress=False, **options) for layer in config.layers]

    return make


def _random(model: HookedTransformer, behaviour: str, config: Config) -> list[sl.SteeringVector]:
    return [
        sl.random_vectors(vector, 1, seed=sl.toy.BEHAVIOURS.index(behaviour))[0]
        for vector in METHODS["CAA, mean"](model, behaviour, config)
    ]


def _shuffled(model: HookedTransformer, behaviour: str, config: Config) -> list[sl.SteeringVector]:
    pairs, made = sl.load_pairs(f"toy/{behaviour}").train, []
    for like in METHODS["CAA, mean"](model, behaviour, config):
        made += shuffled_vectors(like, caa_differences(model, pairs, like.layer), 1)
    return made


def _planted(model: HookedTransformer, behaviour: str, config: Config) -> list[sl.SteeringVector]:
    return [sl.toy_reference(model, behaviour, layer, progress=False) for layer in config.layers]


METHODS: dict[str, Maker] = {
    "BiPO": _bipo,
    "supervised": _supervised,
    "CAA, mean": _extracted("extract_caa", "", position="mean"),
    "CAA, last": _extracted("extract_caa", "", position="last"),
    "CAA, answer": _extracted("extract_caa", "-ab", position="answer"),
    "system phrase": _planted,
    "random": _random,
    "shuffled": _shuffled,
}
CONTROLS = ("random", "shuffled")
"""also shown at the layer, positions and norm that validation chose for BiPO: their own choice is that of the luckiest candidate"""


def as_bipo(control: str) -> str:
    """What a control at BiPO's place is called."""
    return f"{control}, as BiPO"


def methods() -> dict[str, Maker]:
    """The methods above, and every other exported `extract_...(model, pairs, layer, *, ...)` with its defaults."""
    found = dict(METHODS)
    for name in sl.__all__:
        if name.startswith("extract_") and name != "extract_caa":
            parameters = inspect.signature(getattr(sl, name)).parameters.values()
            if [p.name for p in parameters if p.default is p.empty] == ["model", "pairs", "layer"]:
                found[name.removeprefix("extract_").replace("_", " ")] = _extracted(name, "")
    return found


# -- scores -----------------------------------------------------------------------------------------------------------


def scores(
    model: HookedTransformer,
    asked: Sequence[Question],
    vectors: Mapping[str, sl.SteeringVector],
    multipliers: Sequence[float],
    positions: Positions,
    *,
    second: bool = False,
    greedy: bool = False,
) -> dict[str, pd.DataFrame]:
    """Each vector's scores by rule: a row for each question, a column for each multiplier; NaN is no sentence."""
    texts = [sl.toy.cipher(q.text) if second else q.text for q in asked]
    said = sl.answers(
        model, dict(vectors), texts, multipliers, positions, sample=not greedy, max_new_tokens=20, progress=False
    )
    judged = sl.judge(said, sl.judges.rule(partial(sl.toy.score, asked[0].behaviour), name="the world's rule"))
    return {name: pd.DataFrame(judged.values[:, j], columns=list(multipliers)) for j, name in enumerate(judged.labels)}


def coherent_range(found: pd.DataFrame) -> float:
    """How far the mean score goes from the lowest at negative strengths to the highest at positive ones, among coherent ones."""
    kept = found.loc[:, found.notna().mean() >= COHERENT].mean()
    ends = kept[kept.index >= 0], kept[kept.index <= 0]
    return float(ends[0].max() - ends[1].min()) if all(map(len, ends)) else 0.0


def effect(found: pd.DataFrame, norm: float = 1.0) -> dict[str, float]:
    """The mean score at +norm less that at -norm, over the questions with a sentence at both, and its 95% interval."""
    kept = found[[norm, -norm]].dropna().to_numpy()
    if len(kept) < 2:
        return dict.fromkeys(("effect", "low", "high"), float("nan"))
    numbers = paired_difference(kept[:, :1], kept[:, 1:])
    return {name: float(number[0]) for name, number in zip(("effect", "low", "high"), numbers, strict=True)}


def is_clear(found: Mapping[str, float]) -> bool:
    """Whether an effect's interval leaves out 0."""
    return found["low"] > 0 or found["high"] < 0


def choose(model: HookedTransformer, behaviour: str, config: Config) -> list[Chosen]:
    """Each method's candidate with the widest coherent range at one strength; among those tied, the least strength.

    The controls come a second time, as BiPO was chosen.
    """
    asked, multipliers = sl.toy.questions(behaviour, "val", config.val), signed(config.norms)
    made = [(method, vector) for method, make in methods().items() for vector in make(model, behaviour, config)]
    found: dict[str, list[tuple[float, float, Chosen]]] = {}
    for positions in config.positions:
        by_number = {str(i): vector.scaled_to(1.0) for i, (_, vector) in enumerate(made)}
        seen = scores(model, asked, by_number, multipliers, positions)
        for (method, vector), frame in zip(made, seen.values(), strict=True):
            for norm in config.norms:
                reached = coherent_range(frame[signed((norm,))])
                one = Chosen(method, behaviour, vector.scaled_to(norm), positions, vector.norm, reached)
                found.setdefault(method, []).append((norm, -reached, one))
    chosen = []
    for tried in found.values():
        widest = max(one.val_range for *_, one in tried)
        chosen.append(min((t for t in tried if t[2].val_range >= widest - TIED), key=lambda t: t[:2])[2])
    place = next(_place(one) for one in chosen if one.method == "BiPO")
    alike = [next(one for *_, one in found[control] if _place(one) == place) for control in CONTROLS]
    return chosen + [replace(one, method=as_bipo(one.method)) for one in alike]


def _place(one: Chosen) -> tuple[int, Positions, float]:
    return one.vector.layer, one.positions, round(one.vector.norm, 4)


def signed(norms: Sequence[float]) -> list[float]:
    """Both signs of each strength, and 0, in order."""
    return [*(-n for n in reversed(norms)), 0.0, *norms]
