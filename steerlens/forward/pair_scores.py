"""Log-probabilities of both responses of every pair, from the residual stream after one layer upwards.

Four things are done once or not at all, and none of them changes a gradient: the reference log-probabilities and the
residual stream at the layer are computed once for all pairs; the unembedding runs where a response token is predicted and
nowhere else; the two responses share their prompt. How the blocks are run is a route's business.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_count
from steerlens.errors import ModelError, PairsError
from steerlens.forward.hooked_route import HookedRoute
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.parts import check_runs_in_parts
from steerlens.forward.steer import Positions
from steerlens.forward.stream_store import Cache, ResidStore
from steerlens.forward.whole_route import WholeRoute, needs_whole_passes
from steerlens.text.encode import Encoded, EncodedPair
from steerlens.vectors.shapes import DVector

RouteName = Literal["auto", "flat", "hooked"]
Route = FlatRoute | HookedRoute | WholeRoute


def choose_route(model: HookedTransformer, pairs: Sequence[Encoded], name: RouteName = "auto") -> Route:
    """The fast route where its equations are the model's; text by text where a hook or a foreign module is; else the general one.

    Raises:
        ModelError: the flat route was asked for and does not fit, or the model has another forward than HookedTransformer's.
    """
    check_runs_in_parts(model)
    fits = name != "hooked" and FlatRoute.fits(model, max(pair.length for pair in pairs))
    if name == "flat" and not fits:
        raise ModelError(
            "the flat route does not compute this model (or a hook is on, or a module is not TransformerLens's own): leave "
            "route= out"
        )
    if name == "auto" and not fits and needs_whole_passes(model):
        return WholeRoute(model)
    return FlatRoute(model) if fits else HookedRoute(model)


Vectors = Float[Tensor, "*row d_model"]


class PairScorer:
    """Both responses' log-probabilities under `resid + v` after one layer, for pairs whose lower half is computed once.

    Args:
        model: a HookedTransformer; not changed.
        pairs: encoded for that model.
        layer: the block after which v is added.
        rows: those of the pairs that will be asked for; all by default.
        batch_size: pairs at once, where no gradient is kept.
        route: "auto", or a route by name.
        cache: where the residual streams are kept, as in `ResidStore`.
    """

    def __init__(
        self,
        model: HookedTransformer,
        pairs: Sequence[EncodedPair],
        layer: int,
        *,
        rows: Sequence[int] | None = None,
        batch_size: int = 8,
        route: RouteName = "auto",
        cache: Cache = "auto",
        progress: bool = False,
    ) -> None:
        self._prepare(model, pairs, layer, rows, batch_size, route, cache)
        self._progress = progress
        _read_into([self], progress)

    @classmethod
    def at_layers(
        cls,
        model: HookedTransformer,
        pairs: Sequence[EncodedPair],
        layers: Sequence[int],
        *,
        rows: Sequence[int] | None = None,
        batch_size: int = 8,
        cache: Cache = "auto",
        progress: bool = False,
    ) -> "dict[int, PairScorer]":
        """A scorer per layer; the pairs go through the lower blocks once, and the reference is computed once."""
        scorers = []
        for layer in layers:
            scorers.append(object.__new__(cls))
            scorers[-1]._prepare(model, pairs, layer, rows, batch_size, "auto", cache, share=1 / len(layers))
        _read_into(scorers, progress)
        highest = max(scorers, key=lambda scorer: scorer.layer)  # the fewest blocks above it
        for scorer in scorers:
            scorer._reference_from, scorer._progress = highest, progress
        return {scorer.layer: scorer for scorer in scorers}

    def _prepare(
        self,
        model: HookedTransformer,
        pairs: Sequence[EncodedPair],
        layer: int,
        rows: Sequence[int] | None,
        batch_size: int,
        route: RouteName,
        cache: Cache,
        share: float = 1.0,
    ) -> None:
        if not pairs:
            raise PairsError("there are no pairs to score")
        batch_size = checked_count("batch_size", batch_size, error=PairsError)
        self.model, self.pairs, self.layer, self.batch_size = model, list(pairs), layer, batch_size
        self.rows = list(range(len(pairs))) if rows is None else sorted(set(rows))
        self.route = choose_route(model, self.pairs, route)
        lengths = {i: sum(map(len, (p.prompt, p.chosen, p.rejected))) for i, p in enumerate(self.pairs)}
        on_gpu = str(model.cfg.device).startswith("cuda")
        kept = {row: lengths[row] for row in self.rows}
        self.store = ResidStore(kept, model.cfg.d_model, model.cfg.dtype, cache, share, pin=on_gpu)
        self._norms: list[Tensor] = []
        self._reference: Tensor | None = None
        self._reference_from: PairScorer | None = None

    def take(self, row: int, resid: Float[Tensor, "token d_model"]) -> None:
        """Keep a row's residual stream."""
        self.store.put(row, resid)
        # Some models put a giant norm on the first token; it is no scale for the others.
        self._norms.append(resid[1:].float().norm(dim=-1).cpu())

    @torch.no_grad()
    def _read(self, rows: Sequence[int]) -> list[Float[Tensor, "token d_model"]]:
        return self.route.resid([self.pairs[i] for i in rows], [self.layer])[0]

    def resid(self, rows: Sequence[int]) -> list[Float[Tensor, "token d_model"]]:
        """The residual stream after the layer: prompt, chosen and rejected of each row."""
        return self._read(rows) if self.store.kind == "recompute" else [self.store.get(row) for row in rows]

    @property
    def reference(self) -> Float[Tensor, "pair 2"]:
        """The unsteered model's log-probabilities of chosen and rejected, in nats; computed when first asked for."""
        if self._reference is None and self._reference_from not in (None, self):
            self._reference = self._reference_from.reference
        elif self._reference is None:
            reference = torch.zeros(len(self.pairs), 2, dtype=torch.float64, device="cpu")
            with torch.no_grad():
                for rows in self.batches(self.rows, "unsteered" if self._progress else None):
                    reference[rows] = self.logprobs(rows).cpu().double()
            self._reference = reference
        return self._reference

    def batches(self, rows: Sequence[int], label: str | None = None) -> Iterator[list[int]]:
        """The rows in batches of similar length, so that little is padding; with a label, under a progress bar."""
        ordered = sorted(rows, key=lambda i: self.pairs[i].length)
        with tqdm(total=len(ordered), desc=label, unit="pair", disable=label is None, leave=False) as bar:
            for start in range(0, len(ordered), self.batch_size):
                yield ordered[start : start + self.batch_size]
                bar.update(min(self.batch_size, len(ordered) - start))

    def parts(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream after the layer at the tokens of prompt, chosen and rejected: (pos, d_model) each."""
        pair = self.pairs[row]
        prompt, chosen, rejected = self.resid([row])[0].split([len(pair.prompt), len(pair.chosen), len(pair.rejected)])
        return prompt, chosen, rejected

    def logprobs(
        self,
        rows: Sequence[int],
        vector: Vectors | None = None,
        multipliers: Sequence[float] | float = 1.0,
        positions: Positions = "all",
    ) -> Float[Tensor, "row 2"]:
        """Log-probability of chosen and rejected with multiplier * vector added, in nats; differentiable in the vector.

        vector: one for all rows, or one per row; multipliers likewise.
        """
        added = None
        if vector is not None:
            if isinstance(multipliers, (int, float)):
                added = multipliers * vector
            else:
                added = torch.tensor(list(multipliers), device=vector.device, dtype=vector.dtype)[:, None] * vector
        pairs = [self.pairs[i] for i in rows]
        return self.route.logprobs(pairs, self.resid(rows), self.layer, added, positions)

    def shift(
        self,
        rows: Sequence[int],
        vector: Vectors,
        multipliers: Sequence[float] | float = 1.0,
        positions: Positions = "all",
    ) -> Float[Tensor, "row 2"]:
        """What the vector adds to both log-probabilities, in nats; x(d, v) of the paper is column 0 less column 1."""
        logprobs = self.logprobs(rows, vector, multipliers, positions)
        return logprobs - self.reference[list(rows)].to(logprobs)

    @torch.no_grad()
    def all_shifts(
        self, vector: DVector, multiplier: float = 1.0, positions: Positions = "all", label: str | None = None
    ) -> Float[Tensor, "pair 2"]:
        """`shift` of every pair, without a graph; exactly zero for multiplier 0. With a label, under a progress bar."""
        shifts = torch.zeros_like(self.reference)
        if multiplier != 0:
            for rows in self.batches(self.rows, label):
                shifts[rows] = self.shift(rows, vector, multiplier, positions).cpu().double()
        return shifts

    def median_norm(self) -> float:
        """The residual stream's norm after the layer: median over positions that are neither the first nor padding."""
        return float(torch.cat(self._norms).median())


@torch.no_grad()
def _read_into(scorers: Sequence[PairScorer], progress: bool) -> None:
    """Read the residual stream of every pair, once, for scorers of the same pairs at several layers."""
    one = scorers[0]
    for batch in one.batches(one.rows, "reading pairs" if progress else None):
        found = one.route.resid([one.pairs[i] for i in batch], [scorer.layer for scorer in scorers])
        for scorer, resids in zip(scorers, found, strict=True):
            for row, resid in zip(batch, resids, strict=True):
                scorer.take(row, resid)
