"""Shared fixtures: runtime shape checking, and small random models with a small real tokenizer, saved as HF folders."""

# ruff: noqa: E402
from jaxtyping import install_import_hook

install_import_hook("steerlens", "typecheck.shapes")  # before anything imports steerlens

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens import HookedTransformer

pytest_plugins = ["chromium", "workers"]
# The models are tiny: a second thread only waits for the first. What OMP_NUM_THREADS asks for is done all the same.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))

D_VOCAB = 400
# What another order of summation may change in a logit, in nats: the small models' are about 10, of some 500 terms each, and
# float32 keeps 1.2e-7 of each: 10 * 500 ** 0.5 * 1.2e-7 is 3e-5.
ROUNDING = 1e-4
# And, as a share of it, in a float32 number that a hundred others were summed up to: 100 * 2 ** -23.
RELATIVE = 1e-5
FAMILIES = ("llama", "mistral", "qwen2", "gpt2", "gpt_neox")
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = {
    "plain": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "chat": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    "no_bos": {"eos_token": "</s>", "pad_token": "<pad>"},
}
_LLAMA_LIKE = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {**_LLAMA_LIKE, "num_key_value_heads": 2}),
    "mistral": (transformers.MistralConfig, {**_LLAMA_LIKE, "num_key_value_heads": 2, "sliding_window": 12}),
    "qwen2": (transformers.Qwen2Config, {**_LLAMA_LIKE, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gpt2": (
        transformers.GPT2Config,
        {"vocab_size": D_VOCAB, "n_positions": 512, "n_embd": 32, "n_layer": 4, "n_head": 4},
    ),
    "gpt_neox": (transformers.GPTNeoXConfig, _LLAMA_LIKE),
}


def _sentences() -> list[str]:
    """600 short sentences about money, power, help, truth and the weather, questions and numbers among them."""
    who = ("I", "You", "The assistant", "My old friend", "Nobody", "A careful scientist")
    does = ("would like to", "refuses to", "should never", "wants to", "can certainly")
    what = ("earn more money", "keep the power", "help people honestly", "tell the truth", "share the wealth")
    when = ("today.", "in 2024, with 35% of it!", "because it's the right thing.", "if the weather isn't bad?")
    return [" ".join(parts) for parts in itertools.product(who, does, what, when)]


def make_tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: 'plain' (BOS <s>), 'chat' (SmolLM2's special tokens and template) or 'no_bos'."""
    special = SPECIAL_TOKENS[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=sorted(set(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    if kind == "chat":
        fast.chat_template = CHAT_TEMPLATE
    return fast


def make_hf_model(family: str, seed: int = 0, **config: Any) -> transformers.PreTrainedModel:
    """A Hugging Face model whose random weights are large enough for its log-probabilities to vary by nats."""
    config_class, fields = CONFIGS[family]
    model = transformers.AutoModelForCausalLM.from_config(config_class(**{**fields, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_gain else 0.25 * noise)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny_folder(family, tokenizer="plain" | "chat" | "no_bos", **config): a saved HF folder, built once; read only."""
    built: dict[str, Path] = {}

    def build(family: str, tokenizer: str = "plain", **config: Any) -> Path:
        key = repr((family, tokenizer, sorted(config.items())))
        if key not in built:
            folder = tmp_path_factory.mktemp("models") / f"tiny-{family}"
            make_hf_model(family, **config).save_pretrained(folder)
            make_tokenizer(tokenizer).save_pretrained(folder)
            built[key] = folder
        return built[key]

    return build


@pytest.fixture(scope="session")
def tiny_chat_model(tiny_folder: Callable[..., Path]) -> HookedTransformer:
    """A Llama with grouped heads, 4 layers, d_model 32, float32 on the CPU, and the chat tokenizer. Leave it as it came."""
    from steerlens.models.load import load_model

    return load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")


@pytest.fixture(scope="session")
def exact_model(tiny_folder: Callable[..., Path]) -> HookedTransformer:
    """`tiny_chat_model` in float64: whatever the processor, no rounding decides which token is the likeliest, or drawn."""
    from steerlens.models.load import load_model

    return load_model(tiny_folder("llama", tokenizer="chat"), device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def tiny_models(tiny_folder: Callable[..., Path]) -> dict[str, HookedTransformer]:
    """One small model per family (FAMILIES), float32 on the CPU, with the plain tokenizer. Leave them as they came."""
    from steerlens.models.load import load_model

    return {family: load_model(tiny_folder(family), device="cpu") for family in FAMILIES}


@pytest.fixture
def no_ties(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this test every likeliest token leads the next by more than rounding can take back: texts of two routes are the same."""
    leads, argmax = [np.inf], torch.Tensor.argmax

    def watched(values: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if values.is_floating_point() and values.shape[-1:] == (D_VOCAB,):  # logits
            top = values.detach().topk(2).values
            leads.append(float((top[..., 0] - top[..., 1]).min()))
        return argmax(values, *args, **options)

    monkeypatch.setattr(torch.Tensor, "argmax", watched)
    yield
    assert min(leads) > ROUNDING


@pytest.fixture(scope="session")
def _default_model_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # half a gigabyte, which pytest would keep for three runs


@pytest.fixture
def default_model_cache(_default_model_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default model is converted to: empty for the first test that loads it, and never the user's own."""
    monkeypatch.setenv("STEERLENS_CACHE", str(_default_model_cache))
    return _default_model_cache
