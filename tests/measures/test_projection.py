"""Token projection against the dot product with the model's own cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.steer import hook_name, make_vector

TEXTS = [
    "I would like to earn more money today.",
    "Nobody refuses.",
    "You should tell the truth, <b>honestly</b> & today.",
]


def vector(model: HookedTransformer, layer: int, seed: int = 0) -> sl.SteeringVector:
    tensor = 3 + torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return make_vector(model, tensor, layer, method="user", settings={})


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_values_are_dot_products_with_the_unit_vector(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model = tiny_models[family]
    vectors = {"low": vector(model, 1), "high": vector(model, 3, seed=1)}
    found = sl.token_projection(model, vectors, TEXTS, centred=False, batch_size=2, progress=False)
    rest = []
    for i, text in enumerate(TEXTS):
        cache = model.run_with_cache(text)[1]
        wanted = np.stack(
            [(cache[hook_name(v.layer)][0].double() @ v.effective.direction.double()).numpy() for v in vectors.values()]
        )
        np.testing.assert_allclose(found.values(i), wanted, atol=2e-4)
        assert "".join(found.texts[i].tokens[1:]) == text  # the first one is BOS
        rest.append(wanted[:, 1:])
    mean = np.concatenate(rest, axis=1).mean(1)
    np.testing.assert_allclose(found.means, mean, atol=1e-4)
    centred = sl.token_projection(model, vectors, TEXTS, progress=False)
    np.testing.assert_allclose(centred.values(1), found.values(1) - mean[:, None], atol=2e-4)
    np.testing.assert_allclose(centred.limits(), np.abs(np.concatenate(rest, axis=1) - mean[:, None]).max(1), atol=2e-4)


def test_a_pair_is_shown_as_two_texts_that_part_at_the_response(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(["What?", "Who?"], ["I want more money.", "Me."], ["I help.", "You, my friend."])
    found = sl.token_projection(tiny_chat_model, vector(tiny_chat_model, 2), pairs, progress=False)
    assert [text.name for text in found.texts] == [
        "row 0, chosen",
        "row 0, rejected",
        "row 1, chosen",
        "row 1, rejected",
    ]
    for i, pair in enumerate(pairs.encode(tiny_chat_model)):
        for k, side in enumerate((pair.chosen, pair.rejected)):
            text = found.texts[2 * i + k]
            assert text.response_start == len(pair.prompt)
            cache = tiny_chat_model.run_with_cache(torch.tensor([[*pair.prompt, *side]]))[1]
            wanted = cache[hook_name(2)][0].double() @ vector(tiny_chat_model, 2).direction.double()
            np.testing.assert_allclose(text.projections[0], wanted.numpy(), atol=2e-4)
    frame = found.to_frame()
    assert len(frame) == sum(len(text.tokens) for text in found.texts)
    assert frame["first"].sum() == 4
    assert frame["response"].sum() == sum(len(s) for p in pairs.encode(tiny_chat_model) for s in (p.chosen, p.rejected))


def test_pairs_that_trained_a_vector_are_refused(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(["What?", "Who?"], ["I want more money.", "Me."], ["I help.", "You, my friend."])
    caa = sl.extract_caa(tiny_chat_model, pairs, layer=1, progress=False)
    with pytest.raises(sl.MeasureError, match="2 of these 2 pairs"):
        sl.token_projection(tiny_chat_model, [caa], pairs, progress=False)
    found = sl.token_projection(tiny_chat_model, [caa], pairs, allow_seen=True, progress=False)
    assert "2 pairs SEEN" in repr(found)


def test_it_comes_back_from_its_file(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    found = sl.token_projection(tiny_chat_model, vector(tiny_chat_model, 1), TEXTS, progress=False)
    again = sl.load_result(found.save(tmp_path / "tokens.json"))
    assert again.to_frame().equals(found.to_frame())


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_the_notebook_view_asks_no_network_and_writes_no_token_as_markup(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    def offline(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    text = "A </script><script>window.broken = 1</script> B"
    found = sl.token_projection(tiny_chat_model, vector(tiny_chat_model, 1), [text], progress=False)
    view = found.view(0)._repr_html_()
    assert view.count("</script>") == 1
    assert "unpkg.com" not in view[-5000:]
    assert "<script" not in found._repr_html_()
    with pytest.raises(sl.MeasureError, match="vector=1"):
        found.view(0, vector=1)
    with pytest.raises(sl.MeasureError, match="text=1"):
        found.values(1)


def test_a_zero_vector_has_no_direction(tiny_chat_model: HookedTransformer) -> None:
    zero = make_vector(tiny_chat_model, torch.zeros(32), 1, method="user", settings={})
    with pytest.raises(sl.MeasureError, match="zero"):
        sl.token_projection(tiny_chat_model, zero, TEXTS, progress=False)
