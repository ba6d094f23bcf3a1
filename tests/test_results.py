"""Results go to a file and come back: every field, to the bit, or an error that says what is wrong with the file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import made_up
import numpy as np
import pandas as pd
import pytest
from jaxtyping import Float

import steerlens as sl
from steerlens.results.result import Result, Stored


@dataclass(frozen=True, eq=False)
class Inner(Stored):
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Measured(Result):
    values: np.ndarray
    counts: np.ndarray
    multipliers: tuple[float, ...]
    texts: tuple[tuple[str, ...], ...]
    by_name: dict[str, Inner]
    by_multiplier: dict[float, float]
    limit: float
    label: str | None = None

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": self.values.ravel()})


def example() -> Measured:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 2)) * 1e-7
    values[0, 0], values[1, 1] = np.nan, np.inf
    return Measured(
        values=values,
        counts=np.zeros((0, 4), dtype=np.int32),
        multipliers=(-1.0, 0.1, 1 / 3),
        texts=(("</script> <s>", "\u2028 \U0001f600 \ud83d"), ()),
        by_name={"a": Inner(("x", "y"))},
        by_multiplier={-1.0: float("nan"), 2.5: 1.0},
        limit=float("-inf"),
    )


def test_every_field_comes_back_to_the_bit(tmp_path: Path) -> None:
    there = example()
    back = sl.load_result(there.save(tmp_path / "r.json"))
    assert type(back) is Measured
    assert back.values.tobytes() == there.values.tobytes()
    assert back.counts.dtype == np.int32
    assert back.counts.shape == (0, 4)
    assert (back.multipliers, back.texts, back.limit, back.label) == (
        there.multipliers,
        there.texts,
        there.limit,
        there.label,
    )
    assert back.by_name["a"].names == ("x", "y")
    assert np.isnan(back.by_multiplier[-1.0])
    assert list(back.by_multiplier) == [-1.0, 2.5]


def test_the_file_is_plain_json_for_other_programs(tmp_path: Path) -> None:
    text = example().save(tmp_path / "r.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["result"]["$type"] == "Measured"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "can't be read"),
        ("[]", "can't be read"),
        ('{"format": "other"}', "has the format 'other'"),
        ('{"format": "steerlens result", "result": {"$type": "Path", "$schema": 1}}', "none of that name"),
        ('{"format": "steerlens result", "result": {"$type": "Inner", "$schema": 7, "names": []}}', "schema 7"),
        ('{"format": "steerlens result", "result": {"$type": "Inner", "$schema": 1, "no": 1}}', "other fields"),
    ],
)
def test_a_file_that_holds_no_result_says_so(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(sl.MeasureError, match=says):
        sl.load_result(path)


def test_what_can_t_be_written_leaves_no_file(tmp_path: Path) -> None:
    @dataclass(frozen=True, eq=False)
    class Odd(Measured):
        label: object = object()  # type: ignore[assignment]

    odd = Odd(**{name: getattr(example(), name) for name in ("values", "counts", "multipliers", "texts", "by_name",
                                                             "by_multiplier", "limit")})  # fmt: skip
    with pytest.raises(sl.MeasureError, match="a object in a result"):
        odd.save(tmp_path / "r.json")
    with pytest.raises(sl.MeasureError, match="no folder"):
        example().save(tmp_path / "none" / "r.json")
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True, eq=False)
class Labelled(Result):
    labels: Annotated[tuple[str, ...], "vector"]
    rows: Annotated[tuple[tuple[float, ...], ...], "vector multiplier"]
    values: Float[np.ndarray, "vector multiplier"]
    also: Annotated[tuple[str, ...] | None, "multiplier"] = None

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": self.values.ravel()})


def test_a_file_whose_labels_and_arrays_disagree_in_length_is_refused(tmp_path: Path) -> None:
    there = Labelled(("a", "b"), ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), np.ones((2, 3)))
    path = there.save(tmp_path / "r.json")
    assert sl.load_result(path).rows == there.rows
    wrong: list[tuple[str, object, str]] = [
        ("labels", ["a"], "Labelled"),
        ("labels", ["a", "b", "c"], "Labelled"),
        ("labels", ["a", 3], "labels"),
        ("rows", [[1.0, 2.0, 3.0], [4.0, 5.0]], "rows"),
        ("rows", [[1.0, 2.0, 3.0]], "rows"),
        ("also", ["x", "y"], "also"),
        ("values", {"$array": [[1.0], [2.0]], "dtype": "float64", "shape": [2, 1]}, "values"),
    ]
    for name, value, says in wrong:
        found = json.loads(there.save(path).read_text())
        found["result"][name] = value
        path.write_text(json.dumps(found))
        with pytest.raises(sl.MeasureError, match=says):
            sl.load_result(path)


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        (["a"], "U500000000", [1]),
        ([[]], "object", [1]),
        ([1.0], "float64", [2]),
        ([1.0], "float64", [-1]),
        ([1.0], "float64", [True]),
        ([1.0], "float64", 1),
        ([1.0], "float64", [10**12]),
        ([[1.0], [2.0, 3.0]], "float64", [2, 1]),
        ([[1.0, 2.0], [3.0]], "float64", [3]),
        ([1e300], "float16", [1]),
        ([300], "int8", [1]),
        ([1.5], "int64", [1]),
        ([1], "bool", [1]),
        ([True], "float64", [1]),
        (["1"], "float64", [1]),
        ([None], "float64", [1]),
        ([1.0], "complex128", [1]),
        ([0], "datetime64[s]", [1]),
        ([{"$float": "1e999"}], "float64", [1]),
        ({"$map": []}, "float64", [0]),
        ([1.0], ["float64"], [1]),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(
    values: object, dtype: object, shape: object, tmp_path: Path
) -> None:
    path = example().save(tmp_path / "r.json")
    found = json.loads(path.read_text())
    found["result"]["values"] = {"$array": values, "dtype": dtype, "shape": shape}
    path.write_text(json.dumps(found))
    with pytest.raises(sl.MeasureError):
        sl.load_result(path)


FREE = {"missing", "controls", "snapshots", "history", "settings", "text_positions"}
"""fields that are as long as they like"""


def shortened(told: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every list of labels in a result's JSON, one shorter than it was."""
    if isinstance(told, dict):
        for name, value in told.items():
            if not name.startswith("$") and name not in FREE and isinstance(value, list) and len(value) > 1:
                yield (*path, name), value[:-1]
            yield from shortened(value, (*path, name))
    elif isinstance(told, list):
        for i, value in enumerate(told):
            yield from shortened(value, (*path, i))


def test_every_result_knows_how_long_its_lists_are(tmp_path: Path) -> None:
    shift = made_up.shift("bipo", 4.0, 2.0)
    answers = sl.Answers(
        "toy", ("bipo", "caa"), (1.0, 2.0), (-1.0, 1.0), ("Why?", "How?"), (((("a",) * 2,) * 2,) * 2,) * 2,
        np.ones((2, 2, 2, 2), dtype=int), np.ones((2, 2, 2, 2), dtype=bool), 5, "all", 1.0, 0,
    )  # fmt: skip
    judged = sl.Judged(
        "rule", (0.0, 1.0), ("bipo", "caa"), (1.0, 2.0), (-1.0, 1.0), ("Why?", "How?"), np.ones((2, 2, 2, 2)), (), {}
    )
    lens = sl.LogitLens("bipo", (("a", 1.0), ("b", 0.5)), (("c", -1.0), ("d", -0.5)), 0.1, (2.0, 1.0), (-2.0, -1.0))
    sweep = sl.Sweep(("bipo", "caa"), (1, 1), (0, 0), (shift, shift), (0.1, float("nan")))
    path, checked = tmp_path / "r.json", set()
    for result in (shift, sl.DoseResponse(shift), answers, judged, lens, sweep, made_up.comparison()):
        result.save(path)
        sl.load_result(path)
        whole = json.loads(path.read_text())
        for place, value in shortened(whole["result"]):
            if "vectors" in place[:-1] or place[-2:] in (("steered", "texts"),):
                continue
            broken = json.loads(json.dumps(whole))
            at = broken["result"]
            for step in place[:-1]:
                at = at[step]
            at[place[-1]] = value
            path.write_text(json.dumps(broken))
            with pytest.raises(sl.MeasureError, match="can't be read back"):
                sl.load_result(path)
            checked.add((type(result).__name__, place[-1]))
    assert len(checked) > 25
