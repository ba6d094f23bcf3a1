"""Vectors in files: our safetensors, the BiPO authors' .pt, and the .gguf control vectors of llama.cpp and repeng."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from steerlens.checks.calls import checked, whole
from steerlens.checks.values import checked_path
from steerlens.errors import VectorError
from steerlens.files import check_size, parse_json, read_bytes, whole_file
from steerlens.models.identity import ModelIdentity
from steerlens.models.torch_files import read_tensor
from steerlens.vectors.fields import check_fields
from steerlens.vectors.gguf import control_vector, read_control_vectors
from steerlens.vectors.vector import SteeringVector

log = logging.getLogger(__name__)
FORMAT = "steerlens.vector/1"
ENDINGS = (".safetensors", ".pt", ".gguf")
LARGEST = 256_000_000
"""bytes of a vector's file"""
_HEADER = 32_000_000  # bytes of a safetensors header, which holds the record
_SNAPSHOT = re.compile(r"after step (0|[1-9][0-9]{0,8})", re.ASCII)
_BIPO = re.compile(r"vec_ep[0-9]+_layer[0-9]+", re.ASCII)  # what the BiPO authors' trainer calls its files
_RECORD = "steerlens.record"
# What a record must hold where it holds it at all: numbers of the history that are never missing, and settings that other
# calls read.
_NUMBERS = {"step", "epoch", "loss", "sign", "lr", "grad_norm", "norm", "norm_ratio"}
_SETTINGS: dict[str, Any] = {
    "multiplied_by": (int, float),
    "terms": (list, tuple),
    "template": str,
    "system_prompt": str,
    "pairs_digest": str,
    "position": str,
    "steps": int,
}
_NOT_IN_GGUF = ("history", "snapshots")


def save_vector(vector: SteeringVector, path: str | Path) -> Path:
    """Write a vector; the file appears whole or not at all."""
    path = checked_path("path", path, error=VectorError)
    writers: dict[str, Callable[[SteeringVector], bytes]] = {".safetensors": _safetensors, ".gguf": _gguf}
    if path.suffix not in writers:
        raise VectorError(f"can't save to {path.name!r}; expected a name that ends in .safetensors or .gguf")
    if not path.parent.is_dir():
        raise VectorError(f"can't save to {path}: there is no folder {path.parent}")
    content = writers[path.suffix](vector)
    with whole_file(path, VectorError) as partial:
        partial.write_bytes(content)
    return path


def _record(vector: SteeringVector) -> dict[str, Any]:
    record = {f.name: getattr(vector, f.name) for f in fields(vector) if f.name not in ("tensor", "snapshots", "model")}
    record |= {"settings": dict(vector.settings), "seen": sorted(vector.seen), "versions": dict(vector.versions)}
    record |= {"history": [dict(row) for row in vector.history]}
    record["model"] = None if vector.model is None else asdict(vector.model)
    return record


def _written(record: dict[str, Any]) -> str:
    try:
        return json.dumps(record, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise VectorError(f"the vector's settings or history can't be written as JSON: {error}") from error


def _safetensors(vector: SteeringVector) -> bytes:
    # Not save_file, which makes a file that nobody else on a shared disk can read.
    tensors = {"vector": vector.tensor} | {f"after step {step}": tensor for step, tensor in vector.snapshots.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(tensors, {"format": FORMAT, "record": _written(_record(vector))})


def _gguf(vector: SteeringVector) -> bytes:
    if not 0 < vector.layer < 2**16:
        raise VectorError(
            f"llama.cpp's control vectors start at layer 1 and can't hold one for layer {vector.layer}: save .safetensors"
        )
    left_out = [name for name in _NOT_IN_GGUF if getattr(vector, name)]
    if left_out:
        log.warning("a .gguf has no place for this vector's %s: save .safetensors too", " and ".join(left_out))
    metadata: dict[str, str | int] = {
        "controlvector.model_hint": "" if vector.model is None else vector.model.name,
        "controlvector.layer_count": 1 if vector.model is None else min(vector.model.n_layers - 1, 2**32 - 1),
        "steerlens.format": FORMAT,
        _RECORD: _written(_record(vector) | {"history": []}),
    }
    return control_vector(vector.tensor.numpy(), vector.layer, metadata)


@checked(VectorError, layer=whole(least=0))
def load_vector(path: str | Path, *, layer: int | None = None, method: str | None = None) -> SteeringVector:
    """Load a steering vector from a file, which may come from anybody: it is read within bounds, and nothing in it is run.

    Args:
        path: our .safetensors, or a .gguf that we wrote; the BiPO authors' .pt (one float tensor; it holds no layer, which is
            read from a `layer15` in the file's name, as theirs have, unless given); llama.cpp's and repeng's .gguf control
            vectors (`direction.N` is added after block N).
        layer: the block it belongs after; needed where the file doesn't say, or holds several.
        method: what made it, where the file doesn't say: names the curve in figures. Default: "bipo" for a .pt that is called
            as BiPO's trainer calls its own (`vec_ep20_layer15.pt`), else "imported"; "control vector" for a .gguf.

    Raises:
        VectorError: the file is not one of these, is damaged, too large, or needs `layer=`; the message says which.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".pt": _read_pt, ".gguf": _read_gguf}
    if not path.is_file():
        raise VectorError(f"there is no file {path}")
    if path.suffix not in readers:
        raise VectorError(f"can't load {path.name!r}; expected a file that ends in {', '.join(ENDINGS)}")
    try:
        return readers[path.suffix](path, layer, method)
    except VectorError as error:
        if path.name in str(error):
            raise
        raise VectorError(f"{path.name}: {error}") from error


def _read_safetensors(path: Path, layer: int | None, method: str | None) -> SteeringVector:
    check_size(path, VectorError, largest=LARGEST)
    try:
        with path.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > _HEADER:
            raise VectorError(
                f"{path.name} is no safetensors file, or is cut off: it claims a header of {header} bytes"
            )
        with safe_open(str(path), "pt") as file:
            meta, names = file.metadata() or {}, list(file.keys())
            ours = "vector" in names and all(n == "vector" or _SNAPSHOT.fullmatch(n) for n in names)
            tensors = {name: file.get_tensor(name) for name in names} if ours else {}
    except VectorError:
        raise
    except Exception as error:  # safetensors and torch raise what damaged bytes or dtypes that they don't share lead to
        raise VectorError(f"{path.name} is no safetensors file, or is cut off: {error!s:.300}") from error
    if meta.get("format") != FORMAT or not tensors:
        raise VectorError(
            f"{path.name} is no steerlens vector: its format is {meta.get('format')!r:.60} and it holds {names[:5]!r:.200}; "
            f"expected {FORMAT!r} with a tensor 'vector'. Wrap a tensor of your own: sl.SteeringVector(tensor, layer=...)"
        )
    return _as_asked(_rebuilt(path, tensors, meta.get("record", "")), path, layer, method)


def _as_asked(vector: SteeringVector, path: Path, layer: int | None, method: str | None) -> SteeringVector:
    """The vector of a file that knows its layer and method, if it was asked for as such."""
    if layer is not None and layer != vector.layer:
        raise VectorError(f"{path.name} belongs after layer {vector.layer}, not {layer}: leave layer= out")
    if method is not None and method != vector.method:
        raise VectorError(f"{path.name} was made by {vector.method!r:.60}, not {method!r:.60}: leave method= out")
    return vector


def _rebuilt(path: Path, tensors: dict[str, torch.Tensor], text: str) -> SteeringVector:
    record = parse_json(text, f"{path.name} has a damaged record, which", VectorError)
    try:
        model = record["model"]
        odd = _odd(SteeringVector, record, optional=()) | (set() if model is None else _odd(ModelIdentity, model))
        if odd:
            raise VectorError(
                f"{path.name} has unknown or missing keys: {sorted(odd)!r:.200}; was it written by another version?"
            )
        if model is not None:
            check_fields(ModelIdentity, model, VectorError)
            own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in model.items()}
            record["model"] = ModelIdentity(**own)
        record["seen"], record["history"] = frozenset(record["seen"]), tuple(map(dict, record["history"]))
        check_fields(SteeringVector, record, VectorError)
        tensor = tensors.pop("vector")
        steps = {int(name.rpartition(" ")[2]): kept for name, kept in tensors.items()}
        vector = SteeringVector(tensor=tensor, snapshots=dict(sorted(steps.items())), **record)
        check_record(vector)
        return vector
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        told = str(error) if isinstance(error, VectorError) else f"{type(error).__name__}: {error!s:.200}"
        raise VectorError(f"{path.name} has a damaged record: {told}") from error


def check_record(vector: SteeringVector) -> None:
    """Raise VectorError where a record that came from a file holds what later calls can't use."""
    for row in vector.history:
        for name, value in row.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number and (value is not None or name in _NUMBERS):
                raise VectorError(f"its history has {name!r:.40}: {value!r:.40}; expected a number")
    for name, kind in _SETTINGS.items():
        value = vector.settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise VectorError(f"its settings have {name!r}: {value!r:.40}; expected another type")
    if not all(isinstance(term, str) for term in vector.settings.get("terms") or ()):
        raise VectorError("its settings have 'terms' that are no texts")


def _odd(kind: type, record: dict[str, Any], optional: tuple[str, ...] | None = None) -> set[str]:
    """The names that a record has or lacks against a dataclass's; where `optional` is None, fields with a default may lack."""
    known = {f.name: f for f in fields(kind)}
    if optional is None:
        optional = tuple(n for n, f in known.items() if not (f.default is MISSING and f.default_factory is MISSING))
    wanted = set(known) - {"tensor", "snapshots"}
    return (set(record) - wanted) | (wanted - set(record) - set(optional))


def _read_pt(path: Path, layer: int | None, method: str | None) -> SteeringVector:
    try:
        tensor = read_tensor(read_bytes(path, VectorError, largest=LARGEST))
    except VectorError as error:
        raise VectorError(f"{path.name} can't be read as one tensor: {error}") from error
    named = re.search(r"layer_?([0-9]{1,9})", path.stem)
    if layer is None and named is None:
        raise VectorError(f"{path.name} doesn't say after which block it belongs: pass layer=, e.g. layer=15")
    where: Any = int(named.group(1)) if layer is None and named else layer
    method = method or ("bipo" if _BIPO.fullmatch(path.stem) else "imported")
    return SteeringVector(tensor, where, method=method, settings={"imported_from": path.name}, data=path.stem)


def _read_gguf(path: Path, layer: int | None, method: str | None) -> SteeringVector:
    found = read_control_vectors(path)
    if layer is None and len(found.layers) > 1:
        raise VectorError(f"{path.name} holds vectors for layers {sorted(found.layers)}: choose one with layer=")
    where = next(iter(found.layers)) if layer is None else layer
    record = found.metadata.get(_RECORD)
    if record is None and where not in found.layers:
        raise VectorError(f"{path.name} holds vectors for layers {sorted(found.layers)}, none for layer {where}")
    if record is None:
        tensor, told = torch.from_numpy(found.numbers(where)).float(), {"imported_from": path.name}
        return SteeringVector(tensor, where, method=method or "control vector", settings=told, data=path.stem)
    first = next(iter(found.layers))
    if not isinstance(record, str):
        raise VectorError(f"{path.name} has a damaged record: it is a {type(record).__name__}; expected a text")
    vector = _rebuilt(path, {"vector": torch.from_numpy(found.numbers(first)).float()}, record)
    if len(found.layers) > 1 or first != vector.layer:
        raise VectorError(
            f"{path.name} has a record for layer {vector.layer} and vectors for {sorted(found.layers)}: it was changed"
        )
    return _as_asked(vector, path, layer, method)
