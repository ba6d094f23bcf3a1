"""The page and a notebook's tabs: one file, the same every time, whole, escaped; any results in one report."""

import dataclasses
import math
import re
from pathlib import Path

import made_up
import numpy as np
import pytest

import steerlens as sl
from steerlens.figures.page import placed


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.comparison().save(tmp_path_factory.mktemp("page") / "page.html")


def outside_scripts(page: Path) -> str:
    return re.sub(r"<script[^>]*>.*?</script>", "", page.read_text(), flags=re.S)


def test_the_page_has_plotly_once_under_six_megabytes_and_is_the_same_every_time(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size < 6e6
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert made_up.comparison().save(tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_page_loads_nothing(page: Path) -> None:
    text = outside_scripts(page)
    assert not re.search(r"https?:|@import|url\(", text)
    assert not re.search(r"<(link|iframe|img|object|embed|base)\b", text)
    assert not re.search(r"<[^>]*\b(src|href|action|data|poster)\s*=\s*[^#>\s]*//", text)


def test_every_section_has_its_heading_and_a_link_to_it(page: Path) -> None:
    text = outside_scripts(page)
    headings = re.findall(r'<section id="(s\d+)"><h2>(.*?)</h2>', text)
    assert [title for _, title in headings] == [
        "Dose-response", "Effects and damage", "CAA taken apart", "Pair by pair", "Directions", "Tokens the directions speak",
        "Training", "Answers", "Where the vectors come from",
    ]  # fmt: skip
    assert re.findall(r'<a href="#(s\d+)">(.*?)</a>', text) == headings


def test_the_tables_have_the_comparison_s_numbers(page: Path) -> None:
    found, text = made_up.comparison(), outside_scripts(page)
    row = found.effects().iloc[0]
    assert f"{row['odd']:+.2f} [{row['odd_low']:+.2f}, {row['odd_high']:+.2f}]" in text
    low, high = found.own["caa"].interval()
    assert f"{found.own['caa'].mean()[0]:+.2f} [{low[0]:+.2f}, {high[0]:+.2f}]" in text
    assert f"{found.cosine:+.3f}" in text
    share = (found.parts["caa along bipo"].norm / 4.0) ** 2
    assert f'<td class="n">{share:.0%}</td>' in text
    assert "largest |z| of the whole vocabulary: BiPO 6.0" in text
    gap = found.matched["bipo"].odd[:, 0] - found.matched["caa"].odd[:, 0]
    first = text.split("Pair by pair</h2>")[1].split("Question ")[1]
    assert first.startswith(f"{gap.argmax()}?")


def test_without_z_scores_the_lens_names_its_spread() -> None:
    found = made_up.comparison()
    object.__setattr__(found, "lens", {label: made_up.lens(label, z=False) for label in found.labels})
    assert "standard deviation over the vocabulary: BiPO 0.500" in found._repr_html_()


def test_texts_and_tokens_are_never_markup(page: Path) -> None:
    for html in (outside_scripts(page), made_up.comparison()._repr_html_()):
        assert "<img" not in html
        assert "&lt;img src=x" in html
        tags = set(re.findall(r"<(\w+)", html))
        allowed = "DOCTYPE html head meta title style body main noscript nav section div form label input h1 h2 h3 p a table tr th "
        assert tags <= {*allowed.split(), "td", "span", "code", "thead", "tbody"}
        assert '<code title="&lt;s&gt;">&lt;s&gt;</code>' in html
        assert "\u00b7a\u21b5" in html


def test_vectors_alone_make_a_page_without_a_figure(tmp_path: Path) -> None:
    a, b = made_up.comparison().vectors
    path = sl.compare(-a, 2 * b).save(tmp_path / "p.html")
    assert "Directions" in path.read_text()
    assert "Dose-response" not in outside_scripts(path)


def test_a_report_takes_any_results_each_with_its_title(tmp_path: Path) -> None:
    results = [
        made_up.comparison(),
        made_up.shift("bipo", 4.0, 2.0),
        made_up.shift("bipo", 4.0, 2.0),
        made_up.lens("caa"),
    ]
    text = outside_scripts(sl.report(results, tmp_path / "r.html", title="Our <study>"))
    assert "<h1>Our &lt;study&gt;</h1>" in text
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[0] == "BiPO and CAA: model not known"
    assert headings[-3:] == ["Preference shift: BiPO", "Preference shift: BiPO (2)", "Logit lens: CAA"]
    assert (tmp_path / "r.html").read_text().count('class="plotly-graph-div"') == 8


@pytest.mark.parametrize("results", [[], {}, "x", ["x"], None])
def test_what_is_no_result_is_refused(results: object, tmp_path: Path) -> None:
    with pytest.raises(sl.FigureError, match="expected a result, a list or a dict"):
        sl.report(results, tmp_path / "r.html")  # type: ignore[arg-type]
    with pytest.raises(sl.FigureError, match=r"ends in \.html"):
        sl.report(made_up.lens("caa"), tmp_path / "r.pdf")


def test_other_multipliers_than_one_leave_their_sections_out() -> None:
    found = made_up.comparison()
    for name in ("own", "matched"):
        object.__setattr__(found, name, {label: made_up.shift(label, 4.0, 1.0, (-2, 2)) for label in found.labels})
    object.__setattr__(found, "parts", {"caa along bipo": made_up.shift("caa along bipo", 1.4, 0.5, (-2, 2))})
    object.__setattr__(found, "controls", {})
    html = found._repr_html_()
    assert "Effects and damage" not in html
    assert "taken apart" not in html
    assert "multiplier 2." in html


def test_where_both_responses_fall_stands_in_the_headline_the_tables_and_a_page_s_title(tmp_path: Path) -> None:
    """A vector so strong that text breaks: the margin rises, and both responses become less likely."""
    found = made_up.comparison()
    strong = {
        label: dataclasses.replace(shift, chosen=shift.chosen - 48, rejected=shift.rejected - 65)
        for label, shift in found.matched.items()
    }
    broken = dataclasses.replace(found, matched=strong)
    assert "BOTH FALL" not in repr(found)
    assert repr(broken).startswith("BOTH FALL at equal norm, chosen and rejected responses alike")
    effects = broken.effects().set_index(["vector", "strength"])
    assert effects.loc[("caa", "equal norm"), "both_fall"] == "+1, -1"
    assert effects.loc[("caa", "own norm"), "both_fall"] == ""
    assert effects.loc[("caa", "equal norm"), "even_chosen"] < -40
    frame = broken.to_frame().query("vector == 'caa' and strength == 'equal norm' and multiplier == 1")
    assert frame["both_fall"].all()
    assert frame["chosen_nats"].iloc[0] == pytest.approx(strong["caa"].mean("chosen")[3])
    assert "BOTH FALL" in broken._repr_html_().split("Dose-response")[0]
    assert "both fall" in broken.to_latex()
    assert r"\% & +1, -1 \\" in broken.to_latex()
    html = outside_scripts(strong["caa"].save(tmp_path / "shift.html"))
    assert "BOTH FALL</title>" in html
    assert "BOTH FALL at -2, -1, +0, +1, +2" in html.split("<section")[0]
    assert "log p(rejected)" in html


def test_a_text_at_a_number_that_is_none_is_left_out_of_a_page() -> None:
    for none in (math.inf, -math.inf, math.nan):
        match = sl.Match("caa", 2.0, "kl", 1.0, none, none, 0.0, 0.01, np.arange(3.0), np.ones((3, 2)))
        shown = placed(match.figure())
        where = [place for note in shown.layout.annotations for place in (note.x, note.y)]
        where += [place for line in shown.layout.shapes for place in (line.x0, line.x1, line.y0, line.y1)]
        assert [place for place in where if isinstance(place, float) and not math.isfinite(place)] == []
    finite = sl.Match("caa", 2.0, "kl", 1.0, 0.5, 0.5, 0.0, 0.01, np.arange(3.0), np.ones((3, 2))).figure()
    assert len(placed(finite).layout.annotations) == len(finite.layout.annotations) == 1
