"""Generation for prompts x multipliers in one batch, with a KV cache and a vector per row.

Two routes give the same tokens: `_flat_decode`, and the model's own forward pass for any other model and under hooks. A hook
sees the prompts padded on the left, and then one position at a time; a model with a module of somebody else's is run text by
text, without a cache.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.calls import multipliers_that_may_repeat, whole
from steerlens.checks.values import checked_count
from steerlens.errors import SteeringError
from steerlens.forward.door import checked
from steerlens.forward.hooked_route import pad_tokens
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.parts import check_runs_in_parts, foreign_parts
from steerlens.forward.readout import logits_at
from steerlens.forward.steer import Positions, added_at, new_kv_cache
from steerlens.forward.whole_route import logits_from, whole_pass
from steerlens.generation.packed_decode import flat_tokens
from steerlens.generation.sampling import Choose, likeliest
from steerlens.models.identity import identify
from steerlens.pairs.pair import Asked
from steerlens.text.conversation import checked_prompts
from steerlens.text.encode import Encoder
from steerlens.text.ends import Stop, stop_tokens
from steerlens.text.templates import Template
from steerlens.vectors.vector import SteeringVector, check_fits

Cell = TypeVar("Cell")


@dataclass(frozen=True)
class Decoded:
    """An answer's tokens, and the one that ended it; None where it was cut."""

    tokens: list[int]
    end: int | None

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self.end is not None


class Prompts:
    """Prompts as texts and as tokens, and which tokens end an answer to them.

    Raises:
        SteeringError: there are none, one does not fit the model's context together with the answer, or `stop` is no token.
        PairsError: a conversation that no answer can follow, or that the template has no place for.
    """

    def __init__(
        self,
        model: HookedTransformer,
        prompts: Sequence[Asked],
        max_new_tokens: int,
        *,
        template: Template = "auto",
        system_prompt: str | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.texts = checked_prompts("prompts", prompts, error=SteeringError)
        max_new_tokens = checked_count("max_new_tokens", max_new_tokens, error=SteeringError)
        check_runs_in_parts(model)
        encoder = Encoder(model, template, system_prompt)
        self.tokens = [encoder.generation_prompt(text) for text in self.texts]
        longest = max(map(len, self.tokens))
        if longest + max_new_tokens > model.cfg.n_ctx:
            raise SteeringError(
                f"the longest prompt has {longest} tokens; with max_new_tokens={max_new_tokens} it exceeds the model's context "
                f"of {model.cfg.n_ctx}"
            )
        self.stops = stop_tokens(model, encoder, self.texts, stop)
        self._tokenizer = encoder.tokenizer

    def text(self, answer: Decoded) -> str:
        """An answer's text, without special tokens."""
        return str(self._tokenizer.decode(answer.tokens, skip_special_tokens=True))


@checked(SteeringError, multipliers=multipliers_that_may_repeat, batch_size=whole())
def generate(
    model: HookedTransformer,
    prompts: Sequence[Asked],
    *,
    vector: SteeringVector | None = None,
    multipliers: Sequence[float] | None = None,
    max_new_tokens: int = 40,
    positions: Positions = "all",
    template: Template = "auto",
    system_prompt: str | None = None,
    stop: Stop | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> list[list[str]]:
    """Steered answers, greedily decoded: `texts[prompt][multiplier]`.

    Args:
        model: any HookedTransformer.
        prompts: questions, put into the template as `PreferencePairs` does; or conversations, each a list of messages
            `{"role": ..., "content": ...}` that ends with the user's, in the model's chat template.
        vector: what to steer with; None generates without.
        multipliers: one answer each; 0 is the unsteered model. Default: (1,) with a vector.
        max_new_tokens: per answer; it ends earlier at the end of its turn: the tokenizer's EOS, the chat template's end of
            turn, or any end token that the model's generation_config.json names.
        positions: "all", or "response": from the prompt's last token on, where the first new token is decided.
        template, system_prompt: as in `PreferencePairs`.
        stop: more tokens that end an answer, for models made elsewhere: ids, or texts that are one token each.
        batch_size: rows (prompts x multipliers) decoded at once; None takes as many as fit the free memory. The answers do
            not depend on it, up to ties.

    Returns:
        For each prompt a list with the answer of each multiplier, without special tokens.

    Raises:
        SteeringError: multipliers without a vector, a prompt too long for the context, no prompts, or no token in `stop`.
        PairsError: a conversation that no answer can follow, or that the template has no place for.
        VectorError: the vector does not fit the model.
    """
    multipliers = _check_request(vector, multipliers)
    asked = Prompts(model, prompts, max_new_tokens, template=template, system_prompt=system_prompt, stop=stop)
    if vector is not None:
        check_fits(vector, identify(model))
    nothing = torch.zeros(model.cfg.d_model, dtype=torch.float32, device="cpu")
    layer, direction = (0, nothing) if vector is None else (vector.layer, vector.tensor)
    tokens = asked.tokens
    cells = [(i, m) for i in sorted(range(len(tokens)), key=lambda i: -len(tokens[i])) for m in multipliers]
    texts: dict[tuple[int, float], str] = {}
    with tqdm(total=len(cells), desc="generating", unit="answer", disable=not progress, leave=False) as bar:
        for chunk in chunks(model, cells, [len(tokens[i]) + max_new_tokens for i, _ in cells], batch_size):
            added = direction.new_tensor([m for _, m in chunk])[:, None] * direction
            rows = [tokens[i] for i, _ in chunk]
            answers = decode(model, rows, added, layer, max_new_tokens, positions, asked.stops)
            texts |= {cell: asked.text(answer) for cell, answer in zip(chunk, answers, strict=True)}
            bar.update(len(chunk))
    return [[texts[i, m] for m in multipliers] for i in range(len(tokens))]


def _check_request(vector: SteeringVector | None, multipliers: Sequence[float] | None) -> tuple[float, ...]:
    if multipliers is None:
        multipliers = (0.0,) if vector is None else (1.0,)
    multipliers = tuple(multipliers)
    if vector is None and any(multipliers):
        raise SteeringError(
            f"multipliers={tuple(multipliers)} without a vector: pass vector=, or leave multipliers out"
        )
    return multipliers


def chunks(
    model: HookedTransformer, cells: Sequence[Cell], lengths: Sequence[int], batch_size: int | None
) -> Iterator[Sequence[Cell]]:
    """The cells in runs of `batch_size`, or of as many as fit the memory that is free; each run's first is its longest."""
    start = 0
    while start < len(cells):
        end = start + (batch_size or _rows_that_fit(model, lengths[start]))
        yield cells[start:end]
        start = end


def _rows_that_fit(model: HookedTransformer, length: int) -> int:
    """How many rows of a length take half of the free memory: 1 to 256, or 64 on a CPU, above which it is no faster."""
    cfg, device = model.cfg, torch.device(str(model.cfg.device))
    free, most = psutil.virtual_memory().available, 64
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free, most = torch.cuda.mem_get_info(device)[0] + kept, 256
    cache = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head * length
    # One block's activations at every position, its attention scores (the model's own forward pass keeps two), and logits.
    heads = cfg.n_heads * cfg.d_head
    at_once = length * (6 * cfg.d_model + 4 * heads + 3 * (cfg.d_mlp or 0) + 2 * cfg.n_heads * length) + cfg.d_vocab
    return max(1, min(most, free // (2 * cfg.dtype.itemsize * (cache + at_once))))


@torch.no_grad()
def decode(
    model: HookedTransformer,
    rows: Sequence[Sequence[int]],
    added: Float[Tensor, "row d_model"],
    layer: int,
    max_new_tokens: int,
    positions: Positions,
    stops: set[int],
    choose: Choose = likeliest,
) -> list[Decoded]:
    """The answer to each row of prompt tokens, with the row's own vector added after the layer."""
    answers: list[list[int]] = [[] for _ in rows]
    going, ends = set(range(len(rows))), dict[int, int]()
    if FlatRoute.fits(model, max(map(len, rows)) + max_new_tokens):
        steps = flat_tokens(model, rows, added, layer, positions, max_new_tokens, stops, choose)
    elif foreign_parts(model):
        steps = _whole_tokens(model, rows, added, layer, positions, stops, choose)
    else:
        steps = _hooked_tokens(model, rows, added, layer, positions, choose)
    with closing(steps):  # takes its hook off
        for batch, chosen in islice(steps, max_new_tokens):
            for row, token in zip(batch, chosen, strict=True):
                if row in going and token not in stops:
                    answers[row].append(token)
                elif row in going:
                    going.discard(row)
                    ends[row] = token
            if not going:
                break
    return [Decoded(tokens, ends.get(row)) for row, tokens in enumerate(answers)]


def _hooked_tokens(
    model: HookedTransformer,
    rows: Sequence[Sequence[int]],
    added: Float[Tensor, "row d_model"],
    layer: int,
    positions: Positions,
    choose: Choose,
) -> Generator[tuple[list[int], list[int]], None, None]:
    """Rows and the next token of each, again and again; a row goes on after its end, to be ignored."""
    tokens, mask = (t.to(model.cfg.device) for t in pad_tokens(rows, left=True))
    cache = new_kv_cache(model, len(rows))
    added = added.to(model.cfg.device)[:, None]

    def add(resid: Tensor) -> Tensor:
        # From the prompt's last token on: the last one of the first pass, and the only one of every later pass.
        first = 0 if positions == "all" else resid.shape[1] - 1
        return torch.cat([resid[:, :first], resid[:, first:] + added.to(resid)], 1)

    with added_at(model, layer, add):
        for step in count():
            resid = model(tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
            best = choose(logits_at(model, resid[:, -1]), range(len(rows)), step)
            yield list(range(len(rows))), best.tolist()
            tokens, mask = best[:, None], torch.ones_like(best)[:, None]


def _whole_tokens(
    model: HookedTransformer,
    rows: Sequence[Sequence[int]],
    added: Float[Tensor, "row d_model"],
    layer: int,
    positions: Positions,
    stops: set[int],
    choose: Choose,
) -> Generator[tuple[list[int], list[int]], None, None]:
    """The same without a KV cache, text by text: what a foreign module gives may depend on all that it sees."""
    texts, batch = [list(row) for row in rows], list(range(len(rows)))
    starts = [0 if positions == "all" else len(row) - 1 for row in rows]
    vectors = added.to(model.cfg.device)
    for step in count():
        finals = [whole_pass(model, texts[i], added=vectors[i], at=layer, start=starts[i])[0] for i in batch]
        chosen = choose(torch.cat([logits_from(model, x, len(x) - 1) for x in finals]), batch, step).tolist()
        yield batch, chosen
        for i, token in zip(batch, chosen, strict=True):
            texts[i].append(token)
        batch = [i for i, token in zip(batch, chosen, strict=True) if token not in stops]
