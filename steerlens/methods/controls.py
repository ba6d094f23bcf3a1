"""Controls: vectors that a real one must beat at the same norm.

What a control leaves out says what it tests: random directions know nothing, directions with the activations' covariance
know where they vary, the mean activation knows where they lie, shuffled labels know the texts, another seed knows all but
the draws. The last two are runs of the method itself:

>>> shuffled = pairs.train.shuffle_labels(seed=0)                              # exactly half of the labels exchanged
>>> extract_caa(model, shuffled, layer), train_bipo(model, shuffled, layer)    # to be brought to the real vector's norm
>>> train_bipo_grid(model, pairs.train, [layer], seeds=range(5))               # the same behaviour, other draws
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.checks.calls import whole
from steerlens.checks.values import checked_count, checked_layer
from steerlens.errors import PairsError, VectorError
from steerlens.forward.door import checked
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import make_vector
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.vector import SteeringVector, check_fits


@checked(VectorError, n=whole())
def random_vectors(
    like: SteeringVector,
    n: int,
    *,
    seed: int = 0,
    model: HookedTransformer | None = None,
    pairs: PreferencePairs | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[SteeringVector]:
    """n vectors of the norm, layer and model of `like`, in random directions: isotropic, or like the model's activations.

    On LayerNorm models the norm is that of the part which the model can see (`SteeringVector.effective`), of both.

    An isotropic direction lies mostly where activations hardly vary. With `model` and `pairs` the directions are normal with
    the covariance of resid_post at the vector's layer, over all tokens of prompts and responses except the first of each
    prompt, whose norm is a giant on some models.

    Args:
        model, pairs: both, for directions with the activations' covariance; neither, for isotropic ones.
        batch_size: pairs at once.

    Raises:
        VectorError: n is not at least 1, only one of model and pairs is given, or the vector does not fit the model.
    """
    if (model is None) != (pairs is None):
        raise VectorError(
            "model= and pairs= go together: give both (the activations' covariance) or neither (isotropic)"
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    if model is None or pairs is None:
        draws = torch.randn(n, like.tensor.numel(), generator=generator, dtype=torch.float64, device="cpu")
        return [_control(like, draw, "random", seed, i, "none") for i, draw in enumerate(draws)]
    check_fits(like, identify(model))
    # With activations a_t and independent normal z_t, sum_t z_t (a_t - mean) has their covariance: it needs no matrix of
    # d_model x d_model and no eigenvectors. The size of the draw does not count, its direction does.
    sums = torch.zeros(n, like.tensor.numel(), dtype=torch.float64, device="cpu")
    weights, total, tokens = torch.zeros(n, dtype=torch.float64, device="cpu"), torch.zeros_like(sums[0]), 0
    for activations in _activations(model, pairs, like.layer, batch_size, progress):
        z = torch.randn(n, len(activations), generator=generator, dtype=torch.float64, device="cpu")
        sums, weights, total = sums + z @ activations, weights + z.sum(1), total + activations.sum(0)
        tokens += len(activations)
    draws = sums - weights[:, None] * total / tokens
    like = replace(like, seen=like.seen | set(pairs.fingerprints))
    return [_control(like, draw, "random (covariance)", seed, i, pairs.provenance) for i, draw in enumerate(draws)]


@checked(PairsError)
def mean_activation(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layer: int,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> SteeringVector:
    """The mean of resid_post over all tokens of prompts and responses except the first of each prompt, as a vector.

    A direction that the pairs have in common and that prefers neither response: bring it to the vector's norm with
    `.scaled_to(vector.norm)`.

    Args:
        layer: the 0-based block, read at `blocks.{layer}.hook_resid_post`.
        batch_size: pairs at once.

    Raises:
        PairsError: the pairs can't be encoded.
    """
    total, tokens = torch.zeros(model.cfg.d_model, dtype=torch.float64, device="cpu"), 0
    for activations in _activations(model, pairs, layer, batch_size, progress):
        total, tokens = total + activations.sum(0), tokens + len(activations)
    settings = {"tokens": tokens, **pairs.described()}
    return make_vector(model, total / tokens, layer, method="mean activation", settings=settings, pairs=pairs)


def _activations(
    model: HookedTransformer, pairs: PreferencePairs, layer: int, batch_size: int, progress: bool
) -> Iterator[Float[Tensor, "token d_model"]]:
    """Each pair's residual stream after the layer, in float64, without its first token."""
    layer = checked_layer(model, layer)
    scorer = PairScorer(model, pairs.encode(model), layer, batch_size=batch_size, progress=progress)
    for row in range(len(pairs)):
        yield scorer.resid([row])[0][1:].cpu().double()


def shuffled_vectors(like: SteeringVector, differences: Tensor, n: int, *, seed: int = 0) -> list[SteeringVector]:
    """n vectors of the norm of `like`, each the mean of the pairs' differences with the labels of a random half exchanged.

    What is left when the texts stay and the behaviour goes.

    Args:
        differences: Float[Tensor, "pair d_model"], as `caa_differences` gives them.

    Raises:
        VectorError: n is not at least 1, or there are too few pairs for half of their labels to be exchanged.
    """
    n = checked_count("n", n, error=VectorError)
    if len(differences) < 2:
        raise VectorError(
            f"labels can't be shuffled among {len(differences)} pair; expected the differences of two or more"
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    half = torch.ones(len(differences), dtype=torch.float64, device="cpu")
    half[: len(differences) // 2] = -1
    made = []
    for i in range(n):
        signs = half[torch.randperm(len(half), generator=generator, device="cpu")]
        made.append(_control(like, (signs[:, None] * differences).mean(0), "shuffled labels", seed, i, "unknown"))
    return made


def _control(like: SteeringVector, draw: Tensor, method: str, seed: int, index: int, data: str) -> SteeringVector:
    if not draw.norm() > 0:
        raise VectorError(f"the pairs' differences cancel, so there is no direction for a control ({method})")
    drawn = replace(
        like,
        tensor=draw / draw.norm(),
        method=method,
        settings={"draw": index},
        data=data,
        seed=seed,
        history=(),
        snapshots={},
    )
    # On LayerNorm models activations vary a lot in their mean over d_model, which the model can't see.
    return replace(drawn, tensor=drawn.effective.direction.double() * like.effective.norm)
