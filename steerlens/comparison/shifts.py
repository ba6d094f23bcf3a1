"""What every vector, part and control of a comparison does to the held-out pairs; nothing is measured twice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.comparison.equal_kl import EqualKL, match_kl
from steerlens.comparison.find import Training
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import Positions
from steerlens.measures.effect import PreferenceShift, joined, shift_on
from steerlens.measures.side_effects import SideEffects
from steerlens.methods.caa import caa_differences
from steerlens.methods.controls import random_vectors, shuffled_vectors
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.names import first_two
from steerlens.vectors.vector import SteeringVector


class Settings(NamedTuple):
    """What all of a comparison's measuring has in common."""

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
    of: tuple[str, str]
    """what the vector is a multiple of, and which multiple: told, for two norms that were computed are never quite the same"""
    multiple: float = 1.0


def measure_shifts(
    model: HookedTransformer,
    named: Mapping[str, SteeringVector],
    pairs: PreferencePairs | None,
    trained: Mapping[str, Training],
    costs: SideEffects | None,
    to: Settings,
    seen: int,
) -> dict[str, Any]:
    """The shifts at each vector's own norm, at equal norm and, with costs, at equal KL, with parts and controls.

    Args:
        trained: what is known of how the vectors were made, by their labels.
        seen: how many of the pairs trained or selected a vector.

    Returns:
        The fields of a `Comparison` that hold them.
    """
    drawn = _random(named, to)
    at_equal_kl: list[_Job] = []
    equal: EqualKL | None = None
    if costs is not None:
        # Without pairs there is nothing to hold against the controls.
        equal, multiples, reached = match_kl(
            model, named, to.norm, costs, drawn if pairs is not None else [], progress=to.progress
        )
        at_equal_kl = [
            _Job("equal KL", label, _times(named[label], multiple), (-1.0, 1.0), ("vector", label), multiple)
            for label, multiple in multiples.items()
        ]
        at_equal_kl += [
            _Job("control at equal KL", "random", drawn[i] * multiple, (-1.0, 1.0), ("random", str(i)), multiple)
            for i, multiple in reached.items()
        ]
    if pairs is None:
        return {"equal_kl": equal, "matched_norm": to.norm}
    jobs = [*_jobs(named, to), *_control_jobs(model, named, trained, drawn, to), *at_equal_kl]
    found = _measured(model, jobs, pairs, to, seen)
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


def _measured(
    model: HookedTransformer, jobs: Sequence[_Job], pairs: PreferencePairs, to: Settings, seen: int
) -> dict[str, dict[str, list[PreferenceShift]]]:
    """Every job's shift, by kind and label."""
    layers = sorted({job.vector.layer for job in jobs})
    scorers = PairScorer.at_layers(model, pairs.encode(model), layers, progress=to.progress)
    known: dict[tuple[tuple[str, str], float], PreferenceShift] = {}
    found: dict[str, dict[str, list[PreferenceShift]]] = {}
    for job in tqdm(jobs, desc="comparing", unit="vector", disable=not to.progress, leave=False):
        columns = []
        for m in job.multipliers:
            # The first one's own norm is the equal norm and has its KL; and two multiples may meet at two multipliers.
            key = (job.of, job.multiple * m)
            if key not in known:
                scorer = scorers[job.vector.layer]
                known[key] = shift_on(scorer, job.vector, pairs, (m,), to.positions, seen_pairs=seen)
            columns.append(known[key])
        shift = replace(joined(columns), label=job.label, norm=job.vector.norm, multipliers=job.multipliers)
        found.setdefault(job.kind, {}).setdefault(job.label, []).append(shift)
    return found


def _jobs(named: Mapping[str, SteeringVector], to: Settings) -> Iterator[_Job]:
    for label, vector in named.items():
        yield _Job("own", label, vector, to.multipliers, ("vector", label))
    for label, vector in named.items():
        multiple = to.norm / vector.norm
        yield _Job("matched", label, _times(vector, multiple), to.multipliers, ("vector", label), multiple)
    for label, part in _parts(named, to.norm):
        yield _Job("part", label, part, _around(to), ("part", label))


def _times(vector: SteeringVector, multiple: float) -> SteeringVector:
    return vector if multiple == 1 else vector.scaled_to(multiple * vector.norm)


def _around(to: Settings) -> tuple[float, ...]:
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


def _random(named: Mapping[str, SteeringVector], to: Settings) -> list[SteeringVector]:
    """Random directions of the matched norm."""
    like = next(iter(named.values())).scaled_to(to.norm)
    return random_vectors(like, to.n_random, seed=to.seed) if to.n_random else []


def _control_jobs(
    model: HookedTransformer,
    named: Mapping[str, SteeringVector],
    trained: Mapping[str, Training],
    drawn: Sequence[SteeringVector],
    to: Settings,
) -> Iterator[_Job]:
    """Random directions, and a vector of shuffled labels where training pairs are at hand; all of the matched norm."""
    for i, vector in enumerate(drawn):
        yield _Job("control", "random", vector, _around(to), ("random", str(i)))
    # CAA's own pairs, read where it reads them, if there is one: it is the mean of the same differences.
    can = sorted((label for label in trained if trained[label].can_shuffle), key=lambda x: named[x].method != "caa")
    if can:
        own = trained[can[0]]
        like = next(iter(named.values())).scaled_to(to.norm)
        differences = caa_differences(model, own.pairs, like.layer, position=own.position, progress=to.progress)
        shuffled = shuffled_vectors(like, differences, 1, seed=to.seed)[0]
        yield _Job("control", "shuffled labels", shuffled, to.multipliers, ("shuffled", can[0]))
