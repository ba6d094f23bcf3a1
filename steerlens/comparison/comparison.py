"""What a comparison of vectors found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from steerlens._stats import mean_interval
from steerlens.checks.calls import checked, whole
from steerlens.checks.values import shown
from steerlens.comparison.equal_kl import EqualKL
from steerlens.comparison.steered import SteeredTexts
from steerlens.comparison.tables import effects, mean_shift, seed_spread, tidy
from steerlens.errors import MeasureError
from steerlens.measures.effect import PreferenceShift, Quantity
from steerlens.measures.logit_lens import LogitLens
from steerlens.measures.side_effects import SideEffects
from steerlens.measures.similarity import Similarity, isotropic_p_value
from steerlens.results.result import Result
from steerlens.vectors.names import first_two, seed_families, without_seed
from steerlens.vectors.vector import SteeringVector

Strength = Literal["own norm", "equal norm", "equal KL"]


class Difference(NamedTuple):
    """A mean difference between two vectors on the same pairs, with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Two or more vectors side by side. What needs the model or pairs is empty where there were none.

    Vectors of one method that differ by their seed alone are labelled "bipo seed 0", "bipo seed 1", ...; "bipo" then stands
    for all of them.
    """

    labels: Annotated[tuple[str, ...], "vector"]
    vectors: Annotated[tuple[SteeringVector, ...], "vector"]
    """as the model sees them (`SteeringVector.effective`)"""
    cosines: Float[np.ndarray, "vector vector"]
    own: Mapping[str, PreferenceShift] = field(default_factory=dict)
    """each vector's shift of the held-out pairs at its own norm"""
    matched: Mapping[str, PreferenceShift] = field(default_factory=dict)
    """the same with every vector scaled to `matched_norm`"""
    matched_norm: float | None = None
    parts: Mapping[str, PreferenceShift] = field(default_factory=dict)
    """the second vector's part along the first, and the rest, each steered by itself as it is in it at `matched_norm`"""
    controls: Mapping[str, tuple[PreferenceShift, ...]] = field(default_factory=dict)
    """"random" and "shuffled labels" vectors of the matched norm"""
    lens: Mapping[str, LogitLens] = field(default_factory=dict)
    similarity: Similarity | None = None
    """cosines, plain and whitened, against nulls from activations; with `nulls=True`"""
    costs: SideEffects | None = None
    """what each vector costs at `matched_norm`, beside a random direction; with `side_effects=True`"""
    equal_kl: EqualKL | None = None
    """each vector at the multiplier at which it costs the first one's KL; with `side_effects=True`"""
    steered: SteeredTexts | None = None
    missing: tuple[str, ...] = ()
    """what could not be measured, and what to pass for it"""

    def __post_init__(self) -> None:
        n = len(self.labels)
        if n < 2 or len(set(self.labels)) < n or len(self.vectors) != n or self.cosines.shape != (n, n):
            raise MeasureError(
                f"{n} labels {self.labels}, {len(self.vectors)} vectors and cosines of shape {self.cosines.shape}; expected two or "
                "more vectors, a label each, and a cosine for every two"
            )
        for name in ("own", "matched", "lens"):
            if set(getattr(self, name)) not in (set(), set(self.labels)):
                raise MeasureError(f"{name} is of {list(getattr(self, name))}; expected one of each of {self.labels}")

    @property
    def seeds(self) -> dict[str, tuple[str, ...]]:
        """The labels of vectors that differ by their seed alone, by the name that stands for all of them."""
        return seed_families(self.labels)

    @property
    def two(self) -> tuple[str, str]:
        """The two that are held against each other: the first vector and the first that is no other seed of it.

        Several seeds are one of the two together, by their common name.
        """
        first, second = (self.labels[i] for i in first_two(self.labels))
        if without_seed(first) == without_seed(second):  # there are seeds of one method and nothing else
            return first, second
        return self._name(first), self._name(second)

    def _name(self, label: str) -> str:
        return without_seed(label) if without_seed(label) in self.seeds else label

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows and columns of the cosines between `two`."""
        rows, columns = ([self.labels.index(label) for label in self.seeds.get(name, (name,))] for name in self.two)
        return np.ix_(rows, columns)  # type: ignore[return-value]

    @property
    def cosine(self) -> float:
        """The cosine of `two`, the mean over their seeds; all are in `cosines`."""
        return float(self.cosines[self._cells()].mean())

    @property
    def cosine_range(self) -> tuple[float, float]:
        """The lowest and the highest cosine of `two` over their seeds."""
        found = self.cosines[self._cells()]
        return float(found.min()), float(found.max())

    @property
    def p_value(self) -> float:
        """The chance of a |cosine| like that of `two` under `null`; of several seeds the largest."""
        if self.similarity is None:
            return max(isotropic_p_value(float(c), self.vectors[0]) for c in self.cosines[self._cells()].ravel())
        return float(self.similarity.p_values(self.similarity.best_null)[self._cells()].max())

    @property
    def null(self) -> str:
        """What the p-value is told against: "isotropic" random directions, or with `nulls=True` the strictest that was drawn."""
        return "isotropic" if self.similarity is None else self.similarity.best_null

    @property
    def norms(self) -> dict[str, float]:
        """Each vector's own norm, in units of the residual stream."""
        return {label: vector.norm for label, vector in zip(self.labels, self.vectors, strict=True)}

    @property
    def layers(self) -> dict[str, int]:
        """Each vector's layer."""
        return {label: vector.layer for label, vector in zip(self.labels, self.vectors, strict=True)}

    @checked(MeasureError)
    def shift(self, name: str, at: Strength = "equal norm") -> PreferenceShift:
        """One vector's shift; of several seeds, by their common name, the mean over them of each pair's.

        Raises:
            MeasureError: no such strength, nothing was measured at it, or not of that vector.
        """
        found = {} if self.equal_kl is None else self.equal_kl.shifts
        found = {"own norm": self.own, "equal norm": self.matched, "equal KL": found}.get(at, {})
        if not found:
            cure = "side_effects=True and " if at == "equal KL" else ""
            raise MeasureError(f"nothing was measured at {at}: compare with {cure}the model and pairs (model=, pairs=)")
        seeds = [found[label] for label in self.seeds.get(name, (name,)) if label in found]
        if len(seeds) < len(self.seeds.get(name, (name,))):
            raise MeasureError(f"{shown(name)} was not measured at {at}; expected one of {[*found, *self.seeds]}")
        return seeds[0] if len(seeds) == 1 else mean_shift(name, seeds)

    @checked(MeasureError)
    def difference(
        self, a: str, b: str, *, multiplier: float = 1.0, quantity: Quantity = "odd", at: Strength = "equal norm"
    ) -> Difference:
        """Mean over pairs of a's shift less b's, by default at equal norm, with a bootstrap interval over the same pairs.

        Args:
            a, b: labels, or the common names of several seeds (`seeds`).
            quantity: "odd" (nats, the direction's part), "odd_per_token", "even", "even_per_token", "values", "per_token",
                "chosen", "rejected", "even_chosen", "even_rejected" (nats).
            at: "own norm", "equal norm", or "equal KL" (at multiplier 1).

        Raises:
            MeasureError: nothing was measured at that strength, or not at that multiplier.
        """
        values = []
        for shift in (self.shift(a, at), self.shift(b, at)):
            columns = shift.columns(quantity)
            if multiplier not in columns:
                raise MeasureError(f"multiplier={multiplier!r} was not measured at {at}; {quantity} has {columns}")
            values.append(getattr(shift, quantity)[:, [columns.index(multiplier)]])
        gap = values[0] - values[1]
        low, high = mean_interval(gap)
        return Difference(float(gap.mean()), float(low[0]), float(high[0]))

    def shifts(self) -> list[tuple[str, PreferenceShift]]:
        """Every measured shift with where it belongs.

        That is "own norm", "equal norm", "part", "equal KL", "control" (at equal norm) or "control at equal KL".
        """
        found = [("own norm", shift) for shift in self.own.values()]
        found += [("equal norm", shift) for shift in self.matched.values()]
        found += [("part", shift) for shift in self.parts.values()]
        if self.equal_kl is not None:
            found += [("equal KL", shift) for shift in self.equal_kl.shifts.values()]
        found += [("control", shift) for group in self.controls.values() for shift in group]
        if self.equal_kl is not None:
            found += [("control at equal KL", shift) for shift in self.equal_kl.controls]
        return found

    @checked(MeasureError)
    def effects(self, multiplier: float = 1.0) -> pd.DataFrame:
        """Odd and even parts at one multiplier, a row per measured vector: means over pairs with 95% bootstrap intervals.

        Columns: vector, strength, norm; of odd, even, odd_per_token and even_per_token (of the margin), even_chosen and
        even_rejected (of log p of each response), chosen and rejected (at the multiplier itself) the mean, low and high;
        wrong_way and wrong_way_opposite, the shares of pairs whose margin moves against the sign of the multiplier and of its
        opposite; both_fall, the signs at which both responses become less likely, "" where neither does.
        Random directions are one row, "from" their lowest to their highest mean; a direction's opposite is as random and
        has the opposite odd part, so that of the odd parts is symmetric. A vector that reaches the first one's KL at no
        multiplier is "equal KL: not reached", with NaN for numbers.
        """
        return effects(self, multiplier)

    @checked(MeasureError)
    def seed_spread(self, multiplier: float = 1.0) -> pd.DataFrame:
        """Of several seeds of one method the mean and the range of their effects at one multiplier; a row per strength.

        Columns: vector (the common name), strength, seeds (how many), cosine (between two of them) and odd, even,
        odd_per_token, even_per_token, each with its mean over seeds, lowest and highest (`_low`, `_high`). Without a model
        the effects are NaN.
        """
        return seed_spread(self, multiplier)

    @checked(MeasureError, k=whole())
    def coordinates(self, k: int = 10) -> pd.DataFrame:
        """The k coordinates of d_model in which the two directions differ most, with their share of |u_a - u_b|^2."""
        first, second = first_two(self.labels)
        a, b = (self.vectors[i].direction.double().numpy() for i in (first, second))
        squared = (a - b) ** 2
        most = np.argsort(-squared)[:k]
        share = squared[most] / max(squared.sum(), np.finfo(float).tiny)
        return pd.DataFrame(
            {
                "coordinate": most,
                self.labels[first]: a[most],
                self.labels[second]: b[most],
                "share of the difference": share,
            }
        )

    def paths(self) -> pd.DataFrame:
        """Norm and cosine to every vector, over the training of those that kept their snapshots; a row per snapshot."""
        units = {label: vector.direction.double() for label, vector in zip(self.labels, self.vectors, strict=True)}
        rows: list[dict[str, Any]] = []
        for label, vector in zip(self.labels, self.vectors, strict=True):
            for steps, tensor in vector.snapshots.items():
                norm = float(tensor.double().norm())
                cosine = {
                    name: float(tensor.double() @ unit) / norm if norm else np.nan for name, unit in units.items()
                }
                rows.append(
                    {"vector": label, "steps": steps, "norm": norm} | {f"cosine to {k}": c for k, c in cosine.items()}
                )
        return pd.DataFrame(rows)

    def to_latex(self) -> str:
        """What each vector does at multiplier 1, at its own norm, at equal norm and at equal KL, as a LaTeX table (booktabs)."""
        from steerlens.figures.report import as_latex

        return as_latex(self)

    def to_frame(self) -> pd.DataFrame:
        """One row per vector, strength and multiplier with mean shifts and intervals; without a model, one per vector."""
        return tidy(self)

    def __repr__(self) -> str:
        from steerlens.figures.report import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from steerlens.figures.report import as_html

        return as_html(self)

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display

        formatter = getattr(get_ipython(), "display_formatter", None)
        if formatter is not None and "text/html" not in formatter.active_types:  # IPython in a terminal
            print(self)
            return
        display(HTML(self._repr_html_()))
        if self.own:
            display(self.figure())
