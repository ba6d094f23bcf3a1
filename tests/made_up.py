"""Results that no model made, with hostile texts in them, for figures and pages."""

from dataclasses import replace

import numpy as np
import torch

import steerlens as sl
from steerlens.comparison.comparison import Comparison
from steerlens.comparison.equal_kl import EqualKL
from steerlens.comparison.steered import SteeredTexts
from steerlens.measures.effect import PreferenceShift
from steerlens.measures.logit_lens import LogitLens

NASTY = "</script><script>window.broken = 1</script><img src=x onerror='window.broken=1'>"
D_MODEL = 16


def shift(
    label: str, norm: float, slope: float, multipliers: tuple[float, ...] = (-2, -1, 0, 1, 2), n: int = 12
) -> PreferenceShift:
    """Rises with the multiplier by about `slope` nats, and costs a little either way."""
    rng = np.random.default_rng(len(label))
    m = np.asarray(multipliers, dtype=float)
    chosen = np.outer(rng.normal(slope, 1, n), m) - 0.2 * slope * m**2
    prompts = tuple(f"Question {i}? {NASTY}" for i in range(n))
    return PreferenceShift(
        label, norm, multipliers, chosen, -chosen / 2, np.full(n, 20), np.full(n, 25), prompts, "all", "made up"
    )


def lens(label: str, *, z: bool = True) -> LogitLens:
    """Ten tokens on either side, hostile ones, white space and a special token among them."""
    words = (NASTY, " a\n", " ", "<s>", "\t", "\u00e9t\u00e9", " money", "0", "%{x}", "<b>bold</b>")
    top = tuple((word, 3.0 - 0.2 * i) for i, word in enumerate(words))
    bottom = tuple((word, -x) for word, x in top)
    if not z:
        return LogitLens(label, top, bottom, 0.5)
    values = tuple(6.0 - 0.3 * i for i in range(10))
    return LogitLens(
        label, top, bottom, 0.5, values, tuple(-x for x in values), 6.0, "random (covariance)", np.linspace(3, 5, 100)
    )


def comparison() -> Comparison:
    """BiPO and CAA, measured, with parts, controls, answers and the path of training."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, D_MODEL, generator=generator)
    history = [
        {"step": i, "loss": 0.69 - 0.01 * i, "norm_ratio": 0.01 * i, "val_plus": i / 4 if i % 8 == 7 else None,
         "val_minus": -i / 5 if i % 8 == 7 else None}
        for i in range(40)
    ]  # fmt: skip
    bipo = sl.SteeringVector(
        a, 2, method="bipo", data=NASTY, history=history, settings={"lr": 0.02, "template": NASTY},
        snapshots={10: a / 3 + b / 9, 20: a / 2, 40: a},
    )  # fmt: skip
    caa = sl.SteeringVector(b, 2, method="caa", data="made up", settings={"position": "mean"})
    unit = (a @ b) / (a.norm() * b.norm())
    return Comparison(
        ("bipo", "caa"),
        (bipo, caa),
        np.array([[1.0, float(unit)], [float(unit), 1.0]]),
        own={"bipo": shift("bipo", 4.0, 2.0), "caa": shift("caa", 7.0, 1.5)},
        matched={"bipo": shift("bipo", 4.0, 2.0), "caa": shift("caa", 4.0, 0.8)},
        matched_norm=4.0,
        parts={
            "caa along bipo": shift("caa along bipo", 1.4, 0.5, (-1, 1)),
            "caa off bipo": shift("caa off bipo", 3.7, 0.3, (-1, 1)),
        },
        controls={
            "random": tuple(shift("random", 4.0, x, (-1, 1)) for x in (0.1, -0.2)),
            "shuffled labels": (shift("shuffled labels", 4.0, 0.1),),
        },
        lens={name: lens(name) for name in ("bipo", "caa")},
        steered=SteeredTexts(
            (NASTY, "What makes a day well spent?"),
            (-1, 0, 1),
            {name: [[NASTY, "", "fine"], ["Rest.\n\nAnd " + "a walk. " * 12, "Work.", "Money. " * 20]] for name in ("bipo", "caa")},
        ),
    )  # fmt: skip


def of_seeds() -> Comparison:
    """BiPO of three seeds and CAA, which reaches BiPO's KL at no multiplier."""
    one = comparison()
    bipo, caa = one.vectors
    labels = (*(f"bipo seed {i}" for i in (0, 1, 7)), "caa")
    own = {label: shift(label, 4.0 + i, 2.0 + 0.1 * i) for i, label in enumerate(labels)}
    matched = {label: shift(label, 4.0, 2.0 - 0.2 * i) for i, label in enumerate(labels)}
    seeds = tuple(replace(bipo, seed=i, tensor=bipo.tensor + 0.1 * i) for i in (0, 1, 7))
    units = np.stack([v.direction.double().numpy() for v in (*seeds, caa)])
    equal = EqualKL(
        "bipo seed 0", 0.5, dict.fromkeys(labels[:3], (0.4, 0.6)), {}, {"caa": f"too far {NASTY}"},
        shifts={label: shift(label, 4.0, 1.5, (-1, 1)) for label in labels[:3]},
        controls=(shift("random", 9.0, 0.4, (-1, 1)),), n_random=2,
    )  # fmt: skip
    return replace(
        one, labels=labels, vectors=(*seeds, caa), cosines=units @ units.T, own=own, matched=matched, parts={}, equal_kl=equal,
        lens={label: lens(label) for label in labels}, steered=None,
    )  # fmt: skip
