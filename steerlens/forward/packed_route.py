"""The fast route: pairs as one run of tokens without padding, through the blocks' equations written out.

A pair is packed as prompt, chosen, rejected; both responses see the prompt and neither sees the other, so a prompt is
computed once (and so it is with more responses than two). What all prompts of a batch begin with (a system prompt, a
template's opening) is computed once for all of them, where they are steered alike. The last block's queries, output and MLP
run only where a response token is predicted. The equations are in `_block_math`; the model's modules don't run, so the
route is not taken while a hook is on, nor where a module is not TransformerLens's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.forward.block_math import embed, keys_and_values, mlp, norm, queries, write
from steerlens.forward.parts import is_plain
from steerlens.forward.readout import logits_at, sum_logprobs
from steerlens.forward.steer import Positions
from steerlens.text.encode import Encoded


@dataclass(frozen=True)
class Queries:
    """Which tokens ask in a block, and where they stand in the padded grid that attention needs."""

    token: Int[Tensor, " query"]
    """their places among all tokens"""
    cell: Int[Tensor, " query"]
    """their places in a (pair, slot) grid, flattened"""
    slots: int
    mask: Bool[Tensor, "pair 1 slot key"]


class Packed:
    """Some pairs as one run of tokens: what all prompts begin with, then prompt and responses of each in turn.

    shared: how many tokens all prompts begin with and have computed once; fewer than the shortest prompt has. They stand
    in the first pair's row of the grid, and every pair's keys begin with them.
    """

    def __init__(self, pairs: Sequence[Encoded], device: Any, window: int | None = None, *, shared: int = 0) -> None:
        self.pairs, self.device, self.window, self.shared = list(pairs), device, window, shared
        sizes = [(len(p.prompt) - shared, *map(len, p.sides)) for p in pairs]
        self.lengths = [sum(size) for size in sizes]
        """tokens of each pair that are its own"""
        self.slots = shared + max(self.lengths)
        opening = range(shared)
        own = [(*p.prompt[shared:], *chain(*p.sides)) for p in pairs]
        self.tokens = self._tensor([*pairs[0].prompt[:shared], *(t for tokens in own for t in tokens)])
        places = [i for p, *sides in sizes for i in (*range(p), *chain(*(range(p, p + n) for n in sides)))]
        self.position = self._tensor([*opening, *(shared + i for i in places)])
        segments = [k for size in sizes for k, n in enumerate(size) for _ in range(n)]
        self.segment = self._tensor([*(0 for _ in opening), *segments])
        pair = [i for i, n in enumerate(self.lengths) for _ in range(n)]
        self.pair = self._tensor([*(0 for _ in opening), *pair])
        self.slot = self._tensor([*opening, *(shared + s for n in self.lengths for s in range(n))])
        starts = shared + self._tensor(self.lengths).cumsum(0) - self._tensor(self.lengths)
        before, target, side = self._predictions(sizes, starts.tolist())
        self.predictor, self.source = torch.unique(self._tensor(before), return_inverse=True)
        self.target, self.side = self._tensor(target), self._tensor(side)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)

    def _predictions(
        self, sizes: Sequence[tuple[int, ...]], starts: Sequence[int]
    ) -> tuple[list[int], list[int], list[int]]:
        """For every response token: the token before it, itself, and which of all responses it belongs to."""
        before: list[int] = []
        target: list[int] = []
        side: list[int] = []
        count = 0
        for pair, (p, *_), start in zip(self.pairs, sizes, starts, strict=True):
            first = start + p
            for tokens in pair.sides:
                before += [start + p - 1, *range(first, first + len(tokens) - 1)]
                target += tokens
                side += [count] * len(tokens)
                first, count = first + len(tokens), count + 1
        return before, target, side

    @cached_property
    def _mask(self) -> Bool[Tensor, "pair slot key"]:
        """Whether a slot sees a key: an earlier one of the prompt or of its own response, within the window."""
        grid = torch.full((len(self.pairs), self.slots), -1, dtype=torch.long, device=self.device)
        segment, position = grid.clone(), grid.clone()
        segment[self.pair, self.slot], position[self.pair, self.slot] = self.segment, self.position
        segment[:, : self.shared], position[:, : self.shared] = segment[0, : self.shared], position[0, : self.shared]
        q, k = segment[:, :, None], segment[:, None, :]
        order = torch.arange(self.slots, device=self.device)
        mask = (order[:, None] >= order[None, :]) & ((k == 0) | (k == q)) & (k >= 0)
        if self.window is not None:
            mask &= (position[:, :, None] - position[:, None, :] < self.window) | (q < 0)
        return mask

    @cached_property
    def own_cell(self) -> Int[Tensor, " own"]:
        """The places of the pairs' own tokens in a grid without the shared ones."""
        own = slice(self.shared, None)
        return self.pair[own] * (self.slots - self.shared) + self.slot[own] - self.shared

    @cached_property
    def everywhere(self) -> Queries:
        """Every token asks."""
        cell = self.pair * self.slots + self.slot
        return Queries(torch.arange(len(self.tokens), device=self.device), cell, self.slots, self._mask[:, None])

    @cached_property
    def predicting(self) -> Queries:
        """Only the tokens that predict a response token ask."""
        pair = self.pair[self.predictor]
        counts = torch.bincount(pair, minlength=len(self.pairs))
        slots = int(counts.max())
        rank = torch.arange(len(pair), device=self.device) - (counts.cumsum(0) - counts)[pair]
        # A slot without a query sees the first key: a row that sees nothing has no softmax.
        mask = torch.zeros(len(self.pairs), slots, self.slots, dtype=torch.bool, device=self.device)
        mask[:, :, 0] = True
        mask[pair, rank] = self._mask[pair, self.slot[self.predictor]]
        return Queries(self.predictor, pair * slots + rank, slots, mask[:, None])

    def steered(self, positions: Positions) -> Tensor:
        """1 where a vector is added, by token; "response" begins at the last prompt token."""
        if positions == "all":
            return torch.ones_like(self.tokens)
        last = torch.tensor([len(p.prompt) - 1 for p in self.pairs], device=self.device)[self.pair]
        return (self.position >= last).long()


class FlatRoute:
    """Log-probabilities of the responses of packed pairs, from any layer upwards; all have as many responses, mostly two."""

    name = "flat"

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model
        local = model.cfg.use_local_attn and "local" in (model.cfg.attn_types or ())
        self.window = model.cfg.window_size if local else None

    @staticmethod
    def fits(model: HookedTransformer, longest: int) -> bool:
        """Whether the equations of this file are the model's: it is of TransformerLens's own parts, and no hook is on."""
        cfg = model.cfg
        plain = not (
            cfg.attn_only
            or cfg.use_qk_norm
            or cfg.num_experts
            or cfg.use_normalization_before_and_after
            or cfg.use_attention_sinks
            or cfg.load_in_4bit
            or cfg.use_logn_attn
            or cfg.use_dynamic_ntk_rope
            or cfg.post_embedding_ln
            or cfg.rotary_adjacent_pairs
            or cfg.clip_qkv is not None
            or max(cfg.attn_scores_soft_cap, cfg.output_logits_soft_cap) > 0
            or cfg.n_devices > 1
            or cfg.is_layer_norm_activation()
        )
        if not plain or len(model.blocks) != cfg.n_layers or not is_plain(model):
            return False
        attention = cfg.attention_dir == "causal" and len(set(cfg.attn_types or ["global"])) == 1
        position = cfg.positional_embedding_type == "standard" or (
            cfg.positional_embedding_type == "rotary" and longest <= model.blocks[0].attn.rotary_cos.shape[0]
        )
        normed = str(cfg.normalization_type).removesuffix("Pre") in ("LN", "RMS")
        known = cfg.original_architecture in (None, "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                                              "GPT2LMHeadModel", "GPTNeoXForCausalLM")  # fmt: skip
        return bool(attention and position and normed and known)

    def pack(self, pairs: Sequence[Encoded], *, alike: bool) -> Packed:
        """The pairs without padding, on the model's device; `alike`: all are steered alike, so they can share an opening."""
        shared = 0
        if alike and len(pairs) > 1:
            shared = min(len(pair.prompt) for pair in pairs) - 1  # a prompt's last token predicts: it stays its own
            columns = zip(*(pair.prompt[:shared] for pair in pairs), strict=True)
            shared = next((i for i, tokens in enumerate(columns) if len(set(tokens)) > 1), shared)
        return Packed(pairs, self.model.cfg.device, self.window, shared=shared)

    def resid(self, pairs: Sequence[Encoded], layers: Sequence[int]) -> list[list[Float[Tensor, "token d_model"]]]:
        """The residual stream after each layer, one tensor per pair: prompt, then each response."""
        packed = self.pack(pairs, alike=True)
        x = embed(self.model, packed.tokens, packed.position)
        found, start = {}, 0
        for layer in sorted(layers):
            x, start = self._blocks(x, packed, start, layer + 1, every=True), layer + 1
            opening, *own = x.split([packed.shared, *packed.lengths])
            found[layer] = [torch.cat([opening, tokens]) for tokens in own]
        return [found[layer] for layer in layers]

    def logprobs(
        self,
        pairs: Sequence[Encoded],
        resid: Sequence[Tensor],
        layer: int,
        added: Float[Tensor, "*pair d_model"] | None,
        positions: Positions,
    ) -> Float[Tensor, "pair response"]:
        """The responses' log-probabilities with `added` after the layer, one for all pairs or one for each, in nats."""
        packed = self.pack(pairs, alike=added is None or added.ndim == 1)
        own = [tokens[packed.shared :] for tokens in resid]
        x = torch.cat([resid[0][: packed.shared], *own]).to(self.model.cfg.device, self.model.cfg.dtype)
        if added is not None:
            x = x + (added if added.ndim == 1 else added[packed.pair]).to(x) * packed.steered(positions)[:, None]
        x = self._blocks(x, packed, layer + 1, self.model.cfg.n_layers)
        if layer + 1 == self.model.cfg.n_layers:
            x = x[packed.predictor]
        logits, sides = logits_at(self.model, x), sum(len(pair.sides) for pair in pairs)
        return sum_logprobs(logits, packed.target, packed.side, sides, packed.source).view(len(pairs), -1)

    def _blocks(self, x: Tensor, packed: Packed, start: int, stop: int, *, every: bool = False) -> Tensor:
        """Blocks start to stop (exclusive); after the model's last one only the predicting tokens are left, or all."""
        for i in range(start, stop):
            last = i == self.model.cfg.n_layers - 1 and not every
            x = self._block(self.model.blocks[i], x, packed, packed.predicting if last else packed.everywhere)
        return x

    def _block(self, block: Any, x: Tensor, packed: Packed, asking: Queries) -> Tensor:
        normed = norm(block.ln1, x)
        some = len(asking.token) < len(x)
        x, own = (x[asking.token], normed[asking.token]) if some else (x, normed)
        attention = self._attention(block.attn, own, normed, packed, asking)
        if self.model.cfg.parallel_attn_mlp:
            return x + attention + mlp(block.mlp, norm(block.ln2, x))
        x = x + attention
        return x + mlp(block.mlp, norm(block.ln2, x))

    def _attention(self, attn: Any, own: Tensor, every: Tensor, packed: Packed, asking: Queries) -> Tensor:
        q = queries(attn, own, packed.position[asking.token])
        k, v = keys_and_values(attn, every, packed.position)
        n, group = len(packed.pairs), q.shape[1] // k.shape[1]
        q = _grid(q, asking.cell, n, asking.slots).transpose(1, 2)
        k, v = (self._keys(t, packed) for t in (k, v))
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=asking.mask, scale=1 / attn.attn_scale)
        z = z.transpose(1, 2).flatten(2).flatten(0, 1)[asking.cell]
        return write(attn, z)

    def _keys(self, x: Float[Tensor, "token head d_head"], packed: Packed) -> Float[Tensor, "pair head slot d_head"]:
        n, shared = len(packed.pairs), packed.shared
        own = _grid(x[shared:], packed.own_cell, n, packed.slots - shared)
        opening = x[:shared].expand(n, -1, -1, -1)
        return (torch.cat([opening, own], 1) if shared else own).transpose(1, 2)


def _grid(x: Float[Tensor, "token head d_head"], cell: Tensor, pairs: int, slots: int) -> Tensor:
    """Tokens -> (pair, slot, head, d_head), zero where a slot is empty."""
    return x.new_zeros(pairs * slots, *x.shape[1:]).index_copy(0, cell, x).unflatten(0, (pairs, slots))
