"""Many vectors over one pass: each is the one that a run by itself gives."""

import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, TrainingError
from steerlens.forward.packed_route import FlatRoute

PAIRS = sl.PreferencePairs(
    [f"Would you like {n} coins?" for n in range(16)],
    [f"I want {n + 1} of them today." for n in range(16)],
    [f"Share {n} with a friend." for n in range(16)],
)
OPTIONS = {"max_steps": 6, "batch_size": 3, "eval_every": 3, "progress": False}


@pytest.mark.parametrize("sign", ["batch", "both"])
def test_every_vector_of_a_grid_is_the_one_that_its_own_run_gives(
    tiny_chat_model: HookedTransformer, sign: str
) -> None:
    grid = sl.train_bipo_grid(
        tiny_chat_model, PAIRS[:12], [3, 0], seeds=(0, 5), lrs=(0.05, 0.01), val_pairs=PAIRS[12:], sign=sign, **OPTIONS
    )
    wanted = [(layer, lr, seed) for layer in (3, 0) for lr in (0.05, 0.01) for seed in (0, 5)]
    assert [(v.layer, v.settings["lr"], v.seed) for v in grid] == wanted
    for vec, (layer, lr, seed) in zip(grid, wanted, strict=True):
        alone = sl.train_bipo(
            tiny_chat_model, PAIRS[:12], layer, val_pairs=PAIRS[12:], lr=lr, seed=seed, sign=sign, **OPTIONS
        )
        assert torch.cosine_similarity(vec.tensor, alone.tensor, 0) > 1 - 1e-6
        assert vec.norm == pytest.approx(alone.norm, rel=1e-4)
        for row, own in zip(vec.history, alone.history, strict=True):
            assert row["loss"] == pytest.approx(own["loss"], abs=1e-5)
            assert row["val_plus"] == pytest.approx(own["val_plus"], abs=1e-3)


def test_the_pairs_go_through_the_lower_blocks_once_for_all_layers(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []
    resid = FlatRoute.resid

    def counted(self: FlatRoute, pairs: list, layers: list[int]) -> list:
        calls.append(list(layers))
        return resid(self, pairs, layers)

    monkeypatch.setattr(FlatRoute, "resid", counted)
    sl.train_bipo_grid(tiny_chat_model, PAIRS, [0, 1, 2, 3], seeds=(0, 1, 2), max_steps=12, progress=False)
    assert calls == [[0, 1, 2, 3]] * 2  # 16 pairs, 8 at a time


def test_runs_that_end_early_leave_the_others_going(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first vector's margin never rises after its first look, the second's always does.
    looks: dict[int, int] = {}

    def margin(_val: object, v: torch.Tensor, sign: int) -> float:
        key = v.data_ptr()
        looks[key] = looks.get(key, 0) + (sign == 1)
        first = key == next(iter(looks))
        return sign * (-1.0 if first else 1.0) * looks[key]

    monkeypatch.setattr("steerlens.methods._bipo_run._margin", margin)
    options = {**OPTIONS, "max_steps": 10, "eval_every": 1}
    stopped, whole = sl.train_bipo_grid(
        tiny_chat_model, PAIRS[:12], [1], seeds=(0, 1), lrs=(0.05,), val_pairs=PAIRS[12:], patience=2, **options
    )
    assert (len(stopped.history), len(whole.history)) == (3, 10)


@pytest.mark.parametrize("change", [{"layers": []}, {"seeds": ()}, {"lrs": ()}, {"layers": [1, 1]}, {"layers": [9]}])
def test_an_empty_or_wrong_list_is_refused(tiny_chat_model: HookedTransformer, change: dict) -> None:
    with pytest.raises((TrainingError, ModelError), match=r"(layers|seeds|lrs)(\[\d\])?="):
        sl.train_bipo_grid(**{"model": tiny_chat_model, "pairs": PAIRS, "layers": [1], "progress": False, **change})
