"""How vectors are called that differ by their seed alone: "bipo seed 0" and "bipo seed 1", together "bipo"."""

import re
from collections.abc import Sequence

_SEED = re.compile(r" seed -?\d+$")


def with_seed(name: str, seed: int) -> str:
    """The name of one seed's vector."""
    return f"{name} seed {seed}"


def without_seed(label: str) -> str:
    """The name that a method's seeds have in common; another label as it is."""
    return _SEED.sub("", label)


def seed_families(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The labels of two or more seeds by the name that they have in common."""
    found: dict[str, list[str]] = {}
    for label in labels:
        if without_seed(label) != label:
            found.setdefault(without_seed(label), []).append(label)
    return {name: tuple(seeds) for name, seeds in found.items() if len(seeds) > 1}


def first_two(labels: Sequence[str]) -> tuple[int, int]:
    """The places of the first label and of the first that is no other seed of it, or else of the second."""
    name = without_seed(labels[0])
    return 0, next((i for i, label in enumerate(labels) if without_seed(label) != name), 1)
