"""Steering vectors: algebra as identities, files that hold everything or are refused, and which weights they belong to."""

import copy
import dataclasses
import gc
import json
import math
import os
import pickle
import stat
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import jaxtyping
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from steerlens import PreferencePairs, SteeringVector, SteerLensError, VectorError, extract_caa, load_vector
from steerlens.models.identity import ModelIdentity, identify
from steerlens.vectors.files import FORMAT
from steerlens.vectors.origin import origin, remember_origin
from steerlens.vectors.vector import check_fits, check_same_space

SHARED = Path(__file__).resolve().parents[2] / "shared"
IDENTITY = ModelIdentity("toy", 32, 4, "RMS", "none", "torch.float32", (0.1, -1 / 3, 2e-17))
OTHER_WEIGHTS = dataclasses.replace(IDENTITY, name="other", fingerprint=(0.1, 0.3, 1.0))


def normal(seed: int = 0, n: int = 32) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def vector(seed: int = 0, **fields: Any) -> SteeringVector:
    """A vector with something in every field."""
    known: dict[str, Any] = {
        "tensor": normal(seed),
        "layer": 2,
        "method": "bipo",
        "model": IDENTITY,
        "settings": {"beta": 0.1, "lr": 1 / 3, "sign": "batch", "position": None, "nested": {"a": [1, 2.5, "x"]}},
        "data": "steerlens/wealth-seeking",
        "seen": frozenset({"00ff", "é", "a1"}),
        "seed": 7,
        "history": ({"step": 0, "loss": math.log(2), "val": None}, {"step": 1, "loss": 0.1 + 0.2, "val": 1e-300}),
        "versions": {"torch": "1", "python": "3"},
    }
    return SteeringVector(**{**known, **fields})


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the tests' own shape checks, which would speak before the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return vector().save(tmp_path / "v.safetensors")


# -- what a vector is -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, 32), r"shape \(2, 32\)"),
        (torch.tensor(1.0), "one dimension"),
        (torch.zeros(0), "shape"),
        (torch.zeros(32, dtype=torch.int64), "int64.*float"),
        (torch.tensor([0.0, math.nan, math.inf] + [0.0] * 29), "2 of 32"),
        (torch.full((32,), 1e300, dtype=torch.float64), "float32 has 32 of 32"),
        (torch.zeros(31), "31 numbers; expected d_model = 32"),
    ],
)
def test_a_tensor_that_is_no_vector_is_refused(tensor: Any, said: str) -> None:
    with pytest.raises(VectorError, match=said):
        vector(tensor=tensor)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("tensor", [[0.0] * 32, np.zeros(32, np.float32), None])
def test_what_is_no_tensor_is_refused(tensor: Any) -> None:
    with pytest.raises(VectorError, match=r"expected a 1-D torch\.Tensor"):
        vector(tensor=tensor)


@pytest.mark.parametrize("layer", [-1, 4, 2.0, True, None, "2"])
def test_a_layer_that_the_model_lacks_is_refused(layer: Any) -> None:
    with pytest.raises(VectorError, match="layer="):
        vector(layer=layer)


def test_a_vector_keeps_its_own_float32_copy_without_gradient() -> None:
    source = normal().double().requires_grad_()
    made = vector(tensor=source)
    with torch.no_grad():
        source.zero_()
    assert torch.equal(made.tensor, normal())
    assert made.tensor.dtype == torch.float32
    assert not made.tensor.requires_grad


def test_a_vector_is_frozen() -> None:
    made = vector()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.layer = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.settings["beta"] = 1  # type: ignore[index]


@pytest.mark.parametrize("copied", [lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy])
def test_a_vector_can_be_copied_and_sent_to_another_process(copied: Callable[[Any], Any]) -> None:
    assert_same(copied(vector()), vector())
    with pytest.raises(TypeError):
        copied(vector()).settings["beta"] = 1


def assert_same(one: SteeringVector, other: SteeringVector) -> None:
    """Every field, and the tensor bit for bit."""
    assert one.tensor.numpy().tobytes() == other.tensor.numpy().tobytes()
    for field in dataclasses.fields(SteeringVector):
        if field.name != "tensor":
            assert getattr(one, field.name) == getattr(other, field.name), field.name


# -- algebra ----------------------------------------------------------------------------------------------------------


def test_products_are_the_tensors_products() -> None:
    v = vector()
    for made in (2 * v, v * 2, v * 2.0, np.float64(2) * v, v * np.float32(2), v * np.int64(2), v + v, v / 0.5):
        assert torch.equal(made.tensor, 2 * v.tensor)
        assert made.norm == 2 * v.norm
    for made in (v / 2, 0.5 * v):
        assert torch.equal(made.tensor, v.tensor / 2)
    for made in (-v, v * -1, v - 2 * v):
        assert torch.equal(made.tensor, -v.tensor)
    assert torch.equal((-1 * -v).tensor, v.tensor)
    assert (0 * v).norm == 0


def test_sums_and_differences_are_the_tensors_own() -> None:
    v, u, w = vector(0), vector(1), vector(2)
    torch.testing.assert_close((v + u).tensor, v.tensor + u.tensor)
    torch.testing.assert_close((v - u).tensor, v.tensor - u.tensor)
    torch.testing.assert_close((v - u).tensor, (-(u - v)).tensor, rtol=0, atol=0)
    torch.testing.assert_close((v + u).tensor, (u + v).tensor, rtol=0, atol=0)
    torch.testing.assert_close(((v + u) + w).tensor, (v + (u + w)).tensor)
    torch.testing.assert_close((2 * (v + u)).tensor, (2 * v + 2 * u).tensor)
    torch.testing.assert_close((v + u - u).tensor, v.tensor)
    assert (v - v).norm == 0


def test_norm_is_a_float_and_direction_a_unit_tensor() -> None:
    v = vector()
    assert isinstance(v.norm, float)
    assert v.norm == pytest.approx(math.sqrt(math.fsum(x * x for x in v.tensor.tolist())), rel=1e-12)
    assert isinstance(v.direction, torch.Tensor)
    assert v.direction.dtype == torch.float32
    assert float(v.direction.double().norm()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(v.direction * v.norm, v.tensor)
    torch.testing.assert_close((3 * v).direction, v.direction)
    torch.testing.assert_close((-v).direction, -v.direction)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_tiny_and_a_giant_vector_have_a_norm_and_a_direction(size: float) -> None:
    v = vector(tensor=(normal().double() * size).float())
    assert v.norm == pytest.approx(size * vector().norm, rel=1e-6)
    torch.testing.assert_close(v.direction, vector().direction)


def test_scaled_to_keeps_the_direction_and_sets_the_norm() -> None:
    v = vector()
    made = v.scaled_to(3.5)
    assert made.norm == pytest.approx(3.5, rel=1e-6)
    torch.testing.assert_close(made.direction, v.direction)
    assert made.settings == {**v.settings, "scaled_to": 3.5}
    assert v.scaled_to(0).norm == 0
    for norm in (-1, math.nan, math.inf):
        with pytest.raises(VectorError, match="from 0"):
            v.scaled_to(norm)


def test_a_zero_vector_has_no_direction() -> None:
    zero = vector(tensor=torch.zeros(32))
    assert zero.norm == 0
    for call in (lambda: zero.direction, lambda: zero.scaled_to(1)):
        with pytest.raises(VectorError, match="no direction"):
            call()


def test_a_multiple_knows_all_that_its_vector_knew_but_not_its_history() -> None:
    v = vector()
    made = -(v * 4) / 2
    assert made.settings == {**v.settings, "multiplied_by": -2.0}
    assert made.history == ()
    for name in ("layer", "method", "model", "data", "seen", "seed", "versions"):
        assert getattr(made, name) == getattr(v, name), name
    assert v.settings == vector().settings


def test_a_sum_records_its_terms_and_all_that_was_seen() -> None:
    v, u = vector(0), vector(1, method="caa", data="mine", seen=frozenset({"b2"}), model=None)
    made = v + u
    assert made.settings == {"terms": [f"bipo, norm {v.norm:.4g}", f"caa, norm {u.norm:.4g}"]}
    assert (made.method, made.layer, made.model, made.history) == ("sum", 2, IDENTITY, ())
    assert made.seen == v.seen | u.seen
    assert made.data == "steerlens/wealth-seeking + mine"
    assert (v + v).data == v.data
    assert (u + v).model == IDENTITY


def test_a_difference_is_told_from_a_sum() -> None:
    v, u = vector(0), vector(1, method="caa")
    terms = (v - u).settings["terms"]
    assert terms[0] == f"bipo, norm {v.norm:.4g}"
    assert terms[1] == f"caa, norm {u.norm:.4g}, multiplied by -1"
    assert ((v + u) - v).settings["terms"] == [*(v + u).settings["terms"], f"bipo, norm {v.norm:.4g}, multiplied by -1"]
    doubled = (2 * (v + u) + v).settings["terms"]
    assert doubled == [*(f"{term}, multiplied by 2" for term in (v + u).settings["terms"]), f"bipo, norm {v.norm:.4g}"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (vector(layer=3), "layer 2.*layer 3"),
        (vector(model=OTHER_WEIGHTS), "different weights: toy.* and other"),
        (vector(tensor=torch.ones(16), model=None), "32 and 16 numbers"),
    ],
)
def test_sums_and_differences_refuse_another_space(other: SteeringVector, said: str) -> None:
    for call in (lambda: vector() + other, lambda: vector() - other):
        with pytest.raises(VectorError, match=said):
            call()


def test_unlike_things_do_not_multiply_or_add() -> None:
    v = vector()
    calls: list[Callable[[], Any]] = [lambda: v * v, lambda: v * "2", lambda: v * True, lambda: v + 1, lambda: v - 1.0]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(VectorError, match="divided by 0"):
        v / 0
    for multiplier, told in ((math.nan, "a finite number"), (1e39, "NaN or infinite")):
        with pytest.raises(VectorError, match=told):
            v * multiplier


def test_two_vectors_of_unknown_models_may_be_added_and_a_third_of_other_weights_is_noticed() -> None:
    unknown = vector(model=None)
    check_same_space(unknown, unknown)
    check_same_space(unknown, vector(), unknown)
    with pytest.raises(VectorError, match="different weights"):
        check_same_space(vector(), unknown, vector(model=OTHER_WEIGHTS))


def test_a_vector_fits_its_model_and_no_other() -> None:
    check_fits(vector(), IDENTITY)
    check_fits(vector(model=None), OTHER_WEIGHTS)
    with pytest.raises(VectorError, match=r"other weights.*replace\(vector, model=None\)"):
        check_fits(vector(), OTHER_WEIGHTS)
    with pytest.raises(VectorError, match="d_model = 16"):
        check_fits(vector(model=None), dataclasses.replace(IDENTITY, d_model=16))
    with pytest.raises(VectorError, match="layers 0 to 1"):
        check_fits(vector(model=None), dataclasses.replace(IDENTITY, n_layers=2))
    with pytest.raises(VectorError, match=r"got a Tensor.*sl\.SteeringVector"):
        check_fits(normal(), IDENTITY)  # type: ignore[arg-type]


def test_what_a_vector_was_made_from_is_remembered_through_algebra_and_let_go_with_it() -> None:
    class Model:
        """Something to refer to weakly."""

    pairs, model, v = PreferencePairs(["q"], ["a"], ["b"]), Model(), vector()
    assert origin(v) == (None, None)
    remember_origin(v, model, pairs)
    for made in (2 * v, -v, v.scaled_to(1)):
        assert origin(made)[0] is model
        assert origin(made)[1] is pairs
    assert origin(v + v) == (None, None)
    released = weakref.ref(pairs)
    del model
    gc.collect()
    assert origin(v) == (None, pairs)
    del v, made, pairs
    gc.collect()
    assert released() is None


def test_the_repr_says_where_it_belongs() -> None:
    assert repr(vector()) == (
        f"SteeringVector(bipo, layer 2, toy, norm {vector().norm:.4g}, data 'steerlens/wealth-seeking')"
    )


# -- safetensors ------------------------------------------------------------------------------------------------------


def test_a_saved_vector_comes_back_bit_for_bit_with_all_it_knows(tmp_path: Path) -> None:
    odd = normal().clone()
    odd[:4] = torch.tensor([-0.0, 1e-45, 3.4e38, 1 / 3])
    for v in (vector(), vector(tensor=odd), SteeringVector(normal(), layer=0), 2 * vector(), vector(0) - vector(1)):
        path = v.save(tmp_path / "v.safetensors")
        assert path == tmp_path / "v.safetensors"
        assert_same(load_vector(path), v)
        assert_same(load_vector(str(path), layer=v.layer), v)


def test_a_vector_of_a_method_comes_back_with_the_methods_own_settings(
    tmp_path: Path, tiny_chat_model: HookedTransformer
) -> None:
    pairs = PreferencePairs(["Who?", "Why?"], ["I want money", "yes"], ["Nobody", "no"])
    v = extract_caa(tiny_chat_model, pairs, layer=1)
    again = load_vector(v.save(tmp_path / "v.safetensors"))
    assert_same(again, v)
    assert again.model is not None
    assert again.model.same_weights(identify(tiny_chat_model))
    check_fits(again, identify(tiny_chat_model))


def test_the_file_holds_one_float32_tensor_that_other_tools_can_read(saved: Path) -> None:
    with safe_open(str(saved), "np") as file:
        assert list(file.keys()) == ["vector"]
        assert file.get_tensor("vector").tobytes() == vector().tensor.numpy().tobytes()
        assert file.metadata()["format"] == FORMAT


def test_a_saved_file_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        modes = [vector().save(tmp_path / f"v{end}").stat().st_mode for end in (".safetensors", ".gguf")]
    finally:
        os.umask(before)
    assert [stat.S_IMODE(mode) for mode in modes] == [0o640, 0o640]


def rewritten(path: Path, tensor: Any = None, **changes: Any) -> Path:
    """The file of a saved vector with another tensor, or other entries in its record (None removes one)."""
    with safe_open(str(path), "pt") as file:
        meta, old = file.metadata(), file.get_tensor("vector")
    record = {**json.loads(meta["record"]), **changes.pop("record", {})}
    meta["record"] = json.dumps({name: value for name, value in record.items() if value != "gone"})
    tensors = changes.pop("tensors", {"vector": old if tensor is None else tensor})
    save_file(tensors, path, {**meta, **changes})
    return path


def model_record(**changes: Any) -> dict[str, Any]:
    return {"model": {**dataclasses.asdict(IDENTITY), **changes}}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensor": torch.tensor([math.nan] * 32)}, "32 of 32 numbers that are NaN"),
        ({"tensor": torch.zeros(16)}, "16 numbers; expected d_model = 32"),
        ({"tensor": torch.zeros(32, dtype=torch.int32)}, "int32"),
        ({"tensor": torch.zeros(1, 32)}, r"shape \(1, 32\)"),
        ({"tensors": {"vector": torch.zeros(32), "more": torch.zeros(32)}}, r"holds \['more', 'vector'\]"),
        ({"tensors": {"weight": torch.zeros(32)}}, r"holds \['weight'\]"),
        ({"format": "pt"}, "format is 'pt'"),
        ({"format": "steerlens.vector/2"}, "format is 'steerlens.vector/2'"),
        ({"record": {"colour": 1}}, r"unknown or missing keys: \['colour'\]"),
        ({"record": {"seen": "gone", "seed": "gone"}}, r"unknown or missing keys: \['seed', 'seen'\]"),
        ({"record": {"model": "gone"}}, "damaged record.*model"),
        ({"record": model_record(colour=1)}, r"unknown or missing keys: \['colour'\]"),
        ({"record": {"layer": 4}}, "layers 0 to 3"),
        ({"record": {"layer": "2"}}, "layer is '2'"),
        ({"record": {"method": 3}}, "method is 3"),
        ({"record": {"data": None}}, "data is None"),
        ({"record": {"seen": [1]}}, "seen is"),
        ({"record": {"versions": {"torch": 2}}}, "versions is"),
        ({"record": {"seed": 1.5}}, "seed is 1.5"),
        ({"record": {"settings": {"multiplied_by": "x"}}}, "multiplied_by"),
        ({"record": {"settings": {"terms": [1]}}}, "terms"),
        ({"record": {"settings": {"template": ["x"]}}}, "template"),
        ({"record": {"history": [{"loss": "x"}]}}, "loss"),
        ({"record": {"history": [{"norm_ratio": None}]}}, "norm_ratio"),
        ({"tensors": {"vector": normal(), "after step 3": normal(n=31)}}, "snapshot after 3 steps has 31"),
        ({"tensors": {"vector": normal(), "after step 3": normal() * math.nan}}, "snapshot after 3 steps has 32"),
        ({"tensors": {"vector": normal(), "after step 3": torch.ones(32).long()}}, "int64"),
        ({"tensors": {"vector": normal(), "after step ٣": normal()}}, "no steerlens vector"),
        ({"tensors": {"vector": normal(), "after step -1": normal()}}, "no steerlens vector"),
        ({"record": {"settings": 5}}, "damaged record"),
        ({"record": {"history": [1]}}, "damaged record"),
        ({"record": {"seen": None}}, "damaged record"),
        ({"record": model_record(n_layers="4")}, "damaged record"),
        ({"record": model_record(fingerprint=["x"])}, "damaged record"),
    ],
)
def test_a_file_with_something_wrong_is_refused_by_name(saved: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(VectorError, match=said):
        load_vector(rewritten(saved, **changes))


def test_an_untouched_rewritten_file_is_accepted(saved: Path) -> None:
    assert_same(load_vector(rewritten(saved)), vector())


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"'])
def test_a_record_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"vector": normal()}, tmp_path / "v.safetensors", {"format": FORMAT, "record": text})
    with pytest.raises(VectorError, match="damaged record"):
        load_vector(tmp_path / "v.safetensors")


def test_a_file_of_other_bytes_or_cut_off_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    assert_same(load_vector(saved), vector())
    for n in {0, 1, 7, 8, 20, len(whole) // 2, len(whole) - 128, len(whole) - 1}:
        saved.write_bytes(whole[:n])
        with pytest.raises(VectorError, match="no safetensors file, or is cut off"):
            load_vector(saved)
    for other in (b"hello " * 100, whole + b"more", b"\xff" * 500):
        saved.write_bytes(other)
        with pytest.raises(VectorError, match="no safetensors file"):
            load_vector(saved)


def test_a_safetensors_file_of_somebody_else_says_how_to_wrap_its_tensor(tmp_path: Path) -> None:
    save_file({"vector": normal()}, tmp_path / "v.safetensors")
    with pytest.raises(VectorError, match=r"format is None.*sl\.SteeringVector\(tensor, layer=\.\.\.\)"):
        load_vector(tmp_path / "v.safetensors")


def test_another_layer_than_the_files_is_refused(saved: Path) -> None:
    with pytest.raises(VectorError, match="belongs after layer 2, not 3"):
        load_vector(saved, layer=3)


@pytest.mark.parametrize("name", ["v.pt", "v.bin", "v", "v.safetensors.bak"])
def test_a_name_that_is_not_written_or_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VectorError, match="can't save"):
        vector().save(tmp_path / name)
    with pytest.raises(VectorError, match="there is no file"):
        load_vector(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_and_a_missing_folder_say_so(tmp_path: Path) -> None:
    (tmp_path / "v.bin").write_bytes(b"x")
    with pytest.raises(VectorError, match=r"ends in \.safetensors, \.pt, \.gguf"):
        load_vector(tmp_path / "v.bin")
    with pytest.raises(VectorError, match="no folder"):
        vector().save(tmp_path / "none" / "v.safetensors")


@pytest.mark.parametrize("settings", [{"a": object()}, {"a": math.nan}, {"a": torch.float32}])
@pytest.mark.parametrize("was_there", [False, True])
def test_settings_that_json_cannot_hold_leave_the_folder_as_it_was(
    tmp_path: Path, settings: dict[str, Any], was_there: bool
) -> None:
    path = tmp_path / "v.safetensors"
    before = vector(1).save(path).read_bytes() if was_there else None
    with pytest.raises(VectorError, match="can't be written as JSON"):
        vector(settings=settings).save(path)
    assert [p.name for p in tmp_path.iterdir()] == (["v.safetensors"] if was_there else [])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_a_save_that_fails_at_its_last_step_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    def refuse(source: Any, target: Any) -> None:
        assert Path(source).stat().st_size > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        vector().save(tmp_path / f"v{ending}")
    assert list(tmp_path.iterdir()) == []


# -- the authors' .pt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), [("vec_ep20_layer15.pt", 15), ("layer_3.pt", 3), ("power_layer07_x.pt", 7)])
def test_the_layer_of_a_pt_is_in_its_name(tmp_path: Path, name: str, layer: int) -> None:
    torch.save(normal(), tmp_path / name)
    v = load_vector(tmp_path / name)
    assert torch.equal(v.tensor, normal())
    assert (v.layer, v.model, v.data) == (layer, None, Path(name).stem)
    # Only the BiPO authors' trainer calls its files vec_ep20_layer15.pt.
    assert v.method == ("bipo" if name.startswith("vec_ep") else "imported")
    assert load_vector(tmp_path / name, method="caa").method == "caa"
    assert load_vector(tmp_path / name, layer=1).layer == 1
    assert v.settings == {"imported_from": name}


def test_a_pt_without_a_layer_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "vec.pt"
    torch.save(torch.nn.Parameter(normal()), path)
    with pytest.raises(VectorError, match=r"pass layer=, e\.g\. layer=15"):
        load_vector(path)
    assert load_vector(path, layer=0).layer == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"vector": torch.zeros(3)}, "holds a dict"),
        ([torch.zeros(3)], "holds a list"),
        (torch.zeros(2, 3), r"shape \(2, 3\)"),
        (torch.zeros(3, dtype=torch.int64), "int64"),
        (torch.tensor([math.nan]), "NaN"),
    ],
)
def test_a_pt_that_holds_something_else_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "layer1.pt")
    with pytest.raises(VectorError, match=said):
        load_vector(tmp_path / "layer1.pt")


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path, write: Callable[..., Any]) -> None:
    proof, path = tmp_path / "it ran", tmp_path / "layer1.pt"
    write(Malicious(proof), path)
    with pytest.raises(VectorError, match="can't be read as one tensor"):
        load_vector(path)
    assert not proof.exists()


def test_a_damaged_pt_is_refused(tmp_path: Path) -> None:
    torch.save(normal(), tmp_path / "layer1.pt")
    whole = (tmp_path / "layer1.pt").read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-200]):
        (tmp_path / "layer1.pt").write_bytes(content)
        with pytest.raises(VectorError, match="can't be read"):
            load_vector(tmp_path / "layer1.pt")


def test_the_published_vectors_have_their_published_norms_and_cosine() -> None:
    paths = [SHARED / f"data/bipo/{name}_llama-2_layer15.pt" for name in ("wealth-seeking", "power-seeking")]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"the published vectors are not in {SHARED}")
    wealth, power = map(load_vector, paths)
    assert (wealth.layer, power.layer) == (15, 15)
    assert wealth.norm == pytest.approx(8.994, abs=5e-4)
    assert power.norm == pytest.approx(8.703, abs=5e-4)
    assert float(wealth.direction @ power.direction) == pytest.approx(0.5128, abs=5e-5)


# -- control vectors in .gguf -----------------------------------------------------------------------------------------


def control_vector(path: Path, tensors: dict[str, np.ndarray], arch: str = "controlvector") -> Path:
    """What repeng's export_gguf writes: a tensor direction.N for each layer."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string(f"{arch}.model_hint", "mistral")
    writer.add_uint32(f"{arch}.layer_count", len(tensors))
    for name, numbers in tensors.items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_is_what_llama_cpp_reads_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = vector().save(tmp_path / "v.gguf")
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "toy"
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, list(tensor.shape)) == ("direction.2", "F32", [32])
    assert tensor.data.tobytes() == vector().tensor.numpy().tobytes()
    v = load_vector(path)
    assert torch.equal(v.tensor, vector().tensor)
    # Written by us, it still says which pairs the vector has seen, and on which weights it was made.
    assert_same(dataclasses.replace(v, history=vector().history), vector())
    assert v.history == ()


def test_a_gguf_tells_what_it_has_no_place_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vector(history=()).save(tmp_path / "v.gguf")
    assert caplog.text == ""
    vector(snapshots={1: normal(1)}).save(tmp_path / "v.gguf")
    assert "history and snapshots" in caplog.text


def test_a_gguf_whose_record_and_tensors_disagree_is_refused(tmp_path: Path) -> None:
    path = vector().save(tmp_path / "v.gguf")
    whole = path.read_bytes()
    for old, new in ((b"direction.2", b"direction.3"), (b'"layer": 2', b'"layer": 1'), (b'"seen"', b'"seem"')):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(VectorError, match=r"it was changed|unknown or missing"):
            load_vector(path)
    path.write_bytes(whole)
    with pytest.raises(VectorError, match="belongs after layer 2"):
        load_vector(path, layer=1)
    with pytest.raises(VectorError, match="was made by 'bipo'"):
        load_vector(path, method="caa")


def test_a_foreign_gguf_is_a_control_vector(tmp_path: Path) -> None:
    v = load_vector(control_vector(tmp_path / "f.gguf", {"direction.2": normal().numpy()}))
    assert (v.layer, v.method, v.model, v.settings) == (2, "control vector", None, {"imported_from": "f.gguf"})
    assert load_vector(tmp_path / "f.gguf", method="repeng").method == "repeng"


def test_a_vector_of_an_unknown_model_is_written_too(tmp_path: Path) -> None:
    v = vector(model=None, layer=30)
    assert load_vector(v.save(tmp_path / "v.gguf")).layer == 30


def test_layer_0_has_no_place_in_a_gguf_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match=r"layer 0: save \.safetensors"):
        vector(layer=0).save(tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_repengs_gguf_needs_a_layer_and_lists_those_it_holds(tmp_path: Path) -> None:
    numbers = {layer: normal(layer).numpy() for layer in (12, 1, 3)}
    path = control_vector(tmp_path / "r.gguf", {f"direction.{layer}": row for layer, row in numbers.items()})
    for layer, row in numbers.items():
        v = load_vector(path, layer=layer)
        assert v.layer == layer
        assert v.tensor.numpy().tobytes() == row.tobytes()
    with pytest.raises(VectorError, match=r"layers \[1, 3, 12\]: choose one with layer="):
        load_vector(path)
    with pytest.raises(VectorError, match=r"layers \[1, 3, 12\], none for layer 2"):
        load_vector(path, layer=2)


def test_half_precision_in_a_gguf_is_read_as_numbers_and_integers_are_refused(tmp_path: Path) -> None:
    half = normal().half()
    v = load_vector(control_vector(tmp_path / "h.gguf", {"direction.1": half.numpy()}))
    assert torch.equal(v.tensor, half.float())
    with pytest.raises(VectorError, match="I32"):
        load_vector(control_vector(tmp_path / "i.gguf", {"direction.1": np.arange(32, dtype=np.int32)}))


def test_quantised_numbers_in_a_gguf_are_not_taken_for_bytes(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "controlvector")
    packed = gguf.quantize(normal().numpy(), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("direction.1", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    torch.testing.assert_close(load_vector(tmp_path / "q.gguf").tensor, normal(), atol=0.02, rtol=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("tensors", "arch", "said"),
    [
        ({"direction.1": np.zeros(4, np.float32)}, "llama", "GGUF of 'llama'"),
        ({"other": np.zeros(4, np.float32)}, "controlvector", r"expected a 'controlvector' with tensors direction\.N"),
        ({"direction.x": np.zeros(4, np.float32)}, "controlvector", "can't be read as GGUF"),
        ({"direction.1": np.zeros((2, 4), np.float32)}, "controlvector", r"shape \(2, 4\)"),
        ({"direction.1": np.full(4, np.nan, np.float32)}, "controlvector", "NaN"),
    ],
)
def test_a_gguf_of_something_else_is_refused(tmp_path: Path, tensors: Any, arch: str, said: str) -> None:
    with pytest.raises(VectorError, match=said):
        load_vector(control_vector(tmp_path / "x.gguf", tensors, arch))


def test_a_damaged_gguf_is_refused(tmp_path: Path) -> None:
    path = vector().save(tmp_path / "v.gguf")
    whole = path.read_bytes()
    for content in (b"", b"GGUF", b"text" * 50, whole[:60], whole[:-64]):
        path.write_bytes(content)
        with pytest.raises(VectorError):
            load_vector(path)


def test_without_the_gguf_package_floats_are_read_and_the_error_for_others_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gguf.quantize(normal().numpy(), gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "controlvector")
    writer.add_tensor("direction.1", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert torch.equal(load_vector(vector().save(tmp_path / "v.gguf")).tensor, vector().tensor)
    with pytest.raises(VectorError, match=r"pip install 'steerlens\[smollm2\]'"):
        load_vector(tmp_path / "q.gguf")


def test_a_vector_error_is_ours() -> None:
    assert issubclass(VectorError, SteerLensError)
    assert issubclass(VectorError, ValueError)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_vector_is_its_part_along_another_and_the_rest_at_right_angles_to_it() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (
        SteeringVector(torch.randn(64, generator=generator), 2, method=name, seen=frozenset({name}))
        for name in ("a", "b")
    )
    along, off = b.along(a), b.off(a)
    torch.testing.assert_close((along + off).tensor, b.tensor, rtol=0, atol=1e-6)
    assert abs(float(off.tensor.double() @ a.tensor.double())) < 1e-5
    cosine = float(a.direction.double() @ b.direction.double())
    assert along.norm == pytest.approx(abs(cosine) * b.norm, rel=1e-6)
    assert off.norm == pytest.approx(math.sqrt(1 - cosine**2) * b.norm, rel=1e-6)
    assert along.seen == off.seen == {"a", "b"}
    assert along.layer == off.layer == 2
    with pytest.raises(VectorError, match="no direction"):
        b.along(0 * a)
