"""The checker that jaxtyping's import hook applies to every function of the package while tests run.

Shapes and dtypes are checked by beartype. Everything else (a misspelt option, a str for a float) is left to the package,
whose own errors are what a user sees and what the tests must reach.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its array annotations checked at run time."""
    if isinstance(function, type):
        return function
    for name, hint in dict(getattr(function, "__annotations__", {})).items():
        if not _speaks_of_arrays(hint):
            function.__annotations__[name] = Any
    return beartype(function)


def _speaks_of_arrays(hint: object) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_speaks_of_arrays(part) for part in get_args(hint))
