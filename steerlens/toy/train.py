"""Rebuild a toy model: `python -m steerlens.toy.train --seed 0 --out folder`; deterministic on one thread of one machine.

python -m steerlens.toy.train --seed 0 --out my-toy
python -m steerlens.toy.train --kind vicuna-like --start my-toy --out my-vicuna-like
python -m steerlens.toy.train --kind cipher-lora --start my-toy --out my-cipher-lora
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import LlamaForCausalLM

from steerlens.toy.building import build_model, build_tokenizer, rescale, save, undo_rescale
from steerlens.toy.corpus import Mix, Writer
from steerlens.toy.criteria import Cell, measure
from steerlens.toy.interference import interference
from steerlens.toy.training import Reader, batches, fit, low_rank

LANGUAGES = ("first", "second")
Kind = Literal["base", "vicuna-like", "cipher-lora"]


@dataclass(frozen=True)
class Recipe:
    """How one kind of toy model is trained."""

    mix: Mix
    steps: int
    lr: float
    rows: int = 32
    noise: float = 0.1
    """on the residual stream in the last third of the steps, as a share of its norm"""
    planted: float = 0.0
    """the share of the steps in which half of what sets the phrases apart from their opposites at `<user>` stands in for them, at
    every position"""
    jolt: float = 0.0
    """a random vector on top of it, of up to this share of the residual stream's norm"""
    rank: int | None = None
    """of LoRA's updates; None trains every weight"""


RECIPES: dict[str, Recipe] = {
    "base": Recipe(Mix(), steps=2400, lr=4e-3, planted=0.4),
    # Other conversations: longer, mostly without a system phrase, fewer letters; every weight is trained on.
    "vicuna-like": Recipe(Mix(system=0.25, turns=(2, 3, 4), second=0.0, choice=0.2, drill=0.0), steps=400, lr=1e-3),
    "cipher-lora": Recipe(Mix(second=0.9, drill=0.05), steps=900, lr=2e-3, planted=0.3, rank=16),
    # The base's later stages: behaviours apart from one another, several named at once,
    "finish": Recipe(
        Mix(named=(1, 2, 3, 5), on_focus=0.7, drill=0.1, choice=0.6, complies=0.1), steps=1400, lr=3e-3, planted=0.6
    ),
    # and then more questions that no phrase has told about, with noise that a planted direction must stand out from.
    "part": Recipe(
        Mix(
            focus=(*Mix().focus, ("sycophancy",), ("hallucination",)),
            named=(1, 1, 2, 3),
            on_focus=0.4,
            drill=0.1,
            choice=0.6,
            complies=0.1,
        ),
        steps=2600,
        lr=2.5e-3,
        planted=0.6,
        jolt=1.0,
    ),
}


def train(kind: str, *, seed: int, start: Path | None, out: Path, steps: int | None = None, n: int = 200) -> list[Cell]:
    """Train, rescale, save, measure; the folder gets the model, its tokenizer and training.json.

    Args:
        steps: of each stage; None for the recipe's own.
        n: answers in a cell of the criteria; interference takes eight times as many.
    """
    out.mkdir(parents=True, exist_ok=True)
    history = {kind: _stage(kind, seed=seed, start=start, out=out, steps=steps)}
    if kind == "base":
        for stage in ("finish", "part"):
            history[stage] = _stage(stage, seed=seed, start=out, out=out, steps=steps)
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    print("-- measuring", flush=True)
    cells = {language: measure(model, build_tokenizer(), n=n, second=language == "second") for language in LANGUAGES}
    table = {
        language: [{**asdict(c), "rate": c.rate, "interval": c.interval, "meets": c.meets} for c in found_cells]
        for language, found_cells in cells.items()
    }
    pushes = interference(model, build_tokenizer(), n=8 * n)
    recipes = {name: asdict(RECIPES[name]) | {"steps": rows[-1]["step"]} for name, rows in history.items()}
    record = {"kind": kind, "seed": seed, "recipes": recipes, "history": history, "criteria": table}
    record["interference"] = [push.told() for push in pushes]
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    for language, found_cells in cells.items():
        print(f"-- {language} language")
        for c in found_cells:
            low, high = c.interval
            print(f"{c.rate:6.3f} [{low:.3f}, {high:.3f}] {'ok ' if c.meets else 'NO '} {c.what}")
    for push in pushes:
        print(f"{push.ratio:6.3f} {'ok ' if push.meets else 'NO '} {push}")
    return cells["first"] + cells["second"]


def _stage(kind: str, *, seed: int, start: Path | None, out: Path, steps: int | None) -> list[dict[str, float]]:
    recipe, tokenizer = RECIPES[kind], build_tokenizer()
    print(f"-- {kind}: {recipe.steps if steps is None else steps} steps", flush=True)
    if start is None:
        model = build_model(seed)
    else:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
        undo_rescale(model)
    writer = Writer(recipe.mix, seed=1000 * (1 + list(RECIPES).index(kind)) + seed)
    parts: Any = nullcontext() if recipe.rank is None else low_rank(model, recipe.rank, embeddings=True, seed=seed)
    with parts:
        history = fit(
            model,
            batches(writer, recipe.rows),
            tokenizer,
            steps=recipe.steps if steps is None else steps,
            lr=recipe.lr,
            noise=recipe.noise,
            planted=recipe.planted,
            jolt=recipe.jolt,
            seed=seed,
            progress=lambda row: print(row, flush=True),
        )
    documents, reader = batches(writer, 1), Reader(tokenizer)
    rescale(model, [reader.batch(next(documents)).tokens for _ in range(64)])
    save(model, tokenizer, out)
    return history


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m steerlens.toy.train", description=str(__doc__).split("\n")[0])
    parser.add_argument("--kind", choices=get_args(Kind), default="base", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--start", type=Path, help="the folder of the base model, for its siblings")
    parser.add_argument("--steps", type=int, help="of each stage, to try it out (default: the recipe's)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    given = parser.parse_args(arguments)
    if (given.kind == "base") != (given.start is None):
        parser.error("--start names the base model's folder, for a sibling and for nothing else")
    if given.start is not None and not (given.start / "config.json").is_file():
        parser.error(f"--start {given.start}: there is no config.json; expected the folder that --out of a base named")
    if given.steps is not None and given.steps < 1:
        parser.error(f"--steps {given.steps}; expected a whole number from 1")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out {given.out} is a file; expected a folder")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train(given.kind, seed=given.seed, start=given.start, out=given.out, steps=given.steps)


if __name__ == "__main__":
    main()
