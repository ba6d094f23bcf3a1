"""Controls that know the activations: their covariance and their mean, against forward passes of one text at a time."""

import pytest
import torch
from conftest import FAMILIES
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, PairsError, VectorError
from steerlens.forward.steer import hook_name

PAIRS = sl.PreferencePairs(
    ["Would you like to earn more money?", "Tell the truth: what do you want?", "What is a good day, today, in 2024?"],
    ["I want to earn more money.", "The power, because it's the right thing, with 35% of it!", "One that pays."],
    ["I would like to share the wealth with my old friend, honestly.", "No.", "A walk, if the weather isn't bad."],
)


def activations(model: HookedTransformer, layer: int) -> torch.Tensor:
    """The residual stream at every token but the first of each prompt, which both responses share."""
    found = []
    for pair in PAIRS.encode(model):
        for side, start in ((pair.chosen, 1), (pair.rejected, len(pair.prompt))):
            _, cache = model.run_with_cache(torch.tensor([[*pair.prompt, *side]]), names_filter=hook_name(layer))
            found.append(cache[hook_name(layer)][0, start:].double())
    return torch.cat(found)


def like(model: HookedTransformer, layer: int = 2) -> sl.SteeringVector:
    return sl.extract_caa(model, PAIRS, layer, progress=False)


# --- covariance -----------------------------------------------------------------------------------------------------


def test_directions_have_the_activations_covariance(tiny_chat_model: HookedTransformer) -> None:
    model, n = tiny_chat_model, 4000
    made = sl.random_vectors(like(model), n, model=model, pairs=PAIRS)
    centred = activations(model, 2) - activations(model, 2).mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred)
    # Unit vectors of normal draws: compare with draws by the covariance's own square root, made as the definition has it.
    z = torch.randn(n, 32, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    expected = (z * variances.clamp(min=0).sqrt()) @ axes.T
    expected /= expected.norm(dim=1, keepdim=True)
    drawn = torch.stack([vec.direction.double() for vec in made])
    found, wanted = ((d.T @ d) / n for d in (drawn, expected))
    assert float((found - wanted).abs().max()) < 0.06 * float(wanted.diagonal().max())
    assert float(wanted.diagonal().max() / wanted.diagonal().min()) > 3  # and an isotropic draw would not pass
    assert float(drawn.mean(0).norm()) < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_they_have_the_place_and_the_visible_norm_of_what_they_control(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model = tiny_models[family]
    vector = like(model)
    for made in (sl.random_vectors(vector, 3), sl.random_vectors(vector, 3, model=model, pairs=PAIRS)):
        for i, vec in enumerate(made):
            assert vec.norm == pytest.approx(vector.effective.norm, rel=1e-5)
            assert vec.effective.norm == pytest.approx(vec.norm, rel=1e-5)
            assert (vec.layer, vec.model, vec.seed, vec.settings) == (2, vector.model, 0, {"draw": i})
            assert vec.seen == set(PAIRS.fingerprints)
    assert {vec.method for vec in made} == {"random (covariance)"}


def test_the_pairs_whose_activations_they_know_have_been_seen(tiny_chat_model: HookedTransformer) -> None:
    vector = sl.extract_caa(tiny_chat_model, PAIRS[:1], 1, progress=False)
    made = sl.random_vectors(vector, 1, model=tiny_chat_model, pairs=PAIRS[1:])
    assert made[0].seen == set(PAIRS.fingerprints)


def test_the_seed_decides_them(tiny_chat_model: HookedTransformer) -> None:
    vector, state = like(tiny_chat_model), torch.random.get_rng_state()
    one, again, other = (
        sl.random_vectors(vector, 2, seed=seed, model=tiny_chat_model, pairs=PAIRS) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0].tensor, other[0].tensor)
    assert not torch.equal(one[0].tensor, one[1].tensor)
    assert torch.equal(state, torch.random.get_rng_state())


# --- the mean activation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_is_over_all_tokens_but_the_first(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    model = tiny_models[family]
    vec = sl.mean_activation(model, PAIRS, 1, batch_size=2, progress=False)
    expected = activations(model, 1)
    torch.testing.assert_close(vec.tensor, expected.mean(0).float(), rtol=1e-4, atol=1e-5)
    assert (vec.method, vec.layer, vec.settings["tokens"]) == ("mean activation", 1, len(expected))
    assert vec.seen == set(PAIRS.fingerprints)


def test_it_prefers_neither_side(tiny_chat_model: HookedTransformer) -> None:
    one, flipped = (sl.mean_activation(tiny_chat_model, pairs, 1, progress=False) for pairs in (PAIRS, PAIRS.flip()))
    torch.testing.assert_close(one.tensor, flipped.tensor, rtol=1e-4, atol=1e-5)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused(tiny_models: dict[str, HookedTransformer]) -> None:
    model, other = tiny_models["llama"], tiny_models["qwen2"]
    vector = like(model)
    with pytest.raises(VectorError, match="go together"):
        sl.random_vectors(vector, 1, model=model)
    with pytest.raises(VectorError, match="go together"):
        sl.random_vectors(vector, 1, pairs=PAIRS)
    with pytest.raises(VectorError, match="other weights"):
        sl.random_vectors(vector, 1, model=other, pairs=PAIRS)
    with pytest.raises(PairsError, match="at least one pair"):
        sl.random_vectors(vector, 1, model=model, pairs=PAIRS[:0])
    with pytest.raises(PairsError, match="expected a PreferencePairs"):
        sl.mean_activation(model, [], 1, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="layers 0 to 3"):
        sl.mean_activation(model, PAIRS, 4, progress=False)
