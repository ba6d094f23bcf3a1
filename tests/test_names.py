"""Names of several seeds: taken apart and put together again, and nothing else is taken for one."""

import pytest

from steerlens.vectors.names import first_two, seed_families, with_seed, without_seed


@pytest.mark.parametrize("seed", [0, 7, 12, -3])
@pytest.mark.parametrize("name", ["bipo", "bipo 2", "my seed 4 way"])
def test_a_seed_s_name_gives_back_the_common_one(name: str, seed: int) -> None:
    assert without_seed(with_seed(name, seed)) == name


@pytest.mark.parametrize("label", ["bipo", "bipo 2", "seedless 3", "a seed", "random (given)", ""])
def test_other_labels_stay_as_they_are(label: str) -> None:
    assert without_seed(label) == label


def test_one_seed_is_no_family() -> None:
    labels = ["bipo seed 0", "caa", "bipo seed 3", "pca seed 1"]
    assert seed_families(labels) == {"bipo": ("bipo seed 0", "bipo seed 3")}


def test_the_two_are_the_first_and_the_first_that_is_no_other_seed_of_it() -> None:
    assert first_two(["bipo seed 0", "bipo seed 1", "caa", "pca"]) == (0, 2)
    assert first_two(["caa", "bipo seed 0", "bipo seed 1"]) == (0, 1)
    assert first_two(["bipo seed 0", "bipo seed 1"]) == (0, 1)
    assert first_two(["bipo 1", "bipo 2"]) == (0, 1)
