"""The shapes that steerlens passes around, and the one check that every vector goes through.

`DVector`   Float[Tensor, " d_model"]            a steering vector, in units of the residual stream
`Resid`     Float[Tensor, "batch pos d_model"]   `blocks.{layer}.hook_resid_post`
`Tokens`    Int[Tensor, "batch pos"]             token ids
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.errors import VectorError
from steerlens.files import LARGEST_WIDTH

DVector = Float[Tensor, " d_model"]
Resid = Float[Tensor, "batch pos d_model"]
Tokens = Int[Tensor, "batch pos"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_vector(tensor: object, *, d_model: int | None = None, what: str = "the vector") -> Tensor:
    """Return `tensor` when it is a finite 1-D floating-point tensor (of width `d_model`), else raise.

    Raises:
        VectorError: says what came and what was expected.
    """
    if not isinstance(tensor, Tensor):
        raise VectorError(f"{what} is a {type(tensor).__name__}; expected a 1-D torch.Tensor of d_model numbers")
    if tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided:
        kind = "a nested tensor" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}, on {tensor.device}"
        raise VectorError(
            f"{what} is {kind}; expected a plain tensor: .to_dense(), .dequantize() or its numbers give one"
        )
    if tensor.ndim != 1 or tensor.numel() == 0:
        raise VectorError(
            f"{what} has shape {tuple(tensor.shape)}; expected one dimension, (d_model,). "
            "Take one row if it holds a vector per layer"
        )
    if tensor.dtype not in FLOATS:
        raise VectorError(f"{what} has dtype {tensor.dtype}; expected a floating-point tensor: call .float() on it")
    if tensor.numel() > LARGEST_WIDTH:
        raise VectorError(f"{what} has {tensor.numel():,} numbers; expected d_model of them, at most {LARGEST_WIDTH:,}")
    if d_model is not None and tensor.numel() != d_model:
        raise VectorError(f"{what} has {tensor.numel()} numbers; expected d_model = {d_model}")
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise VectorError(f"{what} has {bad} of {tensor.numel()} numbers that are NaN or infinite; expected none")
    return tensor


def in_float64(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A tensor in float64, where it lies; on the CPU where its device (MPS) has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()
