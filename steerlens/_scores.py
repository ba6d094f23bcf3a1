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

from steerlens._encode import EncodedPair
from steerlens._flat_route import FlatRoute
from steerlens._hooked_route import HookedRoute
from steerlens.errors import ModelError, PairsError
from steerlens.resid import Positions
from steerlens.shapes import DVector

RouteName = Literal["auto", "flat", "hooked"]


def choose_route(
    model: HookedTransformer, pairs: Sequence[EncodedPair], name: RouteName = "auto"
) -> FlatRoute | HookedRoute:
    """The fast route where its equations are the model's, else the general one.

    Raises:
        ModelError: the flat route was asked for and does not fit.
    """
    fits = name != "hooked" and FlatRoute.fits(model, max(pair.length for pair in pairs))
    if name == "flat" and not fits:
        raise ModelError("the flat route does not compute this model (or a hook is on): leave route= out")
    return FlatRoute(model) if fits else HookedRoute(model)


class PairScorer:
    """Both responses' log-probabilities under `resid + v` after one layer, for pairs whose lower half is computed once.

    Args:
        model: a HookedTransformer; not changed.
        pairs: encoded for that model.
        layer: the block after which v is added.
        rows: those of the pairs that will be asked for; all by default.
        batch_size: pairs at once, where no gradient is kept.
        route: "auto", or a route by name.
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
        progress: bool = False,
    ) -> None:
        if not pairs:
            raise PairsError("there are no pairs to score")
        self.model, self.pairs, self.layer, self.batch_size = model, list(pairs), layer, batch_size
        self.rows = list(range(len(pairs))) if rows is None else sorted(set(rows))
        self.route = choose_route(model, self.pairs, route)
        self._resid: dict[int, Tensor] = {}
        self._reference: Tensor | None = None
        with torch.no_grad():
            for batch in self.batches(self.rows, "reading pairs" if progress else None):
                found = self.route.resid([self.pairs[i] for i in batch], layer)
                self._resid |= {row: resid.cpu() for row, resid in zip(batch, found, strict=True)}

    @property
    def reference(self) -> Float[Tensor, "pair 2"]:
        """The unsteered model's log-probabilities of chosen and rejected, in nats; computed when first asked for."""
        if self._reference is None:
            reference = torch.zeros(len(self.pairs), 2, dtype=torch.float64)
            with torch.no_grad():
                for rows in self.batches(self.rows):
                    reference[rows] = self.logprobs(rows).cpu()
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
        prompt, chosen, rejected = self._resid[row].split([len(pair.prompt), len(pair.chosen), len(pair.rejected)])
        return prompt, chosen, rejected

    def logprobs(
        self,
        rows: Sequence[int],
        vector: DVector | None = None,
        multipliers: Sequence[float] | float = 1.0,
        positions: Positions = "all",
    ) -> Float[Tensor, "row 2"]:
        """Log-probability of chosen and rejected with multiplier * vector added, in nats; differentiable in the vector.

        multipliers: one for all rows, or one per row.
        """
        added = None
        if vector is not None:
            each = [multipliers] * len(rows) if isinstance(multipliers, (int, float)) else list(multipliers)
            added = torch.tensor(each, device=vector.device, dtype=vector.dtype)[:, None] * vector
        pairs, resid = [self.pairs[i] for i in rows], [self._resid[i] for i in rows]
        return self.route.logprobs(pairs, resid, self.layer, added, positions)

    def shift(
        self,
        rows: Sequence[int],
        vector: DVector,
        multipliers: Sequence[float] | float = 1.0,
        positions: Positions = "all",
    ) -> Float[Tensor, "row 2"]:
        """What the vector adds to both log-probabilities, in nats; x(d, v) of the paper is column 0 less column 1."""
        logprobs = self.logprobs(rows, vector, multipliers, positions)
        return logprobs - self.reference[list(rows)].to(logprobs)

    @torch.no_grad()
    def all_shifts(
        self, vector: DVector, multiplier: float = 1.0, positions: Positions = "all"
    ) -> Float[Tensor, "pair 2"]:
        """`shift` of every pair, without a graph; exactly zero for multiplier 0."""
        shifts = torch.zeros_like(self.reference)
        if multiplier != 0:
            for rows in self.batches(self.rows):
                shifts[rows] = self.shift(rows, vector, multiplier, positions).cpu()
        return shifts

    def median_norm(self) -> float:
        """The residual stream's norm after the layer: median over positions that are neither the first nor padding."""
        # Some models put a giant norm on the first token; it is no scale for the others.
        norms = [resid[1:].float().norm(dim=-1) for resid in self._resid.values()]
        return float(torch.cat(norms).median())
