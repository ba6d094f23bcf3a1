"""Figures for print: the paper's size, text that can be read, panels that keep their titles, fonts and data with them."""

import contextlib
import functools
import itertools
import re
import shutil
import socket
import threading
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

import steerlens as sl
from steerlens.figures import for_print, images, write_image
from steerlens.figures.effects import effects_at, pair_by_pair, pair_strip
from steerlens.figures.theme import style
from steerlens.figures.training import training_curves

POINT = 96 / 72
SEVEN = 7 * POINT - 1e-6
CHROMIUM = any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


NAMES = ("side by side", "effects", "pairs", "strip", "training", "lens")


@functools.cache
def figures() -> dict[str, go.Figure]:
    found = made_up.comparison()
    return {
        "side by side": found.figure(),
        "effects": effects_at(found),
        "pairs": pair_by_pair(found),
        "strip": pair_strip(list(found.matched.values())),
        "training": training_curves({"bipo": found.vectors[0].history}),
        "lens": made_up.lens("bipo").figure(),
    }


@pytest.mark.parametrize(("columns", "inches"), [(1, 3.3), (2, 6.9)])
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_for_print_has_the_column_s_width_and_text_of_seven_points(
    name: str, columns: int, inches: float
) -> None:
    screen = figures()[name]
    before = screen.to_dict()
    paper = for_print(screen, columns=columns)  # type: ignore[arg-type]
    assert paper.layout.width / 96 == pytest.approx(inches)
    assert paper.layout.height / 96 < 9
    sizes = [paper.layout.font.size, paper.layout.legend.font.size, *(a.font.size for a in paper.layout.annotations)]
    sizes += [axis.tickfont.size for axis in (*paper.select_xaxes(), *paper.select_yaxes())]
    assert min(sizes) >= SEVEN
    assert screen.to_dict() == before
    assert not any("colorbar" in trace.to_plotly_json().get("marker", {}) for trace in paper.data)
    assert [trace.y is not None and list(trace.y) for trace in paper.data] == [
        trace.y is not None and list(trace.y) for trace in screen.data
    ]


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (1, 3), (2, 2)])
def test_panels_below_each_other_keep_their_own_titles_and_axes(rows: int, columns: int) -> None:
    names = [f"panel {i}" for i in range(rows * columns)]
    figure = make_subplots(rows, columns, subplot_titles=names)
    for i in range(rows * columns):
        figure.add_scatter(x=[0, 1], y=[i, i], row=i // columns + 1, col=i % columns + 1)
        figure.update_yaxes(title_text=f"y {i}", row=i // columns + 1, col=i % columns + 1)
    paper = for_print(style(figure))
    tops = []
    for i, trace in enumerate(paper.data):
        y = paper.layout[trace.yaxis.replace("y", "yaxis")]
        (title,) = [note for note in paper.layout.annotations if note.text == f"panel {i}"]
        assert (y.title.text, title.x) == (f"y {i}", 0.5)
        assert title.y == pytest.approx(y.domain[1])
        assert tuple(paper.layout[trace.xaxis.replace("x", "xaxis")].domain) == (0, 1)
        tops.append(y.domain)
    for above, below in itertools.pairwise(tops):
        assert above[0] > below[1]
    assert tops[0][1] == 1
    assert tops[-1][0] == pytest.approx(0, abs=1e-9)


def test_a_shared_axis_has_its_title_and_ticks_in_every_panel() -> None:
    paper = for_print(made_up.comparison().figure())
    titles = [axis.title.text for axis in paper.select_yaxes()]
    margins, responses = dict.fromkeys(titles)
    assert titles == [margins, margins, responses, responses]
    assert all("nats" in title for title in titles)
    assert all(axis.showticklabels is not False for axis in paper.select_yaxes())
    assert [axis.title.text for axis in paper.select_xaxes()] == [None, None, None, "multiplier"]


def test_other_numbers_of_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sl.FigureError, match=r"columns=3; expected 1 \(3.3 inches\)"):
        for_print(go.Figure(), columns=3)  # type: ignore[arg-type]
    with pytest.raises(sl.FigureError, match="columns=1 is for print"):
        made_up.comparison().save(tmp_path / "x.html", columns=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_chromium
def test_a_pdf_has_the_column_s_width_its_fonts_in_it_and_its_data_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="no kaleido here: pip install 'steerlens[export]'")
    found = made_up.comparison()
    path = found.save(tmp_path / "figure.pdf", columns=1)
    content = path.read_bytes()
    box = re.search(rb"/MediaBox ?\[ ?0 0 ([\d.]+) ([\d.]+)", content)
    assert box
    assert float(box[1]) / 72 == pytest.approx(3.3, abs=0.02)
    fonts = re.findall(rb"/FontDescriptor", content)
    assert fonts
    assert len(re.findall(rb"/FontFile[23]?", content)) == len(re.findall(rb"/Type ?/FontDescriptor", content)) > 0
    assert b"/Subtype /Image" not in content
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "figure.csv"), found.to_frame(), check_dtype=False)


@pytest.mark.slow
@needs_chromium
def test_the_browser_that_draws_a_pdf_asks_nothing_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy on this machine sees what the browser asks for; without our options it sees about a dozen requests."""
    pytest.importorskip("kaleido", reason="no kaleido here: pip install 'steerlens[export]'")
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen() -> None:
            with contextlib.suppress(OSError):  # closed at the end
                while True:
                    connection, _ = proxy.accept()
                    with connection:
                        asked.append(connection.recv(100))

        threading.Thread(target=listen, daemon=True).start()
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{address}")
        figure = go.Figure(go.Scatter(y=[1, 2]), {"title": {"text": "$x^2$ <img src='http://localhost/x.png'>"}})
        assert write_image(figure, tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    assert asked == []
    assert images.offline()["mathjax"] is False


def test_somebody_s_own_csv_of_that_name_stays_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "figure.csv"
    own.write_text("question,answer\n1,2\n")
    with pytest.raises(sl.FigureError, match="holds other columns"):
        write_image(go.Figure(), tmp_path / "figure.svg", data=pd.DataFrame({"x": np.arange(2)}))
    assert own.read_text() == "question,answer\n1,2\n"
    assert list(tmp_path.iterdir()) == [own]
