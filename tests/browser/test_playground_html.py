"""What the playground writes, in a real browser: tokens in colour, and nothing that came from outside is markup.

Only its HTML; the sliders and buttons, with a kernel behind them, are in test_playground_in_jupyterlab.py.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl


def texts(widget: Any) -> Iterator[str]:
    """The HTML of a widget and of all within it, from top to bottom."""
    if type(widget).__name__ == "HTML":
        yield widget.value
    for child in getattr(widget, "children", ()):
        yield from texts(child)


@pytest.mark.parametrize("dark", [False, True])
def test_the_answers_are_coloured_tokens_and_never_markup(
    tiny_chat_model: HookedTransformer, tmp_path: Path, visit: Callable[..., Any], pictures: Path, dark: bool
) -> None:
    pytest.importorskip("ipywidgets", reason="no ipywidgets here: pip install 'steerlens[notebooks]'")
    vector = sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), 1)

    def answered() -> Any:
        play = sl.playground(tiny_chat_model, {made_up.NASTY: vector}, prompts=(made_up.NASTY,), max_new_tokens=8)
        play.answer()
        return play

    with ThreadPoolExecutor(
        1
    ) as pool:  # playwright keeps an event loop running in this thread, and answers would wait for it
        found = pool.submit(answered).result()
    ground = "background:#111;color:#eee;--jp-content-font-color1:#eee" if dark else ""
    file = tmp_path / "playground.html"
    body = "".join(f"<div>{text}</div>" for text in texts(found.box))
    file.write_text(f'<!DOCTYPE html><meta charset=utf-8><body class="sl-playground" style="{ground}">{body}')
    page = visit(file)
    assert page.evaluate("window.broken") is None
    assert not page.query_selector_all("img")
    tokens = page.query_selector_all(".sl-answer:not(.sl-legend) span")
    assert 2 < len(tokens) <= len(found.steered.tokens) + len(found.unsteered.tokens)  # bytes of one character are one
    assert all("nats" in token.get_attribute("title") for token in tokens)
    assert made_up.NASTY in page.inner_text("body")
    page.screenshot(path=pictures / f"playground-{'dark' if dark else 'light'}.png")
