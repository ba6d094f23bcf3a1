"""A model whose weights were trained, and what must be known to report on it honestly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformer_lens import HookedTransformer

from steerlens.models.identity import ModelIdentity


@dataclass(frozen=True, eq=False)
class TunedModel:
    """A HookedTransformer with trained weights: what a steering vector is held against when the weights may change."""

    model: HookedTransformer
    """the base model's weights with the update merged in; every function that takes a model takes it"""
    base: ModelIdentity
    """the weights that training began with"""
    method: str
    """names the curve in figures"""
    settings: Mapping[str, Any]
    data: str
    """where its pairs come from"""
    seen: frozenset[str]
    """fingerprints of the pairs that trained it; measures refuse to report on those"""
    seed: int
    history: tuple[Mapping[str, Any], ...]
    """a row per step: step, epoch, loss (nats), lr, grad_norm"""

    def __repr__(self) -> str:
        return f"TunedModel({self.method} of {self.base.name}, {len(self.history)} steps, data {self.data!r})"
