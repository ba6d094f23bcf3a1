"""Greedy generation for prompts x multipliers in one batch, with a KV cache and a vector per row."""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._encode import Encoder
from steerlens._fingerprint import identify
from steerlens._hooked_route import pad_tokens
from steerlens._templates import Template
from steerlens.errors import SteeringError
from steerlens.resid import Positions, added_at, check_model, check_positions, logits_at, new_kv_cache
from steerlens.vector import SteeringVector, check_fits


def generate(
    model: HookedTransformer,
    prompts: Sequence[str],
    *,
    vector: SteeringVector | None = None,
    multipliers: Sequence[float] | None = None,
    max_new_tokens: int = 40,
    positions: Positions = "all",
    template: Template = "auto",
    system_prompt: str | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> list[list[str]]:
    """Steered answers, greedily decoded: `texts[prompt][multiplier]`.

    Args:
        model: any HookedTransformer.
        prompts: questions, put into the template as `PreferencePairs` does.
        vector: what to steer with; None generates without.
        multipliers: one answer each; 0 is the unsteered model. Default: (1,) with a vector.
        max_new_tokens: per answer; it ends earlier at the end of its turn.
        positions: "all", or "response": from the prompt's last token on, where the first new token is decided.
        template, system_prompt: as in `PreferencePairs`.
        batch_size: rows (prompts x multipliers) decoded at once; the answers do not depend on it, up to ties.

    Returns:
        For each prompt a list with the answer of each multiplier, without special tokens.

    Raises:
        SteeringError: multipliers without a vector, a prompt too long for the context, or no prompts.
        VectorError: the vector does not fit the model.
    """
    model = check_model(model)
    multipliers = _check_request(prompts, vector, multipliers, max_new_tokens, batch_size)
    check_positions(positions)
    if vector is not None:
        check_fits(vector, identify(model))
    encoder = Encoder(model, template, system_prompt)
    tokens = [encoder.generation_prompt(text) for text in prompts]
    longest = max(map(len, tokens))
    if longest + max_new_tokens > model.cfg.n_ctx:
        raise SteeringError(
            f"the longest prompt has {longest} tokens; with max_new_tokens={max_new_tokens} it exceeds the model's context "
            f"of {model.cfg.n_ctx}"
        )
    stops = {encoder.end_of_turn(), encoder.tokenizer.eos_token_id}
    cells = [(i, m) for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])) for m in multipliers]
    texts: dict[tuple[int, float], str] = {}
    with tqdm(total=len(cells), desc="generating", unit="answer", disable=not progress, leave=False) as bar:
        for start in range(0, len(cells), batch_size):
            chunk = cells[start : start + batch_size]
            rows = [tokens[i] for i, _ in chunk]
            answers = _decode(model, rows, vector, [m for _, m in chunk], max_new_tokens, positions, stops)
            for cell, ids in zip(chunk, answers, strict=True):
                texts[cell] = encoder.tokenizer.decode(ids, skip_special_tokens=True)
            bar.update(len(chunk))
    return [[texts[i, m] for m in multipliers] for i in range(len(tokens))]


def _check_request(
    prompts: Sequence[str],
    vector: SteeringVector | None,
    multipliers: Sequence[float] | None,
    max_new_tokens: int,
    batch_size: int,
) -> tuple[float, ...]:
    listed = not isinstance(prompts, str) and hasattr(prompts, "__len__") and len(prompts) > 0
    if not listed or not all(isinstance(text, str) for text in prompts):
        raise SteeringError(f"prompts={prompts!r:.80}; expected a list of at least one text")
    if multipliers is None:
        multipliers = (0.0,) if vector is None else (1.0,)
    listed = hasattr(multipliers, "__len__") and len(multipliers) > 0
    if not listed or not all(isinstance(m, Real) and math.isfinite(m) for m in multipliers):
        raise SteeringError(f"multipliers={multipliers!r}; expected at least one finite number")
    if vector is None and any(multipliers):
        raise SteeringError(
            f"multipliers={tuple(multipliers)} without a vector: pass vector=, or leave multipliers out"
        )
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SteeringError(f"{name}={value!r}; expected a whole number from 1")
    return tuple(multipliers)


@torch.no_grad()
def _decode(
    model: HookedTransformer,
    rows: Sequence[Sequence[int]],
    vector: SteeringVector | None,
    multipliers: Sequence[float],
    max_new_tokens: int,
    positions: Positions,
    stops: set[int],
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in rows]
    going = set(range(len(rows)))
    layer = 0 if vector is None else vector.layer
    with added_at(model, layer, _adder(model, vector, multipliers, positions)):
        for chosen in _greedy_tokens(model, rows):
            for row in sorted(going):
                if chosen[row] in stops:
                    going.discard(row)
                else:
                    answers[row].append(chosen[row])
                    if len(answers[row]) == max_new_tokens:
                        going.discard(row)
            if not going:
                break
    return answers


def _adder(
    model: HookedTransformer, vector: SteeringVector | None, multipliers: Sequence[float], positions: Positions
) -> Callable[[Tensor], Tensor]:
    if vector is None:
        return lambda resid: resid
    each = torch.tensor(multipliers, device=model.cfg.device)[:, None, None]
    added = each * vector.tensor.to(model.cfg.device)

    def add(resid: Tensor) -> Tensor:
        # From the prompt's last token on: the last one of the first pass, and the only one of every later pass.
        first = 0 if positions == "all" else resid.shape[1] - 1
        return torch.cat([resid[:, :first], resid[:, first:] + added.to(resid)], 1)

    return add


def _greedy_tokens(model: HookedTransformer, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The likeliest next token of every row, again and again; a row goes on after its end, to be ignored."""
    tokens, mask = pad_tokens(rows, left=True)
    cache = new_kv_cache(model, len(rows))
    tokens, mask = tokens.to(model.cfg.device), mask.to(model.cfg.device)
    while True:
        resid = model(tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
        best = logits_at(model, resid[:, -1]).argmax(-1)
        yield best.tolist()
        tokens, mask = best[:, None], torch.ones_like(best)[:, None]
