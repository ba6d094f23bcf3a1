"""How much a grid of vectors saves: layers and seeds trained together against one run after another.

python -m analyses.speed_grid --help
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import steerlens as sl


@dataclass(frozen=True)
class Config:
    """What is measured."""

    model: str = "smollm2-wheel"
    layers: tuple[int, ...] = (5, 13, 21)
    seeds: tuple[int, ...] = (0, 1, 2)
    pairs: int = 40
    max_steps: int = 10


def run(config: Config) -> tuple[float, float, float]:
    """Seconds for the grid and for its runs one by one, and the lowest cosine between a vector and its twin."""
    model = sl.load_model(config.model)
    pairs = sl.load_pairs("wealth-seeking").train[: config.pairs]
    start = time.perf_counter()
    grid = sl.train_bipo_grid(
        model, pairs, config.layers, seeds=config.seeds, lrs=(0.02,), max_steps=config.max_steps, progress=False
    )
    together = time.perf_counter() - start
    start = time.perf_counter()
    alone = [
        sl.train_bipo(model, pairs, layer, lr=0.02, seed=seed, max_steps=config.max_steps, progress=False)
        for layer in config.layers
        for seed in config.seeds
    ]
    apart = time.perf_counter() - start
    cosines = [torch.dot(a.direction, b.direction) for a, b in zip(grid, alone, strict=True)]
    return together, apart, float(min(cosines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m analyses.speed_grid", description=str(__doc__).split("\n")[0])
    parser.add_argument("--model", default=Config.model)
    parser.add_argument("--layers", type=int, nargs="+", default=Config.layers)
    parser.add_argument("--seeds", type=int, nargs="+", default=Config.seeds)
    parser.add_argument("--pairs", type=int, default=Config.pairs, help="training pairs (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=Config.max_steps)
    config = Config(**vars(parser.parse_args(arguments)))
    together, apart, cosine = run(config)
    n = len(config.layers) * len(config.seeds)
    print(f"{n} vectors, {config.max_steps} steps each over {config.pairs} pairs")
    print(f"one after another {apart:.1f} s, together {together:.1f} s: {apart / together:.2f} times as fast")
    print(f"lowest cosine between a vector of the grid and its twin: {cosine:.8f}")


if __name__ == "__main__":
    main()
