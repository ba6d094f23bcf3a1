"""What a comparison finds by itself: the living model, the pairs that trained a vector, and the test pairs beside them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from transformer_lens import HookedTransformer

from steerlens.errors import PairsError
from steerlens.methods.caa import ReadPosition
from steerlens.models.identity import identify, is_spent, living_models
from steerlens.pairs.load import comes_with_the_package, load_pairs
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.origin import origin
from steerlens.vectors.vector import SteeringVector


def find_model(vectors: Sequence[SteeringVector]) -> HookedTransformer | None:
    """The model that made one of the vectors, while it lives; else the newest one with their weights."""
    wanted = next((v.model for v in vectors if v.model is not None), None)
    if wanted is None:
        return None
    candidates = [*(origin(v)[0] for v in vectors), *reversed(living_models())]
    return next((m for m in candidates if m is not None and not is_spent(m) and identify(m).same_weights(wanted)), None)


class Training(NamedTuple):
    """What a vector was made of, for controls that are made of the same."""

    pairs: PreferencePairs
    position: ReadPosition
    """where its method reads them, "mean" for methods that read no position"""

    @property
    def can_shuffle(self) -> bool:
        """Whether there are differences at that position whose labels can be exchanged."""
        return len(self.pairs) > 1 and (self.pairs.rejected_prompts is None) == (self.position != "prompt")


def find_training(named: Mapping[str, SteeringVector]) -> dict[str, Training]:
    """Each vector's own training pairs and position, of those for which they are known."""
    found = {label: (_training_pairs(vector), vector.settings.get("position")) for label, vector in named.items()}
    return {
        label: Training(pairs, next((known for known in get_args(ReadPosition) if known == position), "mean"))
        for label, (pairs, position) in found.items()
        if pairs is not None
    }


def find_test_pairs(trained: Mapping[str, Training], vectors: Sequence[SteeringVector]) -> PreferencePairs | None:
    """The test split that belongs to the first known training pairs, unless one of the vectors has seen some of it."""
    parent = next((known.pairs.parent for known in trained.values()), None)
    if parent is None:
        return None
    test = parent.test
    return test if len(test) and not set(test.fingerprints) & {f for v in vectors for f in v.seen} else None


def _training_pairs(vector: SteeringVector) -> PreferencePairs | None:
    """The pairs that trained a vector: from this process, or from the built-in behaviour that its record names.

    A record comes from a file, which anybody may have written: it opens no other file, and asks no hub.
    """
    known, name = origin(vector)[1], vector.data.removeprefix("steerlens/")
    if known is not None or name == vector.data or not comes_with_the_package(name):
        return known
    template, system = (vector.settings.get(key) for key in ("template", "system_prompt"))
    if not isinstance(template, str) or not isinstance(system, str | None):
        return None
    try:
        pairs = load_pairs(name, template=template, system_prompt=system)  # type: ignore[arg-type]  # checked there
    except PairsError:  # a template that was a function
        return None
    digest = vector.settings.get("pairs_digest")
    both = (pairs,) if pairs.rejected_prompts is not None else (pairs, pairs.flip())
    return next((p.train for p in both if p.train.digest == digest), None)
