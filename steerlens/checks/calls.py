"""Every public call's arguments, checked by their names before any work: one name, one meaning, one check.

>>> @checked(MeasureError, k=whole())
... def top(self, quantity: Quantity, *, k: int = 10, level: float = 0.95): ...

A check is found by the argument's name; where there is none, by its type: True or False, a text, a number, or one of a
Literal's values. An argument that no check is known for stops the import. None passes where it is the default.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from steerlens.checks.values import (
    Error,
    checked_choice,
    checked_count,
    checked_flag,
    checked_kind,
    checked_layer,
    checked_layers,
    checked_level,
    checked_list,
    checked_multipliers,
    checked_number,
    checked_path,
    checked_positions,
    checked_seed,
    checked_seeds,
    checked_text,
    checked_texts,
    refusal,
)
from steerlens.errors import PairsError, SteeringError

Check = Callable[[str, Any, Error], Any]
"""(the argument's name, what came, the call's error) -> what the call gets"""
P = ParamSpec("P")
R = TypeVar("R")


# -- checks -----------------------------------------------------------------------------------------------------------


def number(
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> Check:
    """A number within bounds, those of `checked_number`."""
    return lambda name, value, error: checked_number(
        name, value, error=error, least=least, above=above, most=most, below=below, infinite=infinite
    )


def whole(least: int = 1) -> Check:
    """A whole number."""
    return lambda name, value, error: checked_count(name, value, error=error, least=least)


def one_of(choices: Any) -> Check:
    """One of a Literal's values."""
    return lambda name, value, error: checked_choice(name, value, get_args(choices), error=error)


def kind(of: type, cure: str) -> Check:
    """An object of one of our classes."""
    return lambda name, value, error: checked_kind(name, value, of, error=error, cure=cure)


def each(check: Check) -> Check:
    """What `*more` holds, each by the check."""
    return lambda name, value, error: tuple(check(name, item, error) for item in value)


def raising(error: Error, check: Check) -> Check:
    """The check, with an error of its own."""
    return lambda name, value, _: check(name, value, error)


def or_none(check: Check) -> Check:
    """None, or what passes the check."""
    return lambda name, value, error: None if value is None else check(name, value, error)


def flag(name: str, value: Any, error: Error) -> bool:
    """True or False."""
    return checked_flag(name, value, error=error)


def text(name: str, value: Any, error: Error) -> str:
    """A text that says something."""
    return checked_text(name, value, error=error)


def words(name: str, value: Any, error: Error) -> str:
    """A text that may be empty."""
    return checked_text(name, value, error=error, empty=True)


def texts(name: str, value: Any, error: Error) -> tuple[str, ...]:
    """A list of texts."""
    return checked_texts(name, value, error=error)


def path(name: str, value: Any, error: Error) -> Any:
    """A path."""
    return checked_path(name, value, error=error)


def multipliers(name: str, value: Any, error: Error) -> tuple[float, ...]:
    """Multipliers, each once."""
    return checked_multipliers(value, name=name, error=error)


def multipliers_that_may_repeat(name: str, value: Any, error: Error) -> tuple[float, ...]:
    """Multipliers of which nothing is looked up by its multiplier."""
    return checked_multipliers(value, name=name, error=error, repeats=True)


def two_multipliers(name: str, value: Any, error: Error) -> tuple[float, float]:
    """Two multipliers above 0, the smaller one first."""
    given = checked_list(name, value, error=error, of="two multipliers above 0")
    ends = [checked_number(f"{name}[{i}]", end, error=error, above=0) for i, end in enumerate(given)]
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise error(refusal(name, value, "two multipliers above 0, the smaller one first"))
    return ends[0], ends[1]


def system_prompt(name: str, value: Any, error: Error) -> str:
    """One text for all prompts, which may be empty."""
    if not isinstance(value, str):
        raise PairsError(refusal(name, value, "one text for all prompts, '' for none, or None for the template's own"))
    return words(name, value, PairsError)


def rows(name: str, value: Any, error: Error) -> list[Any]:
    """A list with one entry for each row; whether there are as many, the call has to tell."""
    return checked_list(name, value, error=error, of="one entry for each row", least=0)


def seeds(name: str, value: Any, error: Error) -> tuple[int, ...]:
    """Seeds, each once."""
    return checked_seeds(value, name=name, error=error)


def level(name: str, value: Any, error: Error) -> float:
    """The share that an interval covers."""
    return checked_level(value, name=name, error=error)


KNOWN: dict[str, Check] = {
    "multipliers": multipliers,
    "multiplier": number(),
    "positions": lambda name, value, error: checked_positions(value),
    "system_prompt": system_prompt,
    "max_new_tokens": raising(SteeringError, whole()),
    "batch_size": raising(PairsError, whole()),
    "seed": lambda name, value, error: checked_seed(value, error=error),
    "n_random": whole(least=0),
    "level": level,
    "path": path,
}
OF_MODEL = {"layer": checked_layer, "layers": checked_layers}
"""checks that ask the call's own model"""
_OF_TYPE: dict[Any, Check] = {bool: flag, str: text, float: number()}


def _of_type(annotation: Any) -> Check | None:
    """The check of arguments that are annotated so, None aside."""
    kinds = [kind for kind in get_args(annotation) or () if kind is not type(None)]
    if type(None) in get_args(annotation) and len(kinds) == 1:
        return _of_type(kinds[0])
    return one_of(annotation) if get_origin(annotation) is Literal else _OF_TYPE.get(annotation)


def door(known: Mapping[str, Check]) -> Callable[..., Callable[[Callable[P, R]], Callable[P, R]]]:
    """`checked` with checks of more names."""

    def checked(error: Error, *by_itself: str, **own: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Check every argument of a public call by its name.

        Args:
            error: what the call raises for those arguments that have no error of their own.
            by_itself: names that the call checks by itself, before any work too: it takes more than the value to tell.
            own: checks of names that are new, or mean something else here.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            signature = inspect.signature(function)
            parameters = signature.parameters
            of_model = set(OF_MODEL) - set(own) if "model" in parameters else set()
            checks: dict[str, Check] = {}
            for name, parameter in parameters.items():
                if name == "self" or name in by_itself or name in of_model:
                    continue
                check = own.get(name) or known.get(name) or _of_type(parameter.annotation)
                if check is None:
                    raise NotImplementedError(f"no check is known for {name} of {function.__qualname__}")
                checks[name] = check
            to_check = [name for name in parameters if name in checks or (name in of_model and name not in by_itself)]

            @wraps(function)
            def call(*args: P.args, **kwargs: P.kwargs) -> R:
                try:
                    bound = signature.bind(*args, **kwargs)
                except TypeError:
                    return function(*args, **kwargs)  # raises too, and says of which function
                for name in to_check:
                    value = bound.arguments.get(name, parameters[name].default)
                    if name not in bound.arguments or (value is None and parameters[name].default is None):
                        continue
                    if name in checks:
                        bound.arguments[name] = checks[name](name, value, error)
                    else:
                        bound.arguments[name] = OF_MODEL[name](bound.arguments["model"], value)
                return function(*bound.args, **bound.kwargs)

            return call

        return decorate

    return checked


checked = door(KNOWN)
