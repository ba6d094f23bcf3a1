"""The fast route of `generate`: the blocks' equations on rows of tokens, behind a KV cache of their keys and values.

Rows are padded on the left; a row's position is its column less its padding. What rows of the same prompt have in common is
computed once for all of them: blocks 0 to `layer`, and with positions="response" the whole prompt but its last token. Rows
that have ended leave the batch when they are a quarter of it.
"""

from collections.abc import Generator, Sequence
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.forward.block_math import embed, keys_and_values, mlp, norm, queries, write
from steerlens.forward.hooked_route import pad_tokens
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.readout import logits_at
from steerlens.forward.steer import Positions
from steerlens.generation.sampling import Choose, likeliest


def flat_tokens(
    model: HookedTransformer,
    rows: Sequence[Sequence[int]],
    added: Float[Tensor, "row d_model"],
    layer: int,
    positions: Positions,
    max_new_tokens: int,
    stops: set[int],
    choose: Choose = likeliest,
) -> Generator[tuple[list[int], list[int]], None, None]:
    """Rows and the next token of each, again and again; fewer rows as they end, and nothing after the last.

    For models of which `FlatRoute.fits` is true.
    """
    decoder = FlatDecoder(model, rows, added, layer, max_new_tokens)
    batch, ended = list(range(len(rows))), set[int]()
    best = choose(decoder.start(positions), batch, 0)
    for step in count(1):
        chosen = best.tolist()
        yield batch, chosen
        ended.update(row for row, token in zip(batch, chosen, strict=True) if token in stops)
        going = [i for i, row in enumerate(batch) if row not in ended]
        if not going:
            return
        if len(going) <= 0.75 * len(batch):
            batch = [batch[i] for i in going]
            best = decoder.keep(torch.tensor(going, device=best.device), best)
        best = choose(decoder.logits(best[:, None]), batch, step)


class FlatDecoder:
    """A batch of rows on its way: the keys and values of its tokens so far, by layer."""

    def __init__(
        self,
        model: HookedTransformer,
        rows: Sequence[Sequence[int]],
        added: Float[Tensor, "row d_model"],
        layer: int,
        max_new_tokens: int,
    ) -> None:
        self.model, self.layer, self.device = model, layer, model.cfg.device
        self.added = added.to(model.cfg.device, model.cfg.dtype)
        self.window = FlatRoute(model).window
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, rows)))}
        tokens, mask = pad_tokens(list(place), left=True)
        self.prompts, self.padding = tokens.to(self.device), (1 - mask).sum(1).to(self.device)
        self.prompt_of: Tensor | None = torch.tensor([place[tuple(row)] for row in rows], device=self.device)
        """which prompt a row goes on from; None once every row of the batch is itself"""
        self.columns = tokens.shape[1] + max_new_tokens
        self.past = 0
        self.keys: dict[int, Float[Tensor, "row kv_head column d_head"]] = {}
        self.values: dict[int, Float[Tensor, "row kv_head column d_head"]] = {}

    def start(self, positions: Positions) -> Float[Tensor, "row d_vocab"]:
        """The prompts' pass: logits behind each row's last token."""
        if positions == "all" or self.prompts.shape[1] == 1:
            return self.logits(self.prompts)
        # The vector comes in with the prompt's last token: a pass of its own, as that of every new token.
        self._blocks(self.prompts[:, :-1], steered=False)
        return self.logits(self._rows_apart(self.prompts[:, -1:]))

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "row d_vocab"]:
        """Append the tokens, steered, and unembed after the last one."""
        return logits_at(self.model, self._blocks(tokens, steered=True)[:, -1])

    def keep(self, rows: Int[Tensor, " kept"], tokens: Int[Tensor, " row"]) -> Int[Tensor, " kept"]:
        """Leave all rows but some; returns those rows of `tokens`."""
        self.added = self.added[rows]
        self._take(rows)
        return tokens[rows]

    def _rows_apart(self, x: Tensor) -> Tensor:
        """From prompts to rows: whatever was computed once for rows of the same prompt is copied to each."""
        rows, self.prompt_of = self.prompt_of, None
        if rows is None:
            return x
        self._take(rows)
        return x[rows]

    def _take(self, rows: Tensor) -> None:
        self.padding = self.padding[rows]
        for cache in (self.keys, self.values):
            for i in cache:
                cache[i] = cache[i][rows]

    def _blocks(self, tokens: Int[Tensor, "batch pos"], *, steered: bool) -> Float[Tensor, "row pos d_model"]:
        end = self.past + tokens.shape[1]
        columns = torch.arange(self.past, end, device=self.device)
        position, mask = self._position(columns), self._mask(columns)
        x = embed(self.model, tokens, position)
        for i, block in enumerate(self.model.blocks):
            x = self._block(i, block, x, position, mask)
            if steered and i == self.layer:
                if self.prompt_of is not None:
                    x = self._rows_apart(x)
                    position, mask = self._position(columns), self._mask(columns)
                x = x + self.added[:, None]
        self.past = end
        return x

    def _block(self, i: int, block: Any, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        attention = self._attention(i, block.attn, norm(block.ln1, x), position, mask)
        if self.model.cfg.parallel_attn_mlp:
            return x + attention + mlp(block.mlp, norm(block.ln2, x))
        x = x + attention
        return x + mlp(block.mlp, norm(block.ln2, x))

    def _attention(self, i: int, attn: Any, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        q = queries(attn, x, position).transpose(1, 2)
        new = keys_and_values(attn, x, position)
        k, v = (
            self._append(cache, i, t.transpose(1, 2)) for cache, t in zip((self.keys, self.values), new, strict=True)
        )
        k, v = k[:, :, -mask.shape[-1] :], v[:, :, -mask.shape[-1] :]
        grouped = k.shape[1] != q.shape[1]
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / attn.attn_scale, enable_gqa=grouped)
        return write(attn, z.transpose(1, 2).flatten(2))

    def _append(self, cache: dict[int, Tensor], i: int, new: Tensor) -> Tensor:
        """A layer's keys or values up to the new ones, in a tensor that has room for all that will come."""
        end = self.past + new.shape[2]
        if i not in cache:
            cache[i] = new.new_empty(*new.shape[:2], self.columns, new.shape[3])
        cache[i][:, :, self.past : end] = new
        return cache[i][:, :, :end]

    def _position(self, columns: Int[Tensor, " pos"]) -> Int[Tensor, "batch pos"]:
        return (columns - self.padding[:, None]).clamp(min=0)

    def _mask(self, columns: Int[Tensor, " pos"]) -> Bool[Tensor, "batch 1 pos key"]:
        """Whether a column sees an earlier one: within the window, and no padding. Keys that none sees are left out."""
        first = 0 if self.window is None else max(0, self.past - self.window + 1)
        q, k = columns[:, None], torch.arange(first, self.past + len(columns), device=self.device)
        seen = k <= q if self.window is None else (k <= q) & (q - k < self.window)
        # Padding sees itself: a row that sees nothing has no softmax, and its nan would reach the next block's keys.
        return (seen & (k >= self.padding[:, None, None]) | (k == q))[:, None]
