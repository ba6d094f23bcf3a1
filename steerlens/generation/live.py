"""A steered and an unsteered answer to one prompt, token by token; each token's log-probability with the vectors and without."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as KeyValueCache

from steerlens.checks.values import checked_positions
from steerlens.errors import SteeringError
from steerlens.forward.parts import foreign_parts
from steerlens.forward.readout import logits_at
from steerlens.forward.steer import Positions, added_at, check_model, new_kv_cache
from steerlens.forward.whole_route import logits_from
from steerlens.generation.generate import Prompts
from steerlens.models.identity import identify
from steerlens.text.ends import Stop
from steerlens.text.templates import Template
from steerlens.vectors.vector import SteeringVector, check_fits

# Rows of the batch: each answer is read by both models, and written by its own.
STEERED_ROW = (True, False, True, False)


@dataclass(frozen=True)
class LiveAnswer:
    """An answer so far.

    tokens: its ids; once it has ended, the last one is what ended it.
    steered, unsteered: log p of each token behind the prompt and the tokens before it, in nats, with and without the vectors.
    """

    tokens: tuple[int, ...] = ()
    steered: tuple[float, ...] = ()
    unsteered: tuple[float, ...] = ()
    ended: bool = False

    @property
    def changes(self) -> tuple[float, ...]:
        """How much the vectors raise each token's log-probability, in nats."""
        return tuple(a - b for a, b in zip(self.steered, self.unsteered, strict=True))

    def longer(self, token: int, nats: Sequence[float], stops: set[int]) -> "LiveAnswer":
        """The answer with one more token, and its log p with and without the vectors; itself once it has ended."""
        if self.ended:
            return self
        return LiveAnswer(
            (*self.tokens, token), (*self.steered, nats[0]), (*self.unsteered, nats[1]), ended=token in stops
        )


class LiveAnswers:
    """Greedy answers of one model under any number of vectors at once, given out as they grow.

    Between two tokens the model has no hook of ours, so whoever holds the iterator may drop it at any time.

    Args:
        model: any HookedTransformer; left as it came.
        vectors: by name.
        positions, template, system_prompt, stop: as in `generate`.

    Raises:
        VectorError: a vector does not fit the model.
        SteeringError: unknown positions.
    """

    def __init__(
        self,
        model: HookedTransformer,
        vectors: Mapping[str, SteeringVector],
        *,
        positions: Positions = "all",
        template: Template = "auto",
        system_prompt: str | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.model = check_model(model)
        positions = checked_positions(positions)
        for vector in vectors.values():
            check_fits(vector, identify(model))
        self.vectors, self.positions = dict(vectors), positions
        self.template, self.system_prompt, self.stop = template, system_prompt, stop

    def stream(
        self, prompt: str, multipliers: Mapping[str, float], *, max_new_tokens: int = 40
    ) -> Iterator[tuple[LiveAnswer, LiveAnswer]]:
        """The steered answer and the unsteered one, after each token until both have ended.

        multipliers: by the vectors' names; a vector without one is left out. Those of several vectors add up, as in nested
            `steer` blocks.

        Raises:
            SteeringError: no text, or too long a one; a multiplier of no vector, or that is no finite number.
        """
        wrong = {name: m for name, m in multipliers.items() if not isinstance(m, Real) or not math.isfinite(m)}
        if wrong or set(multipliers) - set(self.vectors):
            raise SteeringError(
                f"multipliers={dict(multipliers)!r:.120}; expected a finite number each for some of {list(self.vectors)}"
            )
        to = {"template": self.template, "system_prompt": self.system_prompt, "stop": self.stop}
        asked = Prompts(self.model, [prompt], max_new_tokens, **to)  # type: ignore[arg-type]
        added = [(self.vectors[name].layer, m * self.vectors[name].tensor) for name, m in multipliers.items() if m]
        return self._steps(asked.tokens[0], asked.stops, added, max_new_tokens)

    def text(self, answer: LiveAnswer) -> str:
        """An answer's text, without special tokens and without what ended it."""
        tokens = answer.tokens[:-1] if answer.ended else answer.tokens
        tokenizer: Any = self.model.tokenizer
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    @torch.no_grad()
    def _steps(
        self, prompt: Sequence[int], stops: set[int], added: Sequence[tuple[int, Tensor]], max_new_tokens: int
    ) -> Iterator[tuple[LiveAnswer, LiveAnswer]]:
        steered, unsteered = LiveAnswer(), LiveAnswer()
        tokens = torch.tensor([list(prompt)] * len(STEERED_ROW), device=self.model.cfg.device)
        # What a module of somebody else's gives may depend on all that it sees: it gets the whole texts each time.
        cache = None if foreign_parts(self.model) else new_kv_cache(self.model, len(STEERED_ROW))
        answer = torch.arange(2, device=tokens.device)
        # From the prompt's last token on.
        first = 0 if self.positions == "all" else len(prompt) - 1
        for _ in range(max_new_tokens):
            logits = self._logits(tokens, cache, added, first).unflatten(0, (2, 2))  # answer, model, d_vocab
            best = logits[answer, answer].argmax(-1)
            nats = logits.log_softmax(-1)[answer, :, best].tolist()
            steered = steered.longer(int(best[0]), nats[0], stops)
            unsteered = unsteered.longer(int(best[1]), nats[1], stops)
            yield steered, unsteered
            if steered.ended and unsteered.ended:
                return
            new = best.repeat_interleave(2)[:, None]
            tokens, first = (torch.cat([tokens, new], 1), first) if cache is None else (new, 0)

    def _logits(
        self,
        tokens: Int[Tensor, "row pos"],
        cache: KeyValueCache | None,
        added: Sequence[tuple[int, Tensor]],
        first: int,
    ) -> Float[Tensor, "row d_vocab"]:
        """Append the tokens to the cache and unembed after the last one; hooks are on for this pass only."""
        rows = torch.tensor(STEERED_ROW, device=tokens.device)[:, None, None]
        where = rows & (torch.arange(tokens.shape[1], device=tokens.device) >= first)[:, None]
        with ExitStack() as stack:
            for layer, vector in added:
                change = _adding(vector.to(tokens.device), where)
                stack.enter_context(added_at(self.model, layer, change))
            # The mask says that no token is padding: pad may be the end of a turn.
            resid = self.model(
                tokens,
                attention_mask=torch.ones_like(tokens),
                past_kv_cache=cache,
                stop_at_layer=self.model.cfg.n_layers,
            )
            if cache is None:
                return torch.cat([logits_from(self.model, row, len(row) - 1) for row in resid])
            return logits_at(self.model, resid[:, -1])


def _adding(vector: Tensor, where: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda resid: resid + where * vector.to(resid)
