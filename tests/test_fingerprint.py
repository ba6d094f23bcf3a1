"""Whose weights these are: every edit refused, every processing and rounding accepted, in any precision of the device."""

import copy
import dataclasses
import gc
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens import PreferencePairs, SteeringVector, VectorError, load_model, load_vector
from steerlens.models import identity as fingerprint_module
from steerlens.models import invariants as invariants_module
from steerlens.models.identity import ModelIdentity, identify, living_models
from steerlens.vectors.vector import check_fits, check_same_space

IDENTITY = ModelIdentity("toy", 32, 4, "RMS", "none", "torch.float32", (0.1, -1 / 3, 2e-17))


# -- which weights ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tiny_folder: Callable[..., Path]) -> Callable[..., HookedTransformer]:
    """A tiny model of a family that a test may change."""

    def load(family: str, dtype: str = "float32", **config: Any) -> HookedTransformer:
        return load_model(tiny_folder(family, **config), dtype=dtype, device="cpu")

    return load


def process(model: HookedTransformer, **options: bool) -> HookedTransformer:
    """Fold and centre with TransformerLens's own code, all of it unless options say otherwise."""
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_and_process_state_dict(weights, **options)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_processed_model_has_the_same_weights_and_says_what_was_done(
    family: str, fresh: Callable[..., HookedTransformer], tiny_models: dict[str, HookedTransformer]
) -> None:
    raw, folded = identify(tiny_models[family]), identify(process(fresh(family)))
    assert raw.same_weights(folded)
    assert folded.same_weights(raw)
    is_layer_norm = raw.normalization == "LN"
    assert is_layer_norm == (family in ("gpt2", "gpt_neox"))
    assert folded.normalization == raw.normalization
    assert raw.processing == "none"
    assert folded.processing == ("folded, centred" if is_layer_norm else "folded")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("only", ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"])
def test_each_step_of_processing_by_itself_leaves_the_identity(
    family: str, only: str, fresh: Callable[..., HookedTransformer], tiny_models: dict[str, HookedTransformer]
) -> None:
    steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    model = process(fresh(family), **{step: step == only for step in steps})
    assert identify(model).same_weights(identify(tiny_models[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_place_processing_by_the_library_is_seen_and_leaves_the_identity(
    family: str, fresh: Callable[..., HookedTransformer]
) -> None:
    model = fresh(family)
    before = identify(model)
    model.process_weights_()
    after = identify(model)
    assert after.processing != before.processing
    assert after.same_weights(before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_same_weights_in_another_dtype_match_processed_or_not(
    family: str, dtype: str, fresh: Callable[..., HookedTransformer], tiny_models: dict[str, HookedTransformer]
) -> None:
    rounded = fresh(family, dtype)
    assert identify(rounded).dtype == f"torch.{dtype}"
    assert identify(rounded).same_weights(identify(tiny_models[family]))
    assert identify(process(rounded)).same_weights(identify(tiny_models[family]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_seed_has_other_weights(
    family: str, dtype: str, fresh: Callable[..., HookedTransformer], tiny_models: dict[str, HookedTransformer]
) -> None:
    assert not identify(fresh(family, dtype, seed=1)).same_weights(identify(tiny_models[family]))


def test_every_family_differs_in_weights_from_every_other(tiny_models: dict[str, HookedTransformer]) -> None:
    # Llama and Mistral are the same weights in two configurations here.
    identities = {family: identify(model) for family, model in tiny_models.items() if family != "mistral"}
    for one, mine in identities.items():
        assert [other for other, theirs in identities.items() if mine.same_weights(theirs)] == [one]


def weights_named(model: HookedTransformer, name: str) -> list[torch.Tensor]:
    """A weight of every block; grouped heads keep theirs as _W_K and _W_V."""
    named = dict(model.named_parameters())
    return [weight for path, weight in named.items() if path.rpartition(".")[2].removeprefix("_") == name]


def low_rank_change(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random rank-one change of 1e-3 of the weight's norm."""
    left = torch.randn((*weight.shape[:-1], 1), generator=generator)
    right = torch.randn((*weight.shape[:-2], 1, weight.shape[-1]), generator=generator)
    return 1e-3 * weight.norm() * (left @ right) / (left @ right).norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_low_rank_change_of_one_kind_of_weight_is_noticed(
    family: str, fresh: Callable[..., HookedTransformer]
) -> None:
    model = fresh(family)
    before = identify(model)
    gated = ["W_gate"] if before.normalization == "RMS" else []
    for name in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", *gated):
        weights = weights_named(model, name)
        kept = [weight.detach().clone() for weight in weights]
        assert len(weights) == 4
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for weight in weights:
                    weight.add_(low_rank_change(weight, generator))
            assert not identify(model).same_weights(before), (name, seed)
            with torch.no_grad():
                for weight, old in zip(weights, kept, strict=True):
                    weight.copy_(old)
        assert identify(model).same_weights(before)


@pytest.mark.parametrize("name", ["embed.W_E", "unembed.W_U", "blocks.0.ln1.w", "blocks.3.ln2.w", "ln_final.w"])
def test_a_change_of_the_embedding_or_of_a_norms_gain_is_noticed(
    name: str, fresh: Callable[..., HookedTransformer]
) -> None:
    model = fresh("llama")
    before = identify(model)
    with torch.no_grad():
        weight = model.get_parameter(name)
        weight += (
            1e-3
            * weight.norm()
            / math.sqrt(weight.numel())
            * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        )
    assert not identify(model).same_weights(before)


EDITS: dict[str, Callable[[torch.nn.Parameter], None]] = {
    "in place": lambda weight: weight.requires_grad_(False).mul_(1.01 + torch.arange(weight.shape[-1]) % 2),
    "its data in place": lambda weight: weight.data.mul_(1.01 + torch.arange(weight.shape[-1]) % 2),
    "its data, +=": lambda weight: weight.__setattr__("data", weight.data.add_(0.1 * torch.randn_like(weight.data))),
    "new data": lambda weight: weight.__setattr__("data", torch.randn_like(weight.data)),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_identity_is_computed_anew_after_an_edit_and_not_before(
    edit: str, fresh: Callable[..., HookedTransformer]
) -> None:
    model = fresh("llama")
    before = identify(model)
    assert identify(model) is before
    model.run_with_cache(torch.tensor([[1, 2, 3]]))
    assert identify(model) is before
    EDITS[edit](model.blocks[1].mlp.W_out)
    assert not identify(model).same_weights(before)


def test_a_replaced_parameter_is_noticed(fresh: Callable[..., HookedTransformer]) -> None:
    model = fresh("gpt2")
    before = identify(model)
    model.blocks[0].attn.W_O = torch.nn.Parameter(torch.randn_like(model.blocks[0].attn.W_O), requires_grad=False)
    assert not identify(model).same_weights(before)


def test_models_that_were_identified_are_known_while_they_live(fresh: Callable[..., HookedTransformer]) -> None:
    model = fresh("gpt2")
    identify(model)
    assert any(known is model for known in living_models())
    count = len(living_models())
    del model
    gc.collect()
    assert len(living_models()) < count


def test_another_width_or_depth_is_another_model() -> None:
    assert IDENTITY.same_weights(dataclasses.replace(IDENTITY, name="renamed", processing="folded"))
    for changes in (
        {"d_model": 16},
        {"n_layers": 2},
        {"fingerprint": (0.1,)},
        {"fingerprint": (0.1, -1 / 3, math.nan)},
    ):
        assert not IDENTITY.same_weights(dataclasses.replace(IDENTITY, **changes))  # type: ignore[arg-type]


def as_recorded_before(identity: ModelIdentity) -> ModelIdentity:
    """As records of before there were digests have it."""
    return dataclasses.replace(identity, digest="", settings="", scales=())


# -- edits that the fingerprint's numbers alone don't see -------------------------------------------------------------


def edited(tensor: torch.Tensor, size: float) -> torch.Tensor:
    """Scaled; or what is 0, as the biases of some families are, no longer 0."""
    return tensor * (1 + size) if bool(tensor.any()) else tensor + size * (torch.arange(tensor.shape[-1]) % 2)


@pytest.mark.parametrize(
    ("family", "dtype", "size"),
    [
        ("llama", "float32", 1e-3),
        ("qwen2", "float32", 1e-3),
        ("gpt2", "float32", 1e-3),
        ("qwen2", "bfloat16", 0.5),
        ("gpt2", "bfloat16", 0.5),
    ],
)
def test_one_parameter_scaled_is_other_weights_with_another_digest(
    family: str, dtype: str, size: float, fresh: Callable[..., HookedTransformer]
) -> None:
    model = fresh(family, dtype)
    before = identify(model)
    for name, weight in model.named_parameters():
        if ".1." in name or ".2." in name:  # the first and the last block stand for all
            continue
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(edited(kept, size))
        after = identify(model)
        assert not after.same_weights(before), name
        assert not before.same_weights(after), name
        assert after.describe() != before.describe(), name
        with torch.no_grad():
            weight.copy_(kept)
    assert identify(model).digest == before.digest
    assert identify(model).same_weights(before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_rotary_tables_and_other_settings_are_another_model(
    dtype: str, fresh: Callable[..., HookedTransformer]
) -> None:
    def negate(model: HookedTransformer) -> None:
        model.blocks[1].attn.rotary_sin.neg_()

    def turn_faster(model: HookedTransformer) -> None:
        for block in model.blocks:
            sines = block.attn.rotary_sin
            sines[: len(sines) // 2] = sines[::2].clone()

    changes: dict[str, Callable[[HookedTransformer], object]] = {
        "negated sines": negate,
        "other sines": turn_faster,
        "eps of one norm": lambda m: setattr(m.blocks[2].ln2, "eps", 1e-3),
        "eps of the last norm": lambda m: setattr(m.ln_final, "eps", 1e-3),
        "scale": lambda m: setattr(m.blocks[0].attn, "attn_scale", 1.0),
        "activation": lambda m: setattr(m.blocks[0].mlp, "act_fn", torch.nn.functional.gelu),
        "cap": lambda m: setattr(m.cfg, "output_logits_soft_cap", 30.0),
        "scores' cap": lambda m: setattr(m.cfg, "attn_scores_soft_cap", 50.0),
        "window": lambda m: (setattr(m.cfg, "use_local_attn", True), setattr(m.cfg, "window_size", 8)),
    }
    model = fresh("llama", dtype)
    before = identify(model)
    for name, change in changes.items():
        other = copy.deepcopy(model)
        change(other)
        after = identify(other)
        assert not after.same_weights(before), name
        assert after.describe() != before.describe(), name
        assert after.same_weights(as_recorded_before(before)) == (name != "none"), name  # what old records can't tell
    with torch.no_grad():
        model(torch.ones(1, 500, dtype=torch.int64))  # tables may grow
    assert identify(model) is before


def test_a_model_with_windows_is_not_the_one_without(tiny_models: dict[str, HookedTransformer]) -> None:
    # Llama and Mistral are the same weights in two configurations here.
    llama, mistral = identify(tiny_models["llama"]), identify(tiny_models["mistral"])
    assert not llama.same_weights(mistral)
    assert llama.digest != mistral.digest
    assert llama.fingerprint == mistral.fingerprint


def test_a_constant_bias_of_the_logits_and_along_layer_norms_changes_no_identity(
    fresh: Callable[..., HookedTransformer],
) -> None:
    model = fresh("gpt2")
    before = identify(model)
    with torch.no_grad():
        model.unembed.b_U += 1  # no probability depends on it
        model.pos_embed.W_pos += 1  # LayerNorm takes it out again
        model.blocks[1].mlp.b_out += 1
    after = identify(model)
    assert after.same_weights(before)
    assert after.digest != before.digest  # the digest knows what is stored


# -- the digest -------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_numbers_wherever_and_however_they_lie(fresh: Callable[..., HookedTransformer]) -> None:
    for family in ("llama", "gpt2"):
        model, digest = fresh(family), identify(fresh(family)).digest
        assert re.fullmatch("[0-9a-f]{64}", digest)
        for weight in model.parameters():
            weight.data = weight.data.contiguous()  # as TransformerLens lays weights out
        assert identify(model).digest == digest
        assert identify(fresh(family, "float64")).digest == digest
    model, rounded = fresh("gpt2"), fresh("gpt2", "bfloat16")
    digest = identify(rounded).digest
    assert digest != identify(model).digest
    model.load_state_dict({name: weight.float() for name, weight in rounded.state_dict().items()})
    assert identify(model).digest == digest


def test_weights_are_read_in_pieces_of_any_size(
    fresh: Callable[..., HookedTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in ("llama", "gpt2"):
        whole = identify(fresh(family))
        monkeypatch.setattr(invariants_module, "_PIECE", 100)
        pieces = identify(fresh(family))
        monkeypatch.undo()
        np.testing.assert_allclose(pieces.fingerprint, whole.fingerprint, rtol=0, atol=2e-6)
        np.testing.assert_allclose(pieces.scales, whole.scales, rtol=0, atol=2e-6)


def test_an_error_names_two_digests(
    tiny_chat_model: HookedTransformer, fresh: Callable[..., HookedTransformer]
) -> None:
    vector = SteeringVector(torch.ones(32), 1, model=identify(tiny_chat_model))
    other = fresh("llama")
    with torch.no_grad():
        other.blocks[0].mlp.W_in *= 3
    digests = vector.model.digest[:12], identify(other).digest[:12]  # type: ignore[union-attr]
    with pytest.raises(VectorError, match=rf"weights {digests[0]}\).*weights {digests[1]}\)"):
        check_fits(vector, identify(other))
    with pytest.raises(VectorError, match=rf"weights {digests[0]}\).*weights {digests[1]}\)"):
        check_same_space(vector, dataclasses.replace(vector, model=identify(other)))


# -- records of before there were digests -----------------------------------------------------------------------------


def test_a_record_without_a_digest_is_read_and_compared_by_what_it_has(
    tmp_path: Path, tiny_chat_model: HookedTransformer, fresh: Callable[..., HookedTransformer]
) -> None:
    now = identify(tiny_chat_model)
    path = SteeringVector(torch.ones(32), 1, model=now).save(tmp_path / "v.safetensors")
    with safe_open(str(path), "pt") as file:
        meta, tensor = file.metadata(), file.get_tensor("vector")
    record = json.loads(meta["record"])
    record["model"] = {name: record["model"][name] for name in
                       ("name", "d_model", "n_layers", "normalization", "processing", "dtype", "fingerprint")}  # fmt: skip
    save_file({"vector": tensor}, path, {**meta, "record": json.dumps(record)})
    old = load_vector(path).model
    assert old == as_recorded_before(now)
    assert old.same_weights(now)
    assert now.same_weights(old)
    assert "older version" in old.describe()
    other = fresh("llama", seed=1)
    assert not old.same_weights(identify(other))
    with pytest.raises(VectorError, match="older version wrote its record"):
        check_fits(load_vector(path), identify(other))


def test_a_new_record_comes_back_whole(tmp_path: Path, tiny_chat_model: HookedTransformer) -> None:
    path = SteeringVector(torch.ones(32), 1, model=identify(tiny_chat_model)).save(tmp_path / "v.safetensors")
    assert load_vector(path).model == identify(tiny_chat_model)


def test_the_fingerprint_is_r_w_s_over_its_standard_deviation(tiny_models: dict[str, HookedTransformer]) -> None:
    """The numbers of old records, written out in float64."""
    for family in ("llama", "gpt2"):
        model = tiny_models[family]
        generator = torch.Generator().manual_seed(0)
        r = torch.randn(32, generator=generator)
        r = (r - r.mean()).double()
        block = model.blocks[0]
        rows = [(r * block.ln1.w.double()) @ block.attn.W_Q.double()]
        grouped = block.attn._W_V if family == "llama" else block.attn.W_V
        rows.append((r * block.ln1.w.double()) @ grouped.double())
        rows.append(block.attn.W_O.double() @ r)
        found = []
        for row in rows:
            draws = torch.Generator().manual_seed(0)
            torch.randn(32, generator=draws)
            found.append(float(row.flatten() @ torch.randn(row.numel(), generator=draws).double() / row.norm()))
        first = identify(model).fingerprint
        assert (first[0], first[2], first[3]) == pytest.approx(found, abs=2e-6)


# -- any precision, once per model ------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Notes which of PyTorch's operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_precision_of_matrix_products_touches_the_identity(fresh: Callable[..., HookedTransformer]) -> None:
    before, precision = identify(fresh("gpt2")), torch.get_float32_matmul_precision()
    try:
        for other in ("high", "medium"):
            torch.set_float32_matmul_precision(other)
            assert identify(fresh("gpt2")) == before
    finally:
        torch.set_float32_matmul_precision(precision)
    model = fresh("gpt2")
    with Operations() as operations:  # a processor may ignore the setting: no product runs that could heed it
        identify(model)
    products = {"mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "dot", "vdot", "linear", "einsum", "convolution"}
    assert operations.seen
    assert not products & set(operations.seen)
    with torch.inference_mode():
        assert identify(fresh("gpt2")) == before
    try:
        torch.set_default_dtype(torch.float64)
        assert identify(model) == before
        invariants_module._directions.cache_clear()
        invariants_module._draws.cache_clear()
        assert identify(copy.deepcopy(model)) == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_weights_are_measured_once_for_a_whole_comparison(
    fresh: Callable[..., HookedTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    real = fingerprint_module.measure
    monkeypatch.setattr(fingerprint_module, "measure", lambda *args: measured.append(1) or real(*args))
    model = fresh("llama", tokenizer="chat")
    pairs = PreferencePairs(["Why?", "Who?", "When?"], ["I would."] * 3, ["Nobody can."] * 3)
    vectors = [sl.extract_caa(model, pairs[:2], layer=1), sl.extract_caa(model, pairs[:2], layer=2)]
    sl.compare(*vectors, model=model, pairs=pairs[2:], prompts=["Why?"], max_new_tokens=2, progress=False)
    assert len(measured) == 1


def test_an_edit_of_one_row_or_column_of_data_is_noticed(fresh: Callable[..., HookedTransformer]) -> None:
    """PyTorch counts no version for an edit of `.data`: the samples step through every row and every column."""
    for contiguous in (False, True):
        model = fresh("llama")
        if contiguous:
            for weight in model.parameters():
                weight.data = weight.data.contiguous()
        for name in ("embed.W_E", "unembed.W_U", "blocks.1.mlp.W_out", "blocks.2.attn.W_O"):
            weight = model.get_parameter(name)
            for axis, n in enumerate(weight.shape):
                for i in {0, n // 3, n - 1}:
                    before = identify(model)
                    version = weight._version
                    weight.data.select(axis, i).add_(1.0)
                    assert weight._version == version
                    assert identify(model).digest != before.digest, (name, axis, i)


def test_the_models_own_ways_to_change_weights_are_noticed(fresh: Callable[..., HookedTransformer]) -> None:
    model, other = fresh("llama"), fresh("llama", seed=1)
    before = identify(model)
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(other.state_dict())
    assert identify(model).digest == identify(other).digest != before.digest
    model.load_state_dict(kept)
    assert identify(model).digest == before.digest
    with torch.no_grad():
        model.blocks[3].attn.b_O[5] += 1e-3
    assert not identify(model).same_weights(before)


def test_a_refusal_names_the_setting_that_differs(fresh: Callable[..., HookedTransformer]) -> None:
    model = fresh("llama", "float32")
    vector = SteeringVector(torch.ones(model.cfg.d_model), 1, model=identify(model))
    model.blocks[0].attn.attn_scale = 1.0
    with pytest.raises(VectorError, match=r"other settings \(attention scale .*1 x 1.*, there attention scale 4 x "):
        check_fits(vector, identify(model))
