"""What a comparison finds by itself: the living model, the pairs that trained a vector, and the test pairs beside them."""

from collections.abc import Sequence

from transformer_lens import HookedTransformer

from steerlens._fingerprint import identify, is_spent, living_models
from steerlens._load_pairs import load_pairs
from steerlens.errors import PairsError
from steerlens.pairs import PreferencePairs
from steerlens.vector import SteeringVector, origin


def find_model(vectors: Sequence[SteeringVector]) -> HookedTransformer | None:
    """The model that made one of the vectors, while it lives; else the newest one with their weights."""
    wanted = next((v.model for v in vectors if v.model is not None), None)
    if wanted is None:
        return None
    candidates = [*(origin(v)[0] for v in vectors), *reversed(living_models())]
    return next((m for m in candidates if m is not None and not is_spent(m) and identify(m).same_weights(wanted)), None)


def find_training_pairs(vectors: Sequence[SteeringVector]) -> PreferencePairs | None:
    """The pairs that trained the first of the vectors for which they are known."""
    return next((p for v in vectors if (p := _training_pairs(v)) is not None), None)


def find_test_pairs(trained: PreferencePairs | None, vectors: Sequence[SteeringVector]) -> PreferencePairs | None:
    """The test split that belongs to training pairs, unless one of the vectors has seen some of it."""
    if trained is None or trained.parent is None:
        return None
    test = trained.parent.test
    return test if len(test) and not set(test.fingerprints) & {f for v in vectors for f in v.seen} else None


def _training_pairs(vector: SteeringVector) -> PreferencePairs | None:
    """The pairs that trained a vector: from this process, or from the built-in behaviour that its record names."""
    known = origin(vector)[1]
    if known is not None or not vector.data.startswith("steerlens/"):
        return known
    template = vector.settings.get("template")
    try:
        system = vector.settings.get("system_prompt")
        pairs = load_pairs(vector.data.removeprefix("steerlens/"), template=template, system_prompt=system)  # type: ignore[arg-type]
    except PairsError:  # another version's name, or a template that was a function
        return None
    digest = vector.settings.get("pairs_digest")
    return next((p.train for p in (pairs, pairs.flip()) if p.train.digest == digest), None)
