"""Whether a model's forward pass is made of TransformerLens's own parts, whose equations are known, and of nothing else.

A module in a hook point's place (a sparse autoencoder), a norm or an MLP of another class, a part whose `forward` or another
method was replaced: the weights say nothing of it, so whatever reads the weights alone must not be trusted there.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import transformer_lens
from torch import nn
from torch.nn.modules import module as torch_module
from transformer_lens import HookedTransformer
from transformer_lens.components import (
    Attention,
    Embed,
    GroupedQueryAttention,
    LayerNorm,
    LayerNormPre,
    PosEmbed,
    RMSNorm,
    RMSNormPre,
    TransformerBlock,
    Unembed,
)
from transformer_lens.components.mlps.can_be_used_as_mlp import CanBeUsedAsMLP
from transformer_lens.hook_points import HookPoint

from steerlens.errors import ModelError

_NORMS: tuple[type, ...] = (LayerNorm, LayerNormPre, RMSNorm, RMSNormPre)
# What may stand under a name. Under any other name it is enough that the class is TransformerLens's.
_OWN: dict[str, tuple[type, ...]] = {
    "embed": (Embed,),
    "pos_embed": (PosEmbed,),
    "unembed": (Unembed,),
    "attn": (Attention, GroupedQueryAttention),
    "ln1": _NORMS,
    "ln2": _NORMS,
    "ln_final": _NORMS,
}
_SOURCES = str(Path(transformer_lens.__file__).parent)
_RUN = ("forward", "input_to_embed", "get_residual", "get_pos_offset")  # what a pass of the whole model goes through
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(model: nn.Module) -> bool:
    """Whether anything (a user's hook, a `steer` block, a hook on all modules) listens to or changes the activations."""
    everywhere = any(getattr(torch_module, f"_global{kind}", None) for kind in _HOOKS)
    return everywhere or any(getattr(module, kind) for module in model.modules() for kind in _HOOKS)


def foreign_parts(model: HookedTransformer, *names: str) -> list[str]:
    """The parts that are not TransformerLens's own, by their names, each with its class; none of a model as it was made.

    names: look only at these parts of the model, and at what is inside them.
    """
    roots = {name: getattr(model, name) for name in names if hasattr(model, name)} if names else {"": model}
    return [
        f"{name} ({type(part).__name__})"
        for root, start in roots.items()
        # The same module may stand at two places, and be right at one of them only.
        for name, part in start.named_modules(prefix=root, remove_duplicate=False)
        if name and not is_own(model, name, part)
    ]


def is_own(model: HookedTransformer, name: str, part: nn.Module) -> bool:
    """Whether a part is of TransformerLens's class for its place, and has no method of its own in place of the class's."""
    kind: Any = type(part)
    return _belongs(model, name, part) and _methods(kind).isdisjoint(vars(part)) and _is_unpatched(kind)


def is_plain(model: HookedTransformer) -> bool:
    """Whether the model computes what its weights say: TransformerLens's own parts, and no hook on any."""
    return not (has_hooks(model) or foreign_parts(model))


def is_readable(model: HookedTransformer, *names: str) -> bool:
    """Whether these parts do what their weights say: TransformerLens's own, and without hooks."""
    hooked = any(has_hooks(getattr(model, name)) for name in names if hasattr(model, name))
    return not (hooked or foreign_parts(model, *names))


def check_readable(model: HookedTransformer, *names: str) -> None:
    """Raise ModelError unless these parts do what their weights say."""
    if not is_readable(model, *names):
        found = ", ".join(foreign_parts(model, *names)) or "a hook is on"
        raise ModelError(
            f"this reads the weights of {' and '.join(names)} alone, and the model's forward pass does something else there: "
            f"{found}. Take it off, or use sl.downstream_lens, which runs the model"
        )


def check_runs_in_parts(model: HookedTransformer) -> None:
    """Raise ModelError unless the model can be run from layer to layer: that is HookedTransformer's own forward."""
    changed = [name for name in _RUN if name in vars(model)]
    changed += [name for name in _RUN if not _is_from_source(getattr(type(model), name))]
    if changed:
        raise ModelError(
            f"this {type(model).__name__} has its own {changed[0]}; expected transformer_lens.HookedTransformer's, which runs "
            "from layer to layer. Put what it does into a hook (model.add_hook) or a module inside the model"
        )


def check_not_compiled(model: nn.Module) -> None:
    """Raise ModelError where the model or a part of it is compiled: no hook fires inside, so nothing would be steered."""
    name = next(_compiled(model), None)
    if name is not None:
        raise ModelError(
            f"{name or 'the model'} is compiled, and hooks don't fire inside compiled code: it would not be steered. Pass the "
            "model as it was before torch.compile or .compile() (load it again, or keep a copy)"
        )


def _compiled(model: nn.Module) -> Iterator[str]:
    for name, part in model.named_modules():
        forward = vars(part).get("forward", getattr(type(part), "forward", None))
        if (
            getattr(part, "_compiled_call_impl", None) is not None  # part.compile()
            or hasattr(forward, "_torchdynamo_orig_callable")  # torch.compile of the part, or of its forward
            or any(kind.__module__.startswith("torch.jit") for kind in type(part).__mro__)
        ):
            yield name


def _belongs(model: HookedTransformer, name: str, part: nn.Module) -> bool:
    """Whether a part's class is TransformerLens's, and one that stands under this name."""
    kind, cfg = type(part), model.cfg
    parent, _, role = name.rpartition(".")
    if kind is nn.Identity:
        return role in ("ln1", "ln2") and cfg.normalization_type is None
    if kind in (nn.ModuleList, nn.Linear):
        return kind is nn.ModuleList or bool(cfg.num_experts)
    if not kind.__module__.startswith("transformer_lens"):
        return False
    if role.startswith("hook_"):
        return kind is HookPoint
    if parent == "blocks":
        return kind is TransformerBlock
    if role == "mlp" and not issubclass(kind, CanBeUsedAsMLP):
        return False
    # A part reads the options that it was made with.
    own = getattr(part, "cfg", cfg)
    return kind in _OWN.get(role, (kind,)) and (own is cfg or own == cfg)


@lru_cache(maxsize=64)
def _methods(kind: type) -> frozenset[str]:
    """What a part can't have as an attribute of its own without hiding its class's method."""
    return frozenset(name for name in dir(kind) if isinstance(getattr(kind, name, None), FunctionType))


def _is_unpatched(kind: type) -> bool:
    """Whether the methods of a class of TransformerLens are those of its source."""
    return all(
        _is_from_source(method)
        for base in kind.__mro__
        if base.__module__.startswith("transformer_lens")
        for method in vars(base).values()
        if type(method) is FunctionType
    )


def _is_from_source(method: Any) -> bool:
    return isinstance(method, FunctionType) and method.__code__.co_filename.startswith(_SOURCES)
