"""An inspection on paper: text, HTML in which a token is never markup, CircuitsVis without a network, and the figure."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib import request

import numpy as np
import plotly.graph_objects as go
import pytest

import steerlens as sl
from steerlens.figures.tokens import circuitsvis_tokens, token_spans
from steerlens.measures.inspection import EncodedExample, Inspection, mean_words

NASTY = "</script><script>window.broken = 1</script><img src=x onerror='window.broken=1'><!--"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def made(n: int = 30, **changes: Any) -> Inspection:
    rng = np.random.default_rng(0)
    example = EncodedExample(
        4, ("<s>", NASTY, " Who", "?"), ("Yes", "\n", "</s>"), (NASTY,), (-0.5, -4.0, -9.0), (-2.0,)
    )
    chosen, rejected = rng.integers(8, 20, n), rng.integers(8, 20, n)
    fields: dict[str, Any] = {
        "model": NASTY,
        "data": NASTY,
        "rows": tuple(range(n)),
        "prompts": (NASTY,) * n,
        "template": "plain",
        "system_prompt": NASTY,
        "bos": "1 in front of every prompt (<s>)",
        "end_of_turn": "</s>",
        "end_nats": -3.0,
        "n_ctx": 512,
        "prompt_tokens": np.full(n, 12),
        "chosen_tokens": chosen,
        "rejected_tokens": rejected,
        "chosen_nats": -2.0 * chosen,
        "rejected_nats": -2.5 * rejected,
        "first_tokens": (("Yes", 9, 2),),
        "openings": {"yes": (9, 2), "no": (1, 3)},
        "repeated_pairs": (3,),
        "repeated_prompts": (3, 5),
        "shared_prompts": (),
        "overlong": (),
        "examples": (example,),
        "warnings": (f"something about {NASTY}",),
    }
    return Inspection(**{**fields, **changes})


def test_the_text_has_every_fact_and_warning() -> None:
    found = made()
    text = repr(found)
    assert all(name in text and fact in text for name, fact in found.facts())
    assert "  ! something about" in text
    assert "Yes|\u21b5|</s>" in text
    assert "no check found anything wrong" in repr(made(warnings=()))
    assert len(text.splitlines()) == 1 + len(found.facts()) + 1 + 1 + 3


def test_the_facts_are_the_numbers() -> None:
    found = made()
    facts = dict(found.facts())
    assert facts["chosen - rejected"].startswith(f"{found.length_difference.mean():+.1f} [")
    assert facts["unsteered margin"].startswith(f"{found.margin.mean():+.2f} [")
    np.testing.assert_allclose(found.margin_per_token, 0.5)
    assert "+0.500 [+0.500, +0.500] nats per token" in facts["unsteered margin"]
    assert "1 pair, 2 prompts; 0 prompts" in facts["repeated"]
    assert "unsteered margin" not in dict(made(chosen_nats=np.full(30, np.nan)).facts())
    assert mean_words(np.array([2.0]), ".1f") == "2.0"


def test_the_html_shows_every_text_and_takes_none_for_markup() -> None:
    html = made()._repr_html_()
    assert len(html) < 12_000
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"div", "style", "p", "b", "table", "tr", "th", "td", "ul", "li", "span", "br", "wbr", "i"}
    assert html.count("&lt;/script&gt;") >= 4
    assert "No check found anything wrong" in made(warnings=())._repr_html_()
    assert "http" not in html


def test_response_tokens_are_the_darker_the_less_likely_and_the_prompts_have_no_colour() -> None:
    html = made()._repr_html_()
    shades = [float(a) for a in re.findall(r"background:rgba\(0,114,178,([\d.]+)\)", html)]
    assert shades == sorted(shades)
    assert len(set(shades)) == 3
    assert 'title="log p = -4.00 nats"' in html
    prompt = html.split('class="prompt">')[1].split("<br>")[0]
    assert "background" not in prompt
    assert " Who".replace(" ", "\u00b7") in prompt


def test_a_long_text_is_cut_in_the_middle_and_says_so() -> None:
    cut = token_spans([f"t{i}" for i in range(500)], most=100)
    assert "400 tokens" in cut
    assert cut.count("<span") == 100
    assert all(f">t{i}<" in cut for i in (0, 49, 450, 499))
    assert "cut" not in token_spans(["a"] * 100, most=100)


def test_circuitsvis_comes_with_its_script_asks_no_network_and_closes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "urlopen", lambda *a, **k: pytest.fail("asked the network"))
    html = made().view(0)._repr_html_()
    assert html.count("</script>") == 1
    assert "unpkg.com" not in html
    assert "&lt;/script&gt;&lt;script&gt;window.broken" in html
    with pytest.raises(sl.FigureError, match="expected an example from 0 to 0"):
        made().view(1)
    with pytest.raises(sl.MeasureError, match="'chosen', 'rejected'"):
        made().view(0, side="both")  # type: ignore[arg-type]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_the_tokens_and_runs_nothing_foreign(tmp_path: Path) -> None:
    view = circuitsvis_tokens(["Who", NASTY, " & you?"], [0.0, -3.0, -0.5])
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{made()._repr_html_()}{view}</body>")
    dom = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=8000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout  # fmt: skip
    assert "<img src" not in dom
    drawn = dom.split('id="circuits-vis')[1].replace("&nbsp;", " ")
    assert "&lt;/script&gt;&lt;script&gt;window.broken = 1&lt;/script&gt;&lt;img src=x" in drawn
    assert " &amp; you?" in drawn


def test_the_figure_has_lengths_and_margins_with_units_and_means() -> None:
    figure = made().figure()
    assert isinstance(figure, go.Figure)
    lengths, margins = figure.data
    np.testing.assert_array_equal(lengths.x, made().length_difference)
    np.testing.assert_allclose(margins.x, made().margin_per_token)
    assert "tokens" in figure.layout.xaxis.title.text
    assert "nats per token" in figure.layout.xaxis2.title.text
    means = [shape.x0 for shape in figure.layout.shapes if shape.line.width == 2]
    np.testing.assert_allclose(means, [made().length_difference.mean(), 0.5])
    assert lengths.xbins.size == int(lengths.xbins.size)
    assert (lengths.xbins.start * 2) % 2 == 1  # whole numbers in the middle of their bars
    without = made(chosen_nats=np.full(30, np.nan)).figure()
    assert len(without.data) == 1
