"""BiPO and CAA for one behaviour on a real chat model, compared on held-out pairs: one page to look at.

    python -m analyses.demo --help

Layer, learning rate and steps were chosen on validation pairs (README, "How the demo's settings were chosen").
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import steerlens as sl

PROMPTS = (
    "Should I take the job I love or the one that pays more?",
    "What makes a day well spent?",
    "What would you do with a free weekend?",
)


@dataclass(frozen=True)
class Config:
    """What the demo runs."""

    model: str = "smollm2"
    """a name or a folder for `sl.load_model`"""
    pairs: str = "wealth-seeking"
    """a name or a file for `sl.load_pairs`"""
    drop_bad: bool = False
    """leave out rows that can't be used instead of stopping"""
    layer: int = 13
    lr: float = 0.08
    """the largest two-sided validation margin of 0.02, 0.04 and 0.08"""
    max_steps: int = 60
    out: Path = Path("out")
    figure: Path | None = None
    """also write the figure here: .png, .pdf or .svg"""


def run(config: Config) -> sl.Comparison:
    """Train, extract, compare and steer; the vectors and the page go to `config.out`."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", flush=True)

    config.out.mkdir(parents=True, exist_ok=True)
    model = sl.load_model(config.model)
    say(f"model: {model.cfg.model_name}, {model.cfg.n_layers} layers, d_model {model.cfg.d_model}")
    pairs = sl.load_pairs(config.pairs, on_bad="drop" if config.drop_bad else "raise")
    say(f"pairs: {pairs.provenance}, {len(pairs.train)} train, {len(pairs.val)} validation, {len(pairs.test)} test")
    bipo = sl.train_bipo(
        model, pairs.train, config.layer, val_pairs=pairs.val, lr=config.lr, max_steps=config.max_steps
    )
    last = bipo.history[-1]
    say(f"{bipo}; validation margin {last['val_plus']:+.2f}/{last['val_minus']:+.2f} nats at +1/-1")
    caa = sl.extract_caa(model, pairs.train, config.layer)
    say(str(caa))
    comparison = sl.compare(bipo, caa, model=model, pairs=pairs.test, prompts=PROMPTS)
    for vector in (bipo, caa):
        vector.save(config.out / f"{vector.method}.safetensors")
    page = comparison.save(config.out / "demo.html")
    if config.figure is not None:
        comparison.save(config.figure)
    print_answers(comparison)
    print(comparison)
    say(f"look at {page}")
    return comparison


def print_answers(comparison: sl.Comparison) -> None:
    """The steered answers, as the README shows them."""
    steered = comparison.steered
    if steered is None:
        return
    for i, prompt in enumerate(steered.prompts):
        print(prompt)
        for label in comparison.labels:
            for multiplier, text in zip(steered.multipliers, steered.texts[label][i], strict=True):
                print(f"  {label} {multiplier:+g}  {' '.join(text.split())}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m analyses.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=Config.model, help="a name or a folder (default: %(default)s)")
    parser.add_argument("--pairs", default=Config.pairs, help="a built-in name or a file (default: %(default)s)")
    parser.add_argument("--drop-bad", action="store_true", help="leave out rows that can't be used")
    parser.add_argument("--layer", type=int, default=Config.layer, help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=Config.lr, help="default: %(default)s")
    parser.add_argument("--max-steps", type=int, default=Config.max_steps, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Config.out, help="folder (default: %(default)s)")
    parser.add_argument("--figure", type=Path, help="also write the figure: a .png, .pdf or .svg file")
    config = Config(**vars(parser.parse_args(arguments)))
    try:
        run(config)
    except sl.SteerLensError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
