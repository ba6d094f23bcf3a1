"""Every public call's arguments, checked by their names before any work: one name, one meaning, one check.

>>> @checked(MeasureError, k=whole())
... def lens(model, vector, *, k=10, progress=True): ...        # model, vector and progress are checked as everywhere

A parameter that no check is known for stops the import. None passes where it is the default.
"""

import inspect
from collections.abc import Callable, Set
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args

from steerlens._arguments import (
    Error,
    checked_choice,
    checked_count,
    checked_flag,
    checked_kind,
    checked_layer,
    checked_layers,
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
from steerlens._conversation import checked_prompts
from steerlens._labels import labelled
from steerlens._templates import check_template
from steerlens.errors import PairsError, SteeringError
from steerlens.pairs import PreferencePairs, check_pairs
from steerlens.questions import ChoiceQuestions
from steerlens.resid import check_model
from steerlens.shapes import check_vector
from steerlens.vector import check_is_vector

Check = Callable[[str, Any, Error], Any]
"""(the argument's name, what came, the call's error) -> what the call gets"""
P = ParamSpec("P")
R = TypeVar("R")


# -- checks -----------------------------------------------------------------------------------------------------------


def number(**bounds: Any) -> Check:
    """A number within bounds, those of `checked_number`."""
    return lambda name, value, error: checked_number(name, value, error=error, **bounds)


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


def _prompts(name: str, value: Any, error: Error) -> tuple[str, ...]:
    return checked_prompts(name, value, error=error)


def any_prompts(name: str, value: Any, error: Error) -> tuple[str, ...]:
    """A list of prompts, or of none."""
    return checked_prompts(name, value, error=error, least=0)


def prompts_or_pairs(name: str, value: Any, error: Error) -> Any:
    """A list of prompts, or pairs."""
    return _pairs(name, value, error) if isinstance(value, PreferencePairs) else _prompts(name, value, error)


def texts_or_pairs(name: str, value: Any, error: Error) -> Any:
    """A list of texts, or pairs."""
    return _pairs(name, value, error) if isinstance(value, PreferencePairs) else texts(name, value, error)


def tensor(name: str, value: Any, error: Error) -> Any:
    """A vector's tensor; whether it has the model's width, the call has to tell."""
    return check_vector(value, what=name)


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


def seeds(name: str, value: Any, error: Error) -> tuple[int, ...]:
    """Seeds, each once."""
    return checked_seeds(value, name=name, error=error)


def _model(name: str, value: Any, error: Error) -> Any:
    return check_model(value)


def _vector(name: str, value: Any, error: Error) -> Any:
    check_is_vector(value)
    return value


def _vectors(name: str, value: Any, error: Error) -> Any:
    labelled(value)
    return value


def _pairs(name: str, value: Any, error: Error) -> Any:
    return check_pairs(name, value)


def _questions(name: str, value: Any, error: Error) -> Any:
    found = checked_kind(
        name, value, ChoiceQuestions, error=error, cure="sl.load_questions(...), or pairs.as_choices()"
    )
    if not len(found):
        raise error(f"{name} is empty: expected at least one question")
    return found


def _template(name: str, value: Any, error: Error) -> Any:
    check_template(value)
    return value


def _system_prompt(name: str, value: Any, error: Error) -> str:
    return checked_text(name, value, error=PairsError, empty=True)


def _stop(name: str, value: Any, error: Error) -> tuple[int | str, ...]:
    """One or several; whether they are tokens, the model's tokenizer has to tell."""
    one = isinstance(value, str) or not hasattr(value, "__len__")
    of = "token ids, or texts that are one token each"
    value = sorted(value, key=repr) if isinstance(value, Set) else value  # their order says nothing
    given = [value] if one else checked_list(name, value, error=SteeringError, of=of, least=0)
    return tuple(
        checked_text(name, stop, error=SteeringError)
        if isinstance(stop, str)
        else checked_count(name, stop, error=SteeringError, least=0)
        for stop in given
    )


def _batch_size(name: str, value: Any, error: Error) -> int:
    return checked_count(name, value, error=PairsError)


def _max_new_tokens(name: str, value: Any, error: Error) -> int:
    return checked_count(name, value, error=SteeringError)


KNOWN: dict[str, Check] = {
    "model": _model,
    "vector": _vector,
    "vectors": _vectors,
    "like": _vector,
    "pairs": _pairs,
    "val_pairs": _pairs,
    "questions": _questions,
    "prompts": _prompts,
    "texts": texts,
    "multipliers": multipliers,
    "multiplier": number(),
    "positions": lambda name, value, error: checked_positions(value),
    "template": _template,
    "stop": _stop,
    "system_prompt": _system_prompt,
    "max_new_tokens": _max_new_tokens,
    "batch_size": _batch_size,
    "seed": lambda name, value, error: checked_seed(value, error=error),
    "n_random": whole(least=0),
    "label": text,
    "allow_seen": flag,
    "progress": flag,
}
OF_MODEL = {"layer": checked_layer, "layers": checked_layers}
"""checks that ask the call's own model"""


# -- the door ---------------------------------------------------------------------------------------------------------


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
        to_check = [name for name in parameters if name not in by_itself]
        checks = {name: own[name] if name in own else KNOWN[name] for name in to_check if name not in OF_MODEL}

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name in to_check:
                value = bound.arguments.get(name, parameters[name].default)
                if name not in bound.arguments or (value is None and parameters[name].default is None):
                    continue
                if name in OF_MODEL:
                    bound.arguments[name] = OF_MODEL[name](bound.arguments["model"], value)
                else:
                    bound.arguments[name] = checks[name](name, value, error)
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate
