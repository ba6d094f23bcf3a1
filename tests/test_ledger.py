"""The file of finished work: what was written is found again, whatever killed the process that wrote it."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from steerlens.errors import MeasureError
from steerlens.results.ledger import Ledger, digest

NEEDED = {"text": str}


def test_what_was_added_is_found_by_a_later_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    ledger = Ledger(path, "answer", NEEDED)
    assert "x" not in ledger
    ledger.add({"x": {"text": "über\nzwei Zeilen \u2028"}, "y": {"text": ""}})
    ledger.add({})
    ledger.add({"z": {"text": "last"}})
    for reader in (ledger, Ledger(path, "answer", NEEDED)):
        assert (reader["x"]["text"], reader["y"], reader["z"]) == (
            "über\nzwei Zeilen \u2028",
            {"text": ""},
            {"text": "last"},
        )
        assert "w" not in reader
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["x", "y", "z"]


def test_without_a_path_it_is_kept_in_memory_only() -> None:
    ledger = Ledger(None, "answer", NEEDED)
    ledger.add({"x": {"text": "a"}})
    assert ledger["x"] == {"text": "a"}


@pytest.mark.parametrize("kept", [1, 5, 14, 30, 40])
def test_a_line_cut_short_is_skipped_and_what_follows_is_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.jsonl"
    Ledger(path, "answer", NEEDED).add({"x": {"text": "first"}})
    whole = path.read_bytes()
    Ledger(path, "answer", NEEDED).add({"y": {"text": "second"}})
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    after = Ledger(path, "answer", NEEDED)
    assert ("x" in after, "y" in after) == (True, False)
    after.add({"z": {"text": "third"}})
    last = Ledger(path, "answer", NEEDED)
    assert ("x" in last, "y" in last, last["z"]["text"]) == (True, False, "third")


def test_threads_share_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    ledger = Ledger(path, "answer", NEEDED)
    threads = [
        threading.Thread(target=lambda n=n: [ledger.add({f"{n} {i}": {"text": "x" * 5000}}) for i in range(20)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Ledger(path, "answer", NEEDED)
    assert all(found[f"{n} {i}"]["text"] == "x" * 5000 for n in range(8) for i in range(20))


@pytest.mark.parametrize(
    "text", ['{"prompt": "a"}\n', "prompt,chosen\n", '{"kind": "judgement", "key": "x"}\n', "\x00\x01", "{\n  1\n}"]
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(MeasureError, match="expected a record of the kind 'answer'"):
        Ledger(path, "answer", NEEDED)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "answer", "text": "a"}',
        '{"kind": "answer", "key": "x"}',
        '{"kind": "answer", "key": 3, "text": "a"}',
        '{"kind": "answer", "key": "x", "text": null}',
        '{"kind": "answer", "key": "x", "text": "a", "text": "b"}',
        '{"kind": "answer", "key": "x", "text": NaN}',
        '{"kind": "answer", "key": "x", "text": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"kind": "answer", "key": "x", "text": "a", "n": ' + "1" * 5000 + "}",
    ],
)
def test_a_whole_line_that_was_changed_is_refused_and_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    Ledger(path, "answer", NEEDED).add({"x": {"text": "a"}})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(MeasureError, match="line 2") as told:
        Ledger(path, "answer", NEEDED)
    assert len(str(told.value)) < 500


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    ledger = Ledger(path, "answer", NEEDED)
    ledger.add({"x": {"text": "a"}})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MeasureError, match="No space left"):
        ledger.add({"y": {"text": "b"}})
    assert path.read_bytes() == before
    assert "y" not in ledger


def test_a_folder_that_is_not_there_and_a_folder_as_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="there is no folder"):
        Ledger(tmp_path / "missing" / "a.jsonl", "answer", NEEDED)
    with pytest.raises(MeasureError, match="can't be read"):
        Ledger(tmp_path, "answer", NEEDED)


def test_a_key_depends_on_every_setting_and_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [2.0, None]}) == digest({"b": [2.0, None], "a": 1})
    assert len({digest(x) for x in ([1], [1, 2], ["1"], [[1]], {"a": 1}, [None])}) == 6
