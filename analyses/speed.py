"""How fast a BiPO step is: the plain two-forward step of the authors' code against ours, in pairs in one run.

    python -m analyses.speed                       # a random Llama, 16 layers, d_model 512, vector at layer 7
    python -m analyses.speed --model smollm2 --layer 13
    python -m analyses.speed --shape llama-2-7b --layer 15 --device cuda --dtype bfloat16

"plain" is the authors' step on Hugging Face's model: chosen and rejected texts padded to one batch, a full forward with the
vector, a full forward without it, log-probabilities at every position, a backward. The other rows add one saving each; all
give the same gradient, and the table says how far from plain's it is.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import steerlens as sl
from steerlens.figures.theme import style
from steerlens.forward.hooked_route import pad_tokens
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.pair_scores import PairScorer
from steerlens.models.sources import smollm2_folder
from steerlens.text.encode import EncodedPair

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"num_hidden_layers": 16, "hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8},
    "llama-2-7b": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32},
}


@dataclass(frozen=True)
class Config:
    """What is measured."""

    shape: str = "small"
    vocab: int = 4096
    model: str | None = None
    """a model's name or folder instead of random weights of a shape"""
    layer: int = 7
    pairs: str = "wealth-seeking"
    batch: int = 4
    steps: int = 7
    device: str = "cpu"
    dtype: str = "float32"
    out: Path = Path("analyses/out")


@dataclass(frozen=True)
class Bench:
    """A model in both libraries, encoded pairs, and the batches to step over."""

    hf: Any
    model: Any
    pairs: list[EncodedPair]
    batches: list[list[int]]
    layer: int


def random_folder(config: Config, folder: Path, texts: Sequence[str]) -> Path:
    """A Llama of the shape with random weights, and a byte-level BPE tokenizer trained on the pairs' texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(vocab_size=config.vocab, max_position_embeddings=2048, **SHAPES[config.shape])
    with torch.device(config.device):
        made: Any = transformers.AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, config.dtype))
    made.save_pretrained(folder)
    return folder


def prepare(config: Config, folder: Path) -> Bench:
    """Load both models and encode the pairs in the authors' Llama-2 format."""
    pairs = sl.load_pairs(config.pairs, template="llama-2", on_bad="drop")
    texts = [text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected)]
    if config.model is None:
        model = sl.load_model(random_folder(config, folder, texts), dtype=config.dtype, device=config.device)
        where = folder
    else:
        model = sl.load_model(config.model, dtype=config.dtype, device=config.device)
        where = smollm2_folder(from_wheel=True)[0] if config.model.startswith("smollm2") else Path(config.model)
    hf: Any = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=config.dtype, attn_implementation="eager")
    hf = hf.to(config.device).eval().requires_grad_(False)
    encoded = pairs.train.encode(model)
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(0)).tolist()
    batches = [order[i * config.batch : (i + 1) * config.batch] for i in range(config.steps)]
    return Bench(hf, model, encoded, batches, config.layer)


def response_positions(sides: Sequence[tuple[Sequence[int], Sequence[int]]], mask: Tensor) -> Tensor:
    """Where a padded text (prompt, response) has a token of its response."""
    where = torch.zeros_like(mask, dtype=torch.bool)
    for i, (prompt, side) in enumerate(sides):
        where[i, len(prompt) : len(prompt) + len(side)] = True
    return where


def plain_step(bench: Bench, rows: Sequence[int], v: Tensor, beta: float = 0.1) -> Tensor:
    """The authors' step: two full forwards over chosen and rejected texts, every position unembedded; the gradient."""
    device = v.device
    pairs = [bench.pairs[i] for i in rows]
    sides = [(p.prompt, side) for k in (0, 1) for p in pairs for side in ((p.chosen, p.rejected)[k],)]
    tokens, mask = (t.to(device) for t in pad_tokens([(*prompt, *side) for prompt, side in sides], left=False))
    where = response_positions(sides, mask)

    def sums(added: Tensor | None) -> Tensor:
        block = bench.hf.model.layers[bench.layer]
        hook = block.register_forward_hook(
            lambda _m, _a, out: (
                out if added is None else (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
            )
        )
        try:
            logits = bench.hf(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        finally:
            hook.remove()
        logprobs = logits.float().log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        return (logprobs * where[:, 1:]).sum(1).view(2, -1)

    steered = sums(v.to(bench.hf.dtype))
    with torch.no_grad():
        reference = sums(None)
    gain = steered - reference
    return torch.autograd.grad(F.softplus(-beta * (gain[0] - gain[1])).mean(), v)[0]


def hooked_step(bench: Bench, rows: Sequence[int], v: Tensor, reference: Tensor, *, cached: Any = None) -> Tensor:
    """HookedTransformer without sharing the prompt: reference cached; with `cached`, also the residual stream."""
    from steerlens.forward.readout import logits_at, sum_logprobs
    from steerlens.forward.steer import added_at

    model, device = bench.model, v.device
    sides = [(bench.pairs[i].prompt, side) for i in rows for side in (bench.pairs[i].chosen, bench.pairs[i].rejected)]
    tokens, mask = (t.to(device) for t in pad_tokens([(*prompt, *side) for prompt, side in sides], left=False))
    n_layers = model.cfg.n_layers
    if cached is None:
        with added_at(model, bench.layer, lambda resid: resid + v.to(resid)):
            logits = model(tokens, attention_mask=mask).float().log_softmax(-1)
        picked = logits[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        sums = (picked * response_positions(sides, mask)[:, 1:]).double().sum(1)
    else:
        resid = torch.zeros(*tokens.shape, model.cfg.d_model, device=device, dtype=model.cfg.dtype)
        for i, row in enumerate(rows):
            p, chosen, rejected = cached.parts(row)
            resid[2 * i, : len(p) + len(chosen)] = torch.cat([p, chosen]).to(device)
            resid[2 * i + 1, : len(p) + len(rejected)] = torch.cat([p, rejected]).to(device)
        out = model(resid + v.to(resid), start_at_layer=bench.layer + 1, attention_mask=mask, stop_at_layer=n_layers)
        index = [(i, len(p) - 1 + t, i, s[t]) for i, (p, s) in enumerate(sides) for t in range(len(s))]
        at = torch.tensor(index, device=device)
        sums = sum_logprobs(logits_at(model, out[at[:, 0], at[:, 1]]), at[:, 3], at[:, 2], len(sides))
    gain = sums.view(-1, 2) - reference[list(rows)].to(sums)
    return torch.autograd.grad(F.softplus(-0.1 * (gain[:, 0] - gain[:, 1])).mean(), v)[0]


def scorer_step(scorer: PairScorer, rows: Sequence[int], v: Tensor) -> Tensor:
    """Ours, on either route."""
    gain = scorer.shift(rows, v)
    return torch.autograd.grad(F.softplus(-0.1 * (gain[:, 0] - gain[:, 1])).mean(), v)[0]


def gemm_peak(device: str, dtype: str, seconds: float = 1.0) -> float:
    """Floating-point operations per second of a large matrix product."""
    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    a @ a
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = max(best, 2 * size**3 / timed(lambda: a @ a, device))
    return best


def timed(call: Callable[[], Any], device: str) -> float:
    """Seconds."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def needed_flops(bench: Bench, rows: Sequence[int]) -> float:
    """The matrix products that a step can't do without: the upper blocks once per token forward and once backward.

    What all prompts of the batch begin with counts once. Attention's own products are left out (under 3% here), and so is the
    last block's saving; the unembedding is counted at the positions that predict a response token.
    """
    cfg = bench.model.cfg
    tokens = len(FlatRoute(bench.model).pack([bench.pairs[i] for i in rows], alike=True).tokens)
    predicting = sum(len(p.chosen) + len(p.rejected) - 1 for p in (bench.pairs[i] for i in rows))
    kv = (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    block = cfg.d_model * (2 * cfg.n_heads * cfg.d_head + 2 * kv + (3 if cfg.gated_mlp else 2) * cfg.d_mlp)
    upper = cfg.n_layers - bench.layer - 2  # all but the last, which is counted where it is needed
    last = tokens * 2 * cfg.d_model * kv + predicting * (block - 2 * cfg.d_model * kv)
    return 4.0 * (tokens * upper * block + last + predicting * cfg.d_model * cfg.d_vocab)


def run(config: Config) -> pd.DataFrame:
    """Time every variant on the same batches, in turn, so that a drifting machine is fair to all."""
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(config, Path(folder))
    used = sorted({row for rows in bench.batches for row in rows})
    v = (0.01 * torch.randn(bench.model.cfg.d_model, generator=torch.Generator().manual_seed(1))).to(config.device)
    v.requires_grad_(True)
    hooked = PairScorer(bench.model, bench.pairs, config.layer, rows=used, route="hooked")
    flat = PairScorer(bench.model, bench.pairs, config.layer, rows=used, route="flat")
    reference = flat.reference
    _ = hooked.reference  # computed when first asked for: not inside a timed step
    variants: dict[str, Callable[[Sequence[int]], Tensor]] = {
        "plain, Hugging Face, two forwards": lambda rows: plain_step(bench, rows, v),
        "HookedTransformer, reference cached": lambda rows: hooked_step(bench, rows, v, reference),
        "+ residual stream cached, responses unembedded": lambda rows: hooked_step(
            bench, rows, v, reference, cached=hooked
        ),
        "+ prompt shared (route: hooked)": lambda rows: scorer_step(hooked, rows, v),
        "no padding, blocks written out (route: flat)": lambda rows: scorer_step(flat, rows, v),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    gradients: dict[str, Tensor] = {}
    flops: dict[str, float] = {}
    for name, step in variants.items():  # warm up, compare on one batch, and count the matrix products that are done
        with FlopCounterMode(display=False) as counter:
            gradients[name] = step(bench.batches[0])
        flops[name] = counter.get_total_flops() / needed_flops(bench, bench.batches[0])
    for rows in bench.batches:
        for name, step in variants.items():
            seconds[name].append(timed(lambda step=step, rows=rows: step(rows), config.device))  # type: ignore[misc]
    peak = gemm_peak(config.device, config.dtype)
    floor = statistics.median(needed_flops(bench, rows) / peak for rows in bench.batches)
    return table(seconds, gradients, floor, flops)


def table(
    seconds: dict[str, list[float]], gradients: dict[str, Tensor], floor: float, flops: dict[str, float]
) -> pd.DataFrame:
    """A row per variant: median seconds, how many times faster than plain in the same round, and how near the floor."""
    names = list(seconds)
    plain, exact = seconds[names[0]], gradients[names[0]].double()
    rows = []
    for name in names:
        ratios = [p / s for p, s in zip(plain, seconds[name], strict=True)]
        median = statistics.median(seconds[name])
        rows.append(
            {
                "step": name,
                "seconds": median,
                "times plain": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "share of GEMM peak": floor / median,
                "FLOPs done / floor": flops[name],
                "gradient differs by": float((gradients[name].double() - exact).norm() / exact.norm()),
            }
        )
    return pd.DataFrame(rows)


def figure(frame: pd.DataFrame) -> go.Figure:
    """Times faster than plain, by saving."""
    low, high = frame["times plain"] - frame["lowest"], frame["highest"] - frame["times plain"]
    bars = go.Bar(
        x=frame["times plain"],
        y=frame["step"],
        orientation="h",
        marker={"color": "#0072B2"},
        error_x={"type": "data", "array": high, "arrayminus": low, "symmetric": False},
    )
    drawn = style(go.Figure(bars), width=760, height=340)
    drawn.update_xaxes(title_text="times as fast as the plain step (median; bars: slowest and fastest round)")
    drawn.update_yaxes(autorange="reversed", automargin=True)
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print the table, write it and the figure to `out`."""
    parser = argparse.ArgumentParser(prog="python -m analyses.speed", description=str(__doc__).split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default=Config.shape)
    parser.add_argument("--vocab", type=int, default=Config.vocab)
    parser.add_argument("--model", help="a name or folder instead of random weights")
    parser.add_argument("--layer", type=int, default=Config.layer)
    parser.add_argument("--pairs", default=Config.pairs)
    parser.add_argument("--batch", type=int, default=Config.batch)
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--dtype", default=Config.dtype)
    parser.add_argument("--out", type=Path, default=Config.out)
    config = Config(**vars(parser.parse_args(arguments)))
    config.out.mkdir(parents=True, exist_ok=True)
    frame = run(config)
    print(frame.to_string(index=False, float_format=lambda x: f"{x:.3g}"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    on_gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU" if config.device != "cpu" else ""
    print(f"peak memory of the process, all variants and both libraries' models: {memory:.1f} GiB{on_gpu}")
    frame.to_csv(config.out / "speed.csv", index=False)
    figure(frame).write_html(config.out / "speed.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
