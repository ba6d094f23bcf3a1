"""Files and hub data sets as rows with named columns; what can't be read says why."""

import csv
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlens.errors import PairsError

ENDINGS = (".csv", ".json", ".jsonl")
_PROBE_SECONDS = 10
_HUB = re.compile(r"(?P<name>[^/:\s]+/[^/:\s]+)(?::(?P<config>[^/:\s]+))?(?:/(?P<split>[^/:\s]+))?")
_PARTS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}


class _UnreadableError(ValueError):
    """What is wrong with a file's rows; raised again with the file's name."""


@dataclass(frozen=True)
class Table:
    """Rows as {column: value}, as the source has them, and where they come from."""

    rows: tuple[dict[str, Any], ...]
    provenance: str

    @property
    def columns(self) -> list[str]:
        """Every row's columns, in the order of their first use."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Any]:
        """One value per row; None where a row lacks it."""
        return [row.get(name) for row in self.rows]

    @property
    def splits(self) -> list[Any] | None:
        """The column `split`, if there is one, in our words for the parts: "validation", "dev" and the like are "val"."""
        if "split" not in self.columns:
            return None
        return [_PARTS.get(_word(value), value) if isinstance(value, str) else value for value in self.column("split")]


def read_file(path: Path) -> tuple[dict[str, Any], ...]:
    """The rows of a .csv with a header, of a .json list of objects, of a .jsonl, or of a .txt with one prompt a line.

    A .json list of texts is one of prompts; {part: rows} puts the part into the column `split`.
    """
    ending = path.suffix.lower()
    try:
        if ending == ".csv":
            return _read_csv(path)
        text = path.read_text(encoding="utf-8-sig")
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        if ending == ".txt":
            return tuple({"prompt": line.rstrip("\r")} for _, line in lines)
        # Some published .jsonl files are one list.
        whole = ending == ".json" or text.lstrip().startswith("[")
        found = json.loads(text) if whole else [_read_line(i, line) for i, line in lines]
        return _rows(found)
    except RecursionError as error:
        raise PairsError(f"{path} can't be read as {ending[1:]}: it is nested too deeply to be a table") from error
    except (_UnreadableError, ValueError, OSError, csv.Error) as error:
        raise PairsError(f"{path} can't be read as {ending[1:]}: {error}") from error


def _rows(found: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(found, dict) and found and all(_word(part) in _PARTS for part in found):
        inner = [(part, row) for part, rows in found.items() for row in (rows if isinstance(rows, list) else [None])]
        found = [{**row, "split": part} if isinstance(row, dict) else None for part, row in inner]
    if isinstance(found, list) and found and all(isinstance(row, str) for row in found):
        return tuple({"prompt": row} for row in found)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise _UnreadableError("expected a list of objects with a field for each column, or one such object a line")
    return tuple(found)


def _read_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise _UnreadableError(f"line {number}: {error}") from error


def _read_csv(path: Path) -> tuple[dict[str, Any], ...]:
    """Rows of texts; a quote that is left open, or a row of more fields than the header, is named by its line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader, begins = csv.reader(file, strict=True), 1
        rows: list[dict[str, Any]] = []
        try:
            header = next(reader, [])
            if not header:
                raise _UnreadableError("it is empty; expected a header with the columns' names")
            begins = reader.line_num + 1
            for fields in reader:
                if len(fields) > len(header):
                    raise _UnreadableError(
                        "its rows have more fields than its header; a text with a comma needs quotes"
                    )
                if fields:
                    rows.append(dict(zip(header, [*fields, *[None] * (len(header) - len(fields))], strict=True)))
                begins = reader.line_num + 1
        except csv.Error as error:
            raise _UnreadableError(
                f"the row that begins on line {begins}: {error} (line {reader.line_num}); is a quote left open there? A quote "
                'inside a quoted text is written twice: ""'
            ) from error
        except ValueError as error:
            raise _UnreadableError(f"line {begins}: {error}" if begins > 1 else str(error)) from error
        return tuple(rows)


def _word(part: str) -> str:
    return str(part).strip().lower().split("_")[0].split(".")[0]


def read_hub(source: str) -> Table:
    """The rows of "owner/name", ":config" and "/split" after it where wanted; several splits become the column `split`."""
    import datasets
    import huggingface_hub

    wanted = _HUB.fullmatch(source)
    if wanted is None:
        raise PairsError(
            f"'hf:{source}' names no hub data set; expected 'hf:owner/name', ':config' and '/split' behind it"
        )
    name, config, split = wanted["name"], wanted["config"], wanted["split"]
    try:
        with suppress(huggingface_hub.errors.OfflineModeIsEnabled):  # then the cache is read without a request
            # load_dataset retries for half a minute without a network; this one request does not.
            huggingface_hub.HfApi().dataset_info(name, timeout=_PROBE_SECONDS)
        loaded = datasets.load_dataset(*(name, config) if config else (name,))
    except Exception as error:  # the hub's client raises a dozen kinds, most of them about the network
        raise PairsError(
            f"can't load {name!r} from the hub ({type(error).__name__}: {str(error)[:200]}). Without a network: download "
            "its file elsewhere and pass the path of the .csv, .json or .jsonl; or, if it is in the cache, set HF_HUB_OFFLINE=1"
        ) from error
    if split is not None and split not in loaded:
        raise PairsError(f"{name!r} has no part {split!r}; expected one of {sorted(map(str, loaded))}")
    if split is not None or len(loaded) == 1:  # no split declared: .train, .val and .test draw one
        part = loaded[split] if split is not None else next(iter(loaded.values()))
        return Table(tuple(part.to_list()), f"hf:{source}")
    rows = [{**row, "split": _part(name, str(key))} for key, part in loaded.items() for row in part.to_list()]
    return Table(tuple(rows), f"hf:{source}")


def _part(name: str, split: str) -> str:
    """ "train_prefs" is a training part, "validation", "dev" and the like the validation part, "test_prefs" the test part."""
    if _word(split) not in _PARTS:
        raise PairsError(
            f"{name!r} has a part {split!r}; expected names that begin with {sorted(_PARTS)}. Name the part that you "
            f"want: 'hf:{name}/{split}'"
        )
    return _PARTS[_word(split)]


def recognise(table: Table, known: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The one known set of columns that the table has; more columns may stand beside it.

    Raises:
        PairsError: it has none of them, or several.
    """
    columns = set(table.columns)
    found = [names for names in known if set(names) <= columns]
    found = [names for names in found if not any(set(names) < set(others) for others in found)]
    if len(found) == 1:
        return found[0]
    if found:
        raise PairsError(
            f"{table.provenance} has the columns of several formats: {listed_columns(found, ' and ')}. Leave out all but one's"
        )
    raise PairsError(f"{table.provenance} has the columns {table.columns}; expected {listed_columns(known, ' or ')}")


def listed_columns(known: Sequence[tuple[str, ...]], between: str) -> str:
    """ "(prompt, chosen, rejected) or (...)"."""
    return between.join("(" + ", ".join(names) + ")" for names in known)
