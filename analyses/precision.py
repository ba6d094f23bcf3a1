"""What 16 bits cost: log-probabilities and margins of a model in a 16-bit dtype, against the same weights in float64.

    python -m analyses.precision                       # SmolLM2 in bfloat16
    python -m analyses.precision --model toy --dtype float16

Two read-outs of one run of the 16-bit blocks: steerlens's, which widens the last residual stream to float32 before the final
norm, and the model's own, whose logits are rounded to 16 bits. The time is that of the read-out alone, once for each pair.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.readout import logits_at
from steerlens.text.encode import EncodedPair


def own_logits(model: HookedTransformer, finals: Tensor) -> Tensor:
    """The model's own last steps, in its dtype."""
    return model.unembed(model.ln_final(finals[None]))[0]


def read(model: HookedTransformer, pair: EncodedPair) -> list[tuple[Tensor, Tensor]]:
    """For each side the residual stream that predicts its tokens, and the tokens."""
    found = []
    for side in (pair.chosen, pair.rejected):
        tokens = torch.tensor([[*pair.prompt, *side]])
        stream = model(tokens, stop_at_layer=model.cfg.n_layers)[0]
        found.append((stream[len(pair.prompt) - 1 : -1], torch.tensor(side)))
    return found


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print how many log-probabilities lie above 0, how far margins are from float64's, and what the read-outs take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--pairs", type=int, default=20)
    asked = parser.parse_args(arguments)

    narrow, wide = (sl.load_model(asked.model, dtype=asked.dtype, device="cpu") for _ in range(2))
    wide.cfg.dtype = torch.float64
    wide.to(torch.float64)
    name = "toy/wealth" if asked.model.startswith("toy") else "wealth-seeking"
    pairs = sl.load_pairs(name).test[: asked.pairs]
    encoded = pairs.encode(narrow)
    # The route of every measure, blocks and all; and with the blocks' streams at hand, the two read-outs.
    layer, sign = narrow.cfg.n_layers // 2, torch.tensor([1.0, -1.0], dtype=torch.float64)
    exact = PairScorer(wide, encoded, layer).reference @ sign
    measured = PairScorer(narrow, encoded, layer).reference @ sign
    print(f"{asked.model}, {asked.dtype}, {len(encoded)} pairs; margins against float64, rms in nats")
    print(f"  preference_shift's unsteered margins: {(measured - exact).square().mean().sqrt():.3f}")
    streams = [read(narrow, pair) for pair in encoded]
    for dtype, logits_of in (("float32", logits_at), (asked.dtype, own_logits)):
        above, count, margins = 0, 0, []
        for sides in streams:
            sums = []
            for finals, tokens in sides:
                logits = logits_of(narrow, finals)
                at = torch.arange(len(tokens))
                # As steerlens did before: the target's logit wide, the normaliser of rounded logits.
                target = logits_at(narrow, finals)[at, tokens] if dtype != "float32" else logits[at, tokens]
                each = target - logits.float().logsumexp(-1)
                above, count = above + int((each > 0).sum()), count + len(tokens)
                sums.append(float(each.double().sum()))
            margins.append(sums[0] - sums[1])
        rms = (torch.tensor(margins, dtype=torch.float64) - exact).square().mean().sqrt()
        print(f"  logits in {dtype}: {rms:.3f}; {above} of {count} tokens with log p above 0")
    ratios = []
    for sides in streams:
        took = []
        for logits_of in (logits_at, own_logits):
            start = time.perf_counter()
            for finals, _ in sides:
                logits_of(narrow, finals).float().logsumexp(-1)
            took.append(time.perf_counter() - start)
        ratios.append(took[0] / took[1])
    print(
        f"  time of the float32 read-out over the {asked.dtype} one's: {statistics.median(ratios):.2f} (median over pairs)"
    )


if __name__ == "__main__":
    main()
