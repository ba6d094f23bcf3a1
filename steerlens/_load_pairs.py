"""Where preference pairs come from: built-in behaviours, files and the hub."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from steerlens._rows import OnBad
from steerlens._templates import Template
from steerlens.errors import PairsError
from steerlens.pairs import PreferencePairs

log = logging.getLogger(__name__)
BUILT_IN = Path(__file__).parent / "data"
COLUMNS = (  # the names under which a prompt and its two responses are published
    ("prompt", "chosen", "rejected"),
    ("question", "matching", "not_matching"),
    ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
)
_PROBE_SECONDS = 10


def load_pairs(
    source: str | Path,
    *,
    template: Template = "auto",
    system_prompt: str | None = None,
    on_bad: OnBad = "raise",
) -> PreferencePairs:
    """Load preference pairs by a built-in name, from a file, or from the Hugging Face hub.

    Args:
        source: a built-in behaviour ("wealth-seeking"); a .csv, .json or .jsonl file; or "hf:owner/name".
            Columns: `prompt, chosen, rejected`, or `question, matching, not_matching` (the BiPO authors' CSVs), or
            `question, answer_matching_behavior, answer_not_matching_behavior`; a column `split` (train, val, test) is kept.
        template, system_prompt, on_bad: as in `PreferencePairs`.

    Raises:
        PairsError: no such source, missing columns, or rows that can't be used (they are listed).
    """
    name, path = str(source), Path(source)
    built_in = sorted(p.stem for p in BUILT_IN.glob("*.jsonl"))
    if name in built_in:
        path, provenance = BUILT_IN / f"{name}.jsonl", f"steerlens/{name}"
    elif name.startswith("hf:"):
        return _from_table(_read_hub(name[3:]), name, template, system_prompt, on_bad)
    elif path.suffix.lower() in (".csv", ".json", ".jsonl") and path.is_file():
        provenance = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
    else:
        why = "there is no such file" if path.suffix else "it is no built-in name and has no file ending"
        why = f"a {path.suffix} file is none that can be read" if path.suffix and path.is_file() else why
        raise PairsError(
            f"can't load pairs from {name!r}: {why}. Expected one of the built-in {built_in}, a .csv, .json or .jsonl "
            "file, or 'hf:owner/name'"
        )
    return _from_table(_read_file(path), provenance, template, system_prompt, on_bad)


def _read_file(path: Path) -> Any:
    import pandas as pd

    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)  # or an empty question becomes NaN
            if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first column for row names
                raise ValueError("its rows have more fields than its header; a text with a comma needs quotes")
            return table
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in text.split("\n") if line.strip()]
        found = json.loads(text) if path.suffix.lower() == ".json" else [json.loads(line) for line in lines]
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise ValueError("expected a list of objects with a field for each column, or one such object a line")
        return pd.DataFrame(found, dtype=object)
    except (ValueError, OSError) as error:
        raise PairsError(f"{path} can't be read as {path.suffix[1:]}: {error}") from error


def _read_hub(name: str) -> Any:
    import datasets
    import huggingface_hub

    try:
        with suppress(huggingface_hub.errors.OfflineModeIsEnabled):  # then the cache is read without a request
            # load_dataset retries for half a minute without a network; this one request does not.
            huggingface_hub.HfApi().dataset_info(name, timeout=_PROBE_SECONDS)
        loaded = datasets.load_dataset(name)
    except Exception as error:  # the hub's client raises a dozen kinds, most of them about the network
        raise PairsError(
            f"can't load {name!r} from the hub ({type(error).__name__}: {str(error)[:200]}). Without a network: download "
            "its file elsewhere and pass the path of the .csv, .json or .jsonl; or, if it is in the cache, set HF_HUB_OFFLINE=1"
        ) from error
    import pandas as pd

    if len(loaded) == 1:  # no split declared: .train, .val and .test draw one
        return next(iter(loaded.values())).to_pandas()
    frames = [part.to_pandas().assign(split=_split_name(name, str(split))) for split, part in loaded.items()]
    return pd.concat(frames, ignore_index=True)


def _split_name(name: str, split: str) -> str:
    """ "train_prefs" is a training part, "validation", "dev" and the like the validation part, "test_prefs" the test part."""
    word = split.lower().split("_")[0].split(".")[0]
    known = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
    if word not in known:
        raise PairsError(
            f"{name!r} has a part {split!r}; expected names that begin with {sorted(known)}. Save the part that you want as "
            "a .jsonl file and load that"
        )
    return known[word]


def _from_table(
    table: Any, provenance: str, template: Template, system_prompt: str | None, on_bad: OnBad
) -> PreferencePairs:
    columns = next((names for names in COLUMNS if set(names) <= set(table.columns)), None)
    if columns is None:
        expected = " or ".join("(" + ", ".join(names) + ")" for names in COLUMNS)
        raise PairsError(f"{provenance} has the columns {list(table.columns)}; expected {expected}")
    prompt, chosen, rejected = (table[name].tolist() for name in columns)
    splits = table["split"].tolist() if "split" in table.columns else None
    pairs = PreferencePairs(
        prompt, chosen, rejected, template, system_prompt, provenance=provenance, splits=splits, on_bad=on_bad
    )
    both = {p.strip() for p in pairs.train.prompts} & {p.strip() for p in pairs.test.prompts} if splits else set()
    if both:
        log.warning("%d prompts of %s are in its training and its test part, as published", len(both), provenance)
    return pairs
