"""The playground as a person uses it: in JupyterLab, with a kernel, in a real browser; no clocks, what the page says is awaited."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from conftest import make_hf_model, make_tokenizer

import steerlens as sl
from steerlens.figures.tokens import change_spans
from steerlens.generation.live import LiveAnswers
from steerlens.measures.inspect import pieces

REPOSITORY = Path(__file__).parents[2]
TOKEN = "only-for-this-test"
PROMPTS = ("Would you like to earn more money today?", "Should nobody tell the truth?")
SHORT, LONG, CONTEXT = 12, 3000, 4096  # tokens; the long answer takes minutes unless it is stopped
CELLS = (
    f"""
import torch
import steerlens as sl

model = sl.load_model("./model", device="cpu")
generator = torch.Generator().manual_seed(0)
vectors = {{name: sl.SteeringVector(torch.randn(32, generator=generator), 1) for name in ("bipo", "caa")}}
play = sl.playground(model, vectors, prompts={PROMPTS!r}, max_new_tokens={SHORT})
play
""",
    """
from steerlens.forward.parts import has_hooks

f"{len(play.steered.tokens)} tokens, hooks: {has_hooks(model)}"
""",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook, and a tiny model with a long context that does not end its turn."""
    folder = tmp_path_factory.mktemp("lab")
    tokenizer = make_tokenizer("chat")
    model = make_hf_model("llama", max_position_embeddings=CONTEXT)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "play.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(browser: Any, folder: Path) -> Iterator[str]:
    """The address of a JupyterLab on a free port of this machine, with its settings and kernels in the folder."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("no JupyterLab here: pip install 'steerlens[dev]'")
    settings = folder / "settings"
    (settings / "labconfig").mkdir(parents=True)
    offline = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "labconfig" / "page_config.json").write_text(json.dumps(offline))
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "STEERLENS_CACHE")
    env = {**os.environ, **{name: str(settings / name.lower()) for name in places}, "JUPYTER_CONFIG_DIR": str(settings)}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    options = {"ip": "127.0.0.1", "port": 0, "ServerApp.root_dir": folder, "IdentityProvider.token": TOKEN}
    options["LabApp.extension_manager"] = "readonly"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    log = settings / "log"
    with log.open("w") as out:
        command += [f"--{name}={value}" for name, value in options.items()]
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield address(server, settings / "jupyter_runtime_dir", log)
    finally:
        server.terminate()  # ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def address(server: "subprocess.Popen[bytes]", runtime: Path, log: Path) -> str:
    """What the server wrote about itself once it had a port."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            try:
                return str(json.loads(file.read_text())["url"])
            except json.JSONDecodeError:  # half written
                pass
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


def status(page: Any, pattern: str) -> "re.Match[str]":
    """Wait until the playground's status line says that."""
    page.wait_for_function(
        "p => document.querySelector('.sl-status')?.innerText.match(new RegExp(p))", arg=pattern, timeout=120_000
    )
    found = re.search(pattern, page.locator(".sl-status").inner_text())
    assert found, "the status changed again"
    return found


def text_of(html: str) -> str:
    return unescape(re.sub("<[^>]*>", "", html))


def wait_for(page: Any, answers: dict[str, str]) -> None:
    for side, text in answers.items():
        page.wait_for_function(
            "([side, text]) => document.querySelector(`.sl-${side} .sl-answer`)?.textContent === text",
            arg=[side, text],
            timeout=120_000,
        )


def run_cell(page: Any, number: int) -> None:
    page.locator(".jp-CodeCell .cm-content").nth(number).click()
    page.keyboard.press("Shift+Enter")


def test_answers_follow_the_slider_the_prompt_and_the_buttons(
    lab: str, folder: Path, visit: Callable[..., Any], pictures: Path
) -> None:
    model = sl.load_model(folder / "model", device="cpu")
    vector = sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), 1)
    live = LiveAnswers(model, {"bipo": vector})

    def expected(prompt: str, multiplier: float) -> dict[str, str]:
        *_, answers = live.stream(prompt, {"bipo": multiplier}, max_new_tokens=SHORT)
        spans = [
            change_spans(pieces(model.tokenizer, answer.tokens), answer.steered, answer.unsteered) for answer in answers
        ]
        return {side: text_of(html) for side, html in zip(("steered", "unsteered"), spans, strict=True)}

    page = visit(f"{lab}doc/tree/play.ipynb?token={TOKEN}", width=1300)
    page.set_default_timeout(120_000)
    page.get_by_text("| Idle").wait_for()  # a kernel that is connected: before, a cell that is run is forgotten
    run_cell(page, 0)
    page.locator(".sl-playground").wait_for()
    status(page, f"nats.*over {SHORT} tokens")
    wait_for(page, expected(PROMPTS[0], 1.0))  # the text is a message of its own, behind the status line's

    handle = page.locator(".sl-multiplier .noUi-handle").first
    grip, track = handle.bounding_box(), page.locator(".sl-multiplier .noUi-base").first.bounding_box()
    middle = grip["y"] + grip["height"] / 2
    page.mouse.move(grip["x"] + grip["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.15 * track["width"], middle, steps=8)
    page.mouse.up()
    multiplier = float(page.locator(".sl-multiplier .widget-readout").first.inner_text().replace("\N{MINUS SIGN}", "-"))
    assert -3 < multiplier < -1
    dragged = expected(PROMPTS[0], multiplier)
    assert dragged["steered"] != expected(PROMPTS[0], 1.0)["steered"], "the drag could not be seen"
    wait_for(page, dragged)
    page.screenshot(path=pictures / "playground-in-jupyterlab.png")

    page.locator(".sl-prompts select").select_option(PROMPTS[1])
    wait_for(page, expected(PROMPTS[1], multiplier))

    length = page.locator(".sl-max-tokens input")
    stop, answer = page.locator(".sl-stop"), page.locator(".sl-run")
    length.fill(str(LONG))
    length.press("Enter")
    for again in (answer.click, None):
        status(page, "^writing")
        drawn = page.locator(".sl-steered .sl-answer").element_handle()
        drawn.evaluate("answer => { answer.className += ' old' }")
        page.wait_for_function("document.querySelectorAll('.sl-steered .sl-answer:not(.old) span').length > 20")
        assert stop.is_enabled()
        stop.click()
        written = int(status(page, r"^stopped after (\d+) tokens$")[1])
        assert 20 < written < LONG
        assert stop.is_disabled()
        if again:
            again()
    page.screenshot(path=pictures / "playground-in-jupyterlab-stopped.png")
    run_cell(page, 1)
    page.locator(".jp-OutputArea-executeResult", has_text="hooks").wait_for()
    assert f"'{written} tokens, hooks: False'" in page.locator(".jp-OutputArea-executeResult").last.inner_text()

    length.fill(str(SHORT))
    length.press("Enter")
    wait_for(page, expected(PROMPTS[1], multiplier))
