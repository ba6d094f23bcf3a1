"""A chat template rendered within limits: it comes with a model's files, and is a program that somebody else wrote.

Transformers renders in jinja2's sandbox, which keeps a template from the machine and bounds neither time nor memory.
"""

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from steerlens.errors import PairsError

SECONDS = 5.0
MEMORY = 10**9
"""bytes above what the process has; looked at when a template is first seen, on Linux"""
LONGEST = 1_000_000
"""characters that a template may add to the messages"""
_one_at_a_time = threading.RLock()  # limits are the process's
_seen: set[str] = set()


class _TooLong(Exception):  # noqa: N818 - never leaves this module
    """The time is over."""


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, open_response: bool) -> str:
    """The messages in the tokenizer's chat template.

    Raises:
        TemplateError: the template refuses the messages, or is none.
        PairsError: it fails in any other way, or goes beyond a limit.
    """
    template = str(tokenizer.chat_template)
    late = threading.Event()
    with _one_at_a_time:
        try:
            _check_operators(tokenizer.chat_template)
            with _deadline(SECONDS, late), nullcontext() if template in _seen else _memory(MEMORY):
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_response)
        except (TemplateError, PairsError):
            raise
        except Exception as error:  # what a template makes of numbers and texts is Python's to say
            if late.is_set():  # jinja2 may have made another error of it
                raise PairsError(f"the tokenizer's chat template takes over {SECONDS:g} s. {_CURE}") from error
            told = f"{type(error).__name__}: {error!s:.150}"
            raise PairsError(f"the tokenizer's chat template fails: {told}. {_CURE}") from error
        _seen.add(template)
    if not isinstance(text, str) or len(text) > LONGEST + sum(len(message["content"]) for message in messages):
        raise PairsError(f"the tokenizer's chat template writes over {LONGEST:,} characters of its own. {_CURE}")
    return text


_CURE = "Look at chat_template in the model's folder, or pass template='plain', another name, or a function"


def _check_operators(template: object) -> None:
    """Raise PairsError where a template raises to a power: a few letters of that run for hours, in one step."""
    for source in template.values() if isinstance(template, Mapping) else (template,):
        try:
            powers = "**" in str(source) and any(
                kind == "operator" and text == "**" for _, kind, text in Environment().lex(str(source))
            )
        except TemplateSyntaxError:
            return  # told when it is rendered
        if powers:
            raise PairsError(f"the tokenizer's chat template raises numbers to a power. {_CURE}")


@contextmanager
def _deadline(seconds: float, late: threading.Event) -> Iterator[None]:
    """Raise _TooLong in the block, at the next step of Python in it, when it has lasted for so long; `late` says so."""
    # An exception from outside, for a trace of every line makes a rendering ten times as long, and signals are the main
    # thread's alone.
    thread, over, last_word = threading.get_ident(), False, threading.Lock()

    def stop() -> None:
        with last_word:
            if not over:
                late.set()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with last_word:
            over = True
        timer.cancel()


@contextmanager
def _memory(more: int) -> Iterator[None]:
    """Make an allocation fail in the block that would take the process that much further; nothing where the system can't."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = now + more if soft == resource.RLIM_INFINITY else min(soft, now + more)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
