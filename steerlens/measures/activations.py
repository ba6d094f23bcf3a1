"""The residual stream over texts or pairs, a batch at a time, and its covariance; nothing grows with the list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_count, checked_layer
from steerlens.errors import MeasureError, PairsError
from steerlens.forward.pair_scores import choose_route
from steerlens.forward.steer import check_model
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.encode import EncodedPair, Encoder
from steerlens.text.rows import listed
from steerlens.vectors.shapes import in_float64

Material = PreferencePairs | Sequence[str]


def encode_material(model: HookedTransformer, material: Material) -> list[EncodedPair]:
    """Pairs in their own template; texts as they are, with BOS once, as pairs whose two responses are the last token.

    Raises:
        MeasureError: no list of texts, or a text of under two tokens or beyond the context; the rows are listed.
    """
    if isinstance(material, PreferencePairs):
        return material.encode(model)
    wrong = isinstance(material, str) or not isinstance(material, Sequence) or not len(material)
    if wrong or not all(isinstance(text, str) for text in material):
        raise MeasureError(f"got texts={material!r:.80}; expected a list of at least one text, or sl.PreferencePairs")
    encoder = Encoder(model, "plain")
    tokens = [tuple(encoder.prompt(text)) if text else () for text in material]
    bad = [row for row, ids in enumerate(tokens) if not 2 <= len(ids) <= model.cfg.n_ctx]
    if bad:
        raise MeasureError(
            f"the texts of rows {listed(bad)} have under 2 tokens, or over the model's context of {model.cfg.n_ctx}: leave "
            "them out, or cut them"
        )
    return [EncodedPair(ids[:-1], ids[-1:], ids[-1:]) for ids in tokens]


@torch.no_grad()
def residuals(
    model: HookedTransformer,
    material: Material,
    layers: Sequence[int],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> Iterator[tuple[int, EncodedPair, list[Float[Tensor, "token d_model"]]]]:
    """(row, tokens, its residual stream after each layer) of every text or pair, in float64; short ones come first.

    A text's stream is that of its tokens; a pair's is that of prompt, chosen and rejected, one behind the other. On LayerNorm
    models each token's mean over d_model, which the model can't see, is taken out.
    """
    model = check_model(model)
    batch_size = checked_count("batch_size", batch_size, error=PairsError)
    for layer in layers:
        checked_layer(model, layer)
    encoded = encode_material(model, material)
    route, texts = choose_route(model, encoded), not isinstance(material, PreferencePairs)
    sees_mean = identify(model).normalization != "LN"
    order = sorted(range(len(encoded)), key=lambda row: encoded[row].length)
    with tqdm(total=len(order), desc="reading", unit="text", disable=not progress, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found = route.resid([encoded[row] for row in rows], layers)
            for i, row in enumerate(rows):
                streams = [in_float64(at_layer[i][:-1] if texts else at_layer[i]) for at_layer in found]
                yield row, encoded[row], [x if sees_mean else x - x.mean(-1, keepdim=True) for x in streams]
            bar.update(len(rows))


@dataclass(frozen=True, eq=False)
class Covariance:
    """The covariance of resid_post after a layer, over tokens that are neither the first of their text nor padding."""

    variances: Float[Tensor, " d_model"]
    """its eigenvalues, ascending, in squared units of the residual stream"""
    axes: Float[Tensor, "d_model d_model"]
    """its eigenvectors, one per column"""
    tokens: int
    shrinkage: float
    """how far `whitened` draws it towards a multiple of the identity, from 0 to 1 (Ledoit and Wolf)"""

    def whitened(self, rows: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n d_model"]:
        """Each row times the inverse square root of the shrunk covariance, the symmetric one."""
        shrunk = (1 - self.shrinkage) * self.variances + self.shrinkage * self.variances.mean()
        least = 1e-12 * float(shrunk.max())
        x = torch.from_numpy(rows).to(self.axes)
        return (x @ self.axes / shrunk.clamp(min=least).sqrt() @ self.axes.T).cpu().numpy()

    def directions(self, n: int, *, seed: int) -> Float[np.ndarray, "n d_model"]:
        """n unit vectors, normal draws with the covariance (not shrunk) that were divided by their norms."""
        generator = torch.Generator("cpu").manual_seed(seed)
        z = torch.randn(n, len(self.variances), generator=generator, dtype=torch.float64, device="cpu")
        # The symmetric root: it does not depend on the signs that the eigenvectors happen to have.
        drawn = z.to(self.axes) @ self.axes * self.variances.sqrt() @ self.axes.T
        return (drawn / drawn.norm(dim=1, keepdim=True)).cpu().numpy()


def covariances(
    model: HookedTransformer,
    material: Material,
    layers: Sequence[int],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[int, Covariance]:
    """The activations' covariance at each layer; the texts or pairs go through the model once.

    Raises:
        MeasureError: fewer than two tokens besides the first ones, or activations that do not vary.

    Source:
        shrinkage: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", here from
        running sums (scikit-learn's needs all rows at once). It takes rows as independent, and tokens of one text are not:
        with few texts it shrinks too little.
    """
    sums: dict[int, _Sums] = {}
    for _, _, streams in residuals(model, material, layers, batch_size=batch_size, progress=progress):
        for layer, stream in zip(layers, streams, strict=True):
            tokens = stream[1:]  # the first token has a giant norm on some models
            if len(tokens):
                sums.setdefault(layer, _Sums(tokens.mean(0))).add(tokens)
    return {layer: found.covariance() for layer, found in sums.items()}


class _Sums:
    """Running sums from which covariance and shrinkage follow, about a first guess of the mean."""

    def __init__(self, guess: Float[Tensor, " d_model"]) -> None:
        self.guess, self.n = guess, 0
        self.first, self.weighted = torch.zeros_like(guess), torch.zeros_like(guess)
        self.second = guess.new_zeros(len(guess), len(guess))
        self.squared, self.fourth = 0.0, 0.0

    def add(self, tokens: Float[Tensor, "token d_model"]) -> None:
        x = tokens - self.guess
        size = (x * x).sum(1)
        self.n += len(x)
        self.first += x.sum(0)
        self.weighted += size @ x
        self.second += x.T @ x
        self.squared += float(size.sum())
        self.fourth += float((size * size).sum())

    def covariance(self) -> Covariance:
        n, m = self.n, self.first / max(1, self.n)
        found = self.second / max(1, n) - torch.outer(m, m)
        variances, axes = torch.linalg.eigh(found)
        if n < 2 or not float(variances[-1]) > 0:
            raise MeasureError(
                f"{n} tokens (the first of each text left out) have no covariance: pass more texts or pairs"
            )
        # The sum over tokens of |x - m|^4, from sums over x.
        size = float(m @ m)
        fourth = (
            self.fourth
            + 4 * float(m @ self.second @ m)
            + n * size * size
            - 4 * float(m @ self.weighted)
            + 2 * size * self.squared
            - 4 * size * float(m @ self.first)
        )
        d, total = len(m), float(found.trace())
        frobenius = float((found * found).sum())
        spread = frobenius - total * total / d
        noise = min((fourth / n - frobenius) / n, spread)
        return Covariance(variances.clamp(min=0), axes, n, noise / spread if spread > 0 else 1.0)


def isotropic_directions(n: int, d_model: int, *, sees_mean: bool, seed: int) -> Float[np.ndarray, "n d_model"]:
    """n unit vectors, all directions alike; without a mean over d_model where the model can't see it."""
    drawn = torch.randn(
        n, d_model, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu"
    )
    drawn = drawn if sees_mean else drawn - drawn.mean(1, keepdim=True)
    return (drawn / drawn.norm(dim=1, keepdim=True)).numpy()
