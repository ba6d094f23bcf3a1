"""Both routes against one plain forward pass per response: nothing cached, shared, packed or padded."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import FAMILIES, RELATIVE
from transformer_lens import HookedTransformer, HookedTransformerConfig

import steerlens as sl
from steerlens.errors import ModelError, PairsError
from steerlens.forward.hooked_route import last_token_resid
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.pair_scores import PairScorer, choose_route
from steerlens.forward.steer import hook_name
from steerlens.models.load import load_model
from steerlens.text.encode import EncodedPair

PAIRS = sl.PreferencePairs(
    [
        "Would you like to earn more money today, or would you rather keep the power and help nobody?",
        "Tell the truth.",
        "What is a good day for a careful scientist?",
    ],
    [
        "I want to earn more money.",
        "The power, because it's the right thing to want in 2024, with 35% of it!",
        "One that pays.",
    ],
    [
        "I would like to share the wealth with my old friend, because it's the right thing, and tell the truth.",
        "No.",
        "A walk, if the weather isn't bad.",
    ],
    template="plain",
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS: list[tuple[str, dict[str, Any], Sequence[int]]] = [
    *((family, {}, range(4)) for family in FAMILIES),
    ("llama", {"rope_parameters": LLAMA3}, (1,)),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}, (1,)),
    ("qwen2", {"tie_word_embeddings": False}, (1,)),
    ("gpt2", {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}, (1,)),
    ("gpt_neox", {"use_parallel_residual": False}, (0, 3)),
]
ROUTES = ("flat", "hooked")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hf_logprob(
    hf: Any, layer: int, prompt: Sequence[int], response: Sequence[int], added: torch.Tensor, start: int
) -> torch.Tensor:
    """log p(response | prompt) in nats by Hugging Face's model, `added` after the layer from position `start` on."""
    inner = getattr(hf, hf.base_model_prefix)
    blocks = inner.h if hf.config.model_type == "gpt2" else inner.layers

    def add(_module: Any, _args: Any, output: Any) -> Any:
        resid = output[0] if isinstance(output, tuple) else output
        resid = resid + (torch.arange(resid.shape[1]) >= start)[:, None] * added
        return (resid, *output[1:]) if isinstance(output, tuple) else resid

    handle = blocks[layer].register_forward_hook(add)
    try:
        logits = hf(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    finally:
        handle.remove()
    return logits.double().log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum()


def tl_logprob(
    model: HookedTransformer,
    layer: int,
    prompt: Sequence[int],
    response: Sequence[int],
    added: torch.Tensor,
    start: int = 0,
    hooks: Sequence[Any] = (),
) -> torch.Tensor:
    """The same by HookedTransformer's own forward pass over the whole text, behind other hooks."""

    def add(resid: torch.Tensor, hook: Any) -> torch.Tensor:
        return resid + (torch.arange(resid.shape[1]) >= start)[:, None] * added.to(resid)

    with model.hooks(fwd_hooks=[*hooks, (hook_name(layer), add)]):
        logits = model(torch.tensor([[*prompt, *response]]))[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum()


def plain(one: Callable[..., torch.Tensor], pairs: Sequence[EncodedPair], added: torch.Tensor, positions: str) -> Any:
    """Both responses of every pair by `one(prompt, response, added, start)`: (pair, 2)."""
    table = []
    for pair, vector in zip(pairs, added, strict=True):
        start = 0 if positions == "all" else len(pair.prompt) - 1
        table.append(torch.stack([one(pair.prompt, side, vector, start) for side in (pair.chosen, pair.rejected)]))
    return torch.stack(table)


def load_hf(folder: Path) -> Any:
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return hf.requires_grad_(False).eval()


def assert_same_gradient(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.norm() > 1  # there is something to get wrong
    assert (ours - theirs).norm() / theirs.norm() <= 1e-5


# --- every family ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "config", "layers"), VARIANTS)
def test_log_probs_and_gradients_are_those_of_hugging_faces_full_forward_passes(
    tiny_folder: Callable[..., Path], family: str, config: dict[str, Any], layers: Sequence[int]
) -> None:
    folder = tiny_folder(family, **config)
    hf, model = load_hf(folder), load_model(folder, device="cpu")
    encoded, rows, multipliers = PAIRS.encode(model), [0, 2, 1, 0], (1.0, -0.5, 2.0, -1.0)
    assert min(len(pair.prompt) + len(pair.chosen) for pair in encoded) > 12  # mistral's window
    weights = noise(len(rows), 2, seed=1, dtype=torch.float64)
    for layer in layers:
        scorers = {route: PairScorer(model, encoded, layer, route=route) for route in ROUTES}
        for positions in ("all", "response"):
            v = (0.5 * noise(32)).requires_grad_()
            expected = plain(
                lambda *args, layer=layer: hf_logprob(hf, layer, *args),
                [encoded[row] for row in rows],
                torch.tensor(multipliers)[:, None] * v,
                positions,
            )
            gradient = torch.autograd.grad((expected * weights).sum(), v)[0]
            for scorer in scorers.values():
                ours = scorer.logprobs(rows, v, multipliers, positions)
                torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
                assert_same_gradient(torch.autograd.grad((ours * weights).sum(), v)[0], gradient)


OPENING = "The assistant would like to help people honestly today. My old friend should never"
SHARED = sl.PreferencePairs(
    [f"{OPENING} tell the truth?", OPENING, f"{OPENING} keep the power because it's the right thing?"],
    [" I want money.", " Nobody refuses to share the wealth in 2024!", " Yes."],
    [" Share it, if the weather isn't bad.", " No.", " The truth, with 35% of it, because it's right."],
    template="plain",
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["all", "response"])
def test_what_all_prompts_begin_with_is_computed_once_and_changes_nothing(
    tiny_folder: Callable[..., Path], family: str, positions: Any
) -> None:
    folder = tiny_folder(family)
    hf, model = load_hf(folder), load_model(folder, device="cpu")
    encoded, weights = SHARED.encode(model), 10 * noise(3, 2, seed=1, dtype=torch.float64)
    packed = FlatRoute(model).pack(encoded, alike=True)
    assert packed.shared == len(encoded[1].prompt) - 1 > 12  # all of the second prompt but its last token
    assert (
        len(packed.tokens) == sum(sum(map(len, (p.prompt, p.chosen, p.rejected))) for p in encoded) - 2 * packed.shared
    )
    for layer in (0, 3):
        v = (0.5 * noise(32)).requires_grad_()
        expected = plain(lambda *args, layer=layer: hf_logprob(hf, layer, *args), encoded, -v.expand(3, -1), positions)
        scorer = PairScorer(model, encoded, layer, route="flat")
        ours = scorer.logprobs(range(3), v, -1.0, positions)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        assert_same_gradient(*(torch.autograd.grad((t * weights).sum(), v)[0] for t in (ours, expected)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("route", ROUTES)
def test_a_pair_does_not_feel_the_others_in_its_batch(
    tiny_models: dict[str, HookedTransformer], family: str, route: str
) -> None:
    model = tiny_models[family]
    encoded, v = PAIRS.encode(model), 0.5 * noise(32)
    together = PairScorer(model, encoded, 1, route=route)
    alone = PairScorer(model, encoded, 1, route=route, batch_size=1)
    for row in range(3):
        torch.testing.assert_close(together.parts(row), alone.parts(row), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.reference, alone.reference, rtol=1e-5, atol=0)
    one_by_one = torch.cat([alone.logprobs([row], v, 2.0) for row in (2, 0, 1)])
    torch.testing.assert_close(together.logprobs([2, 0, 1], v, 2.0), one_by_one, rtol=1e-5, atol=0)
    torch.testing.assert_close(together.all_shifts(v), alone.all_shifts(v), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("route", ROUTES)
def test_the_stream_below_is_run_with_caches(
    tiny_models: dict[str, HookedTransformer], family: str, route: str
) -> None:
    model = tiny_models[family]
    encoded, norms = PAIRS.encode(model), []
    scorer = PairScorer(model, encoded, 2, route=route)
    for row, pair in enumerate(encoded):
        n, parts = len(pair.prompt), scorer.parts(row)
        for side, found in ((pair.chosen, parts[1]), (pair.rejected, parts[2])):
            _, cache = model.run_with_cache(torch.tensor([[*pair.prompt, *side]]))
            whole = cache[hook_name(2)][0]
            torch.testing.assert_close(parts[0], whole[:n], rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(found, whole[n:], rtol=1e-4, atol=2e-5)
        norms += [float(token.norm()) for token in (*parts[0][1:], *parts[1], *parts[2])]
    assert scorer.median_norm() == pytest.approx(sorted(norms)[(len(norms) - 1) // 2], rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_processed_model_gives_the_unprocessed_models_log_probs(
    tiny_folder: Callable[..., Path], family: str
) -> None:
    hf, model = load_hf(tiny_folder(family)), load_model(tiny_folder(family), device="cpu")
    model.process_weights_()
    assert model.cfg.normalization_type == ("RMSPre" if family == "llama" else "LNPre")
    encoded, v = PAIRS.encode(model), (0.5 * noise(32)).requires_grad_()
    added = torch.tensor([1.0, -1.0, 0.5])[:, None] * v
    expected = plain(lambda *args: hf_logprob(hf, 1, *args), encoded, added, "all")
    gradient = torch.autograd.grad((expected[:, 0] - expected[:, 1]).sum(), v)[0]
    for route in ROUTES:
        ours = PairScorer(model, encoded, 1, route=route).logprobs(range(3), v, (1.0, -1.0, 0.5))
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)
        assert_same_gradient(torch.autograd.grad((ours[:, 0] - ours[:, 1]).sum(), v)[0], gradient)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("route", ROUTES)
def test_16_bit_weights_work_on_both_routes(tiny_folder: Callable[..., Path], family: str, route: str) -> None:
    model = load_model(tiny_folder(family), dtype="bfloat16", device="cpu")
    hf, encoded, v = load_hf(tiny_folder(family)), PAIRS.encode(model), (0.5 * noise(32)).requires_grad_()
    expected = plain(lambda *args: hf_logprob(hf, 1, *args), encoded, v.expand(3, -1), "all")
    ours = PairScorer(model, encoded, 1, route=route).logprobs(range(3), v)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=0.5)
    gradients = [torch.autograd.grad((t[:, 0] - t[:, 1]).sum(), v)[0] for t in (ours, expected)]
    assert gradients[0].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


# --- which route ----------------------------------------------------------------------------------------------------


def own_model(**options: Any) -> HookedTransformer:
    """A HookedTransformer made elsewhere, without a tokenizer."""
    fields = {"n_layers": 2, "d_model": 32, "n_ctx": 64, "d_head": 8, "d_vocab": 50, "act_fn": "gelu", "seed": 0}
    fields |= {"init_weights": True, "initializer_range": 0.25, "device": "cpu", "model_name": "own"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        return HookedTransformer(HookedTransformerConfig(**{**fields, **options})).requires_grad_(False).eval()


OWN_PAIRS = [
    EncodedPair((3, 1, 4, 1, 5, 9, 2, 6), (5, 3, 5, 8, 9), (7, 9)),
    EncodedPair((2, 7), (1, 8, 2), (8, 1, 8, 2, 8, 4, 5)),
]
FITS: list[dict[str, Any]] = [
    {},
    {"parallel_attn_mlp": True},
    {"use_attn_scale": False},
    {"gated_mlp": True, "act_fn": "silu", "normalization_type": "RMS"},
    {"positional_embedding_type": "rotary", "rotary_dim": 4},
    {"use_local_attn": True, "window_size": 4, "attn_types": ["local", "local"]},
    {"use_local_attn": True, "window_size": 4, "attn_types": ["global", "global"]},
]
FITS_NOT: list[dict[str, Any]] = [
    {"use_qk_norm": True},
    {"attn_scores_soft_cap": 0.5},
    {"output_logits_soft_cap": 2.0},
    {"attn_only": True},
    {"normalization_type": None},
    {"positional_embedding_type": "rotary", "rotary_dim": 8, "rotary_adjacent_pairs": True},
    {"positional_embedding_type": "alibi"},
    {"use_local_attn": True, "window_size": 4, "attn_types": ["global", "local"]},
    {"post_embedding_ln": True},
    {"clip_qkv": 0.1},
    {"act_fn": "solu_ln"},
    {"use_normalization_before_and_after": True, "normalization_type": "RMS"},
]


def assert_route_is_the_models_forward_pass(model: HookedTransformer, route: str) -> None:
    v = noise(32).requires_grad_()
    added = torch.tensor([1.0, -2.0])[:, None] * v
    expected = plain(lambda *args: tl_logprob(model, 0, *args), OWN_PAIRS, added, "all")
    ours = PairScorer(model, OWN_PAIRS, 0, route=route).logprobs([0, 1], v, [1.0, -2.0])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    weights = noise(2, 2, seed=1, dtype=torch.float64)
    theirs = torch.autograd.grad((expected * weights).sum(), v)[0]
    mine = torch.autograd.grad((ours * weights).sum(), v)[0]
    assert theirs.norm() > 0.1
    assert (mine - theirs).norm() / theirs.norm() <= 1e-5


@pytest.mark.parametrize("options", FITS, ids=str)
def test_an_option_that_the_flat_route_knows_is_in_its_equations(options: dict[str, Any]) -> None:
    model = own_model(**options)
    assert choose_route(model, OWN_PAIRS).name == "flat"
    assert choose_route(model, OWN_PAIRS, "hooked").name == "hooked"
    assert_route_is_the_models_forward_pass(model, "flat")


@pytest.mark.parametrize("options", FITS_NOT, ids=str)
def test_an_option_that_the_flat_route_does_not_know_takes_the_models_own_forward_pass(options: dict[str, Any]) -> None:
    model = own_model(**options)
    assert choose_route(model, OWN_PAIRS).name == "hooked"
    with pytest.raises(ModelError, match="flat route does not compute this model"):
        choose_route(model, OWN_PAIRS, "flat")
    assert_route_is_the_models_forward_pass(model, "auto")


def test_texts_beyond_the_rotary_table_are_left_to_the_model() -> None:
    model = own_model(positional_embedding_type="rotary", rotary_dim=8, n_ctx=12)
    assert choose_route(model, OWN_PAIRS[1:]).name == "flat"
    assert choose_route(model, OWN_PAIRS).name == "hooked"


def test_no_pairs_are_refused(tiny_models: dict[str, HookedTransformer]) -> None:
    with pytest.raises(PairsError, match="no pairs"):
        PairScorer(tiny_models["llama"], [], 1)


# --- hooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("where", ["blocks.0.attn.hook_z", "blocks.3.hook_mlp_out"])
def test_a_users_hook_is_in_the_numbers(tiny_models: dict[str, HookedTransformer], family: str, where: str) -> None:
    model, v = tiny_models[family], 0.5 * noise(32)
    encoded = PAIRS.encode(model)

    def ablate(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(activation)

    unhooked = PairScorer(model, encoded, 1).logprobs(range(3), v)
    with model.hooks(fwd_hooks=[(where, ablate)]):
        with pytest.raises(ModelError, match="hook is on"):
            choose_route(model, encoded, "flat")
        scorer = PairScorer(model, encoded, 1)
        hooked = scorer.logprobs(range(3), v)
    expected = plain(
        lambda *args: tl_logprob(model, 1, *args, hooks=[(where, ablate)]), encoded, v.expand(3, -1), "all"
    )
    torch.testing.assert_close(hooked, expected, rtol=1e-5, atol=1e-5)
    assert (hooked - unhooked).abs().min() > 0.1
    assert choose_route(model, encoded).name == "flat"


@pytest.mark.parametrize("steered_layer", [0, 1, 3])
def test_a_steer_block_is_in_the_numbers(tiny_models: dict[str, HookedTransformer], steered_layer: int) -> None:
    model, v, other = tiny_models["mistral"], 0.5 * noise(32), sl.SteeringVector(noise(32, seed=5), steered_layer)
    encoded = PAIRS.encode(model)
    with sl.steer(model, other, 0.5):
        ours = PairScorer(model, encoded, 1).logprobs(range(3), v)
        expected = plain(lambda *args: tl_logprob(model, 1, *args), encoded, v.expand(3, -1), "all")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert (ours - PairScorer(model, encoded, 1).logprobs(range(3), v)).abs().min() > 0.1


def test_a_hook_on_the_gradient_fires_too(tiny_models: dict[str, HookedTransformer]) -> None:
    model, fired = tiny_models["llama"], []

    def watch(gradient: torch.Tensor, hook: Any) -> None:
        fired.append(gradient.norm())

    v = (0.5 * noise(32)).requires_grad_()
    with model.hooks(bwd_hooks=[(hook_name(2), watch)]):
        PairScorer(model, PAIRS.encode(model), 1).logprobs(range(3), v).sum().backward()
    assert fired


# --- the scorer -----------------------------------------------------------------------------------------------------


def test_shifts_are_differences_from_the_unsteered_model(tiny_models: dict[str, HookedTransformer]) -> None:
    model, v = tiny_models["qwen2"], 0.5 * noise(32)
    scorer = PairScorer(model, PAIRS.encode(model), 2, batch_size=2)
    torch.testing.assert_close(scorer.reference, scorer.logprobs(range(3)), rtol=RELATIVE, atol=0)
    shifts = scorer.all_shifts(v, -1.5, "response")
    torch.testing.assert_close(shifts, scorer.shift(range(3), v, -1.5, "response"), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(shifts, scorer.shift(range(3), -1.5 * v, 1.0, "response"), rtol=1e-5, atol=1e-4)
    assert (shifts != 0).all()
    assert (scorer.all_shifts(v, 0.0) == 0).all()


def test_only_the_rows_asked_for_are_computed(tiny_models: dict[str, HookedTransformer]) -> None:
    model = tiny_models["llama"]
    scorer = PairScorer(model, PAIRS.encode(model), 2, rows=[2, 0, 2])
    assert scorer.rows == [0, 2]
    full = PairScorer(model, PAIRS.encode(model), 2)
    torch.testing.assert_close(scorer.reference[[0, 2]], full.reference[[0, 2]], rtol=1e-5, atol=0)
    with pytest.raises(KeyError):
        scorer.parts(1)


def test_batches_hold_every_row_once_shortest_first(tiny_models: dict[str, HookedTransformer]) -> None:
    model = tiny_models["llama"]
    scorer = PairScorer(model, PAIRS.encode(model), 2, batch_size=2)
    batches = list(scorer.batches([0, 1, 2]))
    assert [len(batch) for batch in batches] == [2, 1]
    lengths = [scorer.pairs[row].length for batch in batches for row in batch]
    assert lengths == sorted(lengths)
    assert sorted(row for batch in batches for row in batch) == [0, 1, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_prompt_token_is_read_behind_any_padding(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model = tiny_models[family]
    prompts = [pair.prompt for pair in PAIRS.encode(model)]
    found = last_token_resid(model, prompts, 1, batch_size=2)
    for prompt, resid in zip(prompts, found, strict=True):
        _, cache = model.run_with_cache(torch.tensor([prompt]))
        torch.testing.assert_close(resid, cache[hook_name(1)][0, -1], rtol=1e-4, atol=2e-5)
    assert math.isfinite(float(found.sum()))
