"""Finished work in a .jsonl file, found by key: written as it comes, read again instead of being done twice.

Records are appended in one write and brought to the disk before the call returns. A line that a killed process left
unfinished is skipped, and the next one starts on a line of its own. A whole line that lacks what its kind must have, or has it
of another type, was changed by somebody: that is an error, for a record that is passed over in silence is paid for again.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steerlens.checks.values import checked_path
from steerlens.errors import MeasureError
from steerlens.files import MEMORY, disk_errors, parse_json, weight

_LINE = 16_000_000  # bytes


def digest(settings: Any) -> str:
    """The key of some settings: texts, numbers, and lists and dicts of them."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]


class Ledger:
    """Records of one kind by key; in memory only without a path. Threads may share it.

    Args:
        path: a .jsonl file.
        kind: of its records.
        needed: what each of them has, by name: its type.

    Raises:
        MeasureError: the path's folder does not exist, or the file holds something else, or damaged records.
    """

    def __init__(self, path: str | Path | None, kind: str, needed: Mapping[str, type]) -> None:
        self.path = None if path is None else checked_path("path", path)
        self.kind, self.needed = kind, needed
        self._records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        if self.path is not None and not self.path.parent.is_dir():
            raise MeasureError(f"can't write to {self.path}: there is no folder {self.path.parent}")
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def add(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Append the records; they are in the file, all of them, when the call returns."""
        lines = [json.dumps({"kind": self.kind, "key": key, **record}) + "\n" for key, record in records.items()]
        with self._lock:
            if self.path is not None and lines:
                with disk_errors(f"can't write to {self.path}", MeasureError):
                    _append(self.path, "".join(lines))
            self._records.update({key: dict(record) for key, record in records.items()})

    def _read(self, path: Path) -> None:
        if not path.is_file():  # a folder, or a pipe that might never end
            raise MeasureError(
                f"{path} can't be read: it is no file; expected a .jsonl file of steerlens, or a new name"
            )
        total = number = 0
        try:
            with path.open("rb") as file:
                while line := file.readline(_LINE):
                    number, total = number + 1, total + weight(line)
                    if len(line) == _LINE or total > MEMORY:
                        raise MeasureError(f"{path}, line {number}: too large to be read; name a new file")
                    self._read_line(line, f"{path}, line {number}")
        except OSError as error:
            raise MeasureError(
                f"{path} can't be read ({error}); expected a .jsonl file of steerlens, or a new name"
            ) from error

    def _read_line(self, line: bytes, where: str) -> None:
        opening = f'{{"kind": "{self.kind}"'.encode()
        if not (line.startswith(opening) or opening.startswith(line.rstrip())):
            raise MeasureError(f"{where} is {line[:60]!r}; expected a record of the kind {self.kind!r}, as steerlens writes "
                               "them: name another file, or a new one")  # fmt: skip
        if not line.rstrip().endswith(b"}"):  # what a killed process left
            return
        try:
            record = parse_json(line, where, MeasureError)
        except MeasureError as error:
            if isinstance(error.__cause__, json.JSONDecodeError):  # cut off within a record that has a "}" in it
                return
            raise
        needed = {"kind": str, "key": str, **self.needed}
        odd = [name for name, kind in needed.items() if not _is(record.get(name), kind)]
        if odd:
            raise MeasureError(f"{where} lacks {odd}, or has something else there: it was changed. Delete the line: what it "
                               "held is made again")  # fmt: skip
        del record["kind"]
        self._records[record.pop("key")] = record


def _is(value: Any, kind: type) -> bool:
    if kind is int:  # a count
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return isinstance(value, kind)


def _append(path: Path, text: str) -> None:
    """Add a text to a file, all of it or nothing, and bring it to the disk."""
    with path.open("ab+", buffering=0) as file:  # unbuffered: one write, whatever its length
        size = file.seek(0, os.SEEK_END)
        data = (_line_break_missing(file) + text).encode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise


def _line_break_missing(file: Any) -> str:
    if not file.seek(0, os.SEEK_END):
        return ""
    file.seek(-1, os.SEEK_END)
    return "" if file.read(1) == b"\n" else "\n"
