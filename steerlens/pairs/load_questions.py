"""Where multiple-choice questions and open-ended prompts come from."""

from pathlib import Path

from steerlens.checks.calls import checked, path
from steerlens.errors import PairsError
from steerlens.pairs.formats import prompts_from, questions_from
from steerlens.pairs.load import load_pairs, read_table, source_name
from steerlens.pairs.published import built_in
from steerlens.pairs.questions import ChoiceQuestions
from steerlens.text.rows import OnBad
from steerlens.text.templates import Template, checked_template


@checked(PairsError, "source", template=checked_template, data_dir=path)
def load_questions(
    source: str | Path,
    *,
    template: Template = "auto",
    system_prompt: str | None = None,
    on_bad: OnBad = "raise",
    data_dir: str | Path | None = None,
) -> ChoiceQuestions:
    """Load multiple-choice questions by name, from a file, or from the Hugging Face hub.

    Args:
        source: as in `load_pairs`; a built-in behaviour's two answers become options A and B in balanced order.
            The format is told by the columns alone:

            - `question, answer_matching_behavior, answer_not_matching_behavior` (CAA, model-written evals) and `prompt,
              correct, incorrect` (CAA's MMLU and TruthfulQA), with lettered options in the text, two or more; the options may
              stand in a column `answers` beside CAA's three;
            - `question, A, B, matching`: the BiPO authors' test_infer;
            - TruthfulQA's: all answers as published, the correct ones first and the best of them first of all, each once;
              MC1 is `correct[0]` against `wrong`, MC2 is `correct` against `wrong`. Its authors end each answer with a full
              stop before they score it. Before asking in letters, shuffle: `questions.shuffled(seed=0)`;
            - `question, choices, answer`: MMLU on the hub.

            A topic (`category`, `Category`, `subject`) goes to `categories`, a column `split` is kept.
        template, system_prompt, on_bad, data_dir: as in `load_pairs`.

    Raises:
        PairsError: no such source, unknown columns, or rows that can't be used (they are listed with their reasons).

    Source:
        TruthfulQA: Lin et al. 2022, arXiv 2109.07958. MMLU: Hendrycks et al. 2021, arXiv 2009.03300.
    """
    name = source_name(source)
    if name.removesuffix("-ab") in built_in():
        pairs = load_pairs(name.removesuffix("-ab"), template=template, system_prompt=system_prompt)
        questions = pairs.as_choices(seed=0)
        questions.provenance = f"{pairs.provenance}-ab"
        return questions
    return questions_from(read_table(name, "questions", data_dir), template, system_prompt, on_bad)


@checked(PairsError, "source", data_dir=path)
def load_prompts(source: str | Path, *, on_bad: OnBad = "raise", data_dir: str | Path | None = None) -> list[str]:
    """Load open-ended prompts, to generate from, by name, from a file, or from the Hugging Face hub.

    Args:
        source: as in `load_pairs`, or a .txt file with one prompt a line. One of the columns `prompt`, `question`, `Question`
            and `goal` is read and no other: CAA's open-ended questions, BiPO's test_infer, AdvBench's goals (never its targets).
            A .json list of texts is one of prompts. A column of what stands before the prompts (`system`, `context`, ...) is
            refused by its name.
        on_bad: what to do with rows without a prompt: "raise" an error that lists them, or "drop" them.
        data_dir: as in `load_pairs`.

    Raises:
        PairsError: no such source, none or several of the columns, or prompts with lettered options.
    """
    name = source_name(source)
    if name in built_in():
        raise PairsError(
            f"{name!r} is a set of pairs, most of them for training; expected open-ended prompts. Take a part's: "
            f"sl.load_pairs({name!r}).test.prompts"
        )
    return prompts_from(read_table(name, "prompts", data_dir), on_bad)
