"""How a prompt and a response become text for a model: chat templates and the BiPO authors' formats."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from steerlens.errors import PairsError

Template = Literal["auto", "plain", "llama-2", "mistral"] | Callable[[str], str]
TEMPLATE_NAMES = ("auto", "plain", "llama-2", "mistral")

AUTHORS_SYSTEM_PROMPT = "You are a helpful, honest and concise assistant."  # BiPO, arXiv 2406.00045v2
_SENTINEL = "steerlens response goes here"


@dataclass(frozen=True)
class Turn:
    """One prompt in its template, and how a response goes on from there."""

    prompt: str
    """the text up to the first character that belongs to the response's format"""
    needs_bos: bool
    """whether one BOS belongs in front (a chat template writes its own)"""
    lead: str = ""
    """what the format puts between prompt and response"""
    tail: str = ""
    """what the format puts between response and end-of-turn token"""
    end: str | None = None
    """the end-of-turn token; None for the tokenizer's EOS"""


def check_template(template: object) -> None:
    """Raise PairsError unless `template` is one of TEMPLATE_NAMES or callable."""
    if not callable(template) and template not in TEMPLATE_NAMES:
        raise PairsError(
            f"template={template!r} is not known; expected one of {', '.join(map(repr, TEMPLATE_NAMES))}, "
            "or a function that takes the prompt and returns its text in your format"
        )


def render(tokenizer: Any, prompt: str, template: Template, system_prompt: str | None) -> Turn:
    """The prompt in its template.

    system_prompt: None keeps the template's own (the authors' sentence for "llama-2" and "mistral"); "" leaves it out.
    """
    if template == "auto" and getattr(tokenizer, "chat_template", None):
        return _chat(tokenizer, prompt, system_prompt)
    if template in ("llama-2", "mistral"):
        system = AUTHORS_SYSTEM_PROMPT if system_prompt is None else system_prompt
        before = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if template == "llama-2" else f"{system}\n"
        return Turn(f"[INST] {before if system else ''}{prompt} [/INST]", needs_bos=True, lead=" ")
    if system_prompt:
        raise PairsError(
            f"this template has no place for system_prompt={system_prompt!r} (template={template!r}; a tokenizer without "
            "a chat template is 'plain'): write it into the prompts"
        )
    text = template(prompt) if callable(template) else prompt
    if not isinstance(text, str) or not text:
        raise PairsError(f"the template function returned {text!r} for the prompt {prompt!r}; expected its text")
    return Turn(text, needs_bos=True)


def _chat(tokenizer: Any, prompt: str, system_prompt: str | None) -> Turn:
    messages = [{"role": "user", "content": prompt}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        if system_prompt is None:
            raise PairsError(f"the tokenizer's chat template refuses the prompt {prompt!r}: {error}") from error
        # Gemma and the early Mistrals have no system turn; their model cards put the text before the user's.
        return _chat(tokenizer, f"{system_prompt}\n\n{prompt}" if system_prompt else prompt, None)
    lead, tail, end = _around_response(tokenizer, tokenizer.chat_template)
    return Turn(text, needs_bos=False, lead=lead, tail=tail, end=end)


@lru_cache(maxsize=64)
def _around_response(tokenizer: Any, chat_template: str) -> tuple[str, str, str | None]:
    """What a chat template writes before and after an assistant's words; `chat_template` is part of the cache's key."""
    messages = [{"role": "user", "content": "a question"}]
    head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    messages.append({"role": "assistant", "content": _SENTINEL})
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    start = whole.find(_SENTINEL)
    lead = whole[len(head) : start] if whole.startswith(head) else ""
    after = whole[start + len(_SENTINEL) :]
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = min(((after.find(t), -len(t), t) for t in special if t in after), default=None)
    return (lead, after[: found[0]], found[2]) if found else (lead, "", None)
