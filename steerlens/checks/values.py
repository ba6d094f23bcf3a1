"""What a caller passes, checked before any work: each check returns plain Python values, or raises an error of ours.

A number may come from numpy, pandas or torch (a 0-dimensional tensor); truth values and texts are no numbers. A list may be
a list, a tuple, a range, an array or a column of a data frame; a text, a dict or a set is none.
"""

import math
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from steerlens.errors import MeasureError, ModelError, SteeringError, SteerLensError

Error = type[SteerLensError]
Kind = TypeVar("Kind")
LARGEST_SEED = 2**63 - 1
LARGEST_COUNT = 2**31 - 1
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def shown(value: object) -> str:
    """A value as an error shows it: short, and without an error of its own."""
    try:
        return _REPR.repr(value)[:160]
    except Exception:  # a whole number of 5,000 digits, an object whose __repr__ fails
        return f"a {type(value).__name__}"


def refusal(name: str, value: object, expected: str) -> str:
    """What is said of an argument: what came, and what was expected."""
    return f"{name}={shown(value)}; expected {expected}"


def _plain(value: object) -> object:
    """The Python number in a 0-dimensional array or tensor of numbers; anything else as it is."""
    try:
        if getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "f") in "biuf":
            return value.item()  # type: ignore[attr-defined]
    except Exception:  # a tensor without values, on the meta device
        return value
    return value


# -- numbers ----------------------------------------------------------------------------------------------------------


def checked_number(
    name: str,
    value: object,
    *,
    error: Error = MeasureError,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> float:
    """A number as a float, within its bounds; finite, unless it may be infinite."""
    given = _plain(value)
    try:
        if isinstance(given, bool) or not isinstance(given, Real):
            raise ValueError
        number = float(given)  # of too large a whole number: OverflowError
        fits = math.isfinite(number) or (infinite and not math.isnan(number))
        fits = fits and (least is None or number >= least) and (above is None or number > above)
        if not fits or (most is not None and number > most) or (below is not None and number >= below):
            raise ValueError
    except (ValueError, OverflowError):
        low = f" above {above:g}" if above is not None else f" from {least:g}" if least is not None else ""
        high = f" below {below:g}" if below is not None else f" to {most:g}" if most is not None else ""
        kind = f"a {'' if infinite else 'finite '}number{low}{' and' if low and below is not None else ''}{high}"
        raise error(refusal(name, value, kind)) from None
    return number


def checked_count(
    name: str, value: object, *, error: Error = MeasureError, least: int = 1, most: int = LARGEST_COUNT
) -> int:
    """A whole number in a range, as an int."""
    whole = _whole(value)
    if whole is None or not least <= whole <= most:
        upper = "" if most in (LARGEST_COUNT, LARGEST_SEED) else f" to {most}"
        raise error(refusal(name, value, f"a whole number from {least}{upper}"))
    return whole


def _whole(value: object) -> int | None:
    given = _plain(value)
    if isinstance(given, bool) or getattr(given, "shape", ()) != () or not hasattr(given, "__index__"):
        return None
    try:
        return operator.index(given)
    except Exception:
        return None


def checked_seed(seed: object, *, name: str = "seed", error: Error = MeasureError) -> int:
    """A seed: a whole number from 0 that every generator of random numbers takes."""
    return checked_count(name, seed, error=error, least=0, most=LARGEST_SEED)


def checked_level(level: object, *, name: str = "level", error: Error = MeasureError) -> float:
    """The share that an interval covers, such as 0.95."""
    try:
        return float(checked_number(name, level, error=error, above=0, below=1))
    except error:
        raise error(refusal(name, level, "a share above 0 and below 1, such as 0.95")) from None


def checked_flag(name: str, value: object, *, error: Error = MeasureError) -> bool:
    """True or False."""
    given = _plain(value)
    if not isinstance(given, bool):
        raise error(refusal(name, value, "True or False"))
    return given


# -- texts ------------------------------------------------------------------------------------------------------------


def checked_text(name: str, value: object, *, error: Error = MeasureError, empty: bool = False) -> str:
    """A text that can be written to a file and tokenised."""
    if not isinstance(value, str) or not (value or empty):
        raise error(refusal(name, value, "a text" if empty else "a text that is not empty"))
    if not _is_unicode(value):
        raise error(refusal(name, value, "a text without half of a surrogate pair, which is no character"))
    return value.item() if hasattr(value, "item") else value  # numpy's own kind of text; a conversation stays one


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_texts(
    name: str, values: object, *, error: Error = MeasureError, least: int = 1, empty: bool = True
) -> tuple[str, ...]:
    """A list of texts, as a tuple; one text is refused, for its letters are not meant."""
    if isinstance(values, str):
        raise error(
            f"{name}={shown(values)} is one text; expected a list of at least one text: {name}=[{shown(values)}]"
        )
    given = _listed(values)
    if given is None or len(given) < least:
        raise error(
            refusal(
                name,
                values,
                "a list of at least one text" if least else "a list of texts",
            )
        )
    return tuple(checked_text(f"{name}[{i}]", text, error=error, empty=empty) for i, text in enumerate(given))


def checked_choice(name: str, value: object, choices: Sequence[Any], *, error: Error = MeasureError) -> Any:
    """One of a few values."""
    given = _plain(value)
    if isinstance(given, float) and given.is_integer():  # np.sign gives -1.0
        given = int(given)
    found = [choice for choice in choices if isinstance(given, type(choice)) and given == choice]
    if not found or isinstance(given, bool):
        raise error(f"{name}={shown(value)} is not known; expected one of {', '.join(map(repr, choices))}")
    return found[0]


def checked_positions(positions: object) -> Any:
    """Where a vector is added: "all" or "response"."""
    return checked_choice("positions", positions, ("all", "response"), error=SteeringError)


# -- lists ------------------------------------------------------------------------------------------------------------


def _listed(values: object) -> list[Any] | None:
    """What a list, tuple, range, array or column holds, in its order; None for anything else."""
    if isinstance(values, (str, bytes, bytearray, Mapping, Set, type)) or not hasattr(values, "__len__"):
        return None
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:  # a data frame, a matrix
        return None
    try:
        return list(values)
    except Exception:  # a tensor without values, on the meta device
        return None


def checked_list(name: str, values: object, *, error: Error = MeasureError, of: str, least: int = 1) -> list[Any]:
    """A list, tuple, range, array or column of some length, as a list of what it holds.

    of: what it holds, in words.
    """
    given = _listed(values)
    if given is None or len(given) < least:
        raise error(refusal(name, values, f"a list of {of}{', at least one' if least == 1 else ''}"))
    return given


def checked_multipliers(
    multipliers: object, *, name: str = "multipliers", error: Error = SteeringError, repeats: bool = False
) -> tuple[float, ...]:
    """Multipliers: finite numbers, one at least; each once, for a result finds its columns by them, unless they may repeat."""
    given = _listed(multipliers)
    if given is None or not given:
        cure = f": {name}=({shown(multipliers)},)" if isinstance(multipliers, Real) else ""
        raise error(refusal(name, multipliers, f"a list of at least one finite number{cure}"))
    numbers = tuple(checked_number(f"{name}[{i}]", m, error=error) + 0.0 for i, m in enumerate(given))  # + 0.0: no -0.0
    if not repeats and len(set(numbers)) < len(numbers):
        raise error(refusal(name, multipliers, "each once"))
    return numbers


def checked_seeds(seeds: object, *, name: str = "seeds", error: Error = MeasureError) -> tuple[int, ...]:
    """Seeds: whole numbers from 0, one at least, each once."""
    given = checked_list(name, seeds, error=error, of="whole numbers from 0")
    found = tuple(checked_seed(seed, name=f"{name}[{i}]", error=error) for i, seed in enumerate(given))
    if len(set(found)) < len(found):
        raise error(refusal(name, seeds, "each once"))
    return found


# -- models and files -------------------------------------------------------------------------------------------------


def checked_layer(model: Any, layer: object, *, name: str = "layer") -> int:
    """A layer that the model has."""
    whole, n_layers = _whole(layer), model.cfg.n_layers
    if whole is None or not 0 <= whole < n_layers:
        raise ModelError(
            f"{name}={shown(layer)}; {model.cfg.model_name} has layers 0 to {n_layers - 1}, expected one of them"
        )
    return whole


def checked_layers(model: Any, layers: object, *, name: str = "layers") -> tuple[int, ...]:
    """Layers that the model has, one at least, each once."""
    given = checked_list(name, layers, error=ModelError, of="layers, such as [13]")
    found = tuple(checked_layer(model, layer, name=f"{name}[{i}]") for i, layer in enumerate(given))
    if len(set(found)) < len(found):
        raise ModelError(refusal(name, layers, "each once"))
    return found


def checked_path(name: str, path: object, *, error: Error = MeasureError) -> Path:
    """The path of a file or folder that may be there or not, if the system takes such a name."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
        if not isinstance(text, str) or not text:
            raise TypeError
    except Exception:  # what a __fspath__ raises is its own to choose
        raise error(refusal(name, path, "a path, as a text or a pathlib.Path")) from None
    try:
        os.lstat(text)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as why:  # too long, behind a file, no access; a NUL, half of a surrogate pair
        told = why.strerror if isinstance(why, OSError) else why
        raise error(f"{name}={shown(path)} can't be used ({told}); expected the path of a file or folder") from None
    return Path(text)


def checked_kind(name: str, value: object, kind: type[Kind], *, error: Error = MeasureError, cure: str = "") -> Kind:
    """An object of one of our own kinds.

    cure: how to get one.
    """
    if not isinstance(value, kind):
        came = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise error(f"{name} is {came}; expected a {kind.__name__}{f': {cure}' if cure else ''}")
    return value
