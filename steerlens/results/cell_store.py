"""A folder of finished work: what was measured once is read again, and nothing else is.

A cell is found by all its settings: another setting, other weights, other pairs or another version of steerlens is another
cell. A cell's file appears whole or not at all, so that a run which was killed goes on where it stopped; and a file that is not
the one that was written for its settings is refused.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from steerlens.errors import MeasureError
from steerlens.files import read_bytes, read_json, whole_file
from steerlens.results.result import Result, load_result
from steerlens.vectors.files import load_vector
from steerlens.vectors.origin import library_versions
from steerlens.vectors.vector import SteeringVector

R = TypeVar("R", bound=Result)


class Store:
    """Vectors and results in a folder, by their settings.

    Args:
        folder: made when it isn't there.

    Raises:
        MeasureError: the path is a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise MeasureError(f"store={str(folder)!r} is a file; expected a folder, or a name for a new one")

    def vector(self, name: str, settings: Mapping[str, Any], make: Callable[[], SteeringVector]) -> SteeringVector:
        """The vector of these settings: from its file, or made now and kept.

        Raises:
            MeasureError: the file is not the one that was written for these settings.
        """
        path = self.path(name, settings, ".safetensors")
        if not path.exists():
            return self.keep(name, settings, make())
        self._check(path, settings)
        vector = load_vector(path)
        for told, found in (("layer", vector.layer), ("method", vector.method), ("seed", vector.seed)):
            if found is not None and settings.get(told, found) != found:
                raise MeasureError(_foreign(path, f"its vector has {told} {found!r}, not {settings[told]!r}"))
        return vector

    def result(self, name: str, settings: Mapping[str, Any], make: Callable[[], R]) -> R:
        """The result of these settings: from its file, or measured now and kept.

        Raises:
            MeasureError: the file is not the one that was written for these settings.
        """
        path = self.path(name, settings, ".json")
        if path.exists():
            self._check(path, settings)
            return load_result(path)
        return self.keep(name, settings, make())

    def keep(self, name: str, settings: Mapping[str, Any], made: Any) -> Any:
        """Write a vector or a result as the cell of these settings; returns it."""
        path = self.path(name, settings, ".safetensors" if isinstance(made, SteeringVector) else ".json")
        self.folder.mkdir(parents=True, exist_ok=True)
        made.save(path)
        # What the name's digest stands for, and of what: the file may come to lie in another one's place.
        told = _told(settings) | {"sha256": _sha256(path)}
        with whole_file(path.with_suffix(".settings"), MeasureError) as partial:
            partial.write_text(json.dumps(told, indent=1, sort_keys=True), encoding="utf-8")
        return made

    def _check(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raise MeasureError where a cell's file is another than the one that was written with its settings."""
        beside = path.with_suffix(".settings")
        if not beside.exists():  # of a run that was killed between the two files
            return
        told = read_json(beside, MeasureError)
        known = told.pop("sha256", None) if isinstance(told, dict) else None
        if told != json.loads(json.dumps(_told(settings))):
            raise MeasureError(_foreign(path, f"{beside.name} tells of other settings"))
        if known is not None and known != _sha256(path):
            raise MeasureError(_foreign(path, f"its bytes are not those that {beside.name} tells of"))

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the cell of these settings is finished."""
        return any(self.path(name, settings, ending).exists() for ending in (".safetensors", ".json"))

    def path(self, name: str, settings: Mapping[str, Any], ending: str) -> Path:
        """Where the cell of these settings lies, or will."""
        try:
            text = json.dumps(_told(settings), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise MeasureError(
                f"the settings of the cell {name!r} can't be written as JSON ({error}): give numbers, texts and lists"
            ) from error
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{name}-{digest}{ending}"


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"settings": dict(settings), "versions": library_versions()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, MeasureError)).hexdigest()


def _foreign(path: Path, why: str) -> str:
    return (
        f"{path} is not what was written for these settings: {why}. It was changed, or exchanged with another cell's file: delete "
        "it with its .settings, and the cell is made anew"
    )
