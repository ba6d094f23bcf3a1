"""What every result can do: turn into a tidy table, draw itself, and be written to a file and read back."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import torch
from jaxtyping import jaxtyped

from steerlens._files import whole_file
from steerlens._fingerprint import ModelIdentity
from steerlens.errors import MeasureError, SteerLensError
from steerlens.vector import SteeringVector

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = "steerlens result"
# Parts of a result that are no results themselves; their schema is 1 until their fields change their meaning.
_PARTS: dict[str, type] = {"SteeringVector": SteeringVector, "ModelIdentity": ModelIdentity}


class Stored:
    """A frozen dataclass that can be part of a result's file."""

    SCHEMA: ClassVar[int] = 1
    """raised when the fields change their meaning"""
    _kinds: ClassVar[dict[str, type["Stored"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Stored._kinds[cls.__name__] = cls


class Result(Stored, ABC):
    """A frozen dataclass of measured values."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """One row per measured value, in tidy form."""

    def figure(self) -> "go.Figure":
        """The result's figure; nothing is shown or saved."""
        # The one place where a result reaches up to the figures: late, so that figures may import results.
        from steerlens.figures import draw

        return draw(self)

    def save(self, path: str | Path, *, columns: Literal[1, 2] | None = None) -> Path:
        """Write the values to .json (`sl.load_result` reads them), a page to .html, or the figure to .pdf, .svg or .png.

        Beside a figure the data behind it (`to_frame`) goes to a .csv of the same name: fig.csv for fig.pdf.

        Args:
            columns: a figure for print, at the width of one (3.3 in) or two (6.9 in) columns of a paper, in text of 7 to 8
                points; default: as on the screen.

        Raises:
            FigureError, MeasureError: another file ending, no such folder, nothing to draw with, or somebody's own .csv.
        """
        path = Path(path)
        if path.suffix == ".json" and columns is None:
            return _write(self, path)
        from steerlens.figures import save

        return save(self, path, columns=columns)


def load_result(path: str | Path) -> Any:
    """The result that `result.save("x.json")` wrote.

    Raises:
        MeasureError: no such file, none of ours, one of another version's fields, or one that was damaged or edited.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MeasureError(f"{path} can't be read as a result ({type(error).__name__}: {error}); expected a .json file "
                           "that result.save(...) wrote") from error  # fmt: skip
    if not known:
        raise MeasureError(f"{path} has the format {found['format']!r}; expected {FORMAT!r}")
    try:
        result = _decoded(found["result"])
        if not isinstance(result, Result):
            raise MeasureError(f"it holds a {type(result).__name__}; expected a result")
    # What a changed file makes numpy, torch or a constructor raise is theirs to choose.
    except (SteerLensError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = str(error) if isinstance(error, SteerLensError) else f"{type(error).__name__}: {error}"
        raise MeasureError(
            f"{path} can't be read back: {told}. It is another version's, or was damaged or changed: measure again, or use "
            "the version that wrote it"
        ) from error
    return result


def _write(result: Result, path: Path) -> Path:
    if not path.parent.is_dir():
        raise MeasureError(f"can't save to {path}: there is no folder {path.parent}")
    text = json.dumps({"format": FORMAT, "result": _encoded(result)}, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _encoded(value: Any) -> Any:
    if is_dataclass(value) and isinstance(value, (Stored, *_PARTS.values())):
        own = {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
        return {"$type": type(value).__name__, "$schema": getattr(value, "SCHEMA", 1), **own}
    if isinstance(value, np.ndarray):
        return {"$array": _numbers(value.tolist()), "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, torch.Tensor):
        return {"$tensor": _encoded(value.detach().cpu().numpy())}
    if isinstance(value, np.generic):
        return _encoded(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, Mapping):
        return {"$map": [[_encoded(k), _encoded(v)] for k, v in value.items()]}
    if isinstance(value, frozenset):
        return {"$set": sorted(_encoded(item) for item in value)}
    if isinstance(value, list):
        return {"$list": [_encoded(item) for item in value]}
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise MeasureError(
        f"a {type(value).__name__} in a result can't be written to .json; .html and .pdf hold its figure"
    )


def _numbers(value: Any) -> Any:
    """An array's nested lists as they are, but for what JSON has no number for."""
    return [_numbers(item) for item in value] if isinstance(value, list) else _encoded(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return float(value["$float"])
    if "$array" in value:
        return np.array(_decoded(value["$array"]), dtype=value["dtype"]).reshape(value["shape"])
    if "$tensor" in value:
        return torch.from_numpy(_decoded(value["$tensor"]))
    if "$map" in value:
        return {_decoded(k): _decoded(v) for k, v in value["$map"]}
    if "$set" in value:
        return frozenset(_decoded(value["$set"]))
    if "$list" in value:
        return [_decoded(item) for item in value["$list"]]
    name, schema = str(value.get("$type")), value.get("$schema")
    kind = Stored._kinds.get(name) or _PARTS.get(name)
    if kind is None or schema != getattr(kind, "SCHEMA", 1):
        reads = "none of that name" if kind is None else f"schema {getattr(kind, 'SCHEMA', 1)}"
        raise MeasureError(
            f"it holds a {value.get('$type')!r} of schema {schema}; this version of steerlens reads {reads}"
        )
    own = {name: _decoded(item) for name, item in value.items() if not name.startswith("$")}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    odd = (set(own) - {f.name for f in fields(kind)}) | (needed - set(own))
    if odd:
        raise MeasureError(f"it holds other fields than a {kind.__name__} has: {sorted(odd)} are new or missing")
    _check_types(kind, own)
    return kind(**own)


def _check_types(kind: type, own: Mapping[str, Any]) -> None:
    """Raise MeasureError unless each field is of its declared type, and arrays agree on the length of a named axis."""
    with jaxtyped("context"):
        for name, value in own.items():
            if not _is(value, _hints(kind)[name]):
                raise MeasureError(f"{kind.__name__}.{name} is {value!r:.60}; expected {_hints(kind)[name]}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if kind is Literal:
        return value in inner
    if kind in (Any, object):
        return True
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return isinstance(value, (tuple, list)) and len(value) == len(inner) and all(map(_is, value, inner))
    if isinstance(value, Mapping) and inner:
        keys, values = inner
        return isinstance(value, kind) and all(_is(k, keys) and _is(v, values) for k, v in value.items())
    if inner:  # a collection of things of one type; what a tuple declares may have come as a list
        listed = isinstance(value, (kind, list) if kind is tuple else kind) and not isinstance(value, str)
        return listed and all(_is(item, inner[0]) for item in value)
    return isinstance(value, kind)
