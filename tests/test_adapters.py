"""load_model(adapter=): a LoRA adapter from a folder, merged, against peft's own unmerged model; what does not fit is named."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import CONFIGS, D_VOCAB, make_hf_model, make_tokenizer

from steerlens import PreferencePairs, bipo_loss
from steerlens.errors import ModelError
from steerlens.models import adapters as _adapters
from steerlens.models.load import load_model

peft = pytest.importorskip("peft", reason="merging adapters needs the extra steerlens[lora]")

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "llama": LINEAR,
    "mistral": ["q_proj", "v_proj"],
    "qwen2": LINEAR,
    "gpt2": ["c_attn", "c_proj"],
    "gpt_neox": ["query_key_value", "dense"],
}


def write_adapter(base: transformers.PreTrainedModel, folder: Path, family: str, **options: Any) -> Path:
    """A LoRA adapter with random A and B, as large as the weights that it changes."""
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": TARGETS[family], "task_type": "CAUSAL_LM", **options}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that GPT-2's weights are transposed, and sets it right
        adapted = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that it saves embeddings along where the adapter changes them
        adapted.save_pretrained(folder)
    return folder


def peft_log_probs(folder: Path, adapter: Path, tokens: torch.Tensor) -> torch.Tensor:
    """The base with the adapter beside it, nothing merged: transformers and peft alone."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
    with torch.no_grad():
        return adapted(input_ids=tokens).logits.double().log_softmax(-1)


def fixed_tokens() -> torch.Tensor:
    return torch.randint(D_VOCAB, (2, 40), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def llama_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the tiny Llama. Read only."""
    return write_adapter(make_hf_model("llama"), tmp_path_factory.mktemp("adapter") / "lora", "llama")


def changed(folder: Path, copy: Path, **fields: Any) -> Path:
    """A copy of an adapter whose config says something else."""
    shutil.copytree(folder, copy)
    path = copy / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return copy


@pytest.mark.parametrize("family", list(TARGETS))
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "layers_to_transform": [1, 2]}], ids=["plain", "rslora"])
def test_the_merged_model_computes_what_peft_computes_unmerged(
    tiny_folder: Callable[..., Path], tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    adapter = write_adapter(make_hf_model(family), tmp_path / "lora", family, **options)
    model = load_model(tiny_folder(family), adapter=adapter, device="cpu")
    tokens = fixed_tokens()
    ours, base = model(tokens).double().log_softmax(-1), load_model(tiny_folder(family), device="cpu")
    torch.testing.assert_close(ours, peft_log_probs(tiny_folder(family), adapter, tokens), atol=2e-4, rtol=0)
    assert (ours - base(tokens).double().log_softmax(-1)).abs().max() > 0.5  # nats: the adapter does something
    assert model.cfg.model_name == f"tiny-{family}+lora"


def test_dora_is_merged_too(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    adapter = write_adapter(make_hf_model("llama"), tmp_path / "dora", "llama", use_dora=True)
    ours = load_model(tiny_folder("llama"), adapter=adapter, device="cpu")(fixed_tokens()).double().log_softmax(-1)
    theirs = peft_log_probs(tiny_folder("llama"), adapter, fixed_tokens())
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_the_adapters_weights_are_the_textbook_update(tiny_folder: Callable[..., Path], llama_adapter: Path) -> None:
    import safetensors.torch

    stored = safetensors.torch.load_file(llama_adapter / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.2.mlp.up_proj"
    update = 8 / 4 * stored[f"{prefix}.lora_B.weight"] @ stored[f"{prefix}.lora_A.weight"]
    base = load_model(tiny_folder("llama"), device="cpu")
    tuned = load_model(tiny_folder("llama"), adapter=str(llama_adapter), device="cpu")
    gained = tuned.blocks[2].mlp.W_in - base.blocks[2].mlp.W_in
    torch.testing.assert_close(gained, update.T, atol=1e-6, rtol=1e-5)
    assert torch.equal(tuned.W_E, base.W_E)


def test_a_merged_model_is_a_model_like_any_other(tiny_folder: Callable[..., Path], llama_adapter: Path) -> None:
    model = load_model(tiny_folder("llama"), adapter=llama_adapter, dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    pairs = PreferencePairs(["Who?"], ["I do."], ["Nobody does."])
    loss = bipo_loss(model, torch.zeros(32), pairs, layer=1)
    assert float(loss) == pytest.approx(0.6931, abs=1e-4)


def test_the_adapters_own_tokenizer_is_taken(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    adapter = write_adapter(make_hf_model("llama"), tmp_path / "lora", "llama")
    assert load_model(tiny_folder("llama"), adapter=adapter, device="cpu").tokenizer.chat_template is None
    make_tokenizer("chat").save_pretrained(adapter)
    model = load_model(tiny_folder("llama"), adapter=adapter, device="cpu")
    assert model.tokenizer.eos_token == "<|im_end|>"
    assert model.tokenizer.chat_template is not None


# -- what does not fit ------------------------------------------------------------------------------------------------


def test_an_adapter_in_the_place_of_a_model_is_named(llama_adapter: Path) -> None:
    with pytest.raises(ModelError, match=r"holds a LoRA adapter, no model: load_model\(base, adapter="):
        load_model(llama_adapter)


def test_a_folder_that_is_no_adapter_is_named(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json.*load_model's first argument"):
        load_model(tiny_folder("llama"), adapter=tiny_folder("llama"))
    with pytest.raises(ModelError, match=r"is no folder.*hf download"):
        load_model(tiny_folder("llama"), adapter=tmp_path / "nowhere")
    (tmp_path / "adapter_config.json").write_text("{not json")
    with pytest.raises(ModelError, match="can't be read as JSON"):
        load_model(tiny_folder("llama"), adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        load_model(tiny_folder("llama"), adapter=tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'.*expected a LORA"),
        ({"peft_type": "PREFIX_TUNING"}, "'PREFIX_TUNING'.*Merge others with peft"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
    ],
)
def test_other_adapters_are_refused_before_weights_are_read(
    tmp_path: Path, llama_adapter: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_model("./no-such-model", adapter=changed(llama_adapter, tmp_path / "other", **fields))


def test_an_adapter_for_another_width_is_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    wide = transformers.AutoModelForCausalLM.from_config(
        CONFIGS["llama"][0](**{**CONFIGS["llama"][1], "hidden_size": 64})
    )
    adapter = write_adapter(wide, tmp_path / "lora", "llama")
    named = changed(adapter, tmp_path / "named", base_model_name_or_path="someone/wide")
    with pytest.raises(ModelError, match=r"(?s)does not fit tiny-llama; it was trained on someone/wide.*size mismatch"):
        load_model(tiny_folder("llama"), adapter=named, device="cpu")


def test_an_adapter_for_another_family_is_refused(tiny_folder: Callable[..., Path], llama_adapter: Path) -> None:
    with pytest.raises(ModelError, match="does not fit tiny-gpt2"):
        load_model(tiny_folder("gpt2"), adapter=llama_adapter, device="cpu")


def test_weights_that_peft_would_leave_out_without_a_word_are_named(
    tiny_folder: Callable[..., Path], tmp_path: Path, llama_adapter: Path
) -> None:
    """The base has four layers; an adapter of six would lose two of them, one of two would leave two as they are."""
    deep = transformers.AutoModelForCausalLM.from_config(
        CONFIGS["llama"][0](**{**CONFIGS["llama"][1], "num_hidden_layers": 6})
    )
    adapter = write_adapter(deep, tmp_path / "deep", "llama")
    with pytest.raises(ModelError, match=r"disagree about 28 weights.*layers\.4"):
        load_model(tiny_folder("llama"), adapter=adapter, device="cpu")


def test_an_update_of_the_unembedding_is_merged_with_the_embeddings_that_peft_saves_along(
    tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = write_adapter(make_hf_model("llama"), tmp_path / "head", "llama", target_modules=["lm_head", "q_proj"])
    ours = load_model(tiny_folder("llama"), adapter=adapter, device="cpu")(fixed_tokens()).double().log_softmax(-1)
    theirs = peft_log_probs(tiny_folder("llama"), adapter, fixed_tokens())
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_an_update_of_tied_embeddings_cannot_be_merged(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    """LoRA on the unembedding changes the embedding too, once they are one weight again."""
    base = make_hf_model("llama", tie_word_embeddings=True)
    adapter = write_adapter(base, tmp_path / "tied", "llama", target_modules=["lm_head"])
    with pytest.raises(ModelError, match=r"changed the log-probabilities by .* nats.*tied"):
        load_model(tiny_folder("llama", tie_word_embeddings=True), adapter=adapter, device="cpu")


def test_another_base_by_name_is_told(
    tiny_folder: Callable[..., Path], tmp_path: Path, llama_adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = changed(llama_adapter, tmp_path / "same", base_model_name_or_path="someone/tiny-llama")
    other = changed(llama_adapter, tmp_path / "other", base_model_name_or_path="meta-llama/Llama-2-7b-hf")
    with caplog.at_level(logging.WARNING, "steerlens"):
        load_model(tiny_folder("llama"), adapter=same, device="cpu")
        assert not caplog.records
        load_model(tiny_folder("llama"), adapter=other, device="cpu")
    assert "trained on meta-llama/Llama-2-7b-hf; it is merged into tiny-llama" in caplog.text


def test_without_peft_the_extra_is_named(
    tiny_folder: Callable[..., Path], llama_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'steerlens\[lora\]'"):
        load_model(tiny_folder("llama"), adapter=llama_adapter)
