"""What may be asked for by name: told without loading anything."""

from collections.abc import Sequence

import steerlens as sl
from steerlens.models.sources import local_folder, repo_name
from steerlens.pairs.published import PUBLISHED
from steerlens.toy import model_folder

METHODS = ("bipo", "caa", "freeform", "pca", "random")


def published_behaviours() -> list[str]:
    """The behaviours of the BiPO authors' sets."""
    return [known.name.removeprefix("bipo/") for known in PUBLISHED if known.name.startswith("bipo/")]


def check_methods(methods: Sequence[str], known: Sequence[str] = METHODS) -> None:
    """Refuse methods that a study does not know.

    Raises:
        MeasureError: none, or an unknown one; says which there are.
    """
    if not methods or not set(methods) <= set(known):
        raise sl.MeasureError(f"methods {list(methods)}: expected some of {', '.join(known)}")


def check_model_name(name: str) -> None:
    """Refuse a name that `sl.load_model` would refuse, without loading anything.

    Raises:
        ModelError: no such name; says which there are.
    """
    if name.lower() in ("smollm2", "smollm2-wheel") or model_folder(name) is not None:
        return
    if name.lower().startswith("toy/"):
        sl.load_model(name)  # raises, and names the laboratory's
    if local_folder(name) is None:
        repo_name(name)
