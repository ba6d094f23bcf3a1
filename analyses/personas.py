"""BiPO F1, F5 (personas) and F6 (hallucination): the judge's score against the multiplier, for every method.

    python -m analyses.personas --model toy --behaviour wealth
    python -m analyses.personas --model smollm2 --behaviour wealth-seeking

Test questions are answered by every vector at its own norm and at BiPO's. The judge needs no network (analyses/contenders.py).
Answers are greedy, but the toy model's are sampled: its personas stand at a half, where any push turns every greedy answer.
"""

from dataclasses import dataclass

import numpy as np

import steerlens as sl
from analyses.contenders import judge_of, make
from analyses.names import METHODS
from analyses.study import Finding, StudyConfig, main, store_of, with_interval
from steerlens._stats import paired_difference


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is asked."""

    multipliers: tuple[float, ...] = (-2, -1, 0, 1, 2)
    methods: tuple[str, ...] = METHODS
    prompts: int = 40
    max_new_tokens: int = 40


def run(config: Config) -> Finding:
    """Answers of every vector, judged."""
    pairs, model = config.pairs(), config.load()
    vectors = make(config, model, methods=config.methods)
    asked = pairs.test[: config.prompts]
    judge, known = judge_of(config)
    found, figures, tables = [known], {}, {}
    for strength, group in (("own norm", vectors), ("bipo's norm", scaled(vectors))):
        told = sl.answers(
            model, group, asked, config.multipliers, max_new_tokens=config.max_new_tokens, sample=config.is_toy,
            file=store_of(config).folder / f"answers-{config.behaviour}.jsonl",
        )  # fmt: skip
        judged = sl.judge(told, judge)
        name = strength.replace("'s ", "-").replace(" ", "-")
        figures[name], tables[name] = judged.figure(), judged.summary()
        found += sentences(judged, strength)
    return Finding(
        study="personas",
        title=f"Behaviour against multiplier, {config.behaviour} on {config.name}",
        item="BiPO F1, F5, F6",
        published="figure: of BiPO, CAA and Freeform, BiPO's score (GPT-4, 1-4) has the widest range from -2 to 2",
        found=found,
        figures=figures,
        tables=tables,
    )


def scaled(vectors: dict[str, sl.SteeringVector]) -> dict[str, sl.SteeringVector]:
    """All at BiPO's norm, or at the first vector's where there is no BiPO."""
    norm = vectors.get("bipo", next(iter(vectors.values()))).norm
    return {name: vector.scaled_to(norm) for name, vector in vectors.items()}


def sentences(judged: sl.Judged, strength: str) -> list[str]:
    """Each method's score at m less its score at -m, paired over the prompts whose answers could be judged at both."""
    values, found = judged.values, []
    for i, label in enumerate(judged.labels):
        cells = []
        for m in judged.multipliers:
            if m <= 0 or -m not in judged.multipliers:
                continue
            up, down = (values[:, i, judged.multipliers.index(sign * m)] for sign in (1, -1))
            both = ~np.isnan(up - down)
            judged_at_both = f"{both.sum()} of {len(up)} answers judged at both"
            if both.sum() < len(up) / 2:
                cells.append(f"+-{m:g}: no number, {judged_at_both}")
                continue
            gap, low, high = paired_difference(up[both, None], down[both, None])
            cells.append(f"+-{m:g}: {with_interval(gap[0], low[0], high[0])}, {judged_at_both}")
        found.append(f"{label}, {strength} {judged.norms[i]:.3g}: score at +m less at -m, " + "; ".join(cells))
    return found


if __name__ == "__main__":
    main(run, Config)
