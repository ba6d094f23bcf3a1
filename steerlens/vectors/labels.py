"""Names for vectors in results and figures: the user's own, or the methods', numbered where they repeat."""

from collections.abc import Mapping, Sequence

from steerlens.errors import VectorError
from steerlens.vectors.names import with_seed
from steerlens.vectors.vector import SteeringVector, check_is_vector, check_same_space

Vectors = SteeringVector | Sequence[SteeringVector] | Mapping[str, SteeringVector]
CONTROLS = ("random", "shuffled labels")


def labelled(vectors: Vectors) -> dict[str, SteeringVector]:
    """One vector, several, or a mapping from labels to vectors -> a mapping from labels to vectors.

    Raises:
        VectorError: there are none, something is no vector, or they belong to different weights.
    """
    if isinstance(vectors, Mapping):
        found = dict(vectors)
    else:
        listed = [vectors] if isinstance(vectors, SteeringVector) or not isinstance(vectors, Sequence) else vectors
        for vector in listed:
            check_is_vector(vector)
        found = dict(zip(method_labels(listed), listed, strict=True))
    if not found or not all(isinstance(label, str) and label for label in found):
        raise VectorError(
            f"got vectors={vectors!r:.80}; expected a SteeringVector, a list of them, or a dict from names to vectors"
        )
    check_same_space(*found.values())
    return found


def method_labels(vectors: Sequence[SteeringVector]) -> tuple[str, ...]:
    """The methods' names, numbered where two are the same; the controls' names are kept for the controls.

    Vectors of one method that differ by their seed alone have one name between them, and their seeds behind it.
    """
    names = [f"{v.method} (given)" if v.method in CONTROLS else v.method for v in vectors]
    first = _first_of_family(vectors)
    heads = [i for i in range(len(vectors)) if first[i] == i]
    named = dict(zip(heads, _numbered([names[i] for i in heads]), strict=True))
    labels = [
        with_seed(named[at], v.seed) if first.count(at) > 1 and v.seed is not None else named[at]
        for at, v in zip(first, vectors, strict=True)
    ]
    # A method may itself be called "bipo seed 0".
    return tuple(labels if len(set(labels)) == len(labels) else _numbered(names))


def _numbered(names: Sequence[str]) -> list[str]:
    labels: list[str] = []
    for name in names:
        number = 1
        label = name if names.count(name) == 1 else f"{name} 1"
        while label in labels or (label != name and label in names):
            number += 1
            label = f"{name} {number}"
        labels.append(label)
    return labels


def _first_of_family(vectors: Sequence[SteeringVector]) -> list[int]:
    """For each vector the place of the first one that differs from it by the seed alone: its own where none does."""
    families: dict[str, list[int]] = {}
    for i, vector in enumerate(vectors):
        own = {"steps"} if vector.settings.get("patience") else set()  # then each seed stops when it has had enough
        told = sorted((k, repr(value)) for k, value in vector.settings.items() if k not in own)
        families.setdefault(repr((vector.method, vector.layer, vector.data, told)), []).append(i)
    found = list(range(len(vectors)))
    for family in families.values():
        seeds = [vectors[i].seed for i in family]
        if None not in seeds and len(set(seeds)) == len(seeds):
            for i in family:
                found[i] = family[0]
    return found
