"""The checks of `checks.calls`, and those of arguments that are ours: models, vectors, pairs, questions, prompts, templates."""

from collections.abc import Set
from typing import Any

from steerlens.checks import calls
from steerlens.checks.calls import Check, door, texts
from steerlens.checks.values import Error, checked_count, checked_kind, checked_list, checked_text
from steerlens.errors import SteeringError
from steerlens.forward.steer import check_model
from steerlens.pairs.preference import PreferencePairs, check_pairs
from steerlens.pairs.questions import ChoiceQuestions
from steerlens.text.conversation import checked_prompts
from steerlens.text.templates import checked_template
from steerlens.vectors.labels import labelled
from steerlens.vectors.shapes import check_vector
from steerlens.vectors.vector import check_is_vector


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


KNOWN: dict[str, Check] = calls.KNOWN | {
    "model": _model,
    "vector": _vector,
    "vectors": _vectors,
    "like": _vector,
    "pairs": _pairs,
    "val_pairs": _pairs,
    "questions": _questions,
    "prompts": _prompts,
    "texts": texts,
    "template": checked_template,
    "stop": _stop,
}
checked = door(KNOWN)
