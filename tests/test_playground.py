"""The playground's widget, driven as a front end drives it; without an event loop it answers at once, with one as a task."""

import asyncio
import sys
import threading
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import FigureError, SteeringError, VectorError
from steerlens.forward.parts import has_hooks
from steerlens.widgets.playground import Playground

pytest.importorskip("ipywidgets", reason="the playground's tests need ipywidgets: pip install 'steerlens[dev]'")

PROMPTS = ("Would you like to earn more money today?", "Should nobody tell the truth?")
NEW = 8
LONG = 300


def vector(layer: int, seed: int) -> sl.SteeringVector:
    return sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(seed)), layer)


VECTORS = {"low": vector(1, 0), "<b>high</b>": vector(2, 1)}
LOW, HIGH = VECTORS


def play(model: HookedTransformer, **options: Any) -> Playground:
    return sl.playground(model, VECTORS, **{"prompts": PROMPTS, "max_new_tokens": NEW, **options})


def generated(model: HookedTransformer, prompt: str, m: float, n: int = NEW) -> list[str]:
    options: dict[str, Any] = {"vector": VECTORS[LOW], "multipliers": (m, 0), "max_new_tokens": n, "progress": False}
    return sl.generate(model, [prompt], **options)[0]


def texts(widget: Playground) -> list[str]:
    return [widget._live.text(answer) for answer in (widget.steered, widget.unsteered)]


def classes(widget: Any) -> set[str]:
    inside = [classes(child) for child in getattr(widget, "children", ())]
    return set(widget._dom_classes).union(*inside)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


def idle(widget: Playground) -> bool:
    return bool(widget._request) and widget.halt.disabled


# -- without an event loop --------------------------------------------------------------------------------------------


def test_a_click_shows_both_answers_with_the_change_of_each_token(tiny_chat_model: HookedTransformer) -> None:
    widget = play(tiny_chat_model)
    assert widget.multipliers == {LOW: 1.0}
    widget.run.click()
    assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], 1.0)
    for side, answer in (("steered", widget.steered), ("unsteered", widget.unsteered)):
        shown = widget.shown[side].value
        assert shown.count("<span") == len(answer.tokens)
        assert all(f'title="{change:+.2f} nats: log p = ' in shown for change in answer.changes)
    assert f"{sum(widget.steered.changes):+.2f} nats" in widget.status.value
    assert not has_hooks(tiny_chat_model)


def test_a_dragged_multiplier_a_box_and_a_prompt_answer_anew(tiny_chat_model: HookedTransformer) -> None:
    widget = play(tiny_chat_model)
    widget.sliders[LOW].value = -2.0
    assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], -2.0)
    widget.chooser.value = PROMPTS[1]
    assert widget.prompt.value == PROMPTS[1]
    assert texts(widget) == generated(tiny_chat_model, PROMPTS[1], -2.0)
    widget.max_new_tokens.value = 3
    assert [len(widget.steered.tokens), len(widget.unsteered.tokens)] == [3, 3]
    alone = widget.steered
    widget.used[HIGH].value = True
    assert widget.multipliers == {LOW: -2.0, HIGH: 1.0}
    assert widget.steered.steered != alone.steered
    for box in widget.used.values():
        box.value = False
    assert widget.steered.tokens == widget.unsteered.tokens
    assert "no vector is on" in widget.status.value


def test_what_goes_wrong_is_told_in_the_widget_as_text(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = play(tiny_chat_model)
    widget.max_new_tokens.value = tiny_chat_model.cfg.n_ctx
    assert "sl-error-text" in widget.status.value
    assert "exceeds the model's context" in unescape(widget.status.value)
    assert widget.halt.disabled

    def fail(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("<script>alert(1)</script>")

    monkeypatch.setattr(widget._live, "_logits", fail)
    widget.max_new_tokens.value = NEW
    assert "RuntimeError: &lt;script&gt;" in widget.status.value
    assert "<script" not in widget.status.value
    monkeypatch.undo()
    widget.answer()
    assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], 1.0)


def test_a_vectors_name_is_no_markup(tiny_chat_model: HookedTransformer) -> None:
    def html(widget: Any) -> str:
        own = widget.value if type(widget).__name__ == "HTML" else ""
        return own + "".join(html(child) for child in getattr(widget, "children", ()))

    shown = html(play(tiny_chat_model).box)
    assert "&lt;b&gt;high&lt;/b&gt;" in shown
    assert "<b>" not in shown


def test_parts_can_be_found_by_class(tiny_chat_model: HookedTransformer) -> None:
    parts = "playground prompt prompts max-tokens run stop use multiplier status steered unsteered column".split()
    assert classes(play(tiny_chat_model).box) == {f"sl-{part}" for part in parts}
    assert "sl-prompts" not in classes(play(tiny_chat_model, prompts=PROMPTS[:1]).box)


def test_one_vector_needs_no_name(tiny_chat_model: HookedTransformer) -> None:
    widget = sl.playground(tiny_chat_model, VECTORS[LOW], max_multiplier=0.5)
    assert widget.multipliers == {"user": 0.5}
    assert (widget.sliders["user"].min, widget.sliders["user"].max) == (-0.5, 0.5)


# -- as a task of an event loop, as in a notebook ---------------------------------------------------------------------


def test_it_starts_when_it_is_shown_and_writes_while_others_run(tiny_chat_model: HookedTransformer) -> None:
    async def main() -> None:
        widget = play(tiny_chat_model)
        assert not widget.steered.tokens
        assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()
        seen = set()

        def look() -> bool:
            seen.add(len(widget.steered.tokens))
            return idle(widget)

        await until(look)
        assert len(seen) >= NEW // 2
        assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], 1.0)
        assert widget.shown["steered"].value.count("<span") == len(widget.steered.tokens)

    asyncio.run(main())


def test_stop_ends_it_before_the_next_token(tiny_chat_model: HookedTransformer) -> None:
    async def main() -> None:
        widget = play(tiny_chat_model, max_new_tokens=LONG)
        widget.run.click()
        await until(lambda: len(widget.steered.tokens) >= 3)
        assert not widget.halt.disabled
        widget.halt.click()
        written = len(widget.steered.tokens)
        await asyncio.wait_for(widget._task, 10)
        assert len(widget.steered.tokens) == written < LONG
        assert widget.halt.disabled
        assert f"stopped after {written} tokens" in widget.status.value
        assert widget.shown["steered"].value.count("<span") == written
        assert not has_hooks(tiny_chat_model)
        widget.max_new_tokens.value = NEW
        await until(lambda: idle(widget))
        assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], 1.0)

    asyncio.run(main())


def test_only_the_latest_request_is_answered(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def main() -> None:
        widget = play(tiny_chat_model, max_new_tokens=LONG)
        stream = widget._live.stream

        def listen(prompt: str, multipliers: dict[str, float], *, max_new_tokens: int) -> Any:
            asked.append(multipliers[LOW])
            return stream(prompt, multipliers, max_new_tokens=max_new_tokens)

        monkeypatch.setattr(widget._live, "stream", listen)
        widget.answer()
        await until(lambda: len(widget.steered.tokens) >= 2)
        widget.max_new_tokens.value = NEW
        for m in (0.5, -0.5, -1.5):
            widget.sliders[LOW].value = m
        await until(lambda: idle(widget))
        assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], -1.5)

    asyncio.run(main())
    assert asked == [1.0, -1.5]


def test_a_click_that_arrives_in_another_thread_runs_nothing_there(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = set()

    async def main() -> None:
        widget = play(tiny_chat_model)
        logits = widget._live._logits

        def listen(*args: Any) -> torch.Tensor:
            ran.add(threading.current_thread())
            return logits(*args)

        monkeypatch.setattr(widget._live, "_logits", listen)
        await asyncio.to_thread(widget.run.click)
        await until(lambda: idle(widget))
        assert texts(widget) == generated(tiny_chat_model, PROMPTS[0], 1.0)

    asyncio.run(main())
    assert ran == {threading.main_thread()}


def test_two_playgrounds_at_once_leave_each_other_alone(tiny_chat_model: HookedTransformer) -> None:
    async def main() -> None:
        one, two = play(tiny_chat_model), play(tiny_chat_model)
        two.sliders[LOW].value = -2.0  # answers
        one.answer()
        await until(lambda: idle(one) and idle(two))
        assert texts(one) == generated(tiny_chat_model, PROMPTS[0], 1.0)
        assert texts(two) == generated(tiny_chat_model, PROMPTS[0], -2.0)

    asyncio.run(main())


# -- errors -----------------------------------------------------------------------------------------------------------


def test_without_ipywidgets_the_error_names_the_extra(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(FigureError, match=r"pip install 'steerlens\[notebooks\]'"):
        play(tiny_chat_model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ()}, r"prompts=\(\)"),
        ({"prompts": "hello"}, "prompts='hello'"),
        ({"prompts": [3]}, r"prompts\[0\]=3"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_multiplier": 0}, "max_multiplier=0"),
        ({"max_multiplier": float("nan")}, "max_multiplier=nan"),
        ({"max_multiplier": "3"}, "max_multiplier='3'"),
        ({"positions": "prompt"}, "positions='prompt'"),
    ],
)
def test_an_option_that_is_none_is_refused(
    tiny_chat_model: HookedTransformer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SteeringError, match=message):
        play(tiny_chat_model, **options)


@pytest.mark.parametrize("wrong", [vector(9, 0), {}, "a vector"])
def test_a_vector_that_does_not_fit_is_refused(tiny_chat_model: HookedTransformer, wrong: Any) -> None:
    with pytest.raises(VectorError):
        sl.playground(tiny_chat_model, wrong)
