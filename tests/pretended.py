"""A pretended accelerator: tensors that say they lie on "mps", hold their numbers on the CPU, and keep MPS's rules.

No float64; no operation on tensors of two devices, but for numbers (tensors without axes) of the CPU; no generator of the CPU.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformer_lens import HookedTransformer

_MPS = torch.device("mps")
_STANDS_FOR = torch.device("meta")  # PyTorch asks a device that it was not built for before any tensor's rules
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "slice", "select", "copy_"}


class There(torch.Tensor):
    """A tensor on the pretended device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "There":
        if inner.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=_STANDS_FOR
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return _MPS

    @property
    def is_meta(self) -> bool:
        return False

    def __repr__(self, **_: Any) -> str:
        return f"There({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """Reads "mps" as the device that stands for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda x: _STANDS_FOR if _is_mps(x) else x, (args, kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == _STANDS_FOR:
            return There(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


class _Places(TorchDispatchMode):
    """Puts what is made on, or moved to, the device there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[None]:
    """The pretended device, for as long as the block lasts."""
    with (
        _Names(),
        _Places(),
        patch.object(sys.modules["transformer_lens.HookedTransformer"], "type", _kind, create=True),
    ):
        yield


def _kind(x: Any) -> type:
    """What TransformerLens, which asks for tensors of no other class, is to see."""
    return torch.Tensor if isinstance(x, There) else type(x)


def _is_mps(x: Any) -> bool:
    return (isinstance(x, str) and x.partition(":")[0] == "mps") or (isinstance(x, torch.device) and x.type == "mps")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there, here = [x for x in given if isinstance(x, There)], [x for x in given if not isinstance(x, There)]
    if "device" in kwargs and kwargs["device"] is not None:
        goes_there = torch.device(kwargs["device"]).type == _STANDS_FOR.type  # with an index or without
        kwargs = {**kwargs, "device": torch.device("cpu")} if goes_there else kwargs
    else:
        goes_there = bool(there)
    if goes_there and kwargs.get("dtype") == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    if goes_there and kwargs.get("generator") is not None:
        raise RuntimeError("Expected a 'mps' device type for generator but found 'cpu'")
    if there and func not in _MOVES and any(x.ndim for x in here):
        if func.overloadpacket.__name__ not in _INDEXING or not isinstance(args[0], There):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found mps and cpu ({func})")
        if "index" not in func.overloadpacket.__name__ or any(x.ndim and x.dtype.is_floating_point for x in here):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found mps and cpu ({func})")
    bare_args, bare_kwargs = tree_map(lambda x: x.inner if isinstance(x, There) else x, (args, kwargs))
    found = func(*bare_args, **bare_kwargs)
    if func.overloadpacket.__name__.endswith("_") and not func.overloadpacket.__name__.endswith("__"):
        return args[0]  # in place
    if func is torch.ops.aten._to_copy.default and found is bare_args[0]:
        found = found.clone()
    return tree_map(lambda x: There(x) if isinstance(x, torch.Tensor) and goes_there else x, found)


def move_there(model: HookedTransformer) -> HookedTransformer:
    """Put a model's weights and tables on the pretended device, in place."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(There(weight.detach()), requires_grad=False)
        for name, table in module._buffers.items():
            if table is not None:
                module._buffers[name] = There(table.detach())
    model.cfg.device = "mps"
    return model
