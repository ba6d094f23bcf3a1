"""What a comparison found, part by part, for a page and for a notebook's tabs; every text and token is escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from steerlens.comparison.comparison import Comparison
from steerlens.figures.cells import QUANTITIES, SIDES, cell, fall_cell, norm_cell, spread_cell, wrong_cell
from steerlens.figures.costs import costs_section
from steerlens.figures.curves import UNITS, side_by_side
from steerlens.figures.effects import effects_at, pair_by_pair
from steerlens.figures.heatmaps import cosine_map
from steerlens.figures.page import Section, named, note, table
from steerlens.figures.tables import visible
from steerlens.figures.theme import display_name
from steerlens.figures.training import path, training_curves
from steerlens.measures.logit_lens import LogitLens
from steerlens.measures.similarity import Similarity
from steerlens.vectors.names import first_two


def sections(comparison: Comparison) -> list[Section]:
    """The parts that were measured, in the order in which they are read."""
    found: list[Section] = []
    if comparison.own:
        found.append(_dose_response(comparison))
        if not comparison.effects().empty:  # they are at multipliers 1 and -1
            found += [_effects(comparison), *([_seeds(comparison)] if comparison.seeds else [])]
            at_one = any(1.0 in part.odd_multipliers for part in comparison.parts.values())
            found += [_parts(comparison)] if at_one else []
        found += [_pairs(comparison)] if _share_pairs(comparison) else []
    found.append(_directions(comparison))
    found += [_similarity(comparison.similarity)] if comparison.similarity is not None else []
    found += [costs_section(comparison, comparison.costs)] if comparison.costs is not None else []
    if comparison.lens:
        found.append(_lens(comparison))
    if any(vector.history or vector.snapshots for vector in comparison.vectors):
        found.append(_training(comparison))
    if comparison.steered is not None:
        found.append(_answers(comparison))
    return [*found, _provenance(comparison)]


def _dose_response(comparison: Comparison) -> Section:
    shift = next(iter(comparison.own.values()))
    about = (
        f"Mean shift of log p(chosen) - log p(rejected) in nats, with 95% bootstrap intervals over {len(shift.prompts)} pairs "
        f"of {shift.data}, steered at positions: {shift.positions}. Below each margin the shifts of log p(chosen) and of log "
        "p(rejected), and the share of pairs whose margin moves against the multiplier's sign. Where both responses fall, the "
        "margin alone says nothing of what the model writes."
    )
    rows = []
    for strength, of in comparison.shifts():
        if strength in ("own norm", "equal norm") and of.multipliers == shift.multipliers:
            low, high = of.interval()
            chosen, rejected = of.mean("chosen"), of.mean("rejected")
            cells = []
            for i, m in enumerate(of.mean()):
                below = [f"chosen {chosen[i]:+.2f}", f"rejected {rejected[i]:+.2f}", f"{of.wrong_way[i]:.0%} wrong way"]
                below = [*below, *(["BOTH FALL"] if of.both_fall[i] else [])] if of.multipliers[i] else []
                sides = "".join(f'<span class="side">{line}</span>' for line in below)
                cells.append(f"{m:+.2f} [{low[i]:+.2f}, {high[i]:+.2f}]{sides}")
            rows.append([named(of.label, comparison.labels), strength, f"{of.norm:.3g}", *cells])
    head = ("vector", "strength", "norm", *(f"{m:+g}" if m else "0" for m in shift.multipliers))
    return Section("Dose-response", note(about), table(head, rows), (side_by_side(comparison),))


def _effects(comparison: Comparison) -> Section:
    about = (
        "At multiplier 1. Odd part of the margin: [x(1) - x(-1)]/2, what the direction does. Even part: [x(1) + x(-1)]/2, what "
        "either sign does to the margin; it is no measure of damage, which lowers both responses and cancels in their difference. "
        "So the even parts of log p(chosen) and log p(rejected) stand beside it: both are below 0 where either sign makes both "
        "less likely. Wrong way: the share of pairs whose margin moves against the sign, at +1 and at -1. Both fall: the signs "
        "at which the means of both responses' log p fall, their intervals below 0. Mean over pairs, 95% bootstrap interval over "
        "pairs; random directions: the range of their means."
    )
    if comparison.equal_kl is not None:
        about += " Equal KL: each vector as strong as costs what the first does at equal norm; see side effects."
    rows = [
        [named(row["vector"], comparison.labels), escape(row["strength"]), norm_cell(row)]
        + [cell(row, quantity, digits) for quantity, digits in QUANTITIES[:2]]
        + [*(cell(row, q, ".2f") for q, _ in SIDES), wrong_cell(row), fall_cell(row)]
        + [cell(row, quantity, digits) for quantity, digits in QUANTITIES[2:]]
        for _, row in comparison.effects().iterrows()
    ]
    heads = [f"{q.replace('_per_token', '')}, {UNITS[q]}" for q, _ in QUANTITIES]
    sides = [f"log p({name}, nats".replace(",", "),", 1) for _, name in SIDES]
    head = ("vector", "strength", "norm", *heads[:2], *sides, "wrong way", "both fall", *heads[2:])
    return Section("Effects and damage", note(about), table(head, rows), (effects_at(comparison),))


def _seeds(comparison: Comparison) -> Section:
    about = (
        "Vectors that differ by their seed alone: mean over seeds, and from the lowest to the highest, at multiplier 1; the cosine "
        "is that of two seeds. How far seeds differ is another question than how far pairs do, which intervals tell."
    )
    rows = [
        [named(row["vector"], comparison.labels), row["strength"], str(row["seeds"]), spread_cell(row, "cosine", ".3f")]
        + [spread_cell(row, quantity, digits) for quantity, digits in QUANTITIES[:2]]
        for _, row in comparison.seed_spread().iterrows()
    ]
    heads = (f"{quantity}, {UNITS[quantity]}" for quantity, _ in QUANTITIES[:2])
    return Section("Seeds", note(about), table(("vector", "strength", "seeds", "cosine", *heads), rows))


def _parts(comparison: Comparison) -> Section:
    at = first_two(comparison.labels)
    first, second = (display_name(comparison.labels[i]) for i in at)
    about = (
        f"{second} at norm {comparison.matched_norm:.3g}, taken apart: its part along {first} and the rest, each steered by "
        "itself as it is in it. Which part does the work?"
    )
    effects, rows = comparison.effects(), []
    whole = [("equal norm", comparison.labels[at[1]]), *(("part", label) for label in comparison.parts)]
    for strength, label in whole:
        for _, row in effects[(effects["strength"] == strength) & (effects["vector"] == label)].iterrows():
            share = (row["norm"] / comparison.matched_norm) ** 2
            rows.append([named(label, comparison.labels), f"{row['norm']:.3g}", f"{share:.0%}"])
            rows[-1] += [cell(row, quantity, digits) for quantity, digits in QUANTITIES[:2]]
    head = ("steered with", "norm", "share of the squared norm", "odd, nats", "even, nats")
    return Section(f"{second} taken apart", note(about), table(head, rows))


def _share_pairs(comparison: Comparison) -> bool:
    return len(comparison.matched) > 1 and bool(next(iter(comparison.matched.values())).odd_multipliers)


def _pairs(comparison: Comparison) -> Section:
    first, second = comparison.two
    a, b = (comparison.shift(name) for name in (first, second))
    at = min(a.odd_multipliers)
    x, y = (shift.odd[:, shift.odd_multipliers.index(at)] for shift in (a, b))
    gap = x - y
    order = gap.argsort()
    most = [*order[::-1][:3], *order[:3]] if len(order) > 6 else list(order[::-1])
    rows = [[f'<span class="settings">{escape(a.prompts[i])}</span>', f"{x[i]:+.2f}", f"{y[i]:+.2f}"] for i in most]
    about = (
        f"Odd part of each pair's shift in nats, both at equal norm, multiplier {at:g}. The table has the pairs on which they "
        "part most, either way."
    )
    if comparison.seeds:
        about += " Of several seeds the mean."
    head = ("prompt", named(first, comparison.labels), named(second, comparison.labels))
    return Section("Pair by pair", note(about), table(head, rows), (pair_by_pair(comparison),))


def _directions(comparison: Comparison) -> Section:
    labels = comparison.labels
    rows = [
        [named(label, labels), str(comparison.layers[label]), f"{comparison.norms[label]:.4g}"]
        + [f"{value:+.3f}" for value in comparison.cosines[i]]
        for i, label in enumerate(labels)
    ]
    about = (
        f"Cosines. Under the null of {comparison.null} vectors, one as large as that of "
        f"{' and '.join(display_name(name) for name in comparison.two)} has p = {comparison.p_value:.2g}."
    )
    if comparison.null == "isotropic":
        about += (
            " Activations fill few of their dimensions, so unrelated vectors are often further from 0 than this null says: "
            "nulls=True has stricter ones."
        )
    cosines = table(("vector", "layer", "norm", *(named(label, labels) for label in labels)), rows)
    coordinates = comparison.coordinates()
    pair = [labels[i] for i in first_two(labels)]
    shares = (
        f"The {len(coordinates)} coordinates of d_model in which the directions of {' and '.join(map(display_name, pair))} "
        "differ most."
    )
    cells = [
        [str(int(row["coordinate"])), *(f"{row[label]:+.3f}" for label in pair), f"{row.iloc[-1]:.1%}"]
        for _, row in coordinates.iterrows()
    ]
    head = ("coordinate", *(named(label, labels) for label in pair), "share of the squared difference")
    return Section("Directions", note(about), cosines + note(shares) + table(head, cells))


def _similarity(similarity: Similarity) -> Section:
    about = "Cosines, plain and whitened by the activations' covariance, with p-values under each null."
    return Section(
        "Similarity against nulls", note(about), f"<pre>{escape(str(similarity))}</pre>", (cosine_map(similarity),)
    )


def _lens(comparison: Comparison) -> Section:
    lens = {label: comparison.lens[label] for label in comparison.labels}
    ranked = all(of.top_z for of in lens.values())
    about = "Logit lens of the unit vector: final norm's gain applied, its division left out. In logits per unit of the stream"
    if ranked:
        noise = "; ".join(
            f"{display_name(label)} {of.max_z:.1f}, {of.null} directions {of.expected_max_z:.1f} on average, p = {of.p_value:.2g}"
            for label, of in lens.items()
        )
        about += f", with z-scores. Some token has a large z by chance; largest |z| of the whole vocabulary: {noise}."
    else:
        sd = ", ".join(f"{display_name(label)} {of.sd:.3f}" for label, of in lens.items())
        about += (
            f"; standard deviation over the vocabulary: {sd}. Values within about four of those are what noise looks like "
            "in a large vocabulary."
        )
    head, rows = ["rank"], []
    for label in comparison.labels:
        head += [named(label, comparison.labels, sign) for sign in ("+ ", "\N{MINUS SIGN} ")]
    for rank in range(len(next(iter(lens.values())).top)):
        cells = [str(rank + 1)]
        for of in lens.values():
            cells += [_token(of, rank, side) for side in ("top", "bottom")]
        rows.append(cells)
    return Section("Tokens the directions speak", note(about), table(head, rows))


def _token(lens: LogitLens, rank: int, side: str) -> str:
    token, value = getattr(lens, side)[rank]
    z = getattr(lens, f"{side}_z")
    word = escape(visible(token))
    return f'<code title="{word}">{word}</code> {value:+.3f}{f", z {z[rank]:+.1f}" if z else ""}'


def _training(comparison: Comparison) -> Section:
    figures = []
    histories = {
        label: vector.history
        for label, vector in zip(comparison.labels, comparison.vectors, strict=True)
        if vector.history
    }
    if histories:
        figures.append(training_curves(histories))
    frame, html = comparison.paths(), ""
    if not frame.empty:
        figures.append(path(comparison))
        cosines = [f"cosine to {label}" for label in comparison.labels]
        rows = [
            [
                named(row["vector"], comparison.labels),
                str(row["steps"]),
                f"{row['norm']:.4g}",
                *(f"{row[c]:+.3f}" for c in cosines),
            ]
            for _, row in _thinned(frame).iterrows()
        ]
        head = ("vector", "step", "norm", *(escape(f"cosine to {display_name(label)}") for label in comparison.labels))
        html = note("The vectors on their way: the last row is the vector itself.") + table(head, rows)
    return Section("Training", tables=html, figures=tuple(figures))


def _thinned(frame: pd.DataFrame, most: int = 12) -> pd.DataFrame:
    """At most about `most` rows of each vector, the first and the last among them."""
    parts = []
    for _, rows in frame.groupby("vector", sort=False):
        step = -(-len(rows) // most)
        parts.append(rows.iloc[[*range(0, len(rows) - 1, step), len(rows) - 1]])
    return pd.concat(parts)


def _answers(comparison: Comparison) -> Section:
    steered = comparison.steered
    assert steered is not None  # the caller's condition
    about = "Greedy answers; the unsteered one is the same for all."
    parts = [note(f"Steered at norm {comparison.matched_norm:.3g}. {about}" if comparison.matched_norm else about)]
    head = ["", *(f"{m:+g}" if m else "0, unsteered" for m in steered.multipliers)]
    for i, prompt in enumerate(steered.prompts):
        parts.append(f"<h3>{escape(prompt)}</h3>{_answer_table(comparison.labels, steered.texts, i, head)}")
    return Section("Answers", tables="".join(parts))


def _answer_table(labels: Sequence[str], texts: Any, i: int, head: Sequence[str]) -> str:
    body = ""
    for label in labels:
        cells = "".join(f'<td class="answer">{escape(text)}</td>' for text in texts[label][i])
        body += f'<tr><td class="n">{named(label, labels)}</td>{cells}</tr>'
    top = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _provenance(comparison: Comparison) -> Section:
    """Side by side: a column per vector."""
    columns = []
    for vector in comparison.vectors:
        model = vector.model
        facts = {
            "model": "not known" if model is None else f"{model.name}, {model.dtype}, processing: {model.processing}",
            "layer": str(vector.layer),
            "norm": f"{vector.norm:.4g}",
            "data": vector.data,
            "seed": str(vector.seed),
        }
        columns.append(facts | {str(k): repr(v) for k, v in vector.settings.items()})
    keys = list(dict.fromkeys(key for facts in columns for key in facts))
    rows = [
        [escape(key), *(f'<span class="settings">{escape(facts.get(key, ""))}</span>' for facts in columns)]
        for key in keys
    ]
    head = ("", *(named(label, comparison.labels) for label in comparison.labels))
    return Section("Where the vectors come from", tables=table(head, rows))
