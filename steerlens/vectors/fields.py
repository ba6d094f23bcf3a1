"""Whether values are of the types that a dataclass declares, and agree on the lengths of the axes that it names.

Arrays name their axes as jaxtyping has it. A tuple names its own in an annotation, `Annotated[tuple[str, ...], "vector"]`,
nested ones one name a level: then as many labels are expected as the arrays have vectors.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from steerlens.errors import SteerLensError


def check_fields(kind: type, values: Mapping[str, Any], error: type[SteerLensError]) -> None:
    """Raise `error` unless each value is of its field's declared type, and named axes agree in length."""
    lengths: dict[str, int] = {}
    for name, value in values.items():
        hint = _hints(kind)[name]
        if not _is(value, hint, lengths):
            shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
            raise error(f"{kind.__name__}.{name} is {value!r:.60}{shape}; expected {_told(hint, lengths)}")


def _told(hint: Any, lengths: Mapping[str, int]) -> str:
    axes = get_args(hint)[1] if get_origin(hint) is Annotated else getattr(hint, "dim_str", "")
    known = ", ".join(f"{name} = {lengths[name]}" for name in axes.split() if name in lengths)
    return f"{get_args(hint)[0] if get_origin(hint) is Annotated else hint}{f' with {known}' if known else ''}"


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is(value: Any, hint: Any, lengths: dict[str, int]) -> bool:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        return _is(value, inner[0], lengths) and (value is None or _spans(value, inner[1].split(), lengths))
    if kind in (Union, UnionType):
        return any(_is(value, one, lengths) for one in inner)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind in (Any, object):
        return True
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        fits = isinstance(value, (tuple, list)) and len(value) == len(inner)
        return fits and all(_is(item, one, lengths) for item, one in zip(value, inner, strict=True))
    if isinstance(value, Mapping) and inner:
        keys, values = inner
        return isinstance(value, kind) and all(
            _is(k, keys, lengths) and _is(v, values, lengths) for k, v in value.items()
        )
    if inner:  # a collection of things of one type; what a tuple declares may have come as a list
        listed = isinstance(value, (kind, list) if kind is tuple else kind) and not isinstance(value, str)
        return listed and all(_is(item, inner[0], lengths) for item in value)
    if isinstance(value, np.ndarray) and isinstance(value, kind):
        axes = zip(getattr(hint, "dim_str", "").split(), value.shape, strict=False)
        return all(_has_length(name, length, lengths) for name, length in axes)
    return isinstance(value, kind)


def _spans(value: Sequence[Any], axes: Sequence[str], lengths: dict[str, int]) -> bool:
    """Whether a tuple is as long as its axis is elsewhere, and so are those in it."""
    if not _has_length(axes[0], len(value), lengths):
        return False
    return len(axes) == 1 or all(_spans(item, axes[1:], lengths) for item in value)


def _has_length(axis: str, length: int, lengths: dict[str, int]) -> bool:
    """Whether an axis is that long; it gets its length where it comes first. Numbers are jaxtyping's to check."""
    return not axis.isidentifier() or lengths.setdefault(axis, length) == length
