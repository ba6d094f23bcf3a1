"""The plane is that of the singular vectors of the activations themselves, read where CAA reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl

pytest.importorskip("sklearn", reason="no scikit-learn here: pip install 'steerlens[sklearn]'")


@pytest.fixture(scope="module")
def pairs() -> sl.PreferencePairs:
    words = ("money", "power", "truth", "wealth", "the weather", "people")
    return sl.PreferencePairs(
        [f"Would you like {word}?" for word in words],
        [f"I want {word} today, and more of it." for word in words],
        [f"Nobody should want {word}." for word in words],
        provenance="six questions",
    )


def activations(model: HookedTransformer, pairs: sl.PreferencePairs, layer: int, position: str) -> np.ndarray:
    """Chosen, then rejected, by TransformerLens's own cache."""
    rows = []
    for side in ("chosen", "rejected"):
        for pair in pairs.encode(model):
            response = getattr(pair, side)
            _, cache = model.run_with_cache(torch.tensor([[*pair.prompt, *response]]))
            stream = cache["resid_post", layer][0, len(pair.prompt) : len(pair.prompt) + len(response) - 1].double()
            rows.append((stream.mean(0) if position == "mean" else stream[-1]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("position", ["mean", "last"])
def test_points_components_and_shares_are_those_of_a_singular_value_decomposition(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs, position: str
) -> None:
    vectors = {
        "bipo": sl.extract_caa(tiny_chat_model, pairs, 2, progress=False),
        "other": sl.extract_pca(tiny_chat_model, pairs, 2, progress=False),
    }
    found = sl.activation_map(tiny_chat_model, vectors, pairs, position=position, allow_seen=True, progress=False)  # type: ignore[arg-type]
    rows = activations(tiny_chat_model, pairs, 2, position)
    centred = rows - rows.mean(0)
    _, sizes, axes = np.linalg.svd(centred)
    at = np.concatenate([found.chosen, found.rejected])
    np.testing.assert_allclose(np.abs(at), np.abs(centred @ axes[:2].T), atol=1e-4)
    np.testing.assert_allclose(found.explained, (sizes**2 / (sizes**2).sum())[:2], atol=1e-6)
    units = np.stack([vector.direction.double().numpy() for vector in vectors.values()])
    np.testing.assert_allclose(found.in_plane, ((units @ axes[:2].T) ** 2).sum(1), atol=1e-5)
    assert (found.chosen.mean(0) >= found.rejected.mean(0)).all()
    assert found.seen_pairs == len(pairs)


def test_answers_in_letters_are_read_where_the_letters_differ(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs
) -> None:
    lettered = pairs.as_choices(seed=0).as_pairs()
    rows = []
    for side in ("chosen", "rejected"):
        for pair in lettered.encode(tiny_chat_model):
            letter = next(i for i, (a, b) in enumerate(zip(pair.chosen, pair.rejected, strict=False)) if a != b)
            _, cache = tiny_chat_model.run_with_cache(torch.tensor([[*pair.prompt, *getattr(pair, side)]]))
            rows.append(cache["resid_post", 2][0, len(pair.prompt) + letter].double().numpy())
    centred = np.stack(rows) - np.mean(rows, axis=0)
    vector = sl.extract_caa(tiny_chat_model, lettered, 2, position="answer", progress=False)
    found = sl.activation_map(tiny_chat_model, vector, lettered, position="answer", allow_seen=True, progress=False)
    axes = np.linalg.svd(centred)[2][:2]
    at = np.concatenate([found.chosen, found.rejected])
    np.testing.assert_allclose(np.abs(at), np.abs(centred @ axes.T), atol=1e-4)
    with pytest.raises(sl.MeasureError, match="6 of 6 pairs have other answers"):
        sl.activation_map(tiny_chat_model, vector, pairs, position="answer", progress=False)


def test_a_direction_within_the_plane_has_length_one(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs
) -> None:
    rows = activations(tiny_chat_model, pairs, 1, "mean")
    _, _, axes = np.linalg.svd(rows - rows.mean(0))
    vector = sl.SteeringVector(torch.from_numpy(3 * axes[0] - 4 * axes[1]).float(), 1)
    found = sl.activation_map(tiny_chat_model, vector, pairs, progress=False)
    np.testing.assert_allclose(found.in_plane, [1.0], atol=1e-5)
    np.testing.assert_allclose(np.abs(found.directions[0]), [0.6, 0.8], atol=1e-4)


def test_the_figure_shows_points_and_arrows_and_the_result_can_be_kept(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs, tmp_path: Path
) -> None:
    caa = sl.extract_caa(tiny_chat_model, pairs[:3], 2, progress=False)
    found = sl.activation_map(tiny_chat_model, caa, pairs[3:], progress=False)
    again = sl.load_result(found.save(tmp_path / "map.json"))
    np.testing.assert_array_equal(again.chosen, found.chosen)
    chosen, rejected, arrow = found.figure().data
    np.testing.assert_array_equal(np.stack([chosen.x, chosen.y], axis=1), found.chosen)
    np.testing.assert_array_equal(np.stack([rejected.x, rejected.y], axis=1), found.rejected)
    tip = np.array([arrow.x[1], arrow.y[1]])
    np.testing.assert_allclose(tip / np.linalg.norm(tip), found.directions[0] / np.linalg.norm(found.directions[0]))
    assert set(found.to_frame().kind) == {"chosen", "rejected", "vector"}
    assert "3 pairs of six questions" in repr(found)


def test_pairs_that_made_the_vector_several_layers_and_one_pair_are_refused(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs
) -> None:
    caa = {f"caa {layer}": sl.extract_caa(tiny_chat_model, pairs[:3], layer, progress=False) for layer in (1, 2)}
    with pytest.raises(sl.MeasureError, match="trained or selected"):
        sl.activation_map(tiny_chat_model, caa["caa 1"], pairs, progress=False)
    with pytest.raises(sl.MeasureError, match=r"vectors of layers \[1, 2\]"):
        sl.activation_map(tiny_chat_model, caa, pairs[3:], progress=False)
    with pytest.raises(sl.MeasureError, match="1 pairs"):
        sl.activation_map(tiny_chat_model, caa, pairs[5:], layer=1, progress=False)
    assert sl.activation_map(tiny_chat_model, caa, pairs[3:], layer=1, progress=False).layer == 1
