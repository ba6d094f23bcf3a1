"""A comparison as text, as a notebook's HTML and as LaTeX; any results as one self-contained page."""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import product
from pathlib import Path

import pandas as pd

from steerlens.checks.calls import checked, words
from steerlens.checks.values import shown
from steerlens.comparison.comparison import Comparison, Strength
from steerlens.comparison.sweep import Sweep
from steerlens.errors import FigureError
from steerlens.figures.cells import NOTHING, QUANTITIES, SIDES, cell, fall_cell, norm_cell, spread_cell, wrong_cell
from steerlens.figures.curves import UNITS
from steerlens.figures.images import check_path
from steerlens.figures.page import Section, page, tabs
from steerlens.figures.sections import sections
from steerlens.figures.theme import display_name
from steerlens.files import whole_file
from steerlens.measures.dose_response import DoseResponse
from steerlens.measures.effect import PreferenceShift, Quantity
from steerlens.results.result import Result
from steerlens.vectors.names import without_seed


@checked(FigureError, "results", title=words)
def report(results: Result | Sequence[Result] | Mapping[str, Result], path: str | Path, *, title: str = "") -> Path:
    """Write results to one self-contained .html page: each with its title, its text and its figure; works offline.

    Args:
        results: one, a list, or a dict from titles to results.
        title: of the page; default: the first result's.

    Raises:
        FigureError: nothing to report, something that is no result, another file ending, or no such folder.
    """
    named = _titled(results)
    path = check_path(path, (".html",))
    parts = [part for name, result in named.items() for part in _sections(name, result, alone=len(named) == 1)]
    lead = as_lead(next(iter(named.values()))) if len(named) == 1 else ""
    text = page(title or next(iter(named)), lead, parts)
    with whole_file(path, FigureError) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _titled(results: Result | Sequence[Result] | Mapping[str, Result]) -> dict[str, Result]:
    several = (
        results.values() if isinstance(results, Mapping) else results if isinstance(results, Sequence) else [results]
    )
    if not several or not all(isinstance(result, Result) for result in several):
        raise FigureError(f"got results={shown(results)}; expected a result, a list or a dict of them, at least one")
    if isinstance(results, Mapping):
        return {str(name): result for name, result in results.items()}
    found: dict[str, Result] = {}
    for result in several:
        name = title_of(result)
        number = 2
        while name in found:
            name, number = f"{title_of(result)} ({number})", number + 1
        found[name] = result
    return found


def title_of(result: object) -> str:
    """What a page about the result is called."""
    if isinstance(result, Comparison):
        groups = dict.fromkeys(without_seed(x) if without_seed(x) in result.seeds else x for x in result.labels)
        counts = {name: f" ({len(labels)} seeds)" for name, labels in result.seeds.items()}
        names = " and ".join(f"{display_name(name)}{counts.get(name, '')}" for name in groups)
        return f"{names}: {result.vectors[0].model.name if result.vectors[0].model else 'model not known'}"
    # A comparison says it at the head of its own lines.
    fall = ", BOTH FALL" if verdicts(result) else ""  # type: ignore[arg-type]
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(result).__name__).capitalize()
    label = getattr(result, "label", None)
    return f"{kind}: {display_name(label)}{fall}" if isinstance(label, str) else f"{kind}{fall}"


def _sections(name: str, result: Result, *, alone: bool) -> list[Section]:
    """A comparison's own sections; of another result its HTML, or its text, and its figure where it has one."""
    if isinstance(result, Comparison):
        parts = sections(result)
        return parts if alone else [Section(name, as_lead(result)), *parts]
    own = getattr(result, "_repr_html_", None)
    html = own() if own is not None else f"<pre>{escape(repr(result))}</pre>"
    try:
        return [Section(name, tables=html, figures=(result.figure(),))]
    except FigureError:  # a result of figures that are functions of their own, or of too little to draw
        return [Section(name, tables=html)]


def as_text(comparison: Comparison) -> str:
    """A plain summary for a terminal."""
    return "\n".join([*headline(comparison), *(f"  not measured: {m}" for m in comparison.missing)])


def as_html(comparison: Comparison) -> str:
    """Tabs for a notebook; the figure comes after them."""
    return tabs(as_lead(comparison), sections(comparison))


def as_lead(result: Result) -> str:
    """The headline of a comparison as paragraphs; of another result with a margin, where both responses fall."""
    if not isinstance(result, Comparison):
        return "".join(f"<p>{escape(line)}</p>" for line in verdicts(result))
    lines = [f"<p>{escape(line)}</p>" for line in headline(result)]
    return "".join(lines + [f'<p class="note">Not measured: {escape(m)}.</p>' for m in result.missing])


def verdicts(result: Result) -> list[str]:
    """Where both responses become less likely in a result that holds shifts of one vector or more."""
    if isinstance(result, PreferenceShift):
        return [result.verdict] if result.verdict else []
    if isinstance(result, DoseResponse):
        return verdicts(result.shift)
    if isinstance(result, Sweep):
        cells = zip(result.methods, result.layers, result.seeds, result.shifts, strict=True)
        return [
            f"{method}, layer {layer}, seed {seed}: {of.verdict}" for method, layer, seed, of in cells if of.verdict
        ]
    return []


def headline(comparison: Comparison) -> list[str]:
    """Do the two point the same way, which is stronger at equal norm and at equal KL, and what to beware of."""
    first, second = (display_name(name) for name in comparison.two)
    d_model = comparison.vectors[0].tensor.numel()
    norms = ", ".join(f"{display_name(k)} {v:.4g} (layer {comparison.layers[k]})" for k, v in comparison.norms.items())
    against = f"between vectors of the null {comparison.null!r}"
    if comparison.null == "isotropic":
        against = f"between isotropic random directions in {d_model} dimensions (sd {d_model**-0.5:.3f})"
    low, high = comparison.cosine_range
    seeds = f" (the mean over seeds, from {low:+.3f} to {high:+.3f})" if low < high else ""
    this = "the smallest of them" if low < high else "one this large"
    lines = [
        f"cosine({first}, {second}) = {comparison.cosine:+.3f}{seeds}; {against} {this} has p = {comparison.p_value:.2g}",
        f"norms: {norms}",
    ]
    if comparison.matched and 1.0 in next(iter(comparison.matched.values())).odd_multipliers:
        where = f"at equal norm {comparison.matched_norm:.3g}"
        lines += [_ahead(comparison, "equal norm", where, quantity) for quantity in ("odd", "odd_per_token")]
    lines += [*_at_equal_kl(comparison), *_of_seeds(comparison)]
    lines[:0] = _falling(comparison)
    if len(set(comparison.layers.values())) > 1 and comparison.matched:
        at = comparison.layers[comparison.labels[0]]
        lines.append(
            f"the vectors belong to different layers, where a norm weighs differently; the controls are added after layer {at}"
        )
    seen = max((s.seen_pairs for s in comparison.own.values()), default=0)
    if seen:
        lines.append(f"WARNING: {seen} of these pairs trained or selected a vector (allow_seen=True)")
    return lines


def _falling(comparison: Comparison) -> list[str]:
    """Where a vector makes both responses less likely, which a margin hides: it comes first."""
    lines = []
    for at in ("own norm", "equal norm", "equal KL"):
        told = []
        for shift in (shift for strength, shift in comparison.shifts() if strength == at and shift.both_fall.any()):
            falls = [i for i in range(len(shift.multipliers)) if shift.both_fall[i]]
            worst = min(falls, key=lambda i: float(shift.chosen[:, i].mean()))
            chosen, rejected = (shift.mean(side)[worst] for side in ("chosen", "rejected"))
            told.append(
                f"{display_name(shift.label)} at {', '.join(f'{shift.multipliers[i]:+g}' for i in falls)} (at "
                f"{shift.multipliers[worst]:+g} chosen {chosen:+.3g}, rejected {rejected:+.3g} nats)"
            )
        if told:
            lines.append(
                f"BOTH FALL at {at}, chosen and rejected responses alike become less likely: {'; '.join(told)}"
            )
    return lines


def _ahead(comparison: Comparison, at: Strength, where: str, quantity: Quantity) -> str:
    """Which of the two does more there."""
    first, second = (display_name(name) for name in comparison.two)
    gap = comparison.difference(*comparison.two, quantity=quantity, at=at)
    ahead = "no clear difference" if gap.low <= 0 <= gap.high else f"{first if gap.mean > 0 else second} ahead"
    if not math.isfinite(gap.low):
        ahead = "too few pairs for an interval"
    # An interval over pairs knows nothing of how far another seed would have been off.
    members = [comparison.seeds.get(name, (name,)) for name in comparison.two]
    each = [comparison.difference(*labels, quantity=quantity, at=at).mean for labels in product(*members)]
    seeds = f", seeds from {min(each):+.3g} to {max(each):+.3g}" if len(each) > 1 else ""
    if min(each) < 0 < max(each):
        ahead = "seeds disagree"
    return (
        f"{where}, odd part at multiplier 1: {first} - {second} = {gap.mean:+.3g} {UNITS[quantity]}, 95% interval "
        f"[{gap.low:+.3g}, {gap.high:+.3g}] over pairs{seeds}: {ahead}"
    )


def _at_equal_kl(comparison: Comparison) -> list[str]:
    equal = comparison.equal_kl
    if equal is None:
        return []
    target = f"KL on neutral text of {equal.target:.3g} nats per token"
    lines = [
        f"no multiplier of {display_name(label)} reaches {display_name(equal.like)}'s {target}"
        for label in equal.unreached
    ]
    members = [comparison.seeds.get(name, (name,)) for name in comparison.two]
    if not equal.shifts or any(label in equal.unreached for labels in members for label in labels):
        return lines
    norms = " and ".join(
        f"{display_name(name)} of norm {comparison.shift(name, 'equal KL').norm:.3g}" for name in comparison.two
    )
    where = f"at equal {target} ({norms})"
    return [*lines, *(_ahead(comparison, "equal KL", where, quantity) for quantity in ("odd", "odd_per_token"))]


def _of_seeds(comparison: Comparison) -> list[str]:
    lines: list[str] = []
    spread = comparison.seed_spread()
    for name, labels in comparison.seeds.items():
        rows = spread[spread["vector"] == name]
        does = "; ".join(
            f"{row['strength']} {spread_cell(row, 'odd', '.3g')}"
            for _, row in rows.iterrows()
            if not math.isnan(row["odd"])
        )
        lines.append(
            f"{len(labels)} seeds of {display_name(name)}, mean and range: cosines {spread_cell(rows.iloc[0], 'cosine', '.3f')}"
            + (f"; odd part at multiplier 1 in nats, {does}" if does else "")
        )
    return lines


def as_latex(comparison: Comparison) -> str:
    """The table of effects for a paper."""
    effects = comparison.effects()
    if effects.empty:
        raise FigureError("nothing was measured at multipliers 1 and -1: compare with the model and pairs")
    heads = {f"{q.replace('_per_token', '')}, {UNITS[q]}": (q, digits) for q, digits in QUANTITIES}
    heads |= {f"log p({name}".replace(",", "),", 1): (q, ".2f") for q, name in SIDES}
    rows = [
        {"vector": display_name(row["vector"]), "strength": row["strength"], "norm": norm_cell(row)}
        | {head: cell(row, q, digits) for head, (q, digits) in heads.items()}
        | {"wrong way": wrong_cell(row), "both fall": fall_cell(row).replace(NOTHING, "no")}
        for _, row in effects.iterrows()
    ]
    for _, row in comparison.seed_spread().iterrows():
        name = f"{display_name(row['vector'])}, mean of {row['seeds']} seeds"
        rows.append(
            {"vector": name, "strength": row["strength"], "norm": ""}
            | {head: spread_cell(row, q, digits) for head, (q, digits) in heads.items()}
            | {"wrong way": "", "both fall": ""}
        )
    return pd.DataFrame(rows).to_latex(index=False, escape=True, column_format="llr" + "r" * len(heads) + "ll")
