"""Preference pairs of the toy world, by name."""

from steerlens.errors import PairsError
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.rows import OnBad
from steerlens.text.templates import Template
from steerlens.toy import PAIR_NAMES, pair_rows


def load_toy_pairs(name: str, template: Template, system_prompt: str | None, on_bad: OnBad) -> PreferencePairs:
    """The pairs of one of `steerlens.toy.PAIR_NAMES`; those behind system phrases are written out, so their template is "plain".

    Raises:
        PairsError: no such name, or another template for pairs that are written out.
    """
    if name not in PAIR_NAMES:
        raise PairsError(f"the toy world has no pairs {name!r}; expected one of {', '.join(PAIR_NAMES)}")
    rows = pair_rows(name)
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    if "rejected_prompt" in columns:
        if template not in ("auto", "plain") or system_prompt:
            raise PairsError(
                f"{name!r} is written out with its system phrases: template={template!r} and "
                f"system_prompt={system_prompt!r} have no place there; leave both out"
            )
        template, system_prompt = "plain", None
    return PreferencePairs(
        columns["prompt"],
        columns["chosen"],
        columns["rejected"],
        template,
        system_prompt,
        rejected_prompts=columns.get("rejected_prompt"),
        provenance=f"steerlens/{name}",
        splits=columns["split"],  # type: ignore[arg-type]  # one of the three names
        on_bad=on_bad,
    )
