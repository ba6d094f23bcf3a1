"""Files: read within bounds, and written whole or not at all; whatever they hold or the disk says becomes an error of ours.

A file may come from anybody. Nothing of it is believed before its size was looked at, and JSON goes through one reader that
bounds depth, numbers and the memory that a text can take.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from steerlens.errors import SteerLensError

DEPTH = 64
"""of nested lists and objects in JSON; results need about 20"""
MEMORY = 800_000_000
"""bytes that one file may take once it is read"""
LARGEST_WIDTH = 2**20
"""numbers in a vector; the widest models have about 2^14"""
_DIGITS = 40  # of a whole number; tokenizers without a limit write 10^30


class _Refused(ValueError):  # noqa: N818 - never leaves this module
    """What JSON allows and we don't."""


@contextmanager
def whole_file(path: Path, error: type[SteerLensError]) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at the end of the block, and goes after an error.

    What the system says of a full or read-only disk becomes `error`.
    """
    partial = path.with_name(f".{path.name[:80]}.{os.getpid()}.part")
    try:
        with disk_errors(f"can't write {path}", error):
            yield partial
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def disk_errors(what: str, error: type[SteerLensError]) -> Iterator[None]:
    """Raise `error` for what the operating system says in this block: no space, no permission, no such folder."""
    try:
        yield
    except OSError as found:
        raise error(f"{what}: {found.strerror or found}. Free some space there, or take another place") from found


def read_bytes(path: Path, error: type[SteerLensError], *, largest: int = MEMORY) -> bytes:
    """A regular file's bytes, if there are at most `largest`; else `error`."""
    check_size(path, error, largest=largest)
    try:
        with path.open("rb") as file:
            return file.read(largest)
    except (OSError, MemoryError) as found:
        raise error(f"{path} can't be read: {type(found).__name__}: {found}") from found


def check_size(path: Path, error: type[SteerLensError], *, largest: int) -> int:
    """The bytes of a regular file, if there are at most `largest`; else `error`. A pipe or device might never end."""
    try:
        size, regular = path.stat().st_size, path.is_file()
    except OSError as found:
        raise error(f"{path} can't be read: {found.strerror or found}") from found
    if not regular:
        raise error(f"{path} is no file; expected one")
    if size > largest:
        raise error(f"{path} has {size / 1e6:,.0f} MB; expected at most {largest / 1e6:,.0f}")
    return size


def read_json(path: Path, error: type[SteerLensError]) -> Any:
    """What a JSON file holds, within the bounds of `parse_json`."""
    return parse_json(read_bytes(path, error), str(path), error)


def parse_json(text: str | bytes, where: str, error: type[SteerLensError]) -> Any:
    """What a JSON text says, if it is within bounds; else `error`, which calls the text `where`.

    Refused: more than `DEPTH` levels, a text that would take over `MEMORY` bytes, whole numbers of over 40 digits, NaN and
    infinities (also as 1e999), and names that an object has twice.
    """
    try:
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if weight(data) > MEMORY:
            raise error(f"{where} would take over {MEMORY / 1e6:.0f} MB of memory: too large to be read")
        found = json.loads(
            data.decode(), parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_object
        )
        within = _depth(found) <= DEPTH
    except RecursionError:
        within = False
    except (_Refused, ValueError, MemoryError) as refused:
        if isinstance(refused, SteerLensError):
            raise
        raise error(f"{where} can't be read as JSON: {type(refused).__name__}: {refused!s:.200}") from refused
    if not within:
        raise error(f"{where} can't be read: it is nested over {DEPTH} levels deep")
    return found


def weight(data: bytes) -> int:
    """The bytes that Python takes, at the most, for what a JSON text says and for reading it."""
    text = len(data) * (2 if data.isascii() else 8)
    return text + 180 * data.count(b"[") + 450 * data.count(b"{") + 64 * data.count(b",")


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise _Refused(f"a whole number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise _Refused(f"{digits[:20]} is no finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"an object has the name {twice!r:.60} twice")
    return found


def _depth(found: Any) -> int:
    """Levels of lists and objects, counted up to one more than DEPTH."""
    level, depth = [found], 0
    while level and depth <= DEPTH:
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        depth += bool(inner)
    return depth
