"""Where preference pairs come from: built-in behaviours, published sets, files and the hub."""

import logging
from os import PathLike, fspath
from pathlib import Path

from steerlens.checks.calls import checked, path
from steerlens.checks.values import shown
from steerlens.errors import PairsError
from steerlens.pairs.formats import pairs_from
from steerlens.pairs.load_toy import load_toy_pairs
from steerlens.pairs.preference import PreferencePairs
from steerlens.pairs.published import BUILT_IN, Kind, built_in, is_file, read_published
from steerlens.pairs.tables import ENDINGS, Table, read_file, read_hub
from steerlens.text.rows import OnBad
from steerlens.text.templates import Template, checked_template
from steerlens.toy import PAIR_NAMES

log = logging.getLogger(__name__)


def comes_with_the_package(name: str) -> bool:
    """Whether exactly this name is one of the package's own sets of pairs, for which nothing outside of it is read."""
    return name in PAIR_NAMES or name.removesuffix("-ab") in built_in()


@checked(PairsError, "source", template=checked_template, data_dir=path)
def load_pairs(
    source: str | Path,
    *,
    template: Template = "auto",
    system_prompt: str | None = None,
    on_bad: OnBad = "raise",
    data_dir: str | Path | None = None,
) -> PreferencePairs:
    """Load preference pairs by name, from a file, or from the Hugging Face hub.

    Args:
        source: a built-in behaviour ("wealth-seeking"; "wealth-seeking-ab" asks it in letters); a published set
            ("bipo/wealth-seeking", see `sl.datasets()`); the toy world's ("toy/wealth", see `steerlens.toy.PAIR_NAMES`);
            a .csv, .json or .jsonl file; or "hf:owner/name", with ":config" and "/split" behind it where wanted. The
            format is told by the columns alone:

            - `prompt, chosen, rejected` as Hugging Face has them: texts, or messages, with the prompt apart or inside, of one
              turn or of several (then the prompt is a conversation, see `PreferencePairs`); or two transcripts of
              "\\n\\nHuman: ...\\n\\nAssistant: ...", parted at the last "\\n\\nAssistant:";
            - `question, matching, not_matching` and `question, A, B, matching`: the BiPO authors';
            - `question, answer_matching_behavior, answer_not_matching_behavior`, and `prompt, correct, incorrect`: CAA's and
              the model-written evals', letters and words; of several answers that don't match, the first;
            - TruthfulQA's: the best answer against the first incorrect one, one pair per question;
            - `question, choices, answer` as MMLU has them: the right answer against the first wrong one;
            - `goal, target, refusal`: AdvBench's targets with refusals of your own.

            A column `split` (train, val or validation or dev, test) is kept, and so are the parts of a .json file
            {"train": [...], "test": [...]}. A system text that all rows share (a system turn, or a column `system` or its
            like) becomes `system_prompt`. A column that says what the rows mean and is not read (`history`, `context`,
            `input`, `instruction`, options, ...) is refused by its name; ids, scores and the like are left.
        template, system_prompt, on_bad: as in `PreferencePairs`; rows that hold no pair are bad too.
        data_dir: the folder of published sets; None for the environment variable STEERLENS_DATA.

    Raises:
        PairsError: no such source, unknown columns, columns that would be lost, or rows that can't be used (they are listed
            with their reasons).
    """
    name = source_name(source)
    if name.lower().startswith("toy/"):
        return load_toy_pairs(name.lower(), template, system_prompt, on_bad)
    if name.removesuffix("-ab") in built_in() and name.endswith("-ab"):
        plain = load_pairs(name.removesuffix("-ab"), template=template, system_prompt=system_prompt)
        pairs = plain.as_choices(seed=0).as_pairs()
        pairs.provenance = f"steerlens/{name}"
        return pairs
    table = read_table(name, "pairs", data_dir)
    pairs = pairs_from(table, template, system_prompt, on_bad)
    both = {p.strip() for p in pairs.train.prompts} & {p.strip() for p in pairs.test.prompts} if table.splits else set()
    if both:
        log.warning("%d prompts of %s are in its training and its test part, as published", len(both), pairs.provenance)
    return pairs


def source_name(source: object) -> str:
    """A source as text; PairsError unless it is a name or a path."""
    if not isinstance(source, (str, PathLike)) or not isinstance(fspath(source), str):
        listed = (
            isinstance(source, (list, tuple, dict)) or hasattr(source, "columns") or hasattr(source, "column_names")
        )
        cure = (
            ". Rows in memory: sl.PreferencePairs(prompts, chosen, rejected), or write them to a .jsonl file"
            if listed
            else ""
        )
        raise PairsError(
            f"source={shown(source)}; expected a name, as sl.datasets() lists them, or a file's path{cure}"
        )
    return fspath(source)


def read_table(name: str, kind: Kind, data_dir: str | Path | None) -> Table:
    """The rows behind a built-in or published name, a path, or "hf:owner/name"."""
    if name in built_in():
        return Table(read_file(BUILT_IN / f"{name}.jsonl"), f"steerlens/{name}")
    if name.startswith("hf:"):
        return read_hub(name[3:])
    file, endings = Path(name), (*ENDINGS, ".txt") if kind == "prompts" else ENDINGS
    published = None if file.suffix.lower() in endings else read_published(name, kind, data_dir)
    if published is not None:
        return published
    if file.suffix.lower() in endings and is_file(file):
        return Table(read_file(file), f"{file.parent.name}/{file.name}" if file.parent.name else file.name)
    why = "there is no such file" if file.suffix else "it is no built-in name and has no file ending"
    why = f"a {file.suffix} file is none that can be read" if file.suffix and is_file(file) else why
    toy = {"pairs": "'toy/wealth' or its like, ", "questions": "sl.toy.questions(...), ", "prompts": ""}[kind]
    raise PairsError(
        f"can't load {kind} from {shown(name)}: {why}. Expected one of the built-in {built_in()}, {toy}a published set "
        f"(sl.datasets() lists them), a {', '.join(endings)} file, or 'hf:owner/name'"
    )
