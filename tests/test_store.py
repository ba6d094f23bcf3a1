"""A store keeps what was made and nothing else: same settings, same cell; any other setting, another."""

from pathlib import Path

import pytest
import torch

import steerlens as sl
from steerlens.results.cell_store import Store


def vector(value: float = 1.0) -> sl.SteeringVector:
    return sl.SteeringVector(torch.full((4,), value), 1)


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> sl.SteeringVector:
        made.append(1)
        return vector(float(len(made)))

    store = Store(tmp_path / "new" / "store")
    first = store.vector("bipo", {"lr": 0.1, "layers": (1, 2)}, make)
    again = Store(tmp_path / "new" / "store").vector("bipo", {"layers": [1, 2], "lr": 0.1}, make)
    assert made == [1]
    assert torch.equal(first.tensor, again.tensor)


@pytest.mark.parametrize("changed", [{"lr": 0.2}, {"lr": 0.1, "seed": 0}, {}, {"lr": "0.1"}])
def test_a_changed_setting_is_another_cell(tmp_path: Path, changed: dict[str, object]) -> None:
    store = Store(tmp_path)
    store.vector("bipo", {"lr": 0.1}, vector)
    assert store.has("bipo", {"lr": 0.1})
    assert not store.has("bipo", changed)
    assert not store.has("caa", {"lr": 0.1})


def test_a_cell_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")

    def fail() -> sl.SteeringVector:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.vector("bipo", {}, fail)
    assert not store.has("bipo", {})
    assert not (tmp_path / "s").exists()


def test_settings_that_name_nothing_stable_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sl.MeasureError, match="can't be written as JSON"):
        Store(tmp_path).has("bipo", {"model": object()})
    (tmp_path / "file").touch()
    with pytest.raises(sl.MeasureError, match="is a file"):
        Store(tmp_path / "file")


def exchange(one: Path, other: Path) -> None:
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def test_cells_whose_files_were_exchanged_or_changed_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = [{"layer": 1, "method": "user", "lr": lr} for lr in (0.1, 0.2)]
    made = [vector(value) for value in (1.0, 2.0)]
    for settings, one in zip(asked, made, strict=True):
        store.vector("v", settings, lambda one=one: one)
    paths = [store.path("v", settings, ".safetensors") for settings in asked]
    exchange(*paths)
    with pytest.raises(sl.MeasureError, match=r"not what was written for these settings.*exchanged.*delete"):
        store.vector("v", asked[0], vector)
    exchange(*(path.with_suffix(".settings") for path in paths))  # their records too
    with pytest.raises(sl.MeasureError, match="tells of other settings"):
        store.vector("v", asked[0], vector)
    for path in paths:
        path.unlink()
        path.with_suffix(".settings").unlink()
    assert torch.equal(store.vector("v", asked[0], lambda: made[0]).tensor, made[0].tensor)  # the cure is right
    assert torch.equal(store.vector("v", asked[0], vector).tensor, made[0].tensor)


def test_a_cell_without_its_record_is_read_if_it_is_of_the_layer_method_and_seed_that_were_asked_for(
    tmp_path: Path,
) -> None:
    """A run that was killed leaves it so."""
    store = Store(tmp_path)
    asked = {"layer": 1, "method": "user", "seed": 0}
    store.vector("v", asked, vector)
    store.path("v", asked, ".settings").unlink()
    assert store.vector("v", asked, lambda: vector(5.0)).tensor[0] == 1
    for other, says in (({"layer": 2}, "layer 1, not 2"), ({"method": "caa"}, "method 'user', not 'caa'")):
        place = store.path("v", asked | other, ".safetensors")
        place.write_bytes(store.path("v", asked, ".safetensors").read_bytes())
        with pytest.raises(sl.MeasureError, match=says):
            store.vector("v", asked | other, vector)
