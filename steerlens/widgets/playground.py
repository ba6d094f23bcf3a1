"""A notebook's widget: drag multipliers, and read the steered answer beside the unsteered one as both are written.

Generation is a task of the kernel's event loop, one token at a time, and not a thread: a thread would run while a cell does,
and its hooks and activations would end up in that cell's `run_with_cache`.
"""

import asyncio
import time
from collections.abc import Sequence
from html import escape
from typing import Any

from transformer_lens import HookedTransformer

from steerlens.checks.calls import number
from steerlens.errors import FigureError, SteeringError, SteerLensError
from steerlens.figures.theme import display_name
from steerlens.figures.tokens import change_legend, change_spans
from steerlens.forward.door import checked
from steerlens.forward.steer import Positions
from steerlens.generation.live import LiveAnswer, LiveAnswers
from steerlens.text.ends import Stop
from steerlens.text.pieces import pieces
from steerlens.text.templates import Template
from steerlens.vectors.labels import Vectors, labelled

PAUSE = 0.01  # seconds for the kernel's other work between two tokens: a click, a dragged slider
REDRAW = 0.1  # seconds between two drawings at least
CSS = """
.sl-playground .sl-answer { font: 14px/1.75 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto; padding: 4px 0;
  color: var(--jp-content-font-color1, #1d1d1f); }
.sl-playground .sl-answer span { white-space: pre; border-radius: 3px; padding: 1px 0; }
.sl-playground .sl-legend span { padding: 1px 8px; margin-left: 2px; }
.sl-playground .sl-name { font-weight: 600; } .sl-playground .sl-note { opacity: 0.75; }
.sl-playground .sl-error-text { border-left: 4px solid #D55E00; padding: 4px 10px; white-space: pre-wrap; }
"""


@checked(SteeringError, max_multiplier=number(above=0))
def playground(
    model: HookedTransformer,
    vectors: Vectors,
    *,
    prompts: Sequence[str] = ("How would you spend a day off?",),
    max_new_tokens: int = 40,
    max_multiplier: float = 3.0,
    positions: Positions = "all",
    template: Template = "auto",
    system_prompt: str | None = None,
    stop: Stop | None = None,
) -> "Playground":
    """A widget that answers a prompt steered and unsteered, token by token, while you drag the vectors' multipliers.

    Each token is coloured by log p steered - log p unsteered, in nats: what the vectors do to that very token, behind the
    same prompt and the same tokens before it. Both answers are greedy.

    Args:
        model: any HookedTransformer.
        vectors: one, several, or a dict from names to vectors. The first is on at the start; those that are on add up.
        prompts: to choose from; any other can be typed.
        max_new_tokens: of each answer, at the start.
        max_multiplier: the sliders go from minus this to this.
        positions, template, system_prompt, stop: as in `generate`.

    Returns:
        What a notebook shows as the widget. `.steered` and `.unsteered` are the latest answers: ids, and log-probabilities.

    Raises:
        FigureError: ipywidgets is missing.
        VectorError: a vector does not fit the model.
        SteeringError: no prompts, or an option that is none.
    """
    to = {"positions": positions, "template": template, "system_prompt": system_prompt, "stop": stop}
    live = LiveAnswers(model, labelled(vectors), **to)  # type: ignore[arg-type]
    return Playground(live, prompts, max_new_tokens, max_multiplier)


def _ipywidgets() -> Any:
    try:
        import ipywidgets
    except ImportError as error:
        raise FigureError(
            "the playground takes ipywidgets, which is not installed: pip install 'steerlens[notebooks]', then restart the "
            "kernel and reload the page. sl.generate(model, prompts, vector=..., multipliers=...) needs none"
        ) from error
    return ipywidgets


class Playground:
    """The widget, and the latest answers as data: `steered` and `unsteered`."""

    def __init__(self, live: LiveAnswers, prompts: Sequence[str], max_new_tokens: int, max_multiplier: float) -> None:
        self._live, self._request, self._drawn = live, 0, 0.0
        # Of the cell's thread: a front end may deliver clicks in another one, where a forward pass would race with a cell's.
        self._loop = _running_loop()
        self.steered, self.unsteered = LiveAnswer(), LiveAnswer()
        self._build(_ipywidgets(), list(prompts), max_new_tokens, max_multiplier)

    # -- what it looks like -------------------------------------------------------------------------------------------

    def _build(self, w: Any, prompts: list[str], max_new_tokens: int, most: float) -> None:
        wide = w.Layout(width="auto")
        self.prompt = _named(w.Textarea(prompts[0], layout=wide, rows=2, continuous_update=False), "sl-prompt")
        self.chooser = _named(w.Dropdown(options=prompts, layout=wide), "sl-prompts")
        self.max_new_tokens = _named(
            w.BoundedIntText(
                max_new_tokens,
                min=1,
                max=int(self._live.model.cfg.n_ctx),
                description="tokens",
                layout=w.Layout(width="160px"),
            ),
            "sl-max-tokens",
        )
        self.run = _named(w.Button(description="Answer", button_style="primary"), "sl-run")
        self.halt = _named(w.Button(description="Stop", disabled=True), "sl-stop")
        self.used, self.sliders = {}, {}
        for i, name in enumerate(self._live.vectors):
            self.used[name] = _named(w.Checkbox(i == 0, indent=False, layout=w.Layout(width="28px")), "sl-use")
            self.sliders[name] = _named(
                w.FloatSlider(1.0 if most >= 1 else most, min=-most, max=most, step=most / 30, readout_format="+.2f",
                              continuous_update=False, layout=w.Layout(flex="0 0 340px")),
                "sl-multiplier",
            )  # fmt: skip
        self.status = _named(w.HTML(), "sl-status")
        self.shown = {side: _named(w.HTML(), f"sl-{side}") for side in ("steered", "unsteered")}
        centred = w.Layout(align_items="center")
        rows = [w.HBox([self.used[n], self.sliders[n], w.HTML(self._label(n))], layout=centred) for n in self.sliders]
        heads = {side: w.HTML(f'<span class="sl-name">{side}</span>') for side in self.shown}
        answers = w.GridBox(
            [_named(w.VBox([heads[side], box]), "sl-column") for side, box in self.shown.items()],
            layout=w.Layout(grid_template_columns="repeat(auto-fit, minmax(300px, 1fr))", grid_gap="20px"),
        )
        controls = w.HBox([self.run, self.halt, self.max_new_tokens])
        choice = [self.chooser] if len(prompts) > 1 else []
        parts = [
            w.HTML(f"<style>{CSS}</style>"),
            *choice,
            self.prompt,
            *rows,
            controls,
            self.status,
            answers,
            w.HTML(_legend()),
        ]
        self.box = _named(w.VBox(parts), "sl-playground")
        self._listen()

    def _listen(self) -> None:
        self.run.on_click(lambda _: self.answer())
        self.halt.on_click(lambda _: self.stop())
        self.chooser.observe(lambda change: setattr(self.prompt, "value", change["new"]), "value")
        for control in (self.prompt, self.max_new_tokens, *self.used.values(), *self.sliders.values()):
            control.observe(lambda _: self.answer(), "value")

    def _label(self, name: str) -> str:
        vector = self._live.vectors[name]
        return (
            f'<span class="sl-name">{escape(display_name(name))}</span> '
            f'<span class="sl-note">layer {vector.layer}, norm {vector.norm:.3g}</span>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self._loop is not None and not self._request:
            self.answer()
        return self.box._repr_mimebundle_(include=include, exclude=exclude)

    # -- what it does -------------------------------------------------------------------------------------------------

    @property
    def multipliers(self) -> dict[str, float]:
        """By the names of the vectors that are on."""
        return {name: slider.value for name, slider in self.sliders.items() if self.used[name].value}

    def answer(self) -> None:
        """Write both answers with the settings shown; a request still under way is dropped. Without an event loop, wait."""
        self._request += 1
        request = self._request
        self.halt.disabled = False
        self._say("waiting for the kernel ...")
        loop = self._loop or _running_loop()
        if loop is None:
            asyncio.run(self._write(request))
        else:
            loop.call_soon_threadsafe(self._start, loop, request)

    def _start(self, loop: asyncio.AbstractEventLoop, request: int) -> None:
        self._task = loop.create_task(self._write(request))  # kept: a loop holds its tasks weakly

    def stop(self) -> None:
        """Stop writing: after at most one more token."""
        self._request += 1
        self.halt.disabled = True
        self._say(f"stopped after {len(self.steered.tokens)} tokens")
        self._draw(0)

    async def _write(self, request: int) -> None:
        if request != self._request:  # several changes at once: only the last one counts
            return
        self.halt.disabled = False
        self._say("writing ...")
        self.steered, self.unsteered = LiveAnswer(), LiveAnswer()
        try:
            started = time.monotonic()
            for steered, unsteered in self._live.stream(
                self.prompt.value, self.multipliers, max_new_tokens=self.max_new_tokens.value
            ):
                await asyncio.sleep(PAUSE)
                if request != self._request:
                    return
                self.steered, self.unsteered = steered, unsteered
                self._draw(REDRAW)
            self._say(f"{self._summary()} ({time.monotonic() - started:.1f} s)")
        except Exception as error:  # for the person in front of the widget, not for the kernel's log
            kind = "" if isinstance(error, SteerLensError) else f"{type(error).__name__}: "
            self.status.value = f'<div class="sl-error-text">{escape(f"{kind}{error}")}</div>'
        self.halt.disabled = True
        self._draw(0)

    def _draw(self, every: float) -> None:
        if time.monotonic() - self._drawn < every:
            return
        tokenizer = self._live.model.tokenizer
        for side, answer in (("steered", self.steered), ("unsteered", self.unsteered)):
            tokens = pieces(tokenizer, answer.tokens)
            spans = change_spans(tokens, answer.steered, answer.unsteered)
            self.shown[side].value = f'<div class="sl-answer">{spans}</div>'
        self._drawn = time.monotonic()

    def _summary(self) -> str:
        changes = self.steered.changes
        if not self.multipliers:
            return "no vector is on: both answers are the model's own"
        return (
            f"the vectors change log p of the steered answer by {sum(changes):+.2f} nats, "
            f"{sum(changes) / len(changes):+.3f} per token over {len(changes)} tokens"
        )

    def _say(self, text: str) -> None:
        self.status.value = f'<div class="sl-note">{escape(text)}</div>'


def _named(widget: Any, name: str) -> Any:
    widget.add_class(name)
    return widget


def _legend() -> str:
    return f'<div class="sl-answer sl-legend">log p steered - log p unsteered (nats): {change_legend()}</div>'


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
