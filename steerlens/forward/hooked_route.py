"""The general route: any HookedTransformer of TransformerLens's own parts, through its own forward pass.

A prompt is computed once for its responses (two, or more): it goes through the blocks alone, into a KV cache whose entries
keep their graph, and the responses follow behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.forward.readout import logits_at, sum_logprobs
from steerlens.forward.steer import Positions, added_at, new_kv_cache
from steerlens.forward.whole_route import needs_whole_passes, whole_pass
from steerlens.text.encode import Encoded


@dataclass(frozen=True)
class PairBatch:
    """Prompts padded on the left and responses padded on the right, each prompt's one after the other: chosen, rejected."""

    prompt: Int[Tensor, "batch prompt_pos"]
    prompt_mask: Int[Tensor, "batch prompt_pos"]
    response: Int[Tensor, "sides response_pos"]
    response_mask: Int[Tensor, "sides response_pos"]

    @property
    def sides(self) -> int:
        """Responses to each prompt."""
        return len(self.response) // len(self.prompt)

    @property
    def response_tokens(self) -> Bool[Tensor, "sides response_pos"]:
        """Where a response has a token."""
        return self.response_mask.bool()


def collate(pairs: Sequence[Encoded], device: torch.device | str | None) -> PairBatch:
    """Pad some encoded pairs to one batch; masks go by length, never by token id (pad may be the end of a turn)."""
    responses = [side for pair in pairs for side in pair.sides]
    prompt, prompt_mask = pad_tokens([pair.prompt for pair in pairs], left=True)
    response, response_mask = pad_tokens(responses, left=False)
    return PairBatch(*(t.to(device) for t in (prompt, prompt_mask, response, response_mask)))


def pad_tokens(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Rows of token ids as one tensor, padded with 0, and the mask of what is no padding."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device="cpu")
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        at = slice(tokens.shape[1] - len(row), None) if left else slice(len(row))
        tokens[i, at], mask[i, at] = torch.tensor(row, dtype=torch.long, device="cpu"), 1
    return tokens, mask


def run_blocks(
    model: HookedTransformer,
    batch: PairBatch,
    *,
    start: int = 0,
    stop: int,
    resid: tuple[Tensor, Tensor] | None = None,
) -> tuple[Float[Tensor, "batch prompt_pos d_model"], Float[Tensor, "sides response_pos d_model"]]:
    """Prompts and responses through blocks `start` to `stop` (exclusive), each prompt once for its responses.

    resid: the residual stream before block `start`; None embeds the tokens.
    """
    cache = new_kv_cache(model, batch.prompt.shape[0])
    if resid is None:
        prompt = model(batch.prompt, attention_mask=batch.prompt_mask, past_kv_cache=cache, stop_at_layer=stop)
    else:
        prompt = model(
            resid[0], attention_mask=batch.prompt_mask, past_kv_cache=cache, start_at_layer=start, stop_at_layer=stop
        )
    for entry in cache.entries[start:stop]:
        entry.past_keys = entry.past_keys.repeat_interleave(batch.sides, 0)
        entry.past_values = entry.past_values.repeat_interleave(batch.sides, 0)
    cache.previous_attention_mask = batch.prompt_mask.repeat_interleave(batch.sides, 0)
    if resid is None:
        mask = batch.response_mask  # TransformerLens puts the cache's mask in front by itself when it embeds
        response = model(batch.response, attention_mask=mask, past_kv_cache=cache, stop_at_layer=stop)
    else:
        mask = torch.cat([cache.previous_attention_mask, batch.response_mask], 1)
        response = model(resid[1], attention_mask=mask, past_kv_cache=cache, start_at_layer=start, stop_at_layer=stop)
    return prompt, response


class HookedRoute:
    """Log-probabilities of the responses of pairs, by the model's own forward pass; all have as many responses, mostly two."""

    name = "hooked"

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model

    def resid(self, pairs: Sequence[Encoded], layers: Sequence[int]) -> list[list[Float[Tensor, "token d_model"]]]:
        """The residual stream after each layer, one tensor per pair: prompt, then each response."""
        batch = collate(pairs, self.model.cfg.device)
        found: dict[int, list[Tensor]] = {}
        resid, start = None, 0
        for layer in sorted(layers):
            resid = run_blocks(self.model, batch, start=start, stop=layer + 1, resid=resid)
            found[layer], start = [_unpadded(pair, i, resid) for i, pair in enumerate(pairs)], layer + 1
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
        batch = collate(pairs, self.model.cfg.device)
        prompt, response = self._unpack(pairs, resid, batch)
        if added is not None:
            added = added.to(prompt).expand(len(pairs), -1)[:, None]
            # The first response token is decided at the last prompt token.
            first = 0 if positions == "all" else prompt.shape[1] - 1
            prompt = torch.cat([prompt[:, :first], prompt[:, first:] + added], 1)
            response = response + added.repeat_interleave(batch.sides, 0)
        n_layers = self.model.cfg.n_layers
        if layer + 1 < n_layers:
            prompt, response = run_blocks(self.model, batch, start=layer + 1, stop=n_layers, resid=(prompt, response))
        before = torch.cat(
            [prompt[:, -1:].repeat_interleave(batch.sides, 0), response[:, :-1]], 1
        )  # predicts each response token
        where = batch.response_tokens
        side = torch.arange(where.shape[0], device=where.device)[:, None].expand_as(where)[where]
        logits = logits_at(self.model, before[where])
        return sum_logprobs(logits, batch.response[where], side, where.shape[0]).view(len(pairs), -1)

    def _unpack(self, pairs: Sequence[Encoded], resid: Sequence[Tensor], batch: PairBatch) -> tuple[Tensor, Tensor]:
        prompt = resid[0].new_zeros(*batch.prompt.shape, resid[0].shape[-1])
        response = resid[0].new_zeros(*batch.response.shape, resid[0].shape[-1])
        for i, (pair, tokens) in enumerate(zip(pairs, resid, strict=True)):
            p, *sides = tokens.split([len(pair.prompt), *map(len, pair.sides)])
            prompt[i, -len(p) :] = p
            for k, side in enumerate(sides):
                response[batch.sides * i + k, : len(side)] = side
        device, dtype = self.model.cfg.device, self.model.cfg.dtype
        return prompt.to(device, dtype), response.to(device, dtype)


def _unpadded(pair: Encoded, i: int, resid: tuple[Tensor, Tensor]) -> Tensor:
    sides = [resid[1][len(pair.sides) * i + k, : len(side)] for k, side in enumerate(pair.sides)]
    return torch.cat([resid[0][i, -len(pair.prompt) :], *sides])


@torch.no_grad()
def last_token_resid(
    model: HookedTransformer,
    prompts: Sequence[Sequence[int]],
    layer: int,
    *,
    batch_size: int = 16,
    added: Float[Tensor, " d_model"] | None = None,
    at: int = 0,
    positions: Positions = "all",
) -> Float[Tensor, "prompt d_model"]:
    """The residual stream after the layer at the last token of each prompt, with `added` after the layer `at`."""
    if needs_whole_passes(model):
        starts = [0 if positions == "all" else len(prompt) - 1 for prompt in prompts]
        return torch.stack(
            [
                whole_pass(model, prompt, [layer], added=added, at=at, start=start)[1][layer][-1].cpu()
                for prompt, start in zip(prompts, starts, strict=True)
            ]
        )

    def add(resid: Tensor) -> Tensor:
        # The prompts are padded on the left: the last position is every prompt's last token.
        first = 0 if positions == "all" else resid.shape[1] - 1
        return resid if added is None else torch.cat([resid[:, :first], resid[:, first:] + added.to(resid)], 1)

    found, device = [], model.cfg.device
    with added_at(model, at, add):
        for start in range(0, len(prompts), batch_size):
            tokens, mask = pad_tokens(prompts[start : start + batch_size], left=True)
            resid = model(tokens.to(device), attention_mask=mask.to(device), stop_at_layer=layer + 1)
            found.append(resid[:, -1].cpu())
    return torch.cat(found)
