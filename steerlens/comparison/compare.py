"""`sl.compare`: do vectors point the same way, which is stronger at equal norm, and which tokens do they speak?"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformer_lens import HookedTransformer

from steerlens.checks.calls import each, flag, number
from steerlens.comparison.comparison import Comparison
from steerlens.comparison.find import Training, find_model, find_test_pairs, find_training
from steerlens.comparison.shifts import Settings, measure_shifts
from steerlens.comparison.similarity import similarity_to
from steerlens.comparison.steered import check_prompts, steer_all
from steerlens.errors import MeasureError
from steerlens.forward.door import KNOWN, any_prompts, checked
from steerlens.forward.steer import Positions, check_model
from steerlens.measures.effect import check_unseen
from steerlens.measures.logit_lens import LogitLens, logit_lens
from steerlens.measures.side_effects import SideEffects
from steerlens.measures.side_effects import side_effects as measure_side_effects
from steerlens.measures.similarity import cosines
from steerlens.methods.controls import random_vectors
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.labels import method_labels
from steerlens.vectors.vector import SteeringVector, check_fits, check_same_space


@checked(
    MeasureError,
    a=KNOWN["vector"],
    b=KNOWN["vector"],
    more=each(KNOWN["vector"]),
    prompts=any_prompts,
    norm=number(above=0),
    nulls=flag,
    side_effects=flag,
)
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
    multipliers = tuple(multipliers)
    vectors = tuple(vector.effective for vector in (a, b, *more))
    alike = cosines(vectors)
    named = dict(zip(method_labels(vectors), vectors, strict=True))
    model = find_model(vectors) if model is None else check_model(model)
    if model is None:
        why = "no model with these vectors' weights is at hand: pass model= for logit lens, held-out shifts and answers"
        return Comparison(tuple(named), vectors, alike, missing=(why,))
    for vector in vectors:
        check_fits(vector, identify(model))
    trained = find_training(named)
    pairs = find_test_pairs(trained, vectors) if pairs is None else pairs
    seen = 0 if pairs is None else check_unseen(vectors, pairs, allow_seen=allow_seen)
    scale = vectors[0].norm if norm is None else norm
    to = Settings(multipliers, positions, scale, n_random, seed, progress)
    # Activations are read off pairs that have one prompt for both sides.
    material = next((known.pairs for known in trained.values() if known.pairs.rejected_prompts is None), None)
    like = next((known.pairs for known in trained.values()), None)
    if prompts:
        check_prompts(model, prompts, max_new_tokens, like=like)
    if pairs is not None:
        pairs.encode(model)  # refuses what doesn't fit, before minutes of work
    missing = []
    if nulls and material is None:
        missing.append("the vectors' training pairs are not known here, so there are no nulls from activations")
    if pairs is None:
        missing.append("no test part of the vectors' pairs is known here: pass pairs= for held-out shifts")
    measured: dict[str, Any] = {"lens": _lens(model, named, trained if nulls else {}, material if nulls else None, to)}
    if nulls and material is not None:
        about: Any = {"model": model, "material": material, "labelled": trained}
        measured["similarity"] = similarity_to(named, **about, seed=seed, progress=progress)
    costs = measured["costs"] = _costs(model, named, to) if side_effects else None
    measured |= measure_shifts(model, named, pairs, trained, costs, to, seen)
    if prompts:
        asked: Any = {"multipliers": multipliers, "positions": positions, "max_new_tokens": max_new_tokens}
        measured["steered"] = steer_all(model, named, prompts, scale, like=like, progress=progress, **asked)
    return Comparison(tuple(named), vectors, alike, missing=tuple(missing), **measured)


def _lens(
    model: HookedTransformer,
    named: Mapping[str, SteeringVector],
    trained: Mapping[str, Training],
    material: PreferencePairs | None,
    to: Settings,
) -> dict[str, LogitLens]:
    """Each vector's logit lens, beside directions with the covariance of its own pairs' activations, else of the material's."""
    found = {}
    for label, vector in named.items():
        own = trained[label].pairs if label in trained else material
        own = own if own is None or own.rejected_prompts is None else material
        found[label] = logit_lens(model, vector, label=label, pairs=own, seed=to.seed, progress=to.progress)
    return found


def _costs(model: HookedTransformer, named: Mapping[str, SteeringVector], to: Settings) -> SideEffects:
    """Side effects at equal norm, beside a random direction's."""
    vectors = {label: v.scaled_to(to.norm) for label, v in named.items()}
    vectors["random"] = random_vectors(next(iter(vectors.values())), 1, seed=to.seed)[0]
    return measure_side_effects(model, vectors, multipliers=(-1, 0, 1), positions=to.positions, progress=to.progress)
