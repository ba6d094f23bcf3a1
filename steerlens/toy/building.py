"""The toy models' own files: a tokenizer with a chat template, a small Llama, and the folder that both are saved in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerlens.toy.sets import vocabulary

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ ' <sys> ' + message['content'] | trim }}"
    "{% elif message['role'] == 'user' %}{{ ' <user> ' + message['content'] | trim }}"
    "{% else %}{{ ' <bot> ' + message['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' <bot>' }}{% endif %}"
)
N_CTX, EPS = 256, 1e-5
RESID_NORM = 2.0
"""the residual stream's median norm in the middle of a saved model: BiPO's published lr (5e-4) then suits a few hundred steps"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or mark of punctuation; "<bos> <sys> ... <user> ... <bot> ... <eos>" as its chat template."""
    ids = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    marks = pre_tokenizers.Split(Regex(r"[.,?]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<sys>", "<user>", "<bot>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(seed: int) -> LlamaForCausalLM:
    """A Llama with random weights: 6 layers, d_model 128, 4 heads, about 1.1 million parameters."""
    names = vocabulary()
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=N_CTX,
        rms_norm_eps=EPS,
        tie_word_embeddings=False,
        pad_token_id=names.index("<pad>"),
        bos_token_id=names.index("<bos>"),
        eos_token_id=names.index("<eos>"),
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                std = 0.02 / (2 * 6) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                weight.copy_(std * torch.randn(weight.shape, generator=generator))
    return model


@torch.no_grad()
def rescale(model: LlamaForCausalLM, rows: Sequence[torch.Tensor], norm: float = RESID_NORM) -> float:
    """Bring the residual stream to a median norm in the middle layer, and leave the function as it is; returns the factor.

    Every block reads the stream through an RMSNorm, so that scaling all that writes to it by c, and eps by c**2, changes
    nothing else.

    Args:
        rows: token ids, each Int[Tensor, "1 pos"]; position 0 is left out of the median.
    """
    middle = model.config.num_hidden_layers // 2
    hidden = [model(row, output_hidden_states=True).hidden_states[middle][0, 1:] for row in rows]
    factor = norm / float(torch.cat(hidden).norm(dim=-1).median())
    _scale_stream(model, factor)
    return factor


def undo_rescale(model: LlamaForCausalLM) -> None:
    """Bring the residual stream back to the size that it is trained at, which `rms_norm_eps` tells."""
    _scale_stream(model, (EPS / model.config.rms_norm_eps) ** 0.5)


@torch.no_grad()
def _scale_stream(model: LlamaForCausalLM, factor: float) -> None:
    eps = model.config.rms_norm_eps * factor**2
    model.model.embed_tokens.weight.mul_(factor)
    norms: list[Any] = [model.model.norm]
    for block in model.model.layers:
        block.self_attn.o_proj.weight.mul_(factor)
        block.mlp.down_proj.weight.mul_(factor)
        norms += [block.input_layernorm, block.post_attention_layernorm]
    for layer_norm in norms:
        layer_norm.variance_epsilon = eps
    model.config.rms_norm_eps = eps


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder with weights in 16 bits."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model.float()  # what was saved, rounded to 16 bits
