"""Hugging Face configs as HookedTransformerConfigs: five families, every field carried, inert, or refused by name.

TransformerLens's own translation drops what it does not know (an attention bias on Llama: 0.8 nats wrong), so a field
that is neither carried over nor inert for inference must have its class's default here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformer_lens import HookedTransformerConfig
from transformers import GenerationConfig, PretrainedConfig

from steerlens.errors import ModelError

_ACTIVATIONS = {
    "swish": "silu",
    **{name: name for name in ("silu", "relu", "relu2", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")},
}
_QUANTISED = (
    " Weights in 8 or 4 bits are packed, and gradients and fingerprints need them plain: load the model with transformers, "
    "call model.dequantize(), save it with save_pretrained, and load that folder (dtype='bfloat16' takes 2 bytes a weight)."
)
_LLAMA3_ROPE = {
    "factor": "NTK_by_parts_factor",
    "low_freq_factor": "NTK_by_parts_low_freq_factor",
    "high_freq_factor": "NTK_by_parts_high_freq_factor",
    "original_max_position_embeddings": "NTK_original_ctx_len",
}
# Bookkeeping, training, generation, and heads other than the language model's. tie_word_embeddings is here because the
# converters read the unembedding that Hugging Face runs, tied or not.
_INERT = frozenset(GenerationConfig().to_dict()) | frozenset(
    "_attn_implementation_autoset _name_or_path _num_labels architectures attention_dropout attn_pdrop "
    "chunk_size_feed_forward classifier_dropout dtype embd_pdrop finetuning_task gradient_checkpointing hidden_dropout "
    "id2label initializer_range is_decoder is_llama_config label2id language model_type n_ctx num_labels output_past "
    "predict_special_tokens problem_type reorder_and_upcast_attn resid_pdrop return_dict summary_activation "
    "summary_first_dropout summary_proj_to_labels summary_type summary_use_proj task_specific_params "
    "tie_word_embeddings tokenizer_class torch_dtype torchscript transformers.js_config unsloth_fixed unsloth_version "
    "xla_device".split()
)


_Target = str | Callable[[Any], dict[str, Any]]


class _RefusedError(Exception):
    """A field's value has no counterpart: (field, value, what would be carried)."""


@dataclass(frozen=True)
class Family:
    """One model family: `carried` maps a Hugging Face field to TransformerLens's, or to a function of the config."""

    architecture: str
    converter: str
    carried: Mapping[str, _Target]
    constant: Mapping[str, Any]
    inert: frozenset[str] = field(default_factory=frozenset)


def _activation(config: PretrainedConfig) -> dict[str, Any]:
    name = "activation_function" if config.model_type == "gpt2" else "hidden_act"
    value = getattr(config, name)
    if value not in _ACTIVATIONS:
        raise _RefusedError(name, value, ", ".join(sorted(_ACTIVATIONS)))
    return {"act_fn": _ACTIVATIONS[value]}


def _d_head(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _head_dim(config: PretrainedConfig) -> dict[str, Any]:
    return {"d_head": _d_head(config)}


def _llama_kv_heads(config: PretrainedConfig) -> dict[str, Any]:
    grouped = config.num_key_value_heads != config.num_attention_heads
    return {"n_key_value_heads": config.num_key_value_heads if grouped else None}


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    rope = dict(config.rope_parameters)
    kind, theta = rope.pop("rope_type", None), rope.pop("rope_theta", None)
    partial = rope.pop("partial_rotary_factor", 1.0)
    accepted = {"default": set(), "llama3": set(_LLAMA3_ROPE)}
    if theta is None or kind not in accepted or set(rope) != accepted[kind]:
        raise _RefusedError("rope_parameters", config.rope_parameters, "rope_type 'default' or 'llama3', with its keys")
    if partial != 1.0 and config.model_type != "gpt_neox":
        raise _RefusedError("rope_parameters", config.rope_parameters, "partial_rotary_factor 1.0")
    fields = {"rotary_base": theta, "rotary_dim": int(_d_head(config) * partial)}
    if kind == "llama3":
        fields |= {"use_NTK_by_parts_rope": True} | {_LLAMA3_ROPE[key]: value for key, value in rope.items()}
    return fields


def _mistral_window(config: PretrainedConfig) -> dict[str, Any]:
    if config.sliding_window is None:
        return {}
    layers = ["local"] * config.num_hidden_layers
    return {"use_local_attn": True, "window_size": config.sliding_window, "attn_types": layers}


def _qwen2_layers(config: PretrainedConfig) -> dict[str, Any]:
    if set(config.layer_types) != {"full_attention"}:
        name = "use_sliding_window" if config.use_sliding_window else "layer_types"
        raise _RefusedError(name, getattr(config, name), "full attention in every layer")
    return {}


def _gpt2_inner(config: PretrainedConfig) -> dict[str, Any]:
    return {"d_mlp": config.n_inner if config.n_inner is not None else 4 * config.n_embd}


def _gpt2_heads(config: PretrainedConfig) -> dict[str, Any]:
    return {"n_heads": config.n_head, "d_head": config.n_embd // config.n_head}


_SIZES: dict[str, _Target] = {
    "vocab_size": "d_vocab",
    "hidden_size": "d_model",
    "intermediate_size": "d_mlp",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "n_ctx",
    "hidden_act": _activation,
    "head_dim": _head_dim,
    "rope_parameters": _rope,
}
_ROTARY = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False}
_LLAMA_LIKE = {**_ROTARY, "normalization_type": "RMS", "final_rms": True, "gated_mlp": True}

FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        "convert_llama_weights",
        {**_SIZES, "rms_norm_eps": "eps", "num_key_value_heads": _llama_kv_heads},
        _LLAMA_LIKE,
        # transformers no longer reads it: one matrix multiplication, however it was sliced in training.
        frozenset({"pretraining_tp"}),
    ),
    "mistral": Family(
        "MistralForCausalLM",
        "convert_mistral_weights",
        {
            **_SIZES,
            "rms_norm_eps": "eps",
            "num_key_value_heads": "n_key_value_heads",
            "sliding_window": _mistral_window,
        },
        _LLAMA_LIKE,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        "convert_qwen2_weights",
        {**_SIZES, "rms_norm_eps": "eps", "num_key_value_heads": "n_key_value_heads", "layer_types": _qwen2_layers},
        {**_LLAMA_LIKE, "default_prepend_bos": False},
        frozenset({"use_sliding_window", "sliding_window", "max_window_layers"}),
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "convert_gpt2_weights",
        {
            "vocab_size": "d_vocab",
            "n_embd": "d_model",
            "n_layer": "n_layers",
            "n_positions": "n_ctx",
            "n_head": _gpt2_heads,
            "n_inner": _gpt2_inner,
            "layer_norm_epsilon": "eps",
            "activation_function": _activation,
            "scale_attn_weights": "use_attn_scale",
            "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
        },
        {"normalization_type": "LN"},
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        "convert_neox_weights",
        {**_SIZES, "layer_norm_eps": "eps", "use_parallel_residual": "parallel_attn_mlp"},
        {**_ROTARY, "normalization_type": "LN", "default_prepend_bos": False},
    ),
}


def hooked_config(config: PretrainedConfig, *, name: str, dtype: torch.dtype, device: str) -> HookedTransformerConfig:
    """The HookedTransformerConfig of a Hugging Face config.

    Raises `ModelError` naming every field that would be lost.
    """
    family = FAMILIES[config.model_type]
    fields, refused = dict(family.constant), _left_over(config, family)
    for source, target in family.carried.items():
        try:
            fields |= {target: getattr(config, source)} if isinstance(target, str) else target(config)
        except _RefusedError as error:
            refused.append(error.args)
    if refused:
        lines = [f"  {key} = {value!r} (carried: {wanted})" for key, value, wanted in refused]
        raise ModelError(
            f"{name}: its config.json has fields that TransformerLens's {config.model_type} model would drop:\n"
            + "\n".join(lines)
            + "\nThe converted model would not be this one. Use a checkpoint without them, or pass your own "
            "HookedTransformer." + (_QUANTISED if any(key == "quantization_config" for key, *_ in refused) else "")
        )
    return HookedTransformerConfig(
        **fields,
        model_name=name,
        original_architecture=family.architecture,
        dtype=dtype,
        device=device,
        init_weights=False,
    )


def _left_over(config: PretrainedConfig, family: Family) -> list[tuple[Any, ...]]:
    """Fields that are neither carried nor inert, and not at their default: (field, value, default)."""
    defaults = type(config)().to_dict()
    known = _INERT | family.inert | set(family.carried)
    refused = []
    for key, value in config.to_dict().items():
        if key in known or key.endswith(("_token_id", "_token_ids")):
            continue
        # A field the class does not define is off when it is empty: `"use_mrope": false`, `"pruned_heads": {}`.
        is_off = key not in defaults and (value is None or value is False or value in ({}, []))
        if not is_off and (key not in defaults or value != defaults[key]):
            refused.append((key, value, repr(defaults[key]) if key in defaults else "only when absent or off"))
    return refused
