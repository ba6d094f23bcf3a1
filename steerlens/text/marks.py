"""Marks of chat formats inside texts: what a template would put around them a second time, or another model's tokens."""

import re
from collections.abc import Iterable

# By format; a word counts at the beginning of a line alone, a pair of brackets anywhere.
_FORMATS = {
    "ChatML": r"<\|im_(?:start|end)\|>",
    "Llama 3": r"<\|(?:start_header_id|end_header_id|eot_id|begin_of_text)\|>",
    "Llama 4": r"<\|(?:header_start|header_end|eot)\|>",
    "Gemma": r"<(?:start|end)_of_turn>",
    "Llama 2 or Mistral": r"\[/?INST\]|<<SYS>>",
    "Zephyr or Phi-3": r"<\|(?:system|user|assistant|end)\|>",
    "Command R": r"<\|(?:START|END)_OF_TURN_TOKEN\|>",
    "DeepSeek": "<\uff5c(?:User|Assistant|end\u2581of\u2581sentence|begin\u2581of\u2581sentence)\uff5c>",
    "Vicuna": r"(?:^|[.\s])USER: .*\sASSISTANT:",
    "Alpaca": r"^### ?(?:Instruction|Response|Input):",
    "Human/Assistant": r"^(?:Human|H): .*^(?:Assistant|A):",
    "end of text": r"</s>|<\|end_?of_?text\|>|<eos>",
}
_MARKS = {name: re.compile(form, re.MULTILINE | re.DOTALL) for name, form in _FORMATS.items()}
_TOKENS = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>|</?s>|<eos>|<bos>|<\uff5c[^<>\s]{1,40}\uff5c>")


def formats_in(texts: Iterable[str]) -> dict[str, list[int]]:
    """The chat formats whose marks stand in texts, with the numbers of those texts."""
    found: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        if "<" in text or "[" in text or ":" in text:
            for name, mark in _MARKS.items():
                if mark.search(text):
                    found.setdefault(name, []).append(i)
    return found


def token_marks(text: str) -> set[str]:
    """What looks like a special token of some model."""
    return set(_TOKENS.findall(text))
