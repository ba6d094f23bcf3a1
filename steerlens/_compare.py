"""`sl.compare`: do vectors point the same way, which is stronger at equal norm, and which tokens do they speak?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._fingerprint import identify, living_models
from steerlens._generate import generate
from steerlens._load_pairs import load_pairs
from steerlens._results import Result
from steerlens._scores import PairScorer
from steerlens._stats import mean_interval
from steerlens.errors import MeasureError, PairsError
from steerlens.measures.effect import PreferenceShift, check_unseen, shift_on
from steerlens.measures.logit_lens import LogitLens, logit_lens
from steerlens.measures.similarity import cosines, isotropic_p_value
from steerlens.methods.caa import caa_differences
from steerlens.methods.controls import random_vectors, shuffled_vectors
from steerlens.pairs import PreferencePairs
from steerlens.resid import Positions, check_model, check_positions
from steerlens.vector import SteeringVector, check_fits, check_same_space, origin


class Difference(NamedTuple):
    """A mean difference between two vectors on the same pairs, with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SteeredTexts:
    """Greedy answers: `texts[label][prompt][multiplier]`, each vector at the norm it is compared at."""

    prompts: tuple[str, ...]
    multipliers: tuple[float, ...]
    texts: Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Two or more vectors side by side. What needs the model or pairs is empty where there were none."""

    labels: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    cosines: Float[np.ndarray, "vector vector"]
    own: Mapping[str, PreferenceShift] = field(default_factory=dict)
    """each vector's shift of the held-out pairs at its own norm"""
    matched: Mapping[str, PreferenceShift] = field(default_factory=dict)
    """the same with every vector scaled to `matched_norm`"""
    matched_norm: float | None = None
    controls: Mapping[str, tuple[PreferenceShift, ...]] = field(default_factory=dict)
    """"random" and "shuffled labels" vectors of the matched norm"""
    lens: Mapping[str, LogitLens] = field(default_factory=dict)
    steered: SteeredTexts | None = None
    missing: tuple[str, ...] = ()
    """what could not be measured, and what to pass for it"""

    @property
    def cosine(self) -> float:
        """The cosine of the first two vectors; all are in `cosines`."""
        return float(self.cosines[0, 1])

    @property
    def p_value(self) -> float:
        """The chance of the first two vectors' |cosine| between isotropic random directions."""
        return isotropic_p_value(self.cosine, self.vectors[0])

    @property
    def norms(self) -> dict[str, float]:
        """Each vector's own norm, in units of the residual stream."""
        return {label: vector.norm for label, vector in zip(self.labels, self.vectors, strict=True)}

    @property
    def layers(self) -> dict[str, int]:
        """Each vector's layer."""
        return {label: vector.layer for label, vector in zip(self.labels, self.vectors, strict=True)}

    def difference(self, a: str, b: str, *, multiplier: float = 1.0, quantity: str = "odd") -> Difference:
        """Mean over pairs of a's shift less b's at equal norm, with a bootstrap interval over the same pairs.

        Args:
            quantity: "odd" (nats, the direction's part), "odd_per_token", "even", "even_per_token", "values", "per_token".

        Raises:
            MeasureError: nothing was measured at equal norm, or not at that multiplier.
        """
        if not self.matched:
            raise MeasureError("nothing was measured at equal norm: compare with the model and pairs (model=, pairs=)")
        first, second = self.matched[a], self.matched[b]
        columns = first.multipliers if quantity in ("values", "per_token") else first.odd_multipliers
        if multiplier not in columns:
            raise MeasureError(f"multiplier={multiplier!r} was not measured; {quantity} has {columns}")
        gap = getattr(first, quantity) - getattr(second, quantity)
        column = gap[:, [columns.index(multiplier)]]
        low, high = mean_interval(column)
        return Difference(float(column.mean()), float(low[0]), float(high[0]))

    def shifts(self) -> list[tuple[str, PreferenceShift]]:
        """Every measured shift with where it belongs: "own norm", "equal norm" or "control"."""
        found = [("own norm", shift) for shift in self.own.values()]
        found += [("equal norm", shift) for shift in self.matched.values()]
        return found + [("control", shift) for group in self.controls.values() for shift in group]

    def to_frame(self) -> pd.DataFrame:
        """One row per vector, strength and multiplier with mean shifts and intervals; without a model, one per vector."""
        rows: list[dict[str, Any]] = []
        for strength, shift in self.shifts():
            for quantity, unit in (("values", "nats"), ("per_token", "nats per token")):
                low, high = shift.interval(quantity)  # type: ignore[arg-type]
                for i, m in enumerate(shift.multipliers):
                    row = {
                        "vector": shift.label,
                        "strength": strength,
                        "norm": shift.norm,
                        "multiplier": m,
                        "unit": unit,
                    }
                    mean = getattr(shift, quantity).mean(0)[i]
                    rows.append({**row, "mean": mean, "low": low[i], "high": high[i], "pairs": len(shift.prompts)})
        if rows:
            return pd.DataFrame(rows)
        cosine = dict(zip(self.labels, self.cosines[0], strict=True))
        return pd.DataFrame(
            {"vector": v, "layer": self.layers[v], "norm": self.norms[v], f"cosine to {self.labels[0]}": cosine[v]}
            for v in self.labels
        )

    def save(self, path: str | Path) -> Path:
        """Write the whole comparison to one .html page, or its figure to .pdf, .svg or .png; returns the path."""
        from steerlens.figures import save

        return save(self, path)

    def __repr__(self) -> str:
        from steerlens.figures.report import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from steerlens.figures.report import as_html

        return as_html(self)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self._repr_html_()))
        if self.own:
            display(self.figure())


def compare(
    a: SteeringVector,
    b: SteeringVector,
    *more: SteeringVector,
    model: HookedTransformer | None = None,
    pairs: PreferencePairs | None = None,
    prompts: Sequence[str] = (),
    multipliers: Sequence[float] = (-2, -1, 0, 1, 2),
    norm: float | None = None,
    positions: Positions = "all",
    n_random: int = 8,
    max_new_tokens: int = 40,
    allow_seen: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare two or more vectors: cosine, norms, held-out shifts at their own and at equal norm, controls, logit lens.

    Args:
        a, b, more: vectors of the same weights; compared at equal norm they need not have the same layer.
        model: found by itself while it lives in the process; without it cosines and norms are all there is.
        pairs: held-out pairs; by default the test split that belongs to the training pairs.
        prompts: also answer these, steered with each vector at equal norm.
        multipliers: of the dose-response; m and -m together give odd and even parts.
        norm: the norm that all vectors are scaled to for "equal norm"; default: the first vector's.
        positions: "all" or "response", as in `steer`; the same for every vector.
        n_random: random directions beside the vectors, measured at multipliers -1 and +1.
        max_new_tokens: of each steered answer.
        allow_seen: report on pairs that trained or selected a vector; the result says so.
        seed: of the controls.

    Raises:
        VectorError: the vectors belong to different weights, or do not fit the model.
        MeasureError: the pairs trained or selected a vector, or a vector is zero.
    """
    vectors = (a, b, *more)
    check_same_space(*vectors)
    check_positions(positions)
    labels = _labels(vectors)
    measured: dict[str, Any] = {}
    missing: list[str] = []
    model = _find_model(vectors) if model is None else check_model(model)
    if model is None:
        missing.append("the model is not in this process: pass model= for logit lens and held-out shifts")
    else:
        for vector in vectors:
            check_fits(vector, identify(model))
        measured["lens"] = {label: logit_lens(model, v, label=label) for label, v in zip(labels, vectors, strict=True)}
        pairs = _find_pairs(vectors) if pairs is None else pairs
        scale = a.norm if norm is None else norm
        if pairs is None:
            missing.append("the vectors' pairs are not known here: pass pairs= for held-out shifts")
        else:
            settings = _Settings(tuple(multipliers), positions, scale, n_random, seed, progress)
            measured |= _measure(model, labels, vectors, pairs, settings, allow_seen=allow_seen)
        if prompts:
            measured["steered"] = _steer_all(
                model, labels, vectors, prompts, scale, multipliers, positions, max_new_tokens
            )
    return Comparison(labels, vectors, cosines(vectors), missing=tuple(missing), **measured)


class _Settings(NamedTuple):
    multipliers: tuple[float, ...]
    positions: Positions
    norm: float
    n_random: int
    seed: int
    progress: bool


def _measure(
    model: HookedTransformer,
    labels: Sequence[str],
    vectors: Sequence[SteeringVector],
    pairs: PreferencePairs,
    to: _Settings,
    *,
    allow_seen: bool,
) -> dict[str, Any]:
    seen = check_unseen(vectors, pairs, allow_seen=allow_seen)
    encoded = pairs.encode(model)
    scorers = {layer: PairScorer(model, encoded, layer, progress=to.progress) for layer in {v.layer for v in vectors}}
    control = _controls(model, vectors, to)
    around = tuple(m for m in to.multipliers if abs(m) == 1) or to.multipliers
    jobs = [("own", label, v, to.multipliers) for label, v in zip(labels, vectors, strict=True)]
    jobs += [("matched", label, v.scaled_to(to.norm), to.multipliers) for label, v in zip(labels, vectors, strict=True)]
    jobs += [("control", v.method, v, around if v.method == "random" else to.multipliers) for v in control]
    own: dict[str, PreferenceShift] = {}
    matched: dict[str, PreferenceShift] = {}
    controls: dict[str, tuple[PreferenceShift, ...]] = {}
    for kind, label, vector, multipliers in tqdm(
        jobs, desc="comparing", unit="vector", disable=not to.progress, leave=False
    ):
        if kind == "matched" and vector.norm == own[label].norm:
            matched[label] = own[label]
            continue
        scorer = scorers[vector.layer]
        shift = shift_on(scorer, vector, pairs, multipliers, to.positions, label=label, seen_pairs=seen)
        if kind == "control":
            controls[label] = (*controls.get(label, ()), shift)
        else:
            (own if kind == "own" else matched)[label] = shift
    return {"own": own, "matched": matched, "matched_norm": to.norm, "controls": controls}


def _controls(model: HookedTransformer, vectors: Sequence[SteeringVector], to: _Settings) -> list[SteeringVector]:
    """Random directions, and a shuffled-label CAA vector where the training pairs are at hand; all of the matched norm."""
    like = vectors[0].scaled_to(to.norm)
    made = random_vectors(like, to.n_random, seed=to.seed) if to.n_random else []
    trained = next((p for v in vectors if (p := _training_pairs(v)) is not None), None)
    if trained is not None and trained.rejected_prompts is None and len(trained) > 1:
        caa = next((v for v in vectors if v.method == "caa"), None)
        position: Any = "mean" if caa is None else caa.settings.get("position", "mean")
        differences = caa_differences(model, trained, like.layer, position=position, progress=to.progress)
        made += shuffled_vectors(like, differences, 1, seed=to.seed)
    return made


def _steer_all(
    model: HookedTransformer,
    labels: Sequence[str],
    vectors: Sequence[SteeringVector],
    prompts: Sequence[str],
    norm: float,
    multipliers: Sequence[float],
    positions: Positions,
    max_new_tokens: int,
) -> SteeredTexts:
    known = next((p for v in vectors if (p := _training_pairs(v)) is not None), None)
    template = {} if known is None else {"template": known.template, "system_prompt": known.system_prompt}
    texts = {
        label: generate(
            model,
            prompts,
            vector=vector.scaled_to(norm),
            multipliers=multipliers,
            positions=positions,
            max_new_tokens=max_new_tokens,
            progress=False,
            **template,  # type: ignore[arg-type]
        )
        for label, vector in zip(labels, vectors, strict=True)
    }
    return SteeredTexts(tuple(prompts), tuple(multipliers), texts)


def _labels(vectors: Sequence[SteeringVector]) -> tuple[str, ...]:
    """The methods' names, numbered where two are the same."""
    names = [v.method for v in vectors]
    return tuple(n if names.count(n) == 1 else f"{n} {names[: i + 1].count(n)}" for i, n in enumerate(names))


def _find_model(vectors: Sequence[SteeringVector]) -> HookedTransformer | None:
    """The model that made one of the vectors, while it lives; else the newest one with their weights."""
    wanted = next((v.model for v in vectors if v.model is not None), None)
    if wanted is None:
        return None
    candidates = [*(origin(v)[0] for v in vectors), *reversed(living_models())]
    return next((m for m in candidates if m is not None and identify(m).same_weights(wanted)), None)


def _training_pairs(vector: SteeringVector) -> PreferencePairs | None:
    """The pairs that trained a vector: from this process, or from the built-in behaviour that its record names."""
    known = origin(vector)[1]
    if known is not None or not vector.data.startswith("steerlens/"):
        return known
    try:
        pairs = load_pairs(vector.data.removeprefix("steerlens/"))
    except PairsError:
        return None
    return pairs.train if set(pairs.train.fingerprints) <= vector.seen else None


def _find_pairs(vectors: Sequence[SteeringVector]) -> PreferencePairs | None:
    """The test split that belongs to the vectors' training pairs."""
    known = next((p for v in vectors if (p := _training_pairs(v)) is not None), None)
    if known is None or known.parent is None:
        return None
    test = known.parent.test
    return test if len(test) and not set(test.fingerprints) & {f for v in vectors for f in v.seen} else None
