"""What every study costs on a 7B model: tokens through its blocks, operations, hours on one A100, and memory; from shapes.

    python -m analyses.costs                # Llama-2-7b-chat on the published sets
    python -m analyses.costs --share 0.3

Each study by itself, from its own Config; the suite shares vectors through the store and does less. Not counted: attention's
products of tokens with tokens (1% at these lengths), padding, the CPU's part. Answers are decoded token by token, which a GPU
does at a far smaller share of its peak: for personas, hallucination, jailbreak and epochs the hours are a lower bound.
"""

import argparse
import importlib
import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analyses.study import StudyConfig

PEAKS = {"float32": 19.5e12, "bfloat16": 312e12}  # A100, operations a second; float32 without TF32, PyTorch's default
BYTES = {"float32": 4, "bfloat16": 2}
MMLU, QUESTION, OPTION, OPTIONS = (
    108.7,
    44.0,
    10.6,
    7.2,
)  # tokens of a question of MMLU, of TruthfulQA, of its options; how many
NEUTRAL, ANSWER = 60 * 60, 60  # tokens of the neutral texts, and of an answer to a neutral prompt


@dataclass(frozen=True)
class Shape:
    """A model's shape: layers, width, weights of one block, vocabulary."""

    n_layers: int
    d_model: int
    block: float
    d_vocab: int


@dataclass(frozen=True)
class Lengths:
    """Pairs of each part; mean tokens of a prompt, of its two responses together, and of a lettered question."""

    train: int
    val: int
    test: int
    prompt: float
    responses: float
    lettered: float


SHAPES = {
    "llama-2-7b-chat": Shape(32, 4096, 4 * 4096**2 + 3 * 4096 * 11008, 32000),
    "mistral-7b-instruct": Shape(32, 4096, 2.5 * 4096**2 + 3 * 4096 * 14336, 32000),
}
# In the Llama-2 template by SmolLM2's tokenizer: Llama-2's own gives somewhat more tokens.
WEALTH, REFUSAL = Lengths(519, 103, 200, 62.7, 39.3, 112.9), Lengths(120, 30, 50, 52.3, 65.3, 120.0)


@dataclass(frozen=True)
class Work:
    """Tokens times blocks, forward and backward, and tokens unembedded (twice where there is a backward)."""

    forward: float = 0.0
    backward: float = 0.0
    unembedded: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward, self.unembedded + other.unembedded)

    def __mul__(self, times: float) -> "Work":
        return Work(self.forward * times, self.backward * times, self.unembedded * times)

    def operations(self, shape: Shape) -> float:
        """A frozen weight costs two operations a token forward, and two backward, for the gradient of what goes in."""
        return 2 * shape.block * (self.forward + self.backward) + 2 * shape.d_model * shape.d_vocab * self.unembedded


class Costs:
    """The steps that studies are made of, for a model, a layer and a set of pairs."""

    def __init__(self, config: StudyConfig, shape: Shape, lengths: Lengths) -> None:
        self.shape, self.lengths, self.layer = shape, lengths, config.preset.layer
        self.pair, self.per_epoch = lengths.prompt + lengths.responses, math.ceil(lengths.train / 4)
        self.steps = config.preset.steps or 20 * self.per_epoch

    def read(self, pairs: float, layer: int | None = None, *, lettered: bool = False) -> Work:
        """Pairs through the blocks up to a layer: CAA, and what comes before any steering."""
        each = self.lengths.lettered + 8 if lettered else self.pair
        return Work(pairs * each * ((self.layer if layer is None else layer) + 1))

    def scores(self, pairs: float, layer: int | None = None, *, learns: bool = False) -> Work:
        """Log-probabilities of both responses from the residual stream after a layer, with or without a backward."""
        through = pairs * self.pair * (self.shape.n_layers - 1 - (self.layer if layer is None else layer))
        return Work(through, through * learns, pairs * self.lengths.responses * (1 + learns))

    def bipo(self, layer: int | None = None) -> Work:
        """A BiPO vector: its pairs read once, the reference once, then a forward and a backward of the upper blocks a step."""
        used = min(self.lengths.train, 4 * self.steps)
        return self.read(used, layer) + self.scores(used, layer) + self.scores(4 * self.steps, layer, learns=True)

    def shift(self, multipliers: int = 2, pairs: float | None = None, layer: int | None = None) -> Work:
        """`sl.preference_shift` at so many multipliers that are not 0."""
        return self.shifts(1, multipliers, pairs, layer)

    def shifts(self, vectors: int, multipliers: int = 2, pairs: float | None = None, layer: int | None = None) -> Work:
        """`analyses.shifts`: the lower half and the unsteered scores once, for so many vectors at a layer."""
        n = self.lengths.test if pairs is None else pairs
        return self.read(n, layer) + self.scores(n, layer) * (1 + vectors * multipliers)

    def answers(self, rows: float, new: float) -> Work:
        """Greedy answers, each as long as it may be."""
        return Work(rows * (self.lengths.prompt + new) * self.shape.n_layers, 0.0, rows * new)

    def options(self, questions: float, tokens: float, scored: float, runs: int) -> Work:
        """Questions with their options: the lower blocks once, the upper ones for each vector and multiplier."""
        above = self.shape.n_layers - 1 - self.layer
        return Work(questions * tokens * (self.layer + 1 + runs * above), 0.0, questions * scored * runs)

    def make(self, methods: tuple[str, ...]) -> Work:
        """`contenders.make`."""
        read = [self.read(self.lengths.train, lettered=m == "caa") for m in methods if m not in ("bipo", "random")]
        return sum(read, self.bipo() if "bipo" in methods else Work())


def studies(model: str, shape: Shape, pairs: Lengths) -> dict[str, Work]:
    """The work of every study, from its default Config."""

    def of(study: str, lengths: Lengths = pairs) -> tuple[Any, Costs, int]:
        config = importlib.import_module(f"analyses.{study}").Config(model=model)
        steered = len(getattr(config, "methods", ())) * (len(getattr(config, "multipliers", (0,))) - 1)
        return config, Costs(config, shape, lengths), 1 + steered  # the unsteered model is asked once

    found, top = {}, shape.n_layers - 1
    c, k, runs = of("personas")
    found["personas"] = found["hallucination"] = k.make(c.methods) + k.answers(2 * c.prompts * runs, c.max_new_tokens)
    c, k, runs = of("truthfulness", replace(pairs, train=408, prompt=QUESTION, responses=2 * OPTION))
    tokens = OPTIONS * OPTION
    found["truthfulness"] = k.make(c.methods) + k.options(c.limit, QUESTION + tokens, tokens, runs)
    c, k, runs = of("jailbreak", REFUSAL)
    found["jailbreak"] = k.make(c.methods) + k.answers(2 * c.limit * runs, c.max_new_tokens)
    c, k, runs = of("knowledge")
    found["knowledge"] = k.make(c.methods) + k.options(4 * c.limit, MMLU + 8, 4, runs)
    c, k, _ = of("composition")
    # Two behaviours, both and both orthogonalised; of the grid's sums, up to their sign, three are among these.
    found["composition"] = k.bipo() * 2 + k.shifts(4 + (len(c.grid) ** 2 - 1) // 2 - 3) * 2
    c, k, _ = of("transfer")  # with two siblings, as in the paper, and the base
    letters = k.read(pairs.train, top, lettered=True) * 2
    steered = k.options(2 * pairs.test, pairs.lettered + 4, 4, 1 + 3 * 2) * len(c.preset.layers)
    found["transfer"] = k.bipo() * 3 + k.shifts(3) * 3 + k.shift() * len(c.preset.layers) + letters + steered
    c, k, _ = of("layer_sweep")
    each = [
        (k.bipo(at) + k.read(pairs.train, at), k.shift(2, pairs.val, at) * 2, k.shift(2, None, at) * 2)
        for at in c.preset.layers
    ]
    found["layer_sweep"] = sum((made + val + test for made, val, test in each), Work())
    chosen = sum((made + val for made, val, _ in each), Work())
    c, k, _ = of("epochs")
    text = Work(3.0 * NEUTRAL * shape.n_layers) + k.answers(3 * c.prompts, ANSWER) * 2
    epochs = math.ceil(k.steps / k.per_epoch)
    found["epochs"] = k.bipo() + k.shifts(epochs) + k.shifts(epochs, 2, pairs.val) + text * epochs
    found["separation"] = k.read(pairs.train + pairs.val + 4 * pairs.test, top, lettered=True)
    found["geometry"] = (k.bipo() + k.read(pairs.train) * 2) * 2 + k.read(pairs.train) * 8
    c, k, _ = of("tokens")
    found["tokens"] = k.make(c.methods) + k.read(min(c.prompts, pairs.test))
    c, k, _ = of("baselines")
    lora = k.scores(c.epochs * pairs.train, -1, learns=True) + k.scores(pairs.train + 2 * pairs.test, -1)
    found["baselines"] = k.bipo() * 2 + k.read(pairs.train) + k.shift(1) * 4 + lora
    c, k, _ = of("what_is_bipo")
    matching = Work(20.0 * NEUTRAL * (top - k.layer))  # ten multipliers, both signs
    found["what_is_bipo"] = chosen + k.shifts(8 * len(c.seeds)) + (k.bipo() + matching) * len(c.seeds)
    return found


def table(model: str = "llama-2-7b-chat", share: float = 0.4) -> pd.DataFrame:
    """Every study: million tokens through all blocks, operations, hours on one A100 and the GPU's memory at the peak."""
    shape, rows = SHAPES[model], []
    weights = shape.n_layers * shape.block + 2 * shape.d_model * shape.d_vocab
    for study, work in studies(model, shape, WEALTH).items():
        row: dict[str, Any] = {"study": study, "forward, M tokens": work.forward / shape.n_layers / 1e6}
        row |= {"backward, M tokens": work.backward / shape.n_layers / 1e6, "PFLOP": work.operations(shape) / 1e15}
        for dtype, peak in PEAKS.items():
            copies = 2 if study == "baselines" else 1  # the adapter is merged into a copy
            # What a step keeps for its backward: about 20 numbers of d_model a token and block, and three times the logits.
            live = 4 * (WEALTH.prompt + WEALTH.responses) * shape.n_layers / 2 * 20 * shape.d_model * BYTES[dtype]
            logits = 3 * 4 * WEALTH.responses * shape.d_vocab * BYTES["float32"]
            row[f"hours, {dtype}"] = work.operations(shape) / (share * peak) / 3600
            row[f"GB, {dtype}"] = (copies * weights * BYTES[dtype] + live + logits) / 1e9
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-2-7b-chat", choices=list(SHAPES))
    parser.add_argument("--share", type=float, default=0.4, help="of the peak that is reached; default: %(default)s")
    asked = parser.parse_args()
    found = table(asked.model, asked.share)
    print("| " + " | ".join(found.columns) + " |\n|" + "---|" * len(found.columns))
    for row in found.itertuples(index=False):
        print("| " + " | ".join(x if isinstance(x, str) else f"{x:.0f}" if x >= 10 else f"{x:.2g}" for x in row) + " |")
    cached = WEALTH.train * (WEALTH.prompt + WEALTH.responses) * SHAPES[asked.model].d_model / 1e9
    sizes = ", ".join(f"{size * cached:.2f} GB in {dtype}" for dtype, size in BYTES.items())
    print(f"\nBeside it, in the CPU's memory: the training pairs' activations, {sizes} for each layer at once.")


if __name__ == "__main__":
    main()
