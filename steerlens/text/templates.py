"""How a prompt and a response become text for a model: chat templates, the BiPO authors' formats, and Vicuna's.

On Llama-2-chat "auto" and "llama-2" are both right and not the same. The tokenizer's template strips prompt and response
and puts a space before `</s>`, a token that counts; it writes no system block unless asked. The authors' format strips
nothing, has no such space, and opens with their system sentence. Vicuna v1.5's tokenizer has no chat template, so that
"auto" would be "plain" there: ask for "vicuna".
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from steerlens.checks.values import Error, shown
from steerlens.errors import PairsError
from steerlens.text.conversation import Conversation, Said
from steerlens.text.rendering import rendered

log = logging.getLogger(__name__)
Template = Literal["auto", "plain", "llama-2", "mistral", "vicuna"] | Callable[[str], str]
TEMPLATE_NAMES = ("auto", "plain", "llama-2", "mistral", "vicuna")

AUTHORS_SYSTEM_PROMPT = "You are a helpful, honest and concise assistant."  # BiPO, arXiv 2406.00045v2
VICUNA_SYSTEM_PROMPT = (  # FastChat's "vicuna_v1.1" conversation, which v1.5 keeps
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_SENTINEL = "7315904628"  # digits: a template that lowercases, escapes or strips an answer leaves them


@dataclass(frozen=True)
class Turn:
    """One prompt in its template, and how a response goes on from there."""

    prompt: str
    """the text up to the first character that belongs to the response's format"""
    needs_bos: bool
    """whether one BOS belongs in front where there is none"""
    lead: str = ""
    """what the format puts between prompt and response"""
    tail: str = ""
    """what the format puts between response and end-of-turn token"""
    end: str | None = None
    """the end-of-turn token; None for the tokenizer's EOS"""
    opening: str | None = None
    """what generation goes on from; None for the prompt"""
    write: Callable[[str], str] | None = None
    """a response as the tokenizer's chat template writes it, `lead` before it"""
    parting: str | None = None
    """where a chat template's generation prompt is not how it writes a finished answer: both, in words"""

    def response(self, text: str) -> str:
        """A response as the format writes it, without `tail` and end of turn."""
        return self.lead + text if self.write is None else self.write(text)


def checked_template(name: str, template: Any, error: Error) -> Template:
    """One of TEMPLATE_NAMES, or a function; else PairsError."""
    named = isinstance(template, str) and template in TEMPLATE_NAMES
    if not named and (not callable(template) or isinstance(template, type)):
        raise PairsError(
            f"{name}={shown(template)} is not known; expected one of {', '.join(map(repr, TEMPLATE_NAMES))}, "
            "or a function that takes the prompt and returns its text in your format"
        )
    return template


def render(tokenizer: Any, prompt: str, template: Template, system_prompt: str | None) -> Turn:
    """The prompt in its template.

    prompt: a text, or a Conversation, for which the tokenizer must have a chat template.
    system_prompt: None keeps the template's own (the authors' sentence for "llama-2" and "mistral", FastChat's for
    "vicuna"); "" leaves it out.
    """
    if template == "auto" and has_chat_template(tokenizer):
        return _chat(tokenizer, prompt, system_prompt)
    if isinstance(prompt, Conversation):
        without = " and this tokenizer has none (model.tokenizer.chat_template)" if template == "auto" else ""
        raise PairsError(
            f"{prompt!r:.80} is a conversation, which template={template!r} has no place for: expected template='auto', "
            f"the tokenizer's chat template,{without or ' or a text'}"
        )
    if template in ("llama-2", "mistral"):
        system = AUTHORS_SYSTEM_PROMPT if system_prompt is None else system_prompt
        before = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if template == "llama-2" else f"{system}\n"
        return Turn(f"[INST] {before if system else ''}{prompt} [/INST]", needs_bos=True, lead=" ")
    if template == "vicuna":
        system = VICUNA_SYSTEM_PROMPT if system_prompt is None else system_prompt
        return Turn(f"{system + ' ' if system else ''}USER: {prompt} ASSISTANT:", needs_bos=True, lead=" ")
    if system_prompt:
        raise PairsError(
            f"this template has no place for system_prompt={system_prompt!r} (template={template!r}; a tokenizer without "
            "a chat template is 'plain'): write it into the prompts"
        )
    text = template(prompt) if callable(template) else prompt
    if not isinstance(text, str) or not text:
        raise PairsError(f"the template function returned {text!r} for the prompt {prompt!r}; expected its text")
    return _rendered(tokenizer, text) or Turn(text, needs_bos=True)


def has_chat_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template of its own."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_end(tokenizer: Any) -> str | None:
    """The end-of-turn token of the tokenizer's own chat template; None where it has none, or writes no answers."""
    own = _own_format(tokenizer, str(tokenizer.chat_template)) if has_chat_template(tokenizer) else None
    return None if own is None else own.turn.end


# -- the tokenizer's own chat template --------------------------------------------------------------------------------


def _chat(tokenizer: Any, prompt: str, system_prompt: str | None) -> Turn:
    key = str(tokenizer.chat_template)  # a tokenizer may have several, in a dict
    turns = list(prompt.turns) if isinstance(prompt, Conversation) else [("user", prompt)]
    if turns[0][0] == "system":
        if system_prompt is not None:
            raise PairsError(
                f"{prompt!r:.80} has a system turn of its own: leave system_prompt={system_prompt!r:.80} out"
            )
        (_, system_prompt), *turns = turns
    try:
        if system_prompt and not _has_system_turn(tokenizer, key):
            # Gemma and the early Mistrals have no system turn; their model cards put the text before the user's.
            turns[0], system_prompt = ("user", f"{system_prompt}\n\n{turns[0][1]}"), None
        opened = _written(tokenizer, turns)
        if system_prompt is not None and _has_system_turn(tokenizer, key):
            with_system = [("system", system_prompt), *turns]
            text = _written(tokenizer, with_system)
            # An empty system turn is shorter only where it replaces a sentence of the template's own.
            if system_prompt or len(text) < len(opened):
                turns, opened = with_system, text
        return _around(tokenizer, turns, opened)
    except TemplateError as error:
        raise PairsError(f"the tokenizer's chat template refuses the prompt {prompt!r}: {error}") from error


def _around(tokenizer: Any, turns: Sequence[Said], opened: str) -> Turn:
    """Turns and an answer to them as the template stores them; `opened` is the text that it lets generation begin with."""
    stored = _written(tokenizer, [*turns, ("assistant", _SENTINEL)], opens=False)
    before, found, after = stored.rpartition(_SENTINEL)
    if not found:
        raise PairsError("the tokenizer's chat template writes no assistant turn: pass template='plain' or a function")
    lost = [content for _, content in turns if content.strip() not in before]
    if lost:
        _say_once(tokenizer, "turn", f"the chat template does not write the turn {lost[0]!r:.80} as it is")
    # Tokenizers put a space in front of the next word, so it belongs to the response.
    start, opened = before.rstrip(" "), opened.rstrip(" ")
    put_between = start[len(opened) :] if start.startswith(opened) else None
    parting = None
    # A template without a generation prompt leaves its header to the stored turn.
    parts = put_between is None or bool(put_between.strip())
    if parts and opened != _written(tokenizer, turns, opens=False).rstrip(" "):
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(opened, start, strict=False)))
        parting = f"generation begins with {opened[same:]!r}, and a stored answer with {start[same:]!r} in its place"
        _say_once(
            tokenizer,
            "parting",
            f"the chat template's generation prompt is not how it writes a finished answer: {parting}. Pairs are encoded as it "
            "stores them; generation begins where the template lets it",
        )
    end = _first_end(tokenizer, after)
    tail = after.rstrip() if end is None else after[: after.find(end)]

    def write(text: str) -> str:
        whole = _written(tokenizer, [*turns, ("assistant", text)], opens=False)
        if not (whole.startswith(start) and whole.endswith(after) and len(whole) >= len(start) + len(after)):
            raise PairsError(
                f"the tokenizer's chat template writes the answer {text!r:.80} with another text around it than it writes "
                "around others (thoughts in the answer?): take that out, or pass template='plain' or a function"
            )
        said = whole[len(start) : len(whole) - len(after)]
        if text.strip() not in said:
            _say_once(
                tokenizer, "answer", f"the chat template changes answers: {text!r:.60} is encoded as {said!r:.60}"
            )
        return said

    return Turn(
        start,
        needs_bos=False,
        lead=before[len(start) :],
        tail=tail,
        end=end,
        opening=None if parting is None else opened,
        write=write,
        parting=parting,
    )


def _first_end(tokenizer: Any, after: str) -> str | None:
    """The added token that comes first behind an answer."""
    added = tokenizer.added_tokens_decoder.values()
    # Fine-tunes add their end of turn as a token like any other; Gemma's runs of line breaks are such tokens too.
    ends = {str(token) for token in added if token.special or str(token).strip()}
    found = min(((after.find(t), -len(t), t) for t in ends if t in after), default=None)
    return None if found is None else found[2]


def _written(tokenizer: Any, turns: Sequence[Said], *, opens: bool = True) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return rendered(tokenizer, messages, open_response=opens)


@lru_cache(maxsize=64)
def _has_system_turn(tokenizer: Any, chat_template: str) -> bool:
    """Whether a chat template writes a system turn; some refuse it, some leave it out without a word."""
    try:
        return _SENTINEL in _written(tokenizer, [("system", _SENTINEL), ("user", "a question")])
    except TemplateError:
        return False


def _say_once(tokenizer: Any, kind: str, message: str) -> None:
    """A warning, once for each kind and chat template."""
    told = _told(tokenizer, kind, str(tokenizer.chat_template))
    if not told:
        told.append(message)
        log.warning(message)


@lru_cache(maxsize=256)
def _told(tokenizer: Any, kind: str, chat_template: str) -> list[str]:
    return []


# -- texts that are in the tokenizer's own format already ---------------------------------------------------------------


@dataclass(frozen=True)
class _OwnFormat:
    """What a chat template writes between a question and an answer, and how the answer goes on."""

    turn: Turn
    """for a question of the sentinel"""
    opens: str
    """what it writes behind a question for generation to go on from"""
    stores: str
    """what it writes between a question and a finished answer, up to a space"""
    marks: frozenset[str]
    """its special tokens, but for a BOS in front"""
    has_bos: bool


@lru_cache(maxsize=64)
def _own_format(tokenizer: Any, chat_template: str) -> _OwnFormat | None:
    try:
        opened = _written(tokenizer, [("user", _SENTINEL)])
        turn = _chat(tokenizer, _SENTINEL, None)
    except (PairsError, TemplateError):
        return None
    bos = tokenizer.bos_token or ""
    whole = turn.prompt + turn.response("x") + turn.tail + (turn.end or "")
    inner = whole[len(bos) :] if bos and whole.startswith(bos) else whole
    marks = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return _OwnFormat(
        turn,
        opens=opened.rpartition(_SENTINEL)[2].rstrip(" "),
        stores=turn.prompt.rpartition(_SENTINEL)[2],
        marks=frozenset(mark for mark in marks if mark.strip() and mark in inner),
        has_bos=bool(bos) and opened.startswith(bos),
    )


def _rendered(tokenizer: Any, text: str) -> Turn | None:
    """The turn of a text that is written in the tokenizer's own chat template already; None for any other text.

    It is encoded as its conversation would be: no second BOS, the template's end of turn, and what it puts around answers.
    """
    own = _own_format(tokenizer, str(tokenizer.chat_template)) if has_chat_template(tokenizer) else None
    if own is None:
        return None
    bare = text.rstrip(" ")
    for opening in (own.opens, own.stores):
        if opening.strip() and bare.endswith(opening):
            prompt = bare.removesuffix(opening) + own.stores
            generated = bare if own.turn.parting else None
            return replace(own.turn, prompt=prompt, needs_bos=own.has_bos, opening=generated)
    if any(mark in text for mark in own.marks):
        return Turn(text, needs_bos=own.has_bos, tail=own.turn.tail, end=own.turn.end)
    return None
