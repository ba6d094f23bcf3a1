"""BiPO T5, T11: does knowledge survive steering? Accuracy over multipliers.

    python -m analyses.knowledge --model toy --behaviour wealth
    python -m analyses.knowledge --model smollm2 --behaviour wealth-seeking --questions path/to/mmlu.json

On the toy model the questions are the world's own facts, in a form in which they were never trained; elsewhere any file that
`sl.load_questions` reads (MMLU in CAA's form or the hub's).
"""

import random
import re
from dataclasses import dataclass
from typing import Any

import steerlens as sl
from analyses.contenders import make
from analyses.study import Finding, StudyConfig, main, over_multipliers


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is asked."""

    multipliers: tuple[float, ...] = (-2, -1, 0, 1, 2)
    methods: tuple[str, ...] = ("bipo", "caa", "random")
    questions: str | None = None
    """a file or a name for `sl.load_questions`; the toy model has its own"""
    limit: int = 120


def quiz(config: Config) -> sl.ChoiceQuestions:
    """The questions, with lettered options."""
    if config.questions is not None:
        return sample(sl.load_questions(config.questions, on_bad="drop"), config.limit)
    if not config.is_toy:
        raise sl.PairsError(
            "this model needs questions of knowledge: --questions path/to/mmlu.json (sl.datasets() lists some)"
        )
    import steerlens.toy as toy

    layout = sl.ChoiceLayout(opening="\n", indent="")  # as the world writes its options
    asked = [lettered(question) for question in toy.quiz("choice", unseen=True)]
    return sample(sl.ChoiceQuestions(asked, layout=layout, provenance="toy/quiz"), config.limit)


def lettered(question: Any) -> sl.ChoiceQuestion:
    """A question of the world's quiz, "what is ... ? (A) wolf (B) hawk", with its right answer "(A) wolf ."."""
    asked, *options = re.split(r"\s*\([A-Z]\)\s*", question.text)
    right = re.split(r"\([A-Z]\)\s*", question.chosen[0])[1].removesuffix(".").strip()
    return sl.ChoiceQuestion(asked, tuple(options), (options.index(right),))


def sample(questions: sl.ChoiceQuestions, limit: int) -> sl.ChoiceQuestions:
    """Some of the questions, drawn from all of them: files have them by subject."""
    return questions[sorted(random.Random(0).sample(range(len(questions)), min(limit, len(questions))))]


def run(config: Config) -> Finding:
    """Accuracy of every vector at every multiplier, with its change from the unsteered model on the same questions."""
    questions, model = quiz(config), config.load()
    vectors = make(config, model, methods=config.methods)
    result = sl.knowledge(model, vectors, questions, config.multipliers)
    change, low, high = result.change()
    zero = config.multipliers.index(0)
    accuracy = result.accuracy()[0]
    found = [f"unsteered accuracy {accuracy[0, zero]:.3f} on {len(questions)} questions"]
    for i, label in enumerate(vectors):
        found.append(
            f"{label} (norm {vectors[label].norm:.3g}), change of accuracy at "
            + over_multipliers(config.multipliers, change[i], low[i], high[i])
        )
    return Finding(
        study="knowledge",
        title=f"Knowledge under steering, {config.behaviour} on {config.name}",
        item="BiPO T5, T11",
        published="MMLU on Llama-2: baseline .459, within .454-.460 from -1 to +1; on Mistral within .561-.585",
        found=found,
        figures={"knowledge": result.figure()},
        tables={"knowledge": result.to_frame()},
    )


if __name__ == "__main__":
    main(run, Config)
