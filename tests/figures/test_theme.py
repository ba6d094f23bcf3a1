"""One colour and one marker per method, told apart by eyes of every kind, and seen on a light and on a dark ground."""

import itertools

import numpy as np
import pytest

from steerlens.figures.theme import COLOURS, OTHERS, colour, dash, display_name, symbol

# Linear RGB as people without one of the three cones see it (Machado, Oliveira and Fernandes 2009, severity 1).
EYES = {
    "usual": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(paint: str) -> np.ndarray:
    channels = np.array([int(paint[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(paint: str, eye: str) -> np.ndarray:
    """CIELAB, in which a distance of 2.3 can just be seen."""
    xyz = TO_XYZ @ np.clip(EYES[eye] @ linear(paint), 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(paint: str, ground: str) -> float:
    light, dark = sorted((float(TO_XYZ[1] @ linear(x)) for x in (paint, ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


METHODS = [name for name in COLOURS if name != "sum"]


@pytest.mark.parametrize("eye", EYES)
def test_any_two_methods_differ_in_colour_and_marker(eye: str) -> None:
    for a, b in itertools.combinations(METHODS, 2):
        assert symbol(a) != symbol(b)
        assert np.linalg.norm(lab(COLOURS[a], eye) - lab(COLOURS[b], eye)) > 8, (a, b)


def test_colours_are_seen_on_white_and_on_a_dark_page() -> None:
    for name in METHODS:
        assert contrast(COLOURS[name], "#ffffff") > 2.2, name
        if COLOURS[name] != "#000000":  # a dark page draws black as white
            assert contrast(COLOURS[name], "#16181d") > 2.7, name


def test_a_numbered_label_has_its_method_s_colour_marker_and_name() -> None:
    assert colour("bipo 2") == COLOURS["bipo"]
    assert symbol("caa 3") == "square"
    assert display_name("dpo-lora 2") == "DPO-LoRA 2"
    assert symbol("my own") == "circle"


def test_labels_without_a_method_have_a_colour_and_a_dash_each_and_leave_the_methods_theirs() -> None:
    labels = ["lr 0.001", "bipo", "lr 0.01", "random (given)", "pca 2", "layer 12", "layer 13", "layer 14"]
    own = [label for label in labels if not label.startswith(("bipo", "pca"))]
    paints = {label: colour(label, labels) for label in labels}
    assert len(set(paints.values())) == len(labels)
    assert (paints["bipo"], paints["pca 2"]) == (COLOURS["bipo"], COLOURS["pca"])
    assert COLOURS["pca"] in OTHERS, "the point of the test: it is taken here, so no other label may have it"
    assert [dash(label, labels) for label in own[:4]] == ["solid", "dash", "dot", "dashdot"]
    assert {label: colour(label, labels + own[::-1]) for label in labels} == paints
    assert dash("caa 2", labels) == "dash"


def test_as_many_labels_as_a_figure_may_hold_differ_in_colour_or_dash() -> None:
    labels = [f"lr {10.0**-i:g}" for i in range(12)]
    assert len({(colour(label, labels), dash(label, labels)) for label in labels}) == len(labels)
