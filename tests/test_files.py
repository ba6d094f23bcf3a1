"""Files are read within bounds and written whole or not at all; every refusal is an error of ours."""

import errno
import os
from pathlib import Path

import pytest

from steerlens.errors import MeasureError, VectorError
from steerlens.files import DEPTH, parse_json, read_bytes, read_json, whole_file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 200_000, "nested over"),
        ("[" * 200_000 + "]" * 200_000, "nested over"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested over"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested over"),
        ("[" + "1" * 41 + "]", "41 digits"),
        ("[-" + "9" * 5000 + "]", "5001 digits"),
        ("NaN", "no finite number"),
        ("[-Infinity]", "no finite number"),
        ("[1e999]", "no finite number"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        ('{"a": ', "can't be read as JSON"),
        (b"\xff\xfe[]", "can't be read as JSON"),
        ("", "can't be read as JSON"),
        ("[" + "{}," * 3_000_000 + "{}]", "too large"),
    ],
)
def test_json_out_of_bounds_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(VectorError, match=says) as told:
        parse_json(text, "this text", VectorError)
    assert "this text" in str(told.value)
    assert len(str(told.value)) < 400


def test_json_within_bounds_is_read_as_it_is() -> None:
    text = '{"a": [1, -2.5e-300, true, null, "\\ud83d é"], "b": 18446744073709551615}'
    found = parse_json(text, "x", MeasureError)
    assert found == {"a": [1, -2.5e-300, True, None, "\ud83d é"], "b": 2**64 - 1}
    nested = "[" * DEPTH + "]" * DEPTH
    assert parse_json(nested, "x", MeasureError) is not None
    assert len(parse_json("[" + "0.125," * 200_000 + "1]", "x", MeasureError)) == 200_001


def test_what_is_no_regular_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "no file"), (tmp_path / "none", "No such file")):
        with pytest.raises(MeasureError, match=says):
            read_json(path, MeasureError)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(MeasureError, match="no file"):
        read_json(tmp_path / "pipe", MeasureError)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(MeasureError, match="100,000 MB"):
        read_bytes(tmp_path / "sparse", MeasureError)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_the_disk_says_is_told_as_ours_and_leaves_nothing(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{'n' * 250}.json"

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VectorError, match=os.strerror(code)), whole_file(path, VectorError) as partial:
        partial.write_text("whole")
    monkeypatch.undo()
    with (
        pytest.raises(VectorError, match=os.strerror(code)),
        whole_file(path, VectorError) as partial,
        partial.open("w") as file,
    ):
        full(file.write("half"))
    assert list(tmp_path.iterdir()) == []
    with whole_file(path, VectorError) as partial:  # as long a name as the system takes
        partial.write_text("whole")
    assert path.read_text() == "whole"
