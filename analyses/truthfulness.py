"""BiPO F2: TruthfulQA's MC1 and MC2 over multipliers.

    python -m analyses.truthfulness --model smollm2 --questions path/to/TruthfulQA.csv
    python -m analyses.truthfulness --model toy --behaviour hallucination

With a file of questions, vectors are trained on its first half (best answer against the first incorrect one) and tested on its
second; without one, on the behaviour's own pairs, whose two answers are then the options.
"""

from dataclasses import dataclass
from typing import Any, Literal

import steerlens as sl
from analyses.contenders import make
from analyses.study import Finding, StudyConfig, main, over_multipliers, store_of, weights_of


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is asked."""

    behaviour: str = "hallucination"
    multipliers: tuple[float, ...] = (-2, -1, 0, 1, 2)
    methods: tuple[str, ...] = ("bipo", "freeform", "random")
    questions: str | None = None
    limit: int = 100

    @property
    def behaviours_used(self) -> tuple[str, ...]:
        """None where a file of questions trains and tests."""
        return () if self.questions is not None else super().behaviours_used


def run(config: Config) -> Finding:
    """MC1 and MC2, or the probability of the true option in the toy world, with changes from the unsteered model."""
    model = config.load()
    result: sl.TruthfulScores | sl.ChoiceScores
    quantities: tuple[Literal["mc1", "mc2", "probability", "accuracy"], ...]
    if config.questions is not None:
        questions = sl.load_questions(config.questions, on_bad="drop")
        half = len(questions) // 2
        vectors = train_on(config, model, questions[:half].answer_pairs())
        held_out = questions[half : half + config.limit]
        result, quantities = sl.truthful_qa(model, vectors, held_out, config.multipliers), ("mc1", "mc2")
    else:
        vectors, held_out = (
            make(config, model, methods=config.methods),
            config.pairs().test[: config.limit].as_choices(seed=0),
        )
        result = sl.multiple_choice(model, vectors, held_out, config.multipliers, form="answers")
        quantities = ("probability", "accuracy")
    zero, found = config.multipliers.index(0), []
    for quantity in quantities:
        change, low, high = result.change(quantity)
        of = "" if config.questions else " of the answer that shows the behaviour"
        found.append(f"unsteered {quantity}{of} {result.mean(quantity)[0, zero]:.3f}")
        for i, label in enumerate(vectors):
            found.append(
                f"{label}, change of {quantity} at " + over_multipliers(config.multipliers, change[i], low[i], high[i])
            )
    return Finding(
        study="truthfulness",
        title=f"Truthfulness, {config.behaviour} on {config.name}",
        item="BiPO F2",
        published="figure: MC1 and MC2 of TruthfulQA rise and fall with the multiplier, most for BiPO",
        found=found,
        figures={"truthfulness": result.figure()},
        tables={"truthfulness": result.summary()},
    )


def train_on(config: Config, model: Any, pairs: sl.PreferencePairs) -> dict[str, sl.SteeringVector]:
    """BiPO, the mean over free-form answers, and a random direction of BiPO's norm, from the questions' own answers."""
    told, store = (
        {"weights": weights_of(model), "pairs": pairs.described(), "layer": config.preset.layer},
        store_of(config),
    )
    bipo = store.vector(
        "bipo",
        {**told, **config.bipo_options()},
        lambda: sl.train_bipo(model, pairs, config.preset.layer, **config.bipo_options()),
    )
    freeform = store.vector("freeform", told, lambda: sl.extract_caa(model, pairs, config.preset.layer))
    return {"bipo": bipo, "freeform": freeform, "random": sl.random_vectors(bipo, 1)[0]}


if __name__ == "__main__":
    main(run, Config)
