"""The page of `analyses.paper`: every item of the two papers, what was published, and what was found here beside it."""

import json
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import plotly.io

import steerlens as sl
from analyses.study import StudyConfig, study_folder
from steerlens.figures.page import Section, page, table
from steerlens.files import whole_file


class Item(NamedTuple):
    """A figure or table of a paper."""

    name: str
    published: str
    studies: tuple[str, ...]
    """which answer to it; none: it is not reproduced"""
    here: str
    """how it is measured here, or why it is not"""
    shown: tuple[str, ...] = ()
    """of the studies' sentences, those with one of these in them stand beside the item"""


JUDGED = "a judge's score of answers, by rule or by a classifier of words; the paper's judge was GPT-4, 1 to 4"
ITEMS = (
    Item(
        "BiPO F1",
        "score of personas from -2 to 2: BiPO's range is widest",
        ("personas",),
        JUDGED,
        ("bipo, bipo's norm", "caa, bipo's norm"),
    ),
    Item(
        "BiPO F2",
        "MC1 and MC2 of TruthfulQA move with the multiplier, most for BiPO",
        ("truthfulness",),
        "MC1 and MC2 where a file of questions is given; else the probability of a pair's answer",
        ("bipo, change",),
    ),
    Item(
        "BiPO F3",
        "Llama-2's vectors work in Vicuna and in a Chinese LoRA",
        ("transfer",),
        "odd part in nats, beside each sibling's own vector",
        ("own vector there",),
    ),
    Item(
        "BiPO F4",
        "layer 15 is best on Llama-2-7b-chat",
        ("layer_sweep",),
        "the layer is chosen on validation pairs and reported on test pairs",
        ("BiPO: validation pairs",),
    ),
    Item(
        "BiPO F5",
        "score of the other personas",
        ("personas",),
        JUDGED + "; one run per --behaviour",
        ("bipo, bipo's norm", "caa, bipo's norm"),
    ),
    Item(
        "BiPO F6",
        "hallucination score from -2 to 2",
        ("hallucination",),
        JUDGED,
        ("bipo, bipo's norm", "caa, bipo's norm"),
    ),
    Item(
        "BiPO F7",
        "a DPO-trained LoRA (r 8, alpha 16, lr 2e-4, 2 epochs) beside BiPO",
        ("baselines",),
        "gain of the margin at 1 on test pairs",
        ("nats on test pairs",),
    ),
    Item(
        "BiPO F8",
        "effect over layers and over epochs",
        ("layer_sweep", "epochs"),
        "every layer; every epoch's vector on validation and test pairs",
        ("odd part on validation pairs",),
    ),
    Item(
        "BiPO T4",
        "attack success, initial/CAA/Freeform/BiPO: 0/0/0/73 %; with a suffix and the defending sign 16/16/3/0 %",
        ("jailbreak",),
        "share of requests complied with; the vector is trained towards refusal, so the signs are turned",
        ("forbidden, bipo", "forbidden, caa", "with an attack, bipo"),
    ),
    Item(
        "BiPO T5",
        "MMLU on Llama-2: .459, within .454-.460 from -1 to +1",
        ("knowledge",),
        "accuracy over multipliers",
        ("unsteered accuracy", "bipo (norm"),
    ),
    Item(
        "BiPO T6",
        "scores with two vectors, m = -1/0/1: power 1.2/1.67/2.38, with wealth 1.18/1.67/2.67",
        ("composition",),
        "shift in nats instead of a judge's score",
        ("steered with both:",),
    ),
    Item(
        "BiPO T11",
        "MMLU on Mistral: within .561-.585 from -1 to +1",
        ("knowledge",),
        "as T5; --model mistral-7b-instruct",
        ("unsteered accuracy", "bipo (norm"),
    ),
    Item(
        "CAA F2",
        "the activations' two sides come apart in the plane of two components from some layer on",
        ("separation",),
        "AUC of held-out pairs at every layer",
        ("CAA's direction:", "best in the plane:"),
    ),
    Item(
        "CAA F3",
        "effect over layers: 13 is best on Llama-2-7b-chat, 14-15 on 13b",
        ("layer_sweep",),
        '"caa": the mean over free-form answers',
        ("CAA: validation pairs",),
    ),
    Item(
        "CAA F6",
        "tokens of the behaviour project positively on its vector",
        ("tokens",),
        "answers' tokens, chosen less rejected",
        ("mean projection",),
    ),
    Item(
        "CAA F7",
        "vectors of near layers are alike",
        ("geometry",),
        "cosines with p-values",
        ("neighbouring layers",),
    ),
    Item(
        "CAA F8",
        "layer 13's vector at other layers: falls off near 17",
        ("transfer",),
        "BiPO's vector of the study's layer, added after each",
        ("added after other layers",),
    ),
    Item(
        "CAA F9",
        "base and chat model: vectors alike in layers 7-15",
        ("transfer",),
        "CAA at the letter, cosine at every layer",
        ("CAA vectors at the letter",),
    ),
    Item(
        "CAA F10",
        "the base's vectors work in the chat model",
        ("transfer",),
        "p(matching letter), beside the chat model's own vectors",
        ("p(matching letter)",),
    ),
    Item(
        "BiPO T9",
        "sizes of the data sets",
        (),
        "a fact about the published files; sl.datasets() gives the rows",
    ),
    Item(
        "CAA T10",
        "p(matching letter) of seven behaviours at layer 13, m = -1/0/1",
        (),
        "no study runs all seven; sl.multiple_choice measures one, and transfer does on its behaviour",
    ),
)
FINDING = dict[str, Any] | str
"""a study's finding.json, or why there is none"""


def write_index(config: StudyConfig, rows: list[tuple[str, FINDING, Path]]) -> Path:
    """One page: a table of all items, then a section per study with the numbers, a figure, and where the files lie."""
    place = study_folder(config, "x").parent
    at = {study: f"#s{i}" for i, (study, _, _) in enumerate(rows, start=1)}
    told = {study: finding for study, finding, _ in rows}
    items = [
        (f"<b>{escape(item.name)}</b>", escape(item.published), _found(item, told), _links(item, at)) for item in ITEMS
    ]
    top = table(("item", "published", "found here", "study"), items).replace('<td class="n">', "<td>")
    sections = [Section("All items", top), *(_section(config, *row) for row in rows)]
    lead = (
        "<p>Published numbers are for Llama-2-7b-chat and Mistral-7B unless they say otherwise; found here are those of "
        f"<b>{escape(config.name)}</b>. Means with 95% intervals over pairs or prompts.</p>"
    )
    path = place / "index.html"
    with whole_file(path, sl.SteerLensError) as partial:
        partial.write_text(page(f"Published beside reproduced, {config.name}", lead, sections), encoding="utf-8")
    return path


def _found(item: Item, told: dict[str, FINDING]) -> str:
    """The sentences that answer to the item, as its studies wrote them."""
    found = [told[study] for study in item.studies if study in told]
    sentences = [text for finding in found if isinstance(finding, dict) for text in finding["found"]]
    chosen = [text for text in sentences if any(part in text for part in item.shown)]
    return "".join(f"<p>{escape(text)}</p>" for text in chosen) or ("not run" if item.studies else "not reproduced")


def _links(item: Item, at: dict[str, str]) -> str:
    """A link to each study of the item, and how it measures; or why there is none."""
    links = [f'<a href="{at[study]}">{escape(study)}</a>' if study in at else escape(study) for study in item.studies]
    return f'{", ".join(links)}<p class="note">{escape(item.here)}</p>'


def _section(config: StudyConfig, study: str, told: FINDING, folder: Path) -> Section:
    """A study: published beside found, its first figure, and links to all of its files."""
    if isinstance(told, str):
        return Section(study, f"<p>{escape(told)}</p>")
    mine = [item for item in ITEMS if study in item.studies]
    published = "".join(f"<p><b>{escape(i.name)}</b> {escape(i.published)}</p>" for i in mine)
    published = published or f"<p>{escape(told['published'])}</p>"
    found = "".join(f"<p>{escape(sentence)}</p>" for sentence in told["found"])
    head = '<tr><th style="width:26%">published</th><th>found here</th></tr>'
    about = f'<table style="width:100%">{head}<tr><td>{published}</td><td>{found}</td></tr></table>'
    first = folder / f"{told['figures'][0]}.json" if told["figures"] else None
    drawn = (plotly.io.from_json(first.read_text()),) if first is not None and first.is_file() else ()
    files = [(name, ("html", "pdf")) for name in told["figures"]] + [(name, ("csv", "tex")) for name in told["tables"]]
    links = " &middot; ".join(
        f"{escape(name)} "
        + ", ".join(f'<a href="{escape(folder.name)}/{escape(name)}.{ending}">{ending}</a>' for ending in endings)
        for name, endings in files
    )
    about = f'<p class="note">{escape(told["title"])}</p>{about}'
    return Section(
        study.replace("_", " "), about, f'<p class="note">{links} &middot; {told["seconds"]:.0f} s</p>', drawn
    )


def read_finding(folder: Path) -> dict[str, Any] | None:
    """What a study left in its folder, if it did."""
    kept = folder / "finding.json"
    return json.loads(kept.read_text()) if kept.exists() else None
