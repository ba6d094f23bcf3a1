"""Downstream lens: which tokens become likelier as the response's first when a vector is really added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._stats import mean_interval
from steerlens.checks.calls import number, whole
from steerlens.errors import MeasureError
from steerlens.forward.door import checked, prompts_or_pairs
from steerlens.forward.hooked_route import last_token_resid
from steerlens.forward.readout import logits_at
from steerlens.forward.steer import Positions
from steerlens.measures.activations import isotropic_directions
from steerlens.measures.effect import check_unseen
from steerlens.measures.logit_lens import check_listed, token_text
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result
from steerlens.text.encode import Encoder
from steerlens.text.rows import listed
from steerlens.text.templates import Template
from steerlens.vectors.shapes import in_float64
from steerlens.vectors.vector import SteeringVector, check_fits


@dataclass(frozen=True, eq=False)
class DownstreamLens(Result):
    """The tokens whose log-probability a vector raises and lowers most where the response begins, in nats."""

    label: str
    norm: float
    """the vector's norm at multiplier 1, in units of the residual stream"""
    multiplier: float
    positions: Positions
    top: tuple[str, ...]
    """the tokens with the largest mean change, largest first"""
    bottom: tuple[str, ...]
    """those with the smallest, smallest first"""
    changes: Float[np.ndarray, "prompt listed"]
    """log p steered less unsteered, in nats, of `top` and then `bottom`"""
    unsteered: Float[np.ndarray, "prompt listed"]
    """log p of the same tokens, unsteered, in nats"""
    random_largest: Float[np.ndarray, " draw"]
    """the largest |mean change| of the whole vocabulary under random directions of the same norm, in nats"""
    prompts: Annotated[tuple[str, ...], "prompt"]
    data: str
    seen_pairs: int = 0
    """how many of the pairs trained or selected the vector; above 0 only with allow_seen=True"""

    def __post_init__(self) -> None:
        if self.changes.shape[-1] != len(self.top) + len(self.bottom):
            raise MeasureError(
                f"{len(self.top)} and {len(self.bottom)} tokens with changes of {self.changes.shape[-1]}; expected one of each"
            )

    @property
    def tokens(self) -> tuple[str, ...]:
        """The columns of `changes`: `top` and then `bottom`."""
        return (*self.top, *self.bottom)

    def mean(self) -> Float[np.ndarray, " listed"]:
        """The mean change over prompts, in nats."""
        return self.changes.mean(0)

    @checked(MeasureError)
    def interval(self, *, level: float = 0.95) -> tuple[Float[np.ndarray, " listed"], Float[np.ndarray, " listed"]]:
        """Bootstrap interval of the mean change, over prompts: (low, high).

        The tokens were chosen by these means, so the largest are somewhat flattered; `random_largest` was chosen alike.
        """
        return mean_interval(self.changes, level=level)

    def to_frame(self) -> pd.DataFrame:
        """One row per listed token: the mean change with its interval, and the mean unsteered log p, in nats."""
        low, high = self.interval()
        sides = [(side, rank) for side in ("top", "bottom") for rank in range(len(getattr(self, side)))]
        return pd.DataFrame(
            {
                "vector": self.label,
                "multiplier": self.multiplier,
                "side": [side for side, _ in sides],
                "rank": [rank for _, rank in sides],
                "token": self.tokens,
                "change_nats": self.mean(),
                "low": low,
                "high": high,
                "unsteered_nats": self.unsteered.mean(0),
                "prompts": len(self.prompts),
            }
        )

    def __repr__(self) -> str:
        cells = [f"{token!r} {x:+.2f}" for token, x in zip(self.tokens, self.mean(), strict=True)]
        k, seen = len(self.top), f", {self.seen_pairs} of them SEEN in training" if self.seen_pairs else ""
        chance = f"{self.random_largest.max():.2f}" if len(self.random_largest) else "not measured"
        return (
            f"DownstreamLens({self.label} times {self.multiplier:g}, {len(self.prompts)} prompts of {self.data}{seen}; nats)\n"
            f"  raises {', '.join(cells[:k])}\n  lowers {', '.join(cells[k:])}\n"
            f"  largest change under {len(self.random_largest)} random directions of the same norm: {chance}"
        )


@checked(MeasureError, prompts=prompts_or_pairs, k=whole(), min_nats=number(infinite=True))
def downstream_lens(
    model: HookedTransformer,
    vector: SteeringVector,
    prompts: PreferencePairs | Sequence[str],
    multiplier: float = 1.0,
    positions: Positions = "all",
    *,
    k: int = 10,
    min_nats: float = -math.inf,
    label: str | None = None,
    template: Template = "auto",
    system_prompt: str | None = None,
    n_random: int = 4,
    seed: int = 0,
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> DownstreamLens:
    """The mean change of log p at the response's first position when multiplier * vector is added after its layer.

    Unlike `logit_lens` it counts what the layers above make of the vector, and depends on the prompts. Very unlikely tokens
    move far without ever being said: the unsteered log p stands beside each change, and `min_nats` leaves such tokens out.

    Args:
        prompts: held-out pairs, whose prompts are taken in their own template; or texts, put into `template`.
        multiplier: 0 is the unsteered model, where nothing changes.
        positions: "all", or "response": the prompt's last token alone, where the response's first is decided.
        k: tokens on either side.
        min_nats: list only tokens whose mean log p, steered or unsteered, is at least this.
        label: the vector's name in figures; default: its method.
        n_random: random directions of the same norm, to be measured beside it.
        seed: of them.
        allow_seen: report on pairs that trained or selected the vector all the same; the result says so.
        batch_size: prompts at once.

    Raises:
        VectorError: the vector does not fit the model.
        MeasureError: pairs that trained or selected the vector, no prompts, one beyond the context, or too few tokens
            for k.
    """
    check_fits(vector, identify(model))
    check_listed(model, k)
    seen = 0
    if isinstance(prompts, PreferencePairs):
        seen = check_unseen([vector], prompts, allow_seen=allow_seen)
        template, system_prompt = prompts.template, prompts.system_prompt
    texts = prompts.prompts if isinstance(prompts, PreferencePairs) else prompts
    tokens = _encoded(model, texts, template, system_prompt)
    sees_mean = identify(model).normalization != "LN"
    random = vector.effective.norm * isotropic_directions(n_random, model.cfg.d_model, sees_mean=sees_mean, seed=seed)
    added = [multiplier * t for t in (0 * vector.tensor, vector.tensor, *torch.from_numpy(random).float())]
    finals = _final_streams(model, tokens, added, vector.layer, positions, batch_size, progress)
    means = [_mean_log_probs(model, final, batch_size) for final in finals]
    likely = [np.maximum(mean, means[0]) >= min_nats for mean in means]
    if likely[1].sum() < 2 * k:
        raise MeasureError(
            f"{likely[1].sum()} tokens have a mean log p of min_nats={min_nats} or more; expected at least {2 * k} for k={k}: "
            "lower one of them"
        )
    order = np.flatnonzero(likely[1])[np.argsort((means[1] - means[0])[likely[1]], kind="stable")]
    shown = [*order[-k:][::-1].tolist(), *order[:k].tolist()]
    before, after = (
        np.concatenate([_log_probs(model, rows)[:, shown].cpu().numpy() for rows in final.split(batch_size)])
        for final in finals[:2]
    )
    names = [token_text(model, token) for token in shown]
    return DownstreamLens(
        label=label or vector.method,
        norm=vector.norm,
        multiplier=float(multiplier),
        positions=positions,
        top=tuple(names[:k]),
        bottom=tuple(names[k:]),
        changes=after - before,
        unsteered=before,
        random_largest=np.array([_largest(m - means[0], at) for m, at in zip(means[2:], likely[2:], strict=True)]),
        prompts=tuple(texts),
        data=prompts.provenance if isinstance(prompts, PreferencePairs) else "prompts in memory",
        seen_pairs=seen,
    )


def _encoded(
    model: HookedTransformer, texts: Sequence[str], template: Template, system_prompt: str | None
) -> list[list[int]]:
    if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise MeasureError(f"prompts={texts!r:.80}; expected a list of at least one text, or sl.PreferencePairs")
    encoder = Encoder(model, template, system_prompt)
    tokens = [encoder.generation_prompt(text) for text in texts]
    long = [row for row, ids in enumerate(tokens) if len(ids) > model.cfg.n_ctx]
    if long:
        raise MeasureError(
            f"the prompts of rows {listed(long)} are longer than the model's context of {model.cfg.n_ctx} tokens: shorten "
            "them, or leave them out"
        )
    return tokens


def _final_streams(
    model: HookedTransformer,
    tokens: Sequence[Sequence[int]],
    added: Sequence[Float[Tensor, " d_model"]],
    layer: int,
    positions: Positions,
    batch_size: int,
    progress: bool,
) -> list[Float[Tensor, "prompt d_model"]]:
    """The residual stream after the last block at each prompt's last token, with each vector added after the layer."""
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    found = [torch.zeros(len(tokens), model.cfg.d_model, dtype=torch.float32, device="cpu") for _ in added]
    jobs = [(start, i) for start in range(0, len(order), batch_size) for i in range(len(added))]
    for start, i in tqdm(jobs, desc="downstream lens", unit="batch", disable=not progress, leave=False):
        rows = order[start : start + batch_size]
        last = last_token_resid(
            model,
            [tokens[row] for row in rows],
            model.cfg.n_layers - 1,
            batch_size=batch_size,
            added=added[i].to(model.cfg.device),
            at=layer,
            positions=positions,
        )
        found[i][rows] = last.float().cpu()
    return found


@torch.no_grad()
def _log_probs(model: HookedTransformer, resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
    logits = logits_at(model, resid.to(model.cfg.device, model.cfg.dtype))
    return in_float64(logits).log_softmax(-1)


def _mean_log_probs(model: HookedTransformer, final: Tensor, batch_size: int) -> Float[np.ndarray, " d_vocab"]:
    return (sum(_log_probs(model, rows).sum(0) for rows in final.split(batch_size)) / len(final)).cpu().numpy()  # type: ignore[union-attr]


def _largest(change: Float[np.ndarray, " d_vocab"], likely: Bool[np.ndarray, " d_vocab"]) -> float:
    return float(np.abs(change[likely]).max()) if likely.any() else 0.0
