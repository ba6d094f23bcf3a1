"""What is written to disk: one page that works offline, and vector graphics."""

import re
import shutil
import subprocess
from pathlib import Path

import made_up
import pytest

import steerlens as sl
from steerlens.comparison.comparison import Comparison

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return made_up.comparison()


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comparison.save(tmp_path_factory.mktemp("page") / "page.html")


def test_the_page_is_one_file_under_six_megabytes_that_loads_nothing(page: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size < 6e6
    outside_plotly = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", outside_plotly)
    assert "cdn.plot.ly" not in outside_plotly


def test_tokens_answers_and_prompts_are_shown_and_never_markup(page: Path) -> None:
    text = page.read_text()
    assert "window.broken = 1</script>" not in text
    assert "&lt;/script&gt;" in text


@needs_chromium
def test_the_page_draws_its_figure_in_a_browser_and_runs_nothing_foreign(page: Path, tmp_path: Path) -> None:
    dom = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout  # fmt: skip
    assert dom.count('class="scatterlayer') >= 2
    assert dom.count('class="js-line"') >= 4
    assert "<img src" not in dom


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("ending", "opens_with"), [(".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<svg")])
def test_figures_are_written_as_images(comparison: Comparison, tmp_path: Path, ending: str, opens_with: bytes) -> None:
    pytest.importorskip("kaleido", reason="no kaleido here: pip install 'steerlens[export]'")
    path = comparison.save(tmp_path / f"figure{ending}")
    assert path.read_bytes().startswith(opens_with)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "figure.csv"}


def test_an_image_without_a_browser_says_what_to_install(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaleido = pytest.importorskip("kaleido", reason="no kaleido here: pip install 'steerlens[export]'")

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("no browser")

    monkeypatch.setattr(kaleido, "calc_fig_sync", fail)
    with pytest.raises(sl.FigureError, match=r"apt-get install chromium"):
        comparison.save(tmp_path / "figure.pdf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["figure.docx", "figure", "nowhere/figure.html"])
def test_names_that_can_t_be_written_are_refused(comparison: Comparison, tmp_path: Path, name: str) -> None:
    with pytest.raises(sl.FigureError, match="can't save to"):
        comparison.save(tmp_path / name)


def test_every_vector_has_one_colour_and_its_controls_stand_beside_it(comparison: Comparison) -> None:
    figure = comparison.figure()
    lines = [t for t in figure.data if t.mode == "lines+markers"]
    colours = {name: {t.line.color for t in lines if t.legendgroup == name} for name in ("bipo", "caa")}
    assert all(len(found) == 1 for found in colours.values())
    assert colours["bipo"] != colours["caa"]
    on_the_right = {t.legendgroup for t in figure.data if t.xaxis == "x2"}
    assert on_the_right == {"bipo", "caa", "random", "shuffled labels"}
    assert sum(bool(t.showlegend) for t in figure.data) == 4
