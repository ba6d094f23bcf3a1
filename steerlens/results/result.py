"""What every result can do: turn into a tidy table, draw itself, and be written to a file and read back."""

import json
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch

from steerlens.checks.calls import checked
from steerlens.errors import FigureError, MeasureError, SteerLensError
from steerlens.files import read_json, whole_file
from steerlens.models.identity import ModelIdentity
from steerlens.vectors.fields import check_fields
from steerlens.vectors.files import check_record
from steerlens.vectors.vector import SteeringVector

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = "steerlens result"
# Parts of a result that are no results themselves; their schema is 1 until their fields change their meaning.
_PARTS: dict[str, type] = {"SteeringVector": SteeringVector, "ModelIdentity": ModelIdentity}
_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


class Stored:
    """A frozen dataclass that can be part of a result's file."""

    SCHEMA: ClassVar[int] = 1
    """raised when the fields change their meaning"""
    _kinds: ClassVar[dict[str, type["Stored"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Stored._kinds[cls.__name__] = cls

    def _check_read(self) -> None:
        """Raise MeasureError where fields that came from a file disagree in what neither types nor named axes show."""


class Result(Stored, ABC):
    """A frozen dataclass of measured values."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """One row per measured value, in tidy form."""

    def figure(self) -> "go.Figure":
        """The result's figure; nothing is shown or saved."""
        # The one place where a result reaches up to the figures: late, so that figures may import results.
        from steerlens.figures import draw

        with _told_of_files(self):
            return draw(self)

    @checked(MeasureError)
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

        with _told_of_files(self):
            return save(self, path, columns=columns)


# Results that came from files, which anybody may have changed; others fail as programs do.
_from_files: "weakref.WeakKeyDictionary[Result, Path]" = weakref.WeakKeyDictionary()


@contextmanager
def _told_of_files(result: Result) -> Iterator[None]:
    """Tell of a file that fits in types and lengths and still makes no sense when it is drawn."""
    try:
        yield
    except SteerLensError:
        raise
    except Exception as error:
        if result not in _from_files:
            raise
        raise FigureError(
            f"{_from_files[result]} can't be drawn ({type(error).__name__}: {error!s:.200}): it was damaged or changed"
        ) from error


@checked(MeasureError)
def load_result(path: str | Path) -> Any:
    """The result that `result.save("x.json")` wrote.

    Raises:
        MeasureError: no such file, none of ours, one of another version's fields, or one that was damaged or edited.
    """
    path = Path(path)
    found = read_json(path, MeasureError)
    if not isinstance(found, dict) or "format" not in found:
        raise MeasureError(f"{path} can't be read as a result; expected a .json file that result.save(...) wrote")
    if found["format"] != FORMAT:
        raise MeasureError(f"{path} has the format {found['format']!r:.60}; expected {FORMAT!r}")
    try:
        result = _decoded(found.get("result"))
        if not isinstance(result, Result):
            raise MeasureError(f"it holds a {type(result).__name__}; expected a result")
        result.to_frame()
        repr(result)
    except Exception as error:  # what a changed file makes numpy, torch or a constructor raise is theirs to choose
        told = str(error) if isinstance(error, SteerLensError) else f"{type(error).__name__}: {error!s:.300}"
        raise MeasureError(
            f"{path} can't be read back: {told}. It is another version's, or was damaged or changed: measure again, or use "
            "the version that wrote it"
        ) from error
    _from_files[result] = path
    return result


def _write(result: Result, path: Path) -> Path:
    if not path.parent.is_dir():
        raise MeasureError(f"can't save to {path}: there is no folder {path.parent}")
    text = json.dumps({"format": FORMAT, "result": _encoded(result)}, allow_nan=False)
    with whole_file(path, MeasureError) as partial:
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
    if "$type" in value:
        return _rebuilt(value)
    names = set(value)
    if names == {"$float"} and value["$float"] in ("nan", "inf", "-inf"):
        return float(value["$float"])
    if names == {"$array", "dtype", "shape"}:
        return _array(value["$array"], value["dtype"], value["shape"])
    if names == {"$tensor"}:
        return torch.from_numpy(_decoded(value["$tensor"]))
    if names == {"$map"}:
        pairs = [(_decoded(k), _decoded(v)) for k, v in value["$map"]]
        if len(dict(pairs)) < len(pairs):
            raise MeasureError("it holds a mapping that has a key twice")
        return dict(pairs)
    if names == {"$set"}:
        return frozenset(_decoded(value["$set"]))
    if names == {"$list"}:
        return [_decoded(item) for item in value["$list"]]
    raise MeasureError(f"it holds an object of {sorted(names)!r:.80}, which is nothing that a result is made of")


def _array(nested: Any, dtype: Any, shape: Any) -> np.ndarray:
    """The array of nested lists, if they are of that shape and hold numbers (or true and false) of that dtype."""
    kind = np.dtype(dtype) if dtype in _DTYPES else None
    whole = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if kind is None or not whole:
        raise MeasureError(
            f"it holds an array of dtype {dtype!r:.40} and shape {shape!r:.40}; expected one of {_DTYPES}"
        )
    flat, found = [nested], []
    for length in shape:  # level by level, so that lists of unequal lengths don't pass for something else
        if not all(isinstance(item, list) and len(item) == length for item in flat):
            raise MeasureError(f"it holds an array whose lists are not of the shape {shape!r:.40}")
        flat = [inner for item in flat for inner in item]
    found = [_decoded(item) for item in flat]
    accepted = {"b": (bool,), "f": (int, float)}.get(kind.kind, (int,))
    if not all(isinstance(item, accepted) and (kind.kind == "b" or not isinstance(item, bool)) for item in found):
        raise MeasureError(f"it holds an array of {dtype} with something else in it")
    with np.errstate(over="raise"):  # a number too large for its dtype is not infinite
        return np.array(found, dtype=np.float64 if kind.kind == "f" else kind).astype(kind).reshape(shape)


def _rebuilt(value: dict[str, Any]) -> Any:
    """The dataclass that an object names, with all its fields, each of its type, and lengths that agree."""
    name, schema = value["$type"], value.get("$schema")
    kind: Any = Stored._kinds.get(name, _PARTS.get(name)) if isinstance(name, str) else None
    if kind is None or schema != getattr(kind, "SCHEMA", 1):
        reads = "none of that name" if kind is None else f"schema {getattr(kind, 'SCHEMA', 1)}"
        raise MeasureError(f"it holds a {name!r:.60} of schema {schema!r:.20}; this version of steerlens reads {reads}")
    own = {name: _decoded(item) for name, item in value.items() if name not in ("$type", "$schema")}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    odd = (set(own) - {f.name for f in fields(kind)}) | (needed - set(own))
    if odd:
        raise MeasureError(f"it holds other fields than a {kind.__name__} has: {sorted(odd)!r:.200} are new or missing")
    check_fields(kind, own, MeasureError)
    made = kind(**own)
    if isinstance(made, Stored):
        made._check_read()
    elif isinstance(made, SteeringVector):
        check_record(made)
    return made
