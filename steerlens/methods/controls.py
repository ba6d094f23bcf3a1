"""Controls: vectors that a real one must beat at the same norm."""

import torch
from torch import Tensor

from steerlens.errors import VectorError
from steerlens.vector import SteeringVector


def random_vectors(like: SteeringVector, n: int, *, seed: int = 0) -> list[SteeringVector]:
    """n vectors of the norm, layer and model of `like`, in isotropic random directions.

    Raises:
        VectorError: n is not at least 1.
    """
    _check_count(n)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(n, like.tensor.numel(), generator=generator, dtype=torch.float64)
    return [_control(like, draw, "random", seed, i) for i, draw in enumerate(draws)]


def shuffled_vectors(like: SteeringVector, differences: Tensor, n: int, *, seed: int = 0) -> list[SteeringVector]:
    """n vectors of the norm of `like`, each the mean of the pairs' differences with the labels of a random half exchanged.

    What is left when the texts stay and the behaviour goes.

    Args:
        differences: Float[Tensor, "pair d_model"], as `caa_differences` gives them.

    Raises:
        VectorError: n is not at least 1, or there are too few pairs for half of their labels to be exchanged.
    """
    _check_count(n)
    if len(differences) < 2:
        raise VectorError(
            f"labels can't be shuffled among {len(differences)} pair; expected the differences of two or more"
        )
    generator = torch.Generator().manual_seed(seed)
    half = torch.ones(len(differences), dtype=torch.float64)
    half[: len(differences) // 2] = -1
    made = []
    for i in range(n):
        signs = half[torch.randperm(len(half), generator=generator)]
        made.append(_control(like, (signs[:, None] * differences).mean(0), "shuffled labels", seed, i))
    return made


def _check_count(n: int) -> None:
    if n < 1:
        raise VectorError(f"n={n}; expected at least one vector")


def _control(like: SteeringVector, draw: Tensor, method: str, seed: int, index: int) -> SteeringVector:
    if not draw.norm() > 0:
        raise VectorError(f"the pairs' differences cancel, so there is no direction for a control ({method})")
    tensor = draw / draw.norm() * like.norm
    settings = {"draw": index}
    return SteeringVector(
        tensor.float(), like.layer, method=method, model=like.model, settings=settings, seed=seed, seen=like.seen
    )
