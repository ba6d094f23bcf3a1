"""Where a vector comes from: the model and pairs it was made from in this process, and the libraries' versions."""

import platform
import weakref
from functools import lru_cache
from importlib import metadata
from typing import Any

from steerlens.pairs.preference import PreferencePairs

# What a vector was made from, while it is in the process: texts stay out of the vector and of its files.
_origins: "weakref.WeakKeyDictionary[Any, tuple[weakref.ref, PreferencePairs]]" = weakref.WeakKeyDictionary()


def remember_origin(vector: Any, model: Any, pairs: PreferencePairs) -> None:
    """Note which model (weakly) and pairs a vector was made from, for as long as it lives."""
    _origins[vector] = weakref.ref(model), pairs


def origin(vector: Any) -> tuple[Any | None, PreferencePairs | None]:
    """The model, while it lives, and the pairs that a vector was made from, if that happened in this process."""
    model, pairs = _origins.get(vector, (lambda: None, None))
    return model(), pairs


def pass_on(vector: Any, made: Any) -> None:
    """Note that a vector was computed from another one, with the same model and pairs."""
    if vector in _origins:
        _origins[made] = _origins[vector]


def library_versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return dict(_library_versions())


@lru_cache(maxsize=1)
def _library_versions() -> tuple[tuple[str, str], ...]:
    names = ("steerlens", "torch", "transformer-lens", "transformers")
    found = [(name, metadata.version(name)) for name in names if _installed(name)]
    return (*found, ("python", platform.python_version()))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
