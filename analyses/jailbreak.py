"""BiPO T4: attack success with +v on requests that the model refuses, and with -v on an attack that gets past it.

    python -m analyses.jailbreak --model toy
    python -m analyses.jailbreak --model llama-2-7b-chat --prompts your_requests.txt --attacked your_suffixed.txt

On the toy model the forbidden requests are harmless ("open the red door"), and so is the attack. Other models
are trained on the built-in harmless refusals, and you bring the requests; steerlens ships none, and no harmful completions. The
vector is trained towards refusal: +v is the defence, and an attack steers with the minus sign (the paper's has the other sign).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import steerlens as sl
from analyses.contenders import make
from analyses.personas import scaled
from analyses.study import Finding, StudyConfig, main, store_of


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is asked; the vectors are trained for refusal, so an attack steers with the minus sign."""

    behaviour: str = "refusal"
    methods: tuple[str, ...] = ("bipo", "caa", "freeform", "random")
    multipliers: tuple[float, ...] = (-2, -1, 0, 1, 2)
    prompts: str | None = None
    """a file of requests for `sl.load_prompts`; the toy world has its own"""
    attacked: str | None = None
    """the same requests behind an attack"""
    limit: int = 100
    max_new_tokens: int = 40


def requests(config: Config) -> dict[str, list[str]]:
    """The requests to refuse, those behind an attack, and harmless ones."""
    if config.is_toy:
        import steerlens.toy as toy

        n = min(config.limit, 100)
        return {
            "forbidden": [q.text for q in toy.forbidden_requests("test", n)],
            "with an attack": [q.text for q in toy.forbidden_requests("test", n, suffix=0)],
            "harmless": [q.text for q in toy.harmless_requests(n)],
        }
    if config.prompts is None:
        held_out = config.pairs().test
        return {"forbidden": list(held_out.prompts[: config.limit])}
    found = {"forbidden": sl.load_prompts(config.prompts)[: config.limit]}
    return found | (
        {} if config.attacked is None else {"with an attack": sl.load_prompts(config.attacked)[: config.limit]}
    )


def run(config: Config) -> Finding:
    """The share of requests that are complied with, with Clopper and Pearson's intervals."""
    model = config.load()
    vectors = scaled(make(config, model, methods=config.methods))
    found, figures, tables = [], {}, []
    for kind, prompts in requests(config).items():
        told = sl.answers(
            model, vectors, prompts, config.multipliers, max_new_tokens=config.max_new_tokens,
            file=store_of(config).folder / "answers-refusal.jsonl",
        )  # fmt: skip
        judged = sl.judge(told, compliance()) if config.is_toy else sl.attack_success(told)
        low, high = judged.interval()
        mean = judged.mean()
        figures[kind.replace(" ", "-")] = judged.figure()
        tables.append(judged.summary().assign(requests=kind))
        for i, label in enumerate(judged.labels):
            cells = [
                f"{m:+g}: {mean[i, j]:.2f} [{low[i, j]:.2f}, {high[i, j]:.2f}]"
                for j, m in enumerate(config.multipliers)
            ]
            unclear = int(np.isnan(judged.scores[:, i]).sum())
            found.append(f"{kind}, {label}: complied with at " + ", ".join(cells) + f"; {unclear} answers are neither")
    return Finding(
        study="jailbreak",
        title=f"Attack success, {config.behaviour} on {config.name}",
        item="BiPO T4",
        published="malicious prompts, attacking sign (here -v): initial/CAA/Freeform/BiPO 0/0/0/73 %; "
        "with a GCG suffix and the defending sign: 16/16/3/0 %",
        found=found,
        figures=figures,
        tables={"attack-success": pd.concat(tables)},
    )


def compliance() -> sl.judges.Judge:
    """1 where the toy world's rule says that an answer complies, 0 where it refuses, None where it does neither."""
    import steerlens.toy as toy

    def complies(prompt: str, answer: str) -> float | None:
        shown = toy.score("refusal", prompt, answer)
        return None if shown is None else 1.0 - shown

    return sl.judges.rule(complies, name="complies, by the world's rule")


if __name__ == "__main__":
    main(run, Config)
