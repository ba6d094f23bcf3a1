"""Logits and log-probabilities against float64, in every dtype; gradients against autograd's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FAMILIES
from test_routes import own_model
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward import readout as _readout
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.readout import logits_at, sum_logprobs
from steerlens.forward.steer import hook_name
from steerlens.models.load import load_model

LONG = [5, 77, 140, 9, 31, 262, 8, 301, 44, 17, 90, 3, 250, 61, 12, 11]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_some_positions_are_the_models(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    model = tiny_models[family]
    logits, cache = model.run_with_cache(torch.tensor([LONG]))
    last = cache[hook_name(model.cfg.n_layers - 1)][0]
    torch.testing.assert_close(logits_at(model, last[[2, 5]]), logits[0, [2, 5]], rtol=1e-4, atol=1e-5)


def test_hooks_and_soft_caps_are_in_the_logits() -> None:
    model, resid = own_model(output_logits_soft_cap=2.0), noise(3, 32)
    torch.testing.assert_close(logits_at(model, resid), model(resid[None], start_at_layer=2)[0], rtol=1e-5, atol=1e-5)
    for where in ("ln_final.hook_normalized", "unembed.hook_out"):
        with model.hooks(fwd_hooks=[(where, lambda x, hook: 0.5 * x)]):
            expected = model(resid[None], start_at_layer=2)[0]
            torch.testing.assert_close(logits_at(model, resid), expected, rtol=1e-5, atol=1e-5)


def per_token(model: HookedTransformer, finals: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    each = torch.arange(len(tokens))
    return sum_logprobs(logits_at(model, finals), tokens, each, len(tokens))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("route", ["flat", "hooked", "whole"])
def test_16_bit_log_probs_miss_no_more_than_the_blocks_rounding(dtype: str, route: str) -> None:
    # The oracle: the same 16-bit weights in float64, fed with the very stream that the 16-bit blocks gave.
    narrow, wide = (sl.load_model("toy", dtype=dtype, device="cpu") for _ in range(2))
    wide.cfg.dtype = torch.float64
    wide.to(torch.float64)
    pairs = sl.load_pairs("toy/wealth").test[:8]
    encoded = pairs.encode(narrow)
    finals, tokens = [], []
    with torch.no_grad():
        for pair in encoded:
            ids = (*pair.prompt, *pair.chosen)
            stream = narrow(torch.tensor([ids]), stop_at_layer=narrow.cfg.n_layers)[0]
            finals.append(stream[len(pair.prompt) - 1 : -1])
            tokens += pair.chosen
        ours, exact = (per_token(m, torch.cat(finals).to(m.cfg.dtype), torch.tensor(tokens)) for m in (narrow, wide))
    assert (ours <= 0).all()
    assert len(ours) > 30
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)  # float32's rounding, no more

    if route == "whole":
        narrow.add_hook("hook_embed", lambda x, hook: x)
    scorer = PairScorer(narrow, encoded, 2, route="auto" if route == "whole" else route)  # type: ignore[arg-type]
    assert scorer.route.name == route
    reference = PairScorer(wide, wide_pairs := pairs.encode(wide), 2).reference
    assert len(wide_pairs) == len(encoded)
    margin = (scorer.reference - reference) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    # What 16-bit blocks do to a margin here is .03 nats rms (.004 in float16); the read-out once more than doubled it.
    assert margin.square().mean().sqrt() < (0.06 if dtype == "bfloat16" else 0.008)


def test_the_gradient_through_narrow_weights_is_that_of_wide_ones(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_readout, "_AT_ONCE", 32 * 150)  # three parts, the last one shorter
    model = load_model(tiny_folder("gpt2"), dtype="bfloat16", device="cpu")
    resid, tokens = noise(5, 32).requires_grad_(), torch.tensor([3, 399, 0, 3, 120, 7])
    side, row = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 1, 2, 0, 4, 0])
    ours = sum_logprobs(logits_at(model, resid), tokens, side, 2, row)
    norm, unembed = model.ln_final, model.unembed
    x = F.layer_norm(resid, (32,), norm.w.float(), norm.b.float(), norm.eps)
    each = (x @ unembed.W_U.float() + unembed.b_U.float()).log_softmax(-1)[row, tokens].double()
    expected = torch.zeros(2, dtype=torch.float64).index_add(0, side, each)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    gradients = [torch.autograd.grad((sums * weights).sum(), resid)[0] for sums in (ours, expected)]
    assert gradients[1].norm() > 0.1
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_log_probs_are_summed_by_side_in_float64_and_differentiable() -> None:
    logits, target, side = noise(5, 7), torch.tensor([0, 6, 3, 3, 1]), torch.tensor([2, 0, 2, 2, 0])
    sums = sum_logprobs(logits, target, side, 4)
    each = -F.cross_entropy(logits, target, reduction="none").double()
    expected = torch.tensor([each[1] + each[4], 0, each[0] + each[2] + each[3], 0], dtype=torch.float64)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=0)

    def twice(
        x: Any,
    ) -> torch.Tensor:  # a row that predicts the same token for two sides, and one that predicts nothing
        return sum_logprobs(x, torch.tensor([2, 2, 6]), torch.tensor([0, 1, 1]), 2, torch.tensor([1, 1, 3]))

    assert torch.autograd.gradcheck(twice, noise(5, 7).double().requires_grad_())


def test_no_log_prob_is_above_zero_even_where_the_model_is_certain() -> None:
    logits = torch.tensor([[40.0, 3.0, -2.0], [16.0, 15.9, 0.1]])
    assert (sum_logprobs(logits, torch.tensor([0, 0]), torch.arange(2), 2) <= 0).all()
