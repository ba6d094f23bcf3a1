"""`sl.compare`: do vectors point the same way, which is stronger at equal norm, and which tokens do they speak?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._compare_kl import EqualKL, match_kl
from steerlens._compare_similarity import similarity
from steerlens._comparison import Comparison
from steerlens._find import find_model, find_test_pairs, find_training_pairs
from steerlens._fingerprint import identify
from steerlens._labels import method_labels
from steerlens._names import first_two
from steerlens._scores import PairScorer
from steerlens._steered import steer_all
from steerlens.measures.effect import PreferenceShift, check_unseen, shift_on
from steerlens.measures.logit_lens import logit_lens
from steerlens.measures.side_effects import SideEffects
from steerlens.measures.side_effects import side_effects as measure_side_effects
from steerlens.measures.similarity import cosines
from steerlens.methods.caa import caa_differences
from steerlens.methods.controls import random_vectors, shuffled_vectors
from steerlens.pairs import PreferencePairs
from steerlens.resid import Positions, check_model, check_positions
from steerlens.vector import SteeringVector, check_fits, check_same_space


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
    n_random: int = 4,
    max_new_tokens: int = 40,
    nulls: bool = False,
    side_effects: bool = False,
    allow_seen: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare two or more vectors: cosine, norms, held-out shifts at their own and at equal norm, controls, logit lens.

    The second vector is also taken apart: its part along the first and the rest, each steered by itself. Vectors of one
    method, layer and data that differ by their seed alone are drawn each and summed up together; the second vector is then the
    first that is no other seed of the first.

    Args:
        a, b, more: vectors of the same weights; compared at equal norm they need not have the same layer.
        model: found by itself while it lives in the process; without it cosines and norms are all there is.
        pairs: held-out pairs; by default the test split that belongs to the training pairs.
        prompts: also answer these, steered with each vector at equal norm.
        multipliers: of the dose-response; m and -m together give odd and even parts.
        norm: the norm that all vectors are scaled to for "equal norm"; default: the first vector's.
        positions: "all" or "response", as in `steer`; the same for every vector.
        n_random: random directions beside the vectors, measured at multipliers -1 and +1, so that each stands for its opposite
            too.
        max_new_tokens: of each steered answer.
        nulls: also hold the cosines against vectors of shuffled labels and directions with the activations' covariance, plain
            and whitened, and the lens against the latter (reads the training pairs again: seconds on a small model).
        side_effects: also measure what each vector costs at equal norm, beside a random direction: KL on neutral texts,
            perplexity and repetition of answers (as `sl.side_effects`: minutes on a small model). And what each does at equal
            KL: at the multiplier m at which +m and -m cost the first vector's KL on average; random directions too. Texts are
            steered everywhere, whatever `positions` says.
        allow_seen: report on pairs that trained or selected a vector; the result says so.
        seed: of the controls.

    Raises:
        VectorError: the vectors belong to different weights, or do not fit the model.
        MeasureError: the pairs trained or selected a vector, or a vector is zero (as the model sees it).
    """
    check_same_space(a, b, *more)
    check_positions(positions)
    vectors = tuple(vector.effective for vector in (a, b, *more))
    alike = cosines(vectors)
    named = dict(zip(method_labels(vectors), vectors, strict=True))
    model = find_model(vectors) if model is None else check_model(model)
    if model is None:
        why = "no model with these vectors' weights is at hand: pass model= for logit lens, held-out shifts and answers"
        return Comparison(tuple(named), vectors, alike, missing=(why,))
    for vector in vectors:
        check_fits(vector, identify(model))
    trained = find_training_pairs(vectors)
    pairs = find_test_pairs(trained, vectors) if pairs is None else pairs
    seen = 0 if pairs is None else check_unseen(vectors, pairs, allow_seen=allow_seen)
    scale = vectors[0].norm if norm is None else norm
    to = _Settings(tuple(multipliers), positions, scale, n_random, seed, progress)
    missing = []
    if nulls and trained is None:
        missing.append("the vectors' training pairs are not known here, so there are no nulls from activations")
    if pairs is None:
        missing.append("no test part of the vectors' pairs is known here: pass pairs= for held-out shifts")
    measured: dict[str, Any] = {
        "lens": {
            label: logit_lens(model, v, label=label, pairs=trained if nulls else None, seed=seed, progress=progress)
            for label, v in named.items()
        }
    }
    if nulls and trained is not None:
        measured["similarity"] = similarity(named, model=model, pairs=trained, seed=seed, progress=progress)
    costs = measured["costs"] = _costs(model, named, to) if side_effects else None
    measured |= _shifts(model, named, pairs, trained, costs, to, seen)
    if prompts:
        asked = {"multipliers": multipliers, "positions": positions, "max_new_tokens": max_new_tokens}
        measured["steered"] = steer_all(model, named, prompts, scale, like=trained, progress=progress, **asked)  # type: ignore[arg-type]
    return Comparison(tuple(named), vectors, alike, missing=tuple(missing), **measured)


class _Settings(NamedTuple):
    multipliers: tuple[float, ...]
    positions: Positions
    norm: float
    n_random: int
    seed: int
    progress: bool


class _Job(NamedTuple):
    """A vector to be steered with, and where its shift belongs."""

    kind: str
    label: str
    vector: SteeringVector
    multipliers: tuple[float, ...]


def _costs(model: HookedTransformer, named: Mapping[str, SteeringVector], to: _Settings) -> SideEffects:
    """Side effects at equal norm, beside a random direction's."""
    vectors = {label: v.scaled_to(to.norm) for label, v in named.items()}
    vectors["random"] = random_vectors(next(iter(vectors.values())), 1, seed=to.seed)[0]
    return measure_side_effects(model, vectors, multipliers=(-1, 0, 1), positions=to.positions, progress=to.progress)


def _shifts(
    model: HookedTransformer,
    named: Mapping[str, SteeringVector],
    pairs: PreferencePairs | None,
    trained: PreferencePairs | None,
    costs: SideEffects | None,
    to: _Settings,
    seen: int,
) -> dict[str, Any]:
    """What every vector, part and control does to the pairs: at its own norm, at equal norm and, with costs, at equal KL."""
    found: dict[str, dict[str, list[PreferenceShift]]] = {}
    drawn = _random(named, to)
    at_equal_kl: list[_Job] = []
    equal: EqualKL | None = None
    if costs is not None:
        # Without pairs there is nothing to hold against the controls.
        controls = drawn if pairs is not None else []
        equal, scaled, drawn_there = match_kl(model, named, to.norm, costs, controls, progress=to.progress)
        at_equal_kl = [_Job("equal KL", label, v, (-1.0, 1.0)) for label, v in scaled.items()]
        at_equal_kl += [_Job("control at equal KL", "random", v, (-1.0, 1.0)) for v in drawn_there]
    if pairs is None:
        return {"equal_kl": equal, "matched_norm": to.norm}
    jobs = [*_jobs(named, to), *_control_jobs(model, named, trained, drawn, to), *at_equal_kl]
    encoded = pairs.encode(model)
    scorers = PairScorer.at_layers(model, encoded, sorted({v.layer for v in named.values()}), progress=to.progress)
    for job in tqdm(jobs, desc="comparing", unit="vector", disable=not to.progress, leave=False):
        kept = found.setdefault(job.kind, {}).setdefault(job.label, [])
        same = _measured_before(job, found)
        kept.append(
            same
            or shift_on(
                scorers[job.vector.layer],
                job.vector,
                pairs,
                job.multipliers,
                to.positions,
                label=job.label,
                seen_pairs=seen,
            )
        )
    single = {kind: {label: shifts[0] for label, shifts in group.items()} for kind, group in found.items()}
    if equal is not None:
        controls_at_kl = tuple(found.get("control at equal KL", {}).get("random", ()))
        equal = replace(equal, shifts=single.get("equal KL", {}), controls=controls_at_kl)
    return {
        "own": single["own"],
        "matched": single["matched"],
        "matched_norm": to.norm,
        "parts": single.get("part", {}),
        "controls": {label: tuple(shifts) for label, shifts in found.get("control", {}).items()},
        "equal_kl": equal,
    }


def _measured_before(job: _Job, found: Mapping[str, Mapping[str, list[PreferenceShift]]]) -> PreferenceShift | None:
    """The same vector's shift at another strength's name: the first one's own norm is the equal norm, and has its KL."""
    before = {"matched": "own", "equal KL": "matched"}.get(job.kind)
    for shift in found.get(before, {}).get(job.label, ()) if before is not None else ():
        if shift.norm == job.vector.norm and set(job.multipliers) <= set(shift.multipliers):
            at = [shift.multipliers.index(m) for m in job.multipliers]
            chosen, rejected = (np.take(side, at, axis=1) for side in (shift.chosen, shift.rejected))
            return replace(shift, multipliers=job.multipliers, chosen=chosen, rejected=rejected)
    return None


def _jobs(named: Mapping[str, SteeringVector], to: _Settings) -> Iterator[_Job]:
    for label, vector in named.items():
        yield _Job("own", label, vector, to.multipliers)
    for label, vector in named.items():
        yield _Job("matched", label, vector.scaled_to(to.norm), to.multipliers)
    for label, part in _parts(named, to.norm):
        yield _Job("part", label, part, _around(to))


def _around(to: _Settings) -> tuple[float, ...]:
    return tuple(m for m in to.multipliers if abs(m) == 1) or to.multipliers


def _parts(named: Mapping[str, SteeringVector], norm: float) -> list[tuple[str, SteeringVector]]:
    """The second vector's part along the first and the rest, as they are in it at the matched norm."""
    a, b = (list(named)[i] for i in first_two(tuple(named)))
    if named[a].layer != named[b].layer:
        return []
    whole = named[b].scaled_to(norm)
    found = [(f"{b} along {a}", whole.along(named[a])), (f"{b} off {a}", whole.off(named[a]))]
    # A vector and its own multiple leave nothing but rounding: there is no part to steer with.
    return [(name, part) for name, part in found if part.norm > 1e-3 * norm]


def _random(named: Mapping[str, SteeringVector], to: _Settings) -> list[SteeringVector]:
    """Random directions of the matched norm."""
    like = next(iter(named.values())).scaled_to(to.norm)
    return random_vectors(like, to.n_random, seed=to.seed) if to.n_random else []


def _control_jobs(
    model: HookedTransformer,
    named: Mapping[str, SteeringVector],
    trained: PreferencePairs | None,
    drawn: Sequence[SteeringVector],
    to: _Settings,
) -> Iterator[_Job]:
    """Random directions, and a shuffled-label CAA vector where the training pairs are at hand; all of the matched norm."""
    for vector in drawn:
        yield _Job("control", "random", vector, _around(to))
    if trained is not None and trained.rejected_prompts is None and len(trained) > 1:
        like = next(iter(named.values())).scaled_to(to.norm)
        caa = next((v for v in named.values() if v.method == "caa"), None)
        position: Any = "mean" if caa is None else caa.settings.get("position", "mean")
        differences = caa_differences(model, trained, like.layer, position=position, progress=to.progress)
        yield _Job(
            "control", "shuffled labels", shuffled_vectors(like, differences, 1, seed=to.seed)[0], to.multipliers
        )
