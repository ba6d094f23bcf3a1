"""Open-ended answers: what a model says to prompts under each vector and multiplier, every text kept.

>>> said = sl.answers(model, {"bipo": bipo, "caa": caa}, pairs.test, multipliers=(-2, -1, 0, 1, 2), file="answers.jsonl")
>>> judge = sl.judges.llm(model="gpt-4o", rubric="wealth-seeking", examples=pairs.test, cache="judgements.jsonl")
>>> sl.judge(said, judge).figure()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.calls import flag, number, path, raising, whole
from steerlens.checks.values import shown
from steerlens.errors import MeasureError, SteeringError
from steerlens.forward.door import KNOWN, checked, prompts_or_pairs
from steerlens.forward.parts import is_plain
from steerlens.forward.steer import Positions
from steerlens.generation.generate import Prompts
from steerlens.measures._answering import Ask, Generator
from steerlens.measures.effect import check_unseen
from steerlens.models.identity import identify
from steerlens.pairs.pair import Asked
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.ledger import Ledger
from steerlens.results.result import Result
from steerlens.text.ends import Stop
from steerlens.text.templates import Template
from steerlens.vectors.labels import Vectors, labelled
from steerlens.vectors.vector import check_fits

Texts = tuple[tuple[tuple[tuple[str, ...], ...], ...], ...]
"""by prompt, vector, multiplier and sample"""


@dataclass(frozen=True, eq=False)
class Answers(Result):
    """What a model says to prompts under vectors and multipliers.

    At multiplier 0 all vectors share the greedy unsteered answers; sampled ones are drawn for each vector as its steered ones are.
    """

    model: str
    labels: Annotated[tuple[str, ...], "vector"]
    """the vectors' names in figures"""
    norms: Annotated[tuple[float, ...], "vector"]
    """the vectors' norms at multiplier 1, in units of the residual stream"""
    multipliers: Annotated[tuple[float, ...], "multiplier"]
    prompts: Annotated[tuple[str, ...], "prompt"]
    texts: Annotated[Texts, "prompt vector multiplier sample"]
    """without special tokens"""
    tokens: Int[np.ndarray, "prompt vector multiplier sample"]
    """new tokens of each answer, the one that ends it not counted"""
    ended: Bool[np.ndarray, "prompt vector multiplier sample"]
    """whether an answer ended by itself, and not at max_new_tokens"""
    max_new_tokens: int
    positions: Positions
    temperature: float
    """0 for greedy answers"""
    seed: int
    data: str = "prompts"
    seen_pairs: int = 0
    """how many of the pairs trained or selected a vector; above 0 only with allow_seen=True"""

    @property
    def samples(self) -> int:
        """Answers to each prompt under each vector and multiplier."""
        return self.tokens.shape[3]

    @checked(MeasureError)
    def at(self, label: str, multiplier: float) -> tuple[tuple[str, ...], ...]:
        """The answers under one vector and multiplier, by prompt and sample.

        Raises:
            MeasureError: it was not among those asked for.
        """
        if label not in self.labels or multiplier not in self.multipliers:
            raise MeasureError(
                f"there are no answers at {shown(label)}, {multiplier:g}; there are {self.labels} at {self.multipliers}"
            )
        vector, column = self.labels.index(label), self.multipliers.index(multiplier)
        return tuple(row[vector][column] for row in self.texts)

    def to_frame(self) -> pd.DataFrame:
        """One row per answer."""
        prompt, vector, multiplier, sample = (axis.ravel() for axis in np.indices(self.tokens.shape))
        cells = list(zip(prompt, vector, multiplier, sample, strict=True))
        return pd.DataFrame(
            {
                "vector": [self.labels[j] for j in vector],
                "norm": [self.norms[j] for j in vector],
                "prompt_index": prompt,
                "prompt": [self.prompts[i] for i in prompt],
                "multiplier": [self.multipliers[m] for m in multiplier],
                "sample": sample,
                "answer": [self.texts[i][j][m][k] for i, j, m, k in cells],
                "tokens": self.tokens.ravel(),
                "ended": self.ended.ravel(),
            }
        )

    def __repr__(self) -> str:
        drawn_at = f"{self.samples} sampled at temperature {self.temperature:g}" if self.temperature else "greedy"
        seen = f", {self.seen_pairs} of them SEEN in training" if self.seen_pairs else ""
        return (
            f"Answers({', '.join(self.labels)} at {', '.join(f'{m:+g}' for m in self.multipliers)}; {len(self.prompts)} "
            f"prompts of {self.data}{seen}; {drawn_at}; {self.ended.mean():.0%} ended within {self.max_new_tokens} tokens)"
        )


@checked(
    MeasureError,
    prompts=raising(SteeringError, prompts_or_pairs),
    multipliers=raising(SteeringError, KNOWN["multipliers"]),
    batch_size=raising(SteeringError, whole()),
    sample=flag,
    temperature=number(above=0),
    n=raising(SteeringError, whole()),
    file=path,
)
def answers(
    model: HookedTransformer,
    vectors: Vectors,
    prompts: Sequence[Asked] | PreferencePairs,
    multipliers: Sequence[float] = (-1, 0, 1),
    positions: Positions = "all",
    *,
    sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    n: int = 1,
    max_new_tokens: int = 60,
    template: Template = "auto",
    system_prompt: str | None = None,
    stop: Stop | None = None,
    file: str | Path | None = None,
    allow_seen: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
) -> Answers:
    """Answers to every prompt under every vector and multiplier, greedy or sampled; greedy unsteered ones are generated once.

    Args:
        model: any HookedTransformer with the vectors' weights.
        vectors: one, several, or a dict from names to vectors.
        prompts: questions or conversations, as in `generate`; or held-out pairs, whose prompts, template and system prompt
            are taken.
        multipliers: 0 is the unsteered model.
        positions: "all" (as BiPO steers), or "response" (from the last prompt token on, as CAA steers).
        sample: draw each token from softmax(logits / temperature) rather than take the likeliest.
        seed: of the draws. Each (prompt, vector, sample) has its own, the same at all multipliers, 0 among them, and for all
            multiples of a vector: what a vector does is told between answers that were drawn alike. Other vectors have draws
            of their own, so that a mean over vectors or seeds gets better with their number. Answers depend neither on the
            batch nor on the order of prompts and vectors. A prompt listed twice is answered alike.
        n: sampled answers to each prompt.
        max_new_tokens: per answer; it ends earlier at the end of its turn.
        template, system_prompt: as in `PreferencePairs`.
        stop: more tokens that end an answer, as in `generate`.
        file: a .jsonl file; finished answers are appended to it as they come, and another call reads them and generates only
            what is missing. Other weights, vectors or settings are other answers.
        allow_seen: ask the prompts of pairs that trained or selected a vector all the same; the result says so.
        batch_size: answers at once; None takes as many as fit the free memory. The answers do not depend on it, up to ties.

    Raises:
        MeasureError: pairs trained or selected a vector; sampling is asked for by halves; the file holds something else.
        SteeringError: no prompts or multipliers, or a prompt too long for the context.
        VectorError: a vector does not fit the model.
    """
    named, multipliers = labelled(vectors), tuple(multipliers)
    if not sample and (n > 1 or temperature != 1):
        raise MeasureError(
            f"n={n}, temperature={temperature:g} without sampling: greedy answers are all the same; add sample=True"
        )
    for vector in named.values():
        check_fits(vector, identify(model))
    data, seen = "prompts", 0
    if isinstance(prompts, PreferencePairs):
        if template != "auto" or system_prompt is not None:
            raise MeasureError(
                "pairs bring their own template and system prompt: leave template= and system_prompt= out"
            )
        data, seen = prompts.provenance, check_unseen(list(named.values()), prompts, allow_seen=allow_seen)
        template, system_prompt, prompts = prompts.template, prompts.system_prompt, prompts.prompts
    asked = Prompts(model, prompts, max_new_tokens, template=template, system_prompt=system_prompt, stop=stop)
    ledger = Ledger(file, "answer", {"text": str, "tokens": int, "ended": bool})
    if file is not None and not is_plain(model):
        raise MeasureError(
            "the model has hooks on (a `steer` block, or a user's) or a module that is not TransformerLens's own, which a "
            "file of answers can't tell from none: take them off, or leave file= out"
        )
    generator = Generator(model, list(named.values()), asked, max_new_tokens, positions, temperature if sample else 0.0)
    shape = (len(asked.tokens), len(named), len(multipliers), n)
    cells = [Ask(i, j if multipliers[m] or sample else None, multipliers[m], k) for i, j, m, k in np.ndindex(shape)]
    keys = [generator.key(cell, seed) for cell in cells]
    todo = dict(zip(keys, cells, strict=True))
    missing = {cell: key for key, cell in todo.items() if key not in ledger}
    start = len(todo) - len(missing)
    with tqdm(total=len(todo), initial=start, desc="answers", unit="answer", disable=not progress, leave=False) as bar:
        for done in generator.run(list(missing), seed, batch_size):
            ledger.add(
                {missing[cell]: _record(record, cell, asked.texts, list(named)) for cell, record in done.items()}
            )
            bar.update(len(done))
    found = np.array(keys, dtype=object).reshape(shape)
    return Answers(
        model=str(model.cfg.model_name),
        labels=tuple(named),
        norms=tuple(vector.norm for vector in named.values()),
        multipliers=multipliers,
        prompts=asked.texts,
        texts=tuple(
            tuple(tuple(tuple(ledger[key]["text"] for key in keys) for keys in column) for column in row)
            for row in found
        ),
        tokens=np.array([ledger[key]["tokens"] for key in keys], dtype=int).reshape(shape),
        ended=np.array([ledger[key]["ended"] for key in keys], dtype=bool).reshape(shape),
        max_new_tokens=max_new_tokens,
        positions=positions,
        temperature=float(temperature) if sample else 0.0,
        seed=seed,
        data=data,
        seen_pairs=seen,
    )


def _record(record: dict[str, object], cell: Ask, prompts: Sequence[str], labels: Sequence[str]) -> dict[str, object]:
    """What goes into the file: the answer, and for people what it answers."""
    label = "unsteered" if cell.vector is None or not cell.multiplier else labels[cell.vector]
    return {
        "vector": label,
        "multiplier": cell.multiplier,
        "sample": cell.sample,
        "prompt": prompts[cell.prompt],
    } | record
