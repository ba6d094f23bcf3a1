"""CAA F6: which tokens lie along a vector, on held-out pairs.

python -m analyses.tokens --model toy --behaviour wealth
"""

from dataclasses import dataclass

import pandas as pd

import steerlens as sl
from analyses.contenders import make
from analyses.study import Finding, StudyConfig, main, with_interval
from steerlens._stats import mean_interval
from steerlens.figures.strips import token_strip


@dataclass(frozen=True)
class Config(StudyConfig):
    """What is read."""

    methods: tuple[str, ...] = ("bipo", "freeform", "random")
    prompts: int = 20


def run(config: Config) -> Finding:
    """Project every token of held-out pairs on each vector; do chosen answers lie higher than rejected ones?"""
    model, test = config.load(), config.pairs().test[: config.prompts]
    projection = sl.token_projection(model, make(config, model, methods=config.methods), test)
    frame = projection.to_frame()
    frame = frame[frame["response"]]  # not the prompt, nor the first token, whose norm is a giant in some models
    found = []
    for label, rows in frame.groupby("vector", sort=False):
        means = rows.groupby("text")["value"].mean().to_numpy()
        gap = means[0::2] - means[1::2]  # texts are prompt and chosen, prompt and rejected, in turn
        low, high = mean_interval(gap[:, None])
        found.append(
            f"{label}: mean projection of answers' tokens, chosen less rejected: {with_interval(gap.mean(), low[0], high[0], 3)}"
        )
    words = frame.groupby(["vector", "token"])["value"].agg(["mean", "count"]).reset_index()
    top = words[words["count"] >= 3].sort_values("mean").groupby("vector").tail(10)
    return Finding(
        study="tokens",
        title=f"Tokens along the vectors, {config.behaviour} on {config.name}",
        item="CAA F6",
        published="figure: tokens of the behaviour project positively on its vector, tokens of the opposite negatively",
        found=found,
        figures={"tokens-chosen": token_strip(projection, 0), "tokens-rejected": token_strip(projection, 1)},
        tables={"top-tokens": pd.DataFrame(top)},
    )


if __name__ == "__main__":
    main(run, Config)
