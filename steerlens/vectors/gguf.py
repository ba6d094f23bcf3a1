"""Control vectors in GGUF, as llama.cpp and repeng have them: a tensor `direction.N` for each layer, and metadata.

Read and written here rather than with the gguf package, whose reader believes every count that a file claims.
Source: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steerlens.errors import VectorError
from steerlens.files import LARGEST_WIDTH, check_size

_HEADER = 32_000_000  # bytes that are looked at for metadata; a model's vocabulary takes about 10 million
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_FLOATS = {0: ("F32", "<f4"), 1: ("F16", "<f2"), 28: ("F64", "<f8")}
_BF16 = 30
_INTEGERS = {24: "I8", 25: "I16", 26: "I32", 27: "I64"}
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})", re.ASCII)


class _Place(NamedTuple):
    """Where a tensor's numbers are."""

    shape: tuple[int, ...]
    kind: int
    at: int
    """bytes from the start of the file"""


@dataclass(frozen=True)
class ControlVectors:
    """What a GGUF of control vectors holds."""

    path: Path
    metadata: Mapping[str, Any]
    """numbers and texts; arrays are left out"""
    layers: Mapping[int, _Place]

    def numbers(self, layer: int) -> np.ndarray:
        """A layer's vector, as floats.

        Raises:
            VectorError: the file ends before, or holds no floats there.
        """
        shape, kind, at = self.layers[layer]
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if count > LARGEST_WIDTH:
            raise VectorError(f"{self.path.name} claims a tensor of shape {shape}; expected one vector")
        if kind in _INTEGERS:
            raise VectorError(f"{self.path.name} holds {_INTEGERS[kind]} numbers; expected floats")
        if kind in _FLOATS:
            return self._bytes(at, count * int(_FLOATS[kind][1][-1])).view(_FLOATS[kind][1]).reshape(shape)
        if kind == _BF16:
            return (self._bytes(at, 2 * count).view("<u2").astype("<u4") << 16).view("<f4").reshape(shape)
        return self._dequantised(shape, kind, at, count)

    def _dequantised(self, shape: tuple[int, ...], kind: int, at: int, count: int) -> np.ndarray:
        gguf = _gguf()
        try:
            quantisation = gguf.GGMLQuantizationType(kind)
            block, size = gguf.GGML_QUANT_SIZES[quantisation]
            width = shape[-1] // block * size
            if shape[-1] % block:
                raise VectorError(f"{self.path.name}: {shape[-1]} numbers are no whole blocks of {quantisation.name}")
            packed = self._bytes(at, count // shape[-1] * width).reshape((*shape[:-1], width))
            return gguf.dequantize(packed, quantisation)
        except VectorError:
            raise
        except Exception as error:  # an unknown number, or one that the package can't turn back
            raise VectorError(f"{self.path.name} holds numbers of GGML's type {kind}, which can't be read") from error

    def _bytes(self, at: int, size: int) -> np.ndarray:
        with self.path.open("rb") as file:
            file.seek(at)
            found = file.read(size)
        if len(found) < size:
            raise VectorError(f"{self.path.name} can't be read as GGUF: it ends before its numbers do")
        return np.frombuffer(found, np.uint8).copy()


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise VectorError(
            "quantised numbers in a .gguf need the gguf package: pip install 'steerlens[smollm2]'"
        ) from error
    return gguf


def read_control_vectors(path: Path) -> ControlVectors:
    """The layers and the metadata of a GGUF of control vectors; numbers are read when they are asked for.

    Raises:
        VectorError: the file is damaged, or holds something else.
    """
    size = check_size(path, VectorError, largest=2**40)
    try:
        with path.open("rb") as file:
            header = _Cursor(file.read(_HEADER), size)
        metadata = header.metadata()
        if metadata.get("general.architecture") != "controlvector":
            told = metadata.get("general.architecture")
            raise VectorError(
                f"{path.name} is a GGUF of {told!r:.60}; expected a 'controlvector' with tensors direction.N"
            )
        layers = header.layers(metadata.get("general.alignment", 32))
    except (_Damaged, OSError, UnicodeDecodeError) as error:
        raise VectorError(f"{path.name} can't be read as GGUF: {error}") from error
    if not layers:
        raise VectorError(f"{path.name} holds no directions; expected a 'controlvector' with tensors direction.N")
    return ControlVectors(path, metadata, layers)


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    """What a GGUF can't say."""


class _Cursor:
    """Goes through a header; every count is compared with the bytes that are left before it is believed."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.at = data, size, 0
        version = self.number("I") if self.take(4) == b"GGUF" else 0
        if version not in (2, 3):
            raise _Damaged("it is no GGUF of version 2 or 3, little-endian")
        self.tensors, self.entries = self.number("Q"), self.number("Q")

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            longer = self.size > len(self.data)
            raise _Damaged(f"its header is over {_HEADER / 1e6:.0f} MB" if longer else "it is cut off")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, kind: str) -> Any:
        (found,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return found

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(self.fitting(self.entries, 13)):
            name, kind = self.text(), self.number("I")
            if name in found:
                raise _Damaged(f"it has {name!r:.60} twice")
            found[name] = self.value(kind)
        return found

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner == _STRING:
                for _ in range(self.fitting(count, 8)):
                    self.take(self.number("Q"))
            else:
                self.take(count * struct.calcsize(self.known(inner)))
            return None
        return self.number(self.known(kind))

    def known(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise _Damaged(f"it has a value of type {kind}")
        return _NUMBERS[kind]

    def fitting(self, count: int, smallest: int) -> int:
        """A count of things that are at least so many bytes long, if the header can hold them."""
        if count * smallest > len(self.data) - self.at:
            raise _Damaged(f"it claims {count} entries, more than it has bytes for")
        return count

    def layers(self, alignment: Any) -> dict[int, _Place]:
        if type(alignment) is not int or not 0 < alignment <= 2**20:
            raise _Damaged(f"its alignment is {alignment!r:.40}")
        found: dict[int, _Place] = {}
        for _ in range(self.fitting(self.tensors, 24)):
            name, dimensions = self.text(), self.number("I")
            if dimensions > 4:
                raise _Damaged(f"it has a tensor of {dimensions} dimensions")
            shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
            place = _Place(shape, self.number("I"), self.number("Q"))
            if name.startswith("direction."):
                named = _NAME.fullmatch(name)
                if named is None or int(named[1]) in found:
                    raise _Damaged(f"it has a tensor {name!r:.60}, or has it twice")
                found[int(named[1])] = place
        start = -(-self.at // alignment) * alignment
        if any(start + place.at > self.size for place in found.values()):
            raise _Damaged("it ends before its numbers do")
        return {layer: place._replace(at=start + place.at) for layer, place in found.items()}


def control_vector(numbers: np.ndarray, layer: int, metadata: Mapping[str, str | int]) -> bytes:
    """The bytes of a GGUF with one vector; metadata are texts and whole numbers from 0 to 2^32 - 1."""
    entries = {"general.architecture": "controlvector", **metadata}
    parts = [b"GGUF", struct.pack("<IQQ", 3, 1, len(entries))]
    for name, value in entries.items():
        told = struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<I", _STRING) + _text(value)
        parts += [_text(name), told]
    parts += [_text(f"direction.{layer}"), struct.pack("<IQIQ", 1, numbers.size, 0, 0)]
    return b"".join(map(_padded, (b"".join(parts), numbers.astype("<f4").tobytes())))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 32)
