"""What `sl.inspect` found about a model and its pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from steerlens._stats import mean_interval
from steerlens.checks.calls import checked, whole
from steerlens.errors import MeasureError
from steerlens.results.result import Result, Stored


@dataclass(frozen=True)
class EncodedExample(Stored):
    """One pair as its tokens' texts; each response's tokens with the unsteered model's log-probability in nats."""

    row: int
    """the pair's 0-based row in what the pairs were made from"""
    prompt: tuple[str, ...]
    chosen: Annotated[tuple[str, ...], "chosen"]
    rejected: Annotated[tuple[str, ...], "rejected"]
    chosen_nats: Annotated[tuple[float, ...], "chosen"]
    rejected_nats: Annotated[tuple[float, ...], "rejected"]


@dataclass(frozen=True, eq=False)
class Inspection(Result):
    """What a careful person looks at before training: the tokens, the biases of the pairs, the unsteered margin.

    One entry per pair, in the order of the pairs; a response's tokens include its end of turn.
    """

    model: str
    data: str
    rows: Annotated[tuple[int, ...], "pair"]
    prompts: Annotated[tuple[str, ...], "pair"]
    template: str
    """the template used: "chat template" (the tokenizer's), "plain", "llama-2", "mistral", "vicuna" or "a function" """
    system_prompt: str
    """what the system prompt is, in words"""
    bos: str
    """how many BOS tokens open a prompt, in words"""
    end_of_turn: str
    """the token that closes each response"""
    end_nats: float
    """median log-probability of that token after the examples' responses, in nats; NaN without examples"""
    n_ctx: int
    """the model's context, in tokens"""
    prompt_tokens: Int[np.ndarray, " pair"]
    chosen_tokens: Int[np.ndarray, " pair"]
    rejected_tokens: Int[np.ndarray, " pair"]
    chosen_nats: Float[np.ndarray, " pair"]
    """log p(chosen) of the unsteered model; NaN where a pair does not fit the context, or with margin=False"""
    rejected_nats: Float[np.ndarray, " pair"]
    first_tokens: tuple[tuple[str, int, int], ...]
    """the most one-sided first tokens: (token, how many chosen responses it opens, how many rejected ones)"""
    openings: Mapping[str, tuple[int, int]]
    """how many chosen and how many rejected responses begin with the word "yes", and with "no" """
    repeated_pairs: tuple[int, ...]
    """rows whose texts occurred before, chosen and rejected exchanged or not"""
    repeated_prompts: tuple[int, ...]
    """rows whose prompt occurred before"""
    shared_prompts: tuple[int, ...]
    """rows whose prompt is in another of training, validation and test too"""
    overlong: tuple[int, ...]
    """rows longer than the context"""
    examples: tuple[EncodedExample, ...]
    warnings: tuple[str, ...]
    """what looks wrong, and what to do about it; the thresholds are in `sl.inspect`'s documentation"""

    @property
    def length_difference(self) -> Int[np.ndarray, " pair"]:
        """Tokens of chosen less tokens of rejected."""
        return self.chosen_tokens - self.rejected_tokens

    @property
    def margin(self) -> Float[np.ndarray, " pair"]:
        """log p(chosen) - log p(rejected) of the unsteered model, in nats."""
        return self.chosen_nats - self.rejected_nats

    @property
    def margin_per_token(self) -> Float[np.ndarray, " pair"]:
        """The same with each log-probability divided by its response's number of tokens, in nats per token."""
        return self.chosen_nats / self.chosen_tokens - self.rejected_nats / self.rejected_tokens

    def facts(self) -> list[tuple[str, str]]:
        """What was found, as (name, sentence)."""
        n, gap = len(self.rows), self.length_difference
        lengths = [
            f"{name} {int(np.median(values))} ({values.min()} to {values.max()})"
            for name, values in (
                ("prompt", self.prompt_tokens),
                ("chosen", self.chosen_tokens),
                ("rejected", self.rejected_tokens),
            )
        ]
        longest = int((self.prompt_tokens + np.maximum(self.chosen_tokens, self.rejected_tokens)).max())
        found = [
            ("template", f"{self.template}; system prompt: {self.system_prompt}"),
            ("BOS", self.bos),
            ("end of turn", f"{self.end_of_turn}, counted once in every response{self._end_words()}"),
            ("tokens, median (range)", "; ".join(lengths)),
            ("context", f"{self.n_ctx} tokens, longest pair {longest}; {_count(self.overlong, 'pair')} too long"),
            (
                "chosen - rejected",
                f"{mean_words(gap, '+.1f')} tokens; longer: chosen in {_share(gap > 0)}, rejected in {_share(gap < 0)} of {n}",
            ),
            (
                "first words",
                "; ".join(f"{word}: {c} chosen, {r} rejected" for word, (c, r) in self.openings.items())
                + f"; most one-sided tokens: {', '.join(f'{t!r} {c} to {r}' for t, c, r in self.first_tokens[:3])}",
            ),
            (
                "repeated",
                f"{_count(self.repeated_pairs, 'pair')}, {_count(self.repeated_prompts, 'prompt')}; "
                f"{_count(self.shared_prompts, 'prompt')} in another part too",
            ),
        ]
        known = self.margin[np.isfinite(self.margin)]
        if len(known):
            per_token = self.margin_per_token[np.isfinite(self.margin_per_token)]
            found.append(
                (
                    "unsteered margin",
                    f"{mean_words(known, '+.2f')} nats; {mean_words(per_token, '+.3f')} nats per token; "
                    f"chosen is likelier in {_share(known > 0)} of {len(known)}",
                )
            )
        return found

    def _end_words(self) -> str:
        return f"; its log p is {self.end_nats:.1f} nats (median)" if np.isfinite(self.end_nats) else ""

    def to_frame(self) -> pd.DataFrame:
        """One row per pair: its lengths in tokens, log-probabilities in nats, and what was found about it."""
        marks = {
            "repeated_pair": self.repeated_pairs,
            "repeated_prompt": self.repeated_prompts,
            "shared_prompt": self.shared_prompts,
            "overlong": self.overlong,
        }
        return pd.DataFrame(
            {
                "row": self.rows,
                "prompt": self.prompts,
                "prompt_tokens": self.prompt_tokens,
                "chosen_tokens": self.chosen_tokens,
                "rejected_tokens": self.rejected_tokens,
                "chosen_nats": self.chosen_nats,
                "rejected_nats": self.rejected_nats,
                "margin_nats": self.margin,
                "margin_nats_per_token": self.margin_per_token,
                **{name: [row in set(rows) for row in self.rows] for name, rows in marks.items()},
            }
        )

    @checked(MeasureError, example=whole(least=0))
    def view(self, example: int = 0, *, side: Literal["chosen", "rejected"] = "chosen") -> Any:
        """An example in CircuitsVis, for a notebook: log p of each response token in nats under the mouse (1.3 MB)."""
        from steerlens.figures.inspection import tokens_view

        return tokens_view(self, example, side)

    def __repr__(self) -> str:
        from steerlens.figures.inspection import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from steerlens.figures.inspection import as_html

        return as_html(self)


def mean_words(values: np.ndarray, form: str) -> str:
    """A mean and its 95% bootstrap interval, as text."""
    if len(values) < 2:
        return f"{values.mean():{form}}"
    low, high = (side[0] for side in mean_interval(np.asarray(values, dtype=np.float64)[:, None]))
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


def _share(found: np.ndarray) -> str:
    return f"{found.mean():.0%}"


def _count(rows: Sequence[int], noun: str) -> str:
    return f"{len(rows)} {noun}{'' if len(rows) == 1 else 's'}"
