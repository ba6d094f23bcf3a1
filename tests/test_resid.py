"""Steering: exactly resid + multiplier * vector, where it was asked for, with and without a KV cache, and gone afterwards."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FAMILIES
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

import steerlens as sl
from steerlens.errors import ModelError, SteeringError, VectorError
from steerlens.forward.hooked_route import pad_tokens
from steerlens.forward.parts import has_hooks
from steerlens.forward.steer import check_model, hook_name, make_vector, new_kv_cache
from steerlens.models.load import load_model

LONG, SHORT = [5, 77, 140, 9, 31, 262, 8, 301, 44, 17, 90, 3, 250, 61, 12, 11], [7, 33, 290, 41, 6]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(layer: int = 1, seed: int = 0) -> sl.SteeringVector:
    return sl.SteeringVector(noise(32, seed=seed), layer)


def resids(model: HookedTransformer, tokens: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """The residual stream after each layer."""
    _, cache = model.run_with_cache(tokens, **options)
    return [cache[hook_name(layer)] for layer in range(model.cfg.n_layers)]


def greedy(
    model: HookedTransformer, tokens: list[int], n: int, added: torch.Tensor, start: int, layer: int = 1
) -> list[int]:
    """Greedy continuation by full forward passes without any cache, `added` from position `start` on."""

    def add(resid: torch.Tensor, hook: Any) -> torch.Tensor:
        return resid + (torch.arange(resid.shape[1]) >= start)[:, None] * added

    found = list(tokens)
    for _ in range(n):
        logits = model.run_with_hooks(torch.tensor([found]), fwd_hooks=[(hook_name(layer), add)])
        found.append(int(logits[0, -1].argmax()))
    return found


def tl_generate(model: HookedTransformer, tokens: list[int], n: int, *, cached: bool) -> list[int]:
    made = model.generate(
        torch.tensor([tokens]),
        max_new_tokens=n,
        do_sample=False,
        stop_at_eos=False,
        use_past_kv_cache=cached,
        verbose=False,
    )
    return made[0].tolist()


# --- what is added, and where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_exactly_the_multiple_is_added_and_nothing_below_is_touched(
    tiny_models: dict[str, HookedTransformer], family: str, layer: int
) -> None:
    model, tokens, vec = tiny_models[family], torch.tensor([LONG]), vector(layer)
    before = resids(model, tokens)
    with sl.steer(model, vec, -1.5):
        during = resids(model, tokens)
    for below in range(layer):
        assert torch.equal(during[below], before[below])
    assert torch.equal(during[layer], before[layer] + -1.5 * vec.tensor)
    for above in range(layer + 1, 4):
        assert (during[above] - before[above]).abs().max() > 0.01
    assert all(torch.equal(a, b) for a, b in zip(resids(model, tokens), before, strict=True))


def test_blocks_nest_and_add_up(tiny_chat_model: HookedTransformer) -> None:
    model, tokens = tiny_chat_model, torch.tensor([LONG])
    one, two, above = vector(1), vector(1, seed=1), vector(2, seed=2)
    with sl.steer(model, one, 2.0), sl.steer(model, two, -1.0), sl.steer(model, above):
        nested = resids(model, tokens)
    with sl.steer(model, 2 * one - two):
        summed = resids(model, tokens)
    torch.testing.assert_close(nested[1], summed[1])
    torch.testing.assert_close(nested[2], summed[2] + above.tensor, rtol=1e-4, atol=1e-5)
    with sl.steer(model, one):
        with sl.steer(model, two):
            pass
        only = resids(model, tokens)
    assert torch.equal(only[1], resids(model, tokens)[1] + one.tensor)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("positions", ["all", "response"])
def test_multiplier_zero_is_the_unsteered_model_to_the_bit(
    tiny_models: dict[str, HookedTransformer], batch: int, positions: str
) -> None:
    for model in tiny_models.values():
        tokens = torch.tensor([LONG] * batch)
        start = None if positions == "all" else 4
        with sl.steer(model, vector(), 0.0, positions, response_start=start):
            during = model(tokens)
        assert torch.equal(during, model(tokens))


def test_the_hook_returns_a_new_tensor(tiny_chat_model: HookedTransformer) -> None:
    seen: list[torch.Tensor] = []

    def watch(resid: torch.Tensor, hook: Any) -> None:
        seen.append(resid)

    plain = resids(tiny_chat_model, torch.tensor([LONG]))[1]
    with (
        tiny_chat_model.hooks(fwd_hooks=[(hook_name(1), watch)]),  # on before steer: it sees the unsteered stream
        sl.steer(tiny_chat_model, vector()),
    ):
        tiny_chat_model(torch.tensor([LONG]))
    assert torch.equal(seen[0], plain)


def test_16_bit_models_are_steered_in_their_own_dtype(tiny_folder: Callable[..., Any]) -> None:
    model = load_model(tiny_folder("llama"), dtype="bfloat16", device="cpu")
    before = resids(model, torch.tensor([LONG]))[1]
    with sl.steer(model, vector(), 2.0):
        during = resids(model, torch.tensor([LONG]))[1]
    assert torch.equal(during, before + (2 * vector().tensor).bfloat16())


# --- positions="response" -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_response_begins_at_the_index_given_and_may_differ_by_row(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model, vec = tiny_models[family], vector()
    tokens = torch.tensor([LONG, LONG[::-1]])
    before = resids(model, tokens)[1]
    for given, starts in ((4, (4, 4)), ((3, 11), (3, 11)), (torch.tensor([15, 0]), (15, 0)), ([16, 2], (16, 2))):
        with sl.steer(model, vec, 0.5, "response", response_start=given):
            during = resids(model, tokens)[1]
        for row, start in enumerate(starts):
            assert torch.equal(during[row, :start], before[row, :start])
            assert torch.equal(during[row, start:], before[row, start:] + 0.5 * vec.tensor)


@pytest.mark.usefixtures("no_ties")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["all", "response"])
def test_generation_inside_is_the_same_with_and_without_a_kv_cache(
    tiny_models: dict[str, HookedTransformer], family: str, positions: str
) -> None:
    model, vec, last = tiny_models[family], vector(), len(LONG) - 1
    start = None if positions == "all" else last
    with sl.steer(model, vec, 1.5, positions, response_start=start):
        cached, uncached = (tl_generate(model, LONG, 8, cached=cached) for cached in (True, False))
    expected = greedy(model, LONG, 8, 1.5 * vec.tensor, 0 if positions == "all" else last)
    assert cached == uncached == expected
    assert expected != greedy(model, LONG, 8, 0 * vec.tensor, 0)  # it does something


def test_the_first_new_token_is_decided_at_the_last_prompt_token(tiny_chat_model: HookedTransformer) -> None:
    model, last = tiny_chat_model, len(LONG) - 1
    # A vector at the last layer that makes one token by far the likeliest.
    wanted = 123
    vec = sl.SteeringVector(50 * F.normalize(model.W_U[:, wanted], dim=0), model.cfg.n_layers - 1)
    assert greedy(model, LONG, 1, 0 * vec.tensor, 0)[-1] != wanted
    with sl.steer(model, vec, 1.0, "response", response_start=last):
        assert tl_generate(model, LONG, 2, cached=True)[-2:] == [wanted, wanted]
    with sl.steer(model, vec, 1.0, "response", response_start=last + 1):
        assert tl_generate(model, LONG, 2, cached=True)[-2] == greedy(model, LONG, 1, 0 * vec.tensor, 0)[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_counts_into_the_index(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    model, vec = tiny_models[family], vector()
    tokens, mask = pad_tokens([LONG, SHORT], left=True)
    with sl.steer(model, vec, 1.0, "response", response_start=len(LONG) - 3):
        both = model(tokens, attention_mask=mask).log_softmax(-1)
    for row, text in enumerate((LONG, SHORT)):
        with sl.steer(model, vec, 1.0, "response", response_start=len(text) - 3):
            alone = model(torch.tensor([text])).log_softmax(-1)[0]
        torch.testing.assert_close(both[row, -len(text) :], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_with_starts_of_their_own_are_right_in_a_cache(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model, vec, starts = tiny_models[family], vector(), [3, 9]
    tokens = torch.tensor([LONG, LONG[::-1]])
    with sl.steer(model, vec, 1.0, "response", response_start=starts):
        whole = model(tokens)
        cache = new_kv_cache(model, 2)
        parts = [model(tokens[:, at], past_kv_cache=cache) for at in (slice(6), slice(6, 7), slice(7, 16))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


# --- in the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_components_and_what_steering_added_sum_to_the_stream(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model, tokens, last = tiny_models[family], torch.tensor([LONG, LONG[::-1]]), len(LONG) - 1
    names = list(model.hook_dict)
    with (
        sl.steer(model, vector(1), 2.0),
        sl.steer(model, vector(1, seed=1), 1.5, "response", response_start=[last - 2, 4]),
        sl.steer(model, vector(3, seed=2), -1.0, "response", response_start=last),
    ):
        logits, cache = model.run_with_cache(tokens)
    with sl.steer(model, vector(1), 2.0):
        sliced = model.run_with_cache(tokens[:1], pos_slice=-1, remove_batch_dim=True)[1]
    added = [cache[f"blocks.{name}"] for name in ("1.hook_steering", "1.hook_steering_1", "3.hook_steering")]
    assert torch.equal(added[0], (2 * vector(1).tensor).expand(2, len(LONG), -1))
    assert [int((x != 0).any(-1).sum()) for x in added] == [2 * len(LONG), 3 + len(LONG) - 4, 2]
    whole = torch.cat([cache.decompose_resid(), torch.stack(added)])
    torch.testing.assert_close(whole.sum(0), cache["resid_post", 3], rtol=1e-4, atol=1e-4)
    assert (cache.decompose_resid().sum(0) - cache["resid_post", 3]).abs().max() > 0.5  # which leaves them out
    assert torch.equal(sliced["blocks.1.hook_steering"].flatten(), added[0][0, -1])
    if family == "llama":  # RMSNorm, no biases: direct logit attribution is the whole logit
        attributed = cache.logit_attrs(whole, torch.tensor([[7] * len(LONG)] * 2)).sum(0)
        scaled = (cache["resid_post", 3] / cache["ln_final.hook_scale"]) * model.ln_final.w @ model.W_U[:, 7]
        torch.testing.assert_close(scaled, logits[..., 7], rtol=1e-4, atol=1e-4)
        unscaled = (cache["resid_post", 3] / cache["ln_final.hook_scale"]) @ model.W_U[:, 7]
        torch.testing.assert_close(attributed, unscaled, rtol=1e-4, atol=1e-4)
    assert list(model.hook_dict) == names
    assert not any("steering" in name for name in model.mod_dict)


# --- threads ----------------------------------------------------------------------------------------------------------


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result(timeout=60)


def test_another_threads_pass_is_refused_and_never_mixed(tiny_chat_model: HookedTransformer) -> None:
    model, tokens = tiny_chat_model, torch.tensor([LONG])
    pairs = sl.PreferencePairs(["Tell the truth", "Who keeps the power?"], ["I do.", "Nobody."], ["No.", "You do."])
    calls: list[Callable[[], Any]] = [
        lambda: model(tokens),
        lambda: model.run_with_cache(tokens),
        lambda: sl.preference_shift(model, vector(), pairs, progress=False),
        lambda: sl.train_bipo(model, pairs, layer=1, max_steps=2, progress=False),
        lambda: sl.generate(model, ["Why?"], vector=vector(), max_new_tokens=2, progress=False),
        lambda: sl.extract_caa(model, pairs, layer=1, progress=False),
    ]
    alone = model(tokens)
    for options in ({}, {"positions": "response", "response_start": 3}):
        with sl.steer(model, vector(), 1.0, **options):  # type: ignore[arg-type]
            for call in calls:
                with pytest.raises(SteeringError, match=r"thread .* is steering.*a model of its own"):
                    in_a_thread(call)
            steered = model(tokens)
    assert not torch.equal(steered, alone)
    assert torch.equal(in_a_thread(lambda: model(tokens)), alone)  # and all is well behind the block


def test_two_threads_steer_one_model_without_a_wrong_number(tiny_folder: Callable[..., Any]) -> None:
    model, tokens = load_model(tiny_folder("llama"), device="cpu"), torch.tensor([LONG])
    both_in, both_ran = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

    def steered(run: HookedTransformer, m: float) -> torch.Tensor | str:
        with sl.steer(run, vector(), m):
            both_in.wait()
            try:
                return run(tokens)
            except SteeringError as error:
                return str(error)
            finally:
                both_ran.wait()

    with ThreadPoolExecutor(2) as executor:
        found = [future.result() for future in [executor.submit(steered, model, m) for m in (1.0, -2.0)]]
        assert all(isinstance(text, str) and "is steering" in text for text in found)
        copies = [copy.deepcopy(model) for _ in range(2)]
        apart = [
            future.result()
            for future in [executor.submit(steered, one, m) for one, m in zip(copies, (1.0, -2.0), strict=True)]
        ]
    for m, logits in zip((1.0, -2.0), apart, strict=True):
        with sl.steer(model, vector(), m):
            torch.testing.assert_close(logits, model(tokens))
    assert not has_hooks(model)


# --- what is left behind --------------------------------------------------------------------------------------------


def test_nothing_is_left_after_an_exception(tiny_chat_model: HookedTransformer) -> None:
    model, tokens = tiny_chat_model, torch.tensor([LONG])
    before, weights = model(tokens), copy.deepcopy(model.state_dict())
    for options in ({}, {"positions": "response", "response_start": 3}):
        with pytest.raises(IndexError), sl.steer(model, vector(), **options):
            model(torch.tensor([[model.cfg.d_vocab]]))
        assert not has_hooks(model)
    assert torch.equal(model(tokens), before)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_refused_request_leaves_nothing(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    with (
        pytest.raises(SteeringError, match="response_start has 3 rows; the batch has 1"),
        sl.steer(model, vector(), 1.0, "response", response_start=[1, 2, 3]),
    ):
        model(torch.tensor([LONG]))
    assert not has_hooks(model)


def test_a_users_hooks_survive(tiny_chat_model: HookedTransformer) -> None:
    model, tokens, fired = tiny_chat_model, torch.tensor([LONG]), []

    def note(name: str) -> Callable[..., None]:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            fired.append(name)

        return hook

    def run() -> list[str]:
        fired.clear()
        model(tokens)
        return sorted(fired)

    try:
        model.add_perma_hook(hook_name(1), note("permanent"))
        model.add_hook(hook_name(1), note("added"))
        with model.hooks(fwd_hooks=[(hook_name(2), note("around"))]):
            with sl.steer(model, vector()), model.hooks(fwd_hooks=[(hook_name(2), note("inside"))]):
                assert run() == ["added", "around", "inside", "permanent"]
            assert run() == ["added", "around", "permanent"]
        assert run() == ["added", "permanent"]
    finally:
        model.reset_hooks(including_permanent=True)


def test_resetting_hooks_inside_a_block_does_not_switch_it_off(tiny_chat_model: HookedTransformer) -> None:
    model, tokens = tiny_chat_model, torch.tensor([LONG])
    with sl.steer(model, vector()):
        steered = model(tokens)
        model.reset_hooks(including_permanent=True)
        assert torch.equal(model(tokens), steered)
    assert not torch.equal(model(tokens), steered)
    assert not has_hooks(model)


def test_a_users_hook_inside_a_block_sees_the_steered_stream(tiny_chat_model: HookedTransformer) -> None:
    model, tokens = tiny_chat_model, torch.tensor([LONG])
    before = resids(model, tokens)[1]
    with sl.steer(model, vector()):
        seen: list[torch.Tensor] = []
        model.run_with_hooks(tokens, fwd_hooks=[(hook_name(1), lambda resid, hook: seen.append(resid))])
    assert torch.equal(seen[0], before + vector().tensor)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"positions": "response"}, "'response' needs response_start="),
        ({"response_start": 3}, "'all' takes none"),
        ({"positions": "prompt"}, "positions='prompt' is not known; expected one of 'all', 'response'"),
        ({"positions": "response", "response_start": -1}, "response_start=-1"),
        ({"positions": "response", "response_start": [2, -1]}, r"response_start=\[2, -1\]"),
        ({"positions": "response", "response_start": 1.5}, "response_start=1.5"),
        ({"positions": "response", "response_start": "4"}, "response_start='4'"),
        ({"multiplier": float("nan")}, "multiplier=nan; expected a finite number"),
        ({"multiplier": "1"}, "multiplier='1'; expected a finite number"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    tiny_chat_model: HookedTransformer, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(SteeringError, match=says), sl.steer(tiny_chat_model, vector(), **options):
        pytest.fail("the block was entered")
    assert not has_hooks(tiny_chat_model)


def test_a_vector_of_another_model_layer_or_width_is_refused(
    tiny_models: dict[str, HookedTransformer], tiny_folder: Callable[..., Any]
) -> None:
    model = tiny_models["llama"]
    other = make_vector(load_model(tiny_folder("llama", seed=1), device="cpu"), noise(32), 1, method="x", settings={})
    own, narrow = make_vector(model, noise(32), 1, method="x", settings={}), sl.SteeringVector(noise(31), 1)
    with pytest.raises(VectorError, match="made on other weights"), sl.steer(model, other):
        pass
    with pytest.raises(VectorError, match="layers 0 to 3"), sl.steer(model, sl.SteeringVector(noise(32), 4)):
        pass
    with pytest.raises(VectorError, match="31 numbers; expected d_model = 32"), sl.steer(model, narrow):
        pass
    with pytest.raises(VectorError, match="Wrap a tensor"), sl.steer(model, noise(32)):
        pass
    with sl.steer(model, own), sl.steer(model, replace(other, model=None)):
        assert has_hooks(model)


def test_a_bridge_or_another_object_is_refused_with_the_way_out() -> None:
    bridge = object.__new__(TransformerBridge)
    with pytest.raises(ModelError, match=r"TransformerBridge keeps.*sl.load_model"):
        check_model(bridge)
    with pytest.raises(ModelError, match=r"TransformerBridge"), sl.steer(bridge, vector()):
        pass
    for thing in (torch.nn.Linear(2, 2), None, "gpt2"):
        with pytest.raises(ModelError, match=r"expected a transformer_lens.HookedTransformer: sl.load_model"):
            check_model(thing)


# --- the smaller parts ----------------------------------------------------------------------------------------------


def test_a_vector_knows_its_model_and_pairs(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(["a", "b"], ["c", "d"], ["e", "f"], provenance="mine")
    vec = make_vector(
        tiny_chat_model, noise(32), 2, method="m", settings={"k": 1}, pairs=pairs[:1], selected_by=pairs[1:], seed=4
    )
    assert vec.seen == set(pairs.fingerprints)
    assert (vec.method, vec.layer, vec.data, vec.seed, dict(vec.settings)) == ("m", 2, "mine", 4, {"k": 1})
    assert make_vector(tiny_chat_model, noise(32), 2, method="m", settings={}).data == "none"
