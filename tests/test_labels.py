"""Names of vectors: the user's, or the methods', numbered where they repeat."""

import dataclasses

import pytest
import torch

import steerlens as sl
from steerlens.vectors.labels import labelled


def vector(method: str) -> sl.SteeringVector:
    return sl.SteeringVector(torch.ones(4), layer=0, method=method)


def test_one_vector_has_its_method_s_name() -> None:
    assert list(labelled(vector("caa"))) == ["caa"]


def test_repeated_methods_are_numbered_in_order() -> None:
    made = [vector(name) for name in ("caa", "bipo", "caa", "caa")]
    found = labelled(made)
    assert list(found) == ["caa 1", "bipo", "caa 2", "caa 3"]
    assert list(found.values()) == made


def test_a_number_never_meets_a_method_of_that_name() -> None:
    assert list(labelled([vector(name) for name in ("caa 1", "caa", "caa")])) == ["caa 1", "caa 2", "caa 3"]


def test_a_given_control_is_told_from_the_controls_of_a_comparison() -> None:
    assert list(labelled([vector("random")])) == ["random (given)"]


def test_a_mapping_s_names_are_kept() -> None:
    assert list(labelled({"mine": vector("caa"), "theirs": vector("caa")})) == ["mine", "theirs"]


@pytest.mark.parametrize("wrong", [[], {}, {1: vector("caa")}, "caa", [torch.ones(4)], torch.ones(4)])
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(sl.VectorError, match="expected"):
        labelled(wrong)


def of_seed(seed: int | None, method: str = "bipo", *, layer: int = 0, **settings: object) -> sl.SteeringVector:
    return sl.SteeringVector(torch.ones(4), layer=layer, method=method, seed=seed, settings=settings)


def test_seeds_of_one_method_have_one_name_and_their_seeds() -> None:
    made = [of_seed(3, steps=10, lr=0.1, patience=2), of_seed(0, steps=20, lr=0.1, patience=2), vector("caa")]
    assert list(labelled(made)) == ["bipo seed 3", "bipo seed 0", "caa"]


@pytest.mark.parametrize(
    "other",
    [
        of_seed(1, layer=1, lr=0.1),
        of_seed(1, lr=0.2),
        of_seed(0, lr=0.1),
        of_seed(None, lr=0.1),
        -of_seed(0, lr=0.1),
        dataclasses.replace(of_seed(1, lr=0.1), data="other pairs"),
    ],
    ids=["layer", "lr", "same seed", "no seed", "negative", "data"],
)
def test_what_differs_by_more_than_the_seed_is_numbered(other: sl.SteeringVector) -> None:
    assert list(labelled([of_seed(0, lr=0.1), other])) == ["bipo 1", "bipo 2"]


def test_two_families_of_a_method_are_numbered_and_keep_their_seeds() -> None:
    made = [of_seed(0), of_seed(1), of_seed(0, layer=2), of_seed(1, layer=2), of_seed(0, layer=3)]
    assert list(labelled(made)) == ["bipo 1 seed 0", "bipo 1 seed 1", "bipo 2 seed 0", "bipo 2 seed 1", "bipo 3"]


def test_a_method_that_is_called_like_a_seed_never_makes_a_label_twice() -> None:
    labels = list(labelled([of_seed(0), of_seed(1), vector("bipo seed 0")]))
    assert len(set(labels)) == 3
