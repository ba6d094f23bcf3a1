"""Checks of arguments: what a number, a list, a text and a path may be, and that every refusal is short and ours."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steerlens.checks import values as arguments
from steerlens.errors import MeasureError, ModelError, SteeringError, SteerLensError

MODEL = SimpleNamespace(cfg=SimpleNamespace(n_layers=4, model_name="made up"))
LIMITLESS = 10**5000  # Python refuses to write it out


class Unshowable:
    """What has no text of its own."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


NO_NUMBERS: tuple[Any, ...] = (
    None, "1", "", b"1", [], [1], {}, {1}, object(), Unshowable(), True, np.True_, torch.tensor(True), math.nan, math.inf,
    -math.inf, 1j, np.array([1]), torch.ones(2), torch.empty((), device="meta"), np.datetime64("2020-01-01", "ns"), pd.NA, pd.NaT,
    LIMITLESS, int, range(3),
)  # fmt: skip


def refused(
    check: Callable[..., Any], *values: Any, error: type[SteerLensError] = MeasureError, **options: Any
) -> None:
    for value in values:
        with pytest.raises(error) as caught:
            check(value, **options)
        assert len(str(caught.value)) < 400
        assert "expected" in str(caught.value)


def test_a_number_comes_back_as_pythons_own() -> None:
    for value in (
        2,
        2.0,
        np.int64(2),
        np.float32(2),
        np.array(2),
        torch.tensor(2),
        torch.tensor(2.0),
        Fraction(2),
        np.uint8(2),
    ):
        found = arguments.checked_number("x", value)
        assert found == 2
        assert type(found) is float
    refused(lambda x: arguments.checked_number("x", x), *NO_NUMBERS)
    assert arguments.checked_number("x", -math.inf, infinite=True) == -math.inf
    refused(lambda x: arguments.checked_number("x", x, infinite=True), math.nan)


def test_the_bounds_of_a_number_are_kept_and_told() -> None:
    assert arguments.checked_number("x", 0, least=0, most=1) == 0
    with pytest.raises(MeasureError, match=r"x=-1; expected a finite number from 0 to 1"):
        arguments.checked_number("x", -1, least=0, most=1)
    with pytest.raises(MeasureError, match=r"x=0; expected a finite number above 0 and below 1"):
        arguments.checked_number("x", 0, above=0, below=1)
    refused(lambda x: arguments.checked_number("x", x, above=0, below=1), 0, 1, 0.0, 1.0)


def test_a_count_is_a_whole_number_in_its_range() -> None:
    for value in (3, np.int32(3), torch.tensor(3), np.array(3)):
        assert arguments.checked_count("n", value) == 3
        assert type(arguments.checked_count("n", value)) is int
    refused(lambda x: arguments.checked_count("n", x), *NO_NUMBERS, 0, -1, 1.0, np.float64(2.0), 2**40)
    refused(lambda x: arguments.checked_count("n", x, least=0, most=3), 4, -1)
    assert arguments.checked_seed(np.int64(0)) == 0
    refused(arguments.checked_seed, *NO_NUMBERS, -1, 0.0, 2**63)


def test_a_level_is_a_share_strictly_between_nothing_and_all() -> None:
    assert arguments.checked_level(np.float64(0.9)) == 0.9
    refused(arguments.checked_level, *NO_NUMBERS, 95, 0, 1, 1.0, -0.5)


def test_a_flag_is_a_truth_value_and_nothing_like_one() -> None:
    for value in (True, np.True_, torch.tensor(True)):
        assert arguments.checked_flag("progress", value) is True
    refused(lambda x: arguments.checked_flag("progress", x), None, 0, 1, "no", [], np.array([True]), torch.tensor(1))


def test_multipliers_are_a_list_of_finite_numbers_each_once() -> None:
    for given in (
        [-1, 0, 1],
        (-1.0, 0.0, 1.0),
        range(-1, 2),
        np.arange(-1, 2),
        np.float32([-1, 0, 1]),
        torch.arange(-1, 2),
        pd.Series([-1, 0, 1]),
    ):
        found = arguments.checked_multipliers(given)
        assert found == (-1.0, 0.0, 1.0)
        assert all(type(m) is float for m in found)
    assert str(arguments.checked_multipliers([-0.0])[0]) == "0.0"
    wrong: tuple[Any, ...] = (
        None, 1, 1.5, "1", "", b"12", [], (), {}, {1: 2}, {1, 2}, object(), np.array(1), np.ones((2, 2)),
        pd.DataFrame({"m": [1]}), (1, 1), (1, 1.0), (0, -0.0), [True], ["1"], [None], [math.nan], (math.inf,), iter([1]),
        Unshowable(), [LIMITLESS], torch.ones(2, device="meta"), list,
    )  # fmt: skip
    refused(arguments.checked_multipliers, *wrong, error=SteeringError)
    assert arguments.checked_multipliers((1, 1), repeats=True) == (1, 1)
    with pytest.raises(SteeringError, match=r"multipliers=\(2,\)"):
        arguments.checked_multipliers(2)


def test_seeds_and_layers_are_lists_without_repeats() -> None:
    assert arguments.checked_seeds(np.arange(2)) == (0, 1)
    refused(arguments.checked_seeds, [1.5, 1.9], [0, 0], [], 0, "0", None, [-1], [True])
    assert arguments.checked_layers(MODEL, pd.Series([1, 3])) == (1, 3)
    refused(lambda x: arguments.checked_layers(MODEL, x), [4], [1, 1], [], 1, "1", None, [1.0], [[1]], error=ModelError)


def test_a_layer_is_one_that_the_model_has() -> None:
    for value in (3, np.int64(3), torch.tensor(3)):
        assert type(arguments.checked_layer(MODEL, value)) is int
    refused(lambda x: arguments.checked_layer(MODEL, x), *NO_NUMBERS, 4, -1, 1.0, torch.tensor([1]), error=ModelError)


def test_texts_are_a_list_and_one_text_is_none() -> None:
    for given in (["a", "b"], ("a", "b"), pd.Series(["a", "b"], index=[7, 8]), np.array(["a", "b"])):
        assert arguments.checked_texts("prompts", given) == ("a", "b")
        assert all(type(text) is str for text in arguments.checked_texts("prompts", given))
    with pytest.raises(MeasureError, match=r"one text; expected a list of at least one text: prompts=\['Why\?'\]"):
        arguments.checked_texts("prompts", "Why?")
    refused(
        lambda x: arguments.checked_texts("prompts", x),
        None,
        1,
        [],
        {},
        {"a"},
        [1],
        [None],
        [b"a"],
        ["\ud800"],
        [["a"]],
        object(),
    )
    refused(lambda x: arguments.checked_text("label", x), None, 1, b"a", "", "\ud800", [])
    assert arguments.checked_text("label", "", empty=True) == ""


def test_a_choice_is_one_of_a_few_values_of_their_kind() -> None:
    assert arguments.checked_choice("sign", np.float64(-1.0), (1, -1)) == -1
    assert arguments.checked_positions(np.str_("all")) == "all"
    refused(arguments.checked_positions, None, "ALL", [], {}, 1, np.array(["all"]), Unshowable(), error=SteeringError)
    refused(lambda x: arguments.checked_choice("sign", x, (1, -1)), True, 0, "1", None, [1], math.nan)


def test_a_path_is_one_that_the_system_takes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for fine in (file, str(file), tmp_path / "new", tmp_path):
        assert arguments.checked_path("path", fine) == Path(fine)
    refused(
        lambda x: arguments.checked_path("path", x),
        None, "", 1, b"x", [], {}, object(), "a\0b", "x" * 5000, tmp_path / ("n" * 300), file / "below", "\ud800", True,
    )  # fmt: skip


def test_an_object_of_ours_is_told_from_its_class_and_from_others() -> None:
    with pytest.raises(MeasureError, match="answers is the class dict; expected a Path"):
        arguments.checked_kind("answers", dict, Path)
    with pytest.raises(MeasureError, match="p is a str; expected a Path: make one"):
        arguments.checked_kind("p", "x", Path, cure="make one")
