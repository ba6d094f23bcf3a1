"""One tensor in a .pt as `torch.save` writes it, read without running or believing anything in it.

torch.load, with weights_only too, fills whatever a pickle of a kilobyte claims: views of stride 0, compressed entries, storages
larger than their bytes. Here the archive's directory is looked at first, the pickle may hold nothing but one tensor's
description, and numbers are taken only from where the file has them.
Source: torch/serialization.py and torch/_utils.py, the zip format of torch 1.6 and later.
"""

import io
import pickle
import pickletools
import zipfile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steerlens.errors import VectorError
from steerlens.files import LARGEST_WIDTH

_ENTRIES = 1000
_PICKLE = 100_000  # bytes; that of one tensor has about 200
_KINDS = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# Nothing that hashes or copies: a tuple that holds another one twice, forty times over, is never finished with.
_OPCODES = set(
    "PROTO GLOBAL BINPUT LONG_BINPUT BINGET LONG_BINGET MARK TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 BINUNICODE BININT BININT1 "
    "BININT2 LONG1 NEWTRUE NEWFALSE NONE REDUCE BINPERSID STOP".split()
)


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _View(NamedTuple):
    """A tensor as its pickle describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False
    hooks: Any = None


def read_tensor(data: bytes) -> Tensor:
    """The one tensor in a file of `torch.save`, on the CPU and with memory of its own.

    Raises:
        VectorError: the bytes are no such file, or hold something else; says what.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_stored(archive, len(data))
            name = next(n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"])
            folder = name.removesuffix("data.pkl")
            if folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") != b"little":
                raise VectorError("it was written on a big-endian machine")
            view = _described(archive.read(name))
            return _taken(view, archive.read(f"{folder}data/{view.storage.key}"))
    except VectorError:
        raise
    except StopIteration:
        raise VectorError("it is an archive of something else than torch.save writes") from None
    except Exception as error:  # zipfile, pickle and what a changed description makes of them
        raise VectorError(f"{type(error).__name__}: {error!s:.150}") from error


def check_stored(archive: zipfile.ZipFile, size: int, *, entries: int = _ENTRIES) -> None:
    """Raise VectorError unless an archive's entries are as large as they lie in the file of `size` bytes, and not too many."""
    found = archive.infolist()
    if len(found) > entries:
        raise VectorError(f"it has {len(found)} entries; expected at most {entries}")
    packed = [entry for entry in found if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1]
    total = sum(entry.file_size for entry in found)
    if packed or total > size:
        raise VectorError(
            f"its entries are compressed or overlap ({total:,} bytes of {size:,}); torch.save writes them plainly"
        )


def _described(pickled: bytes) -> _View:
    if len(pickled) > _PICKLE:
        raise VectorError(f"its description has {len(pickled)} bytes; expected one 1-D tensor")
    for at, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name in ("EMPTY_DICT", "EMPTY_LIST") and at == 1:
            raise VectorError(f"it holds a {opcode.name[6:].lower()}; expected one 1-D tensor")
        if opcode.name not in _OPCODES or (opcode.name == "LONG_BINPUT" and (argument or 0) > _PICKLE):
            raise VectorError(f"its description has a {opcode.name} that one tensor's doesn't")
    found = _Unpickler(io.BytesIO(pickled)).load()
    if not isinstance(found, _View):
        raise VectorError(f"it holds a {type(found).__name__}; expected one 1-D tensor")
    return found


class _Unpickler(pickle.Unpickler):
    """Knows the few names of a tensor's description, and has stand-ins for them."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _View,
            ("torch._utils", "_rebuild_parameter"): lambda view, requires_grad, hooks: view,
            ("collections", "OrderedDict"): tuple,
        }
        if (module, name) not in known:
            raise VectorError(f"it holds a {module}.{name}"[:150])
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, numel = pid
        return _Storage(dtype, key, numel)


def _taken(view: _View, stored: bytes) -> Tensor:
    dtype, _, numel = view.storage
    whole = (numel, view.offset, *view.size, *view.stride)
    if not isinstance(dtype, torch.dtype) or not all(type(n) is int and n >= 0 for n in whole):
        raise VectorError("its description is damaged")
    if len(view.size) != len(view.stride) or numel * dtype.itemsize != len(stored):
        raise VectorError(f"its description claims {numel} numbers; the file has {len(stored)} bytes for them")
    count = 1
    for n in view.size:
        count *= n
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if count > LARGEST_WIDTH or (count and last >= numel):
        raise VectorError(f"it holds a tensor of shape {str(view.size)[:60]} in {numel} numbers; expected one vector")
    if not count:
        return torch.zeros(view.size, dtype=dtype)
    return torch.frombuffer(bytearray(stored), dtype=dtype).as_strided(view.size, view.stride, view.offset).clone()
