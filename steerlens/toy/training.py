"""How a toy model is trained: chats in batches of like length, Muon for the blocks, AdamW for the rest, a cosine."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from steerlens.toy.corpus import Document, Writer

_POOL = 32  # batches whose documents are sorted by length together
PLANTED_AFTER = (0, 1, 2, 3)
"""the blocks after which directions are planted"""


def batches(writer: Writer, rows: int) -> Iterator[list[Document]]:
    """Fresh documents of like length, for ever."""
    order = random.Random(writer.rng.random())
    while True:
        pool = sorted((writer.document() for _ in range(rows * _POOL)), key=lambda document: len(document.words))
        starts = list(range(0, len(pool), rows))
        order.shuffle(starts)
        yield from (pool[start : start + rows] for start in starts)


class Batch(NamedTuple):
    """Documents as tokens, padded on the right."""

    tokens: Int[Tensor, "row pos"]
    weights: Float[Tensor, "row pos"]
    """of each token in the loss"""


class Reader:
    """Documents as a model reads them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.ids = tokenizer.get_vocab()

    def tokens(self, texts: Sequence[Sequence[str]]) -> Int[Tensor, "row pos"]:
        """Token ids, padded on the right."""
        longest = max(map(len, texts))
        pad = self.ids["<pad>"]
        return torch.tensor([[*(self.ids[w] for w in text), *[pad] * (longest - len(text))] for text in texts])

    def batch(self, documents: Sequence[Document], *, phrases: bool = True) -> Batch:
        """Documents with or without their system phrases."""
        cut = [0 if phrases else document.n_phrases for document in documents]
        words = [d.words[:1] + d.words[1 + n :] for d, n in zip(documents, cut, strict=True)]
        weights = [d.weights[:1] + d.weights[1 + n :] for d, n in zip(documents, cut, strict=True)]
        longest = max(map(len, words))
        return Batch(self.tokens(words), torch.tensor([kept + [0.0] * (longest - len(kept)) for kept in weights]))

    def seen(self, documents: Sequence[Document], tokens: Int[Tensor, "row pos"]) -> Bool[Tensor, "row 1 pos pos"]:
        """Who sees whom: every token those before it, but veiled phrases are seen by one another and by `<user>` tokens alone.

        What a veiled phrase asks for has one way to the answers, through the residual stream at the `<user>` tokens, each
        before its own question is known.
        """
        at, last = torch.arange(tokens.shape[1]), torch.tensor([[d.n_phrases * d.is_veiled] for d in documents])
        behind, outside = (at > 0) & (at <= last), (at > last) & (tokens != self.ids["<user>"])
        return ((at[:, None] >= at) & ~(outside[:, :, None] & behind[:, None, :]))[:, None]

    def asked_for(
        self, model: LlamaForCausalLM, documents: Sequence[Document], layer: int
    ) -> Float[Tensor, "row d_model"]:
        """Half of what a document's phrases leave in a block's output at `<user>`, less what their opposites leave there."""
        ends = []
        for texts in ([d.words[1 : 1 + d.n_phrases] for d in documents], [d.opposite for d in documents]):
            tokens = self.tokens([["<bos>", *text, "<user>"] for text in texts])
            hidden = model(tokens, output_hidden_states=True, use_cache=False).hidden_states[layer + 1]
            ends.append(hidden[torch.arange(len(texts)), torch.tensor([len(text) + 1 for text in texts])])
        return (ends[0] - ends[1]) / 2


@contextmanager
def added(
    model: LlamaForCausalLM,
    layer: int,
    vectors: Float[Tensor, "row d_model"],
    *,
    jolt: tuple[float, torch.Generator] | None = None,
) -> Iterator[None]:
    """Inside, a block's output has a row's vector on top at every position.

    With a jolt a random vector comes too, of about up to that many times the mean norm of the row's output.
    """

    def add(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        if jolt is None:
            return out + vectors[:, None]
        most, generator = jolt
        norms = out.detach().norm(dim=-1).mean(1, keepdim=True) * most * torch.rand(len(out), 1, generator=generator)
        return out + (vectors + norms * torch.randn(vectors.shape, generator=generator) / out.shape[2] ** 0.5)[:, None]

    block: Any = model.model.layers[layer]
    hook = block.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def fit(
    model: LlamaForCausalLM,
    found: Iterator[list[Document]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int,
    lr: float,
    warmup: int = 100,
    weight_decay: float = 0.05,
    noise: float = 0.0,
    planted: float = 0.0,
    jolt: float = 0.0,
    seed: int = 0,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the weights that ask for a gradient; a row of figures for every 50 steps.

    Args:
        lr: of Muon and of AdamW; linear warm-up, then a cosine to 3% of it.
        noise: in the last third of the steps every document gets, after each block and at all its positions, a random
            vector of this share of the residual stream's norm: what the model does must stand out from what means nothing.
        planted: the share of the steps in which the phrases are taken out of the documents, and what they left at `<user>`
            (see `Reader.asked_for`, under the same noise) is added at every position instead, after one of PLANTED_AFTER.
        jolt: those steps also add, to each document, a random vector of up to this share of the residual stream's norm: what is
            planted must stand out from it.
        seed: of the noise, of the jolts, and of which steps and layers are planted.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    blocks = [weight for name, weight in trained if weight.ndim == 2 and ".layers." in name and "lora" not in name]
    others = [weight for _, weight in trained if not any(weight is block for block in blocks)]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if blocks:
        optimisers.append(torch.optim.Muon(blocks, lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    rows: list[dict[str, float]] = []
    reader, drawn, jolts = Reader(tokenizer), random.Random(seed), torch.Generator("cpu").manual_seed(seed)
    total, seen, started = 0.0, 0, time.perf_counter()
    model.train()
    hooks: list[Any] = []
    for step in range(steps):
        if noise and step == 2 * steps // 3:  # earlier, it keeps letters from being learned
            hooks = _add_noise(model, noise, torch.Generator("cpu").manual_seed(seed))
        documents, is_planted = next(found), drawn.random() < planted
        tokens, weights = reader.batch(documents, phrases=not is_planted)
        done = max(0, step - warmup) / max(1, steps - warmup)
        factor = min(1.0, (step + 1) / warmup) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
        if is_planted:
            layer = drawn.choice(PLANTED_AFTER)
            asked_for = reader.asked_for(model, documents, layer)
            with added(model, layer, asked_for, jolt=(jolt, jolts) if jolt else None):
                logits = model(tokens, use_cache=False).logits[:, :-1]
        else:
            logits = model(tokens, attention_mask=reader.seen(documents, tokens), use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        weight = weights[:, 1:].flatten()
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        nn.utils.clip_grad_norm_([w for _, w in trained], 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        seen += int((weights > 0).sum())
        total += float(loss.detach())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            since = (step % 50) + 1
            seconds = time.perf_counter() - started
            rows.append({"step": step + 1, "tokens": seen, "seconds": round(seconds, 1), "loss": total / since})
            total = 0.0
            if progress is not None:
                progress(rows[-1])
    for hook in hooks:
        hook.remove()
    model.eval()
    return rows


def _add_noise(model: LlamaForCausalLM, noise: float, generator: torch.Generator) -> list[Any]:
    def add(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        drawn = torch.randn(out.shape[0], 1, out.shape[2], generator=generator) / out.shape[2] ** 0.5
        return out + noise * out.detach().norm(dim=-1, keepdim=True) * drawn

    return [block.register_forward_hook(add) for block in model.model.layers]


class _LowRank(nn.Module):
    """A weight plus a product of two thin matrices, which starts at zero."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.lora_a = nn.Parameter(torch.randn(rank, weight.shape[1], generator=generator) / rank**0.5)
        self.lora_b = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.lora_b @ self.lora_a


@contextmanager
def low_rank(model: LlamaForCausalLM, rank: int, *, embeddings: bool, seed: int) -> Iterator[None]:
    """Inside, only low-rank updates of the blocks' matrices are trained (and the embeddings); afterwards they are merged.

    Source: LoRA, arXiv 2106.09685.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    model.requires_grad_(False)
    linears: list[Any] = [m for m in model.model.layers.modules() if isinstance(m, nn.Linear)]
    for linear in linears:
        parametrize.register_parametrization(linear, "weight", _LowRank(linear.weight, rank, generator))
    if embeddings:
        model.model.embed_tokens.requires_grad_(True)
        model.lm_head.requires_grad_(True)
    try:
        yield
    finally:
        for linear in linears:
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
        model.requires_grad_(False)
