"""Answers of a comparison: every prompt under every vector at one norm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from transformer_lens import HookedTransformer

from steerlens.forward.steer import Positions
from steerlens.generation.generate import Prompts, generate
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Stored
from steerlens.vectors.vector import SteeringVector


@dataclass(frozen=True)
class SteeredTexts(Stored):
    """Greedy answers: `texts[label][prompt][multiplier]`, each vector at the norm it is compared at."""

    prompts: Annotated[tuple[str, ...], "prompt"]
    multipliers: Annotated[tuple[float, ...], "multiplier"]
    texts: Mapping[str, Annotated[Sequence[Sequence[str]], "prompt multiplier"]]


def check_prompts(
    model: HookedTransformer, prompts: Sequence[str], max_new_tokens: int, *, like: PreferencePairs | None
) -> None:
    """Raise SteeringError unless `steer_all` can answer the prompts."""
    Prompts(model, prompts, max_new_tokens, **_format(like))


def _format(like: PreferencePairs | None) -> dict[str, Any]:
    return {} if like is None else {"template": like.template, "system_prompt": like.system_prompt}


def steer_all(
    model: HookedTransformer,
    vectors: Mapping[str, SteeringVector],
    prompts: Sequence[str],
    norm: float,
    *,
    multipliers: Sequence[float],
    positions: Positions,
    max_new_tokens: int,
    like: PreferencePairs | None,
    progress: bool,
) -> SteeredTexts:
    """Answers to the prompts, written with the template of the pairs `like`; the unsteered one is decoded once."""
    texts: dict[str, list[list[str]]] = {}
    unsteered: list[list[str]] = []
    for label, vector in vectors.items():
        # The unsteered answer is the same for all vectors: it is decoded with the first one's.
        asked = [m for m in multipliers if m != 0 or not texts]
        found = generate(
            model,
            prompts,
            vector=vector.scaled_to(norm),
            multipliers=asked,
            positions=positions,
            max_new_tokens=max_new_tokens,
            progress=progress,
            **_format(like),
        )
        unsteered = unsteered or found
        texts[label] = [
            [row[asked.index(m)] if m in asked else base[list(multipliers).index(m)] for m in multipliers]
            for row, base in zip(found, unsteered, strict=True)
        ]
    return SteeredTexts(tuple(prompts), tuple(multipliers), texts)
