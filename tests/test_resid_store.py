"""Caches of the residual stream: the same vector from each, 16 bits nearly, and nothing left on disk."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import TrainingError
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.stream_store import ResidStore
from steerlens.models.identity import living_models

PAIRS = sl.PreferencePairs(
    [f"Would you like {n} coins?" for n in range(8)],
    [f"I want {n + 1} of them today." for n in range(8)],
    [f"Share {n} with a friend." for n in range(8)],
)


@pytest.mark.parametrize("cache", ["ram", "disk", "recompute"])
@pytest.mark.parametrize("route", ["flat", "hooked"])
def test_every_exact_cache_gives_the_same_shifts_to_the_bit(
    tiny_chat_model: HookedTransformer, cache: str, route: str
) -> None:
    encoded, v = PAIRS.encode(tiny_chat_model), torch.randn(32, generator=torch.Generator().manual_seed(0))
    want = PairScorer(tiny_chat_model, encoded, 1, route=route, batch_size=4).all_shifts(v)
    got = PairScorer(tiny_chat_model, encoded, 1, route=route, batch_size=4, cache=cache).all_shifts(v)
    assert torch.equal(got, want)


def test_sixteen_bits_keep_the_gradient_to_a_thousandth_in_half_the_memory(tiny_chat_model: HookedTransformer) -> None:
    encoded = PAIRS.encode(tiny_chat_model)
    gradients = []
    for cache in ("ram", "fp16"):
        scorer = PairScorer(tiny_chat_model, encoded, 1, cache=cache)
        v = torch.zeros(32, requires_grad=True)
        shifts = scorer.shift(range(8), v)
        gradients.append(torch.autograd.grad(torch.nn.functional.softplus(shifts[:, 1] - shifts[:, 0]).mean(), v)[0])
    assert scorer.resid([0])[0].dtype == torch.float16
    exact, rounded = gradients
    assert 0 < (rounded - exact).norm() / exact.norm() < 2e-3


def test_training_ends_at_the_same_vector_from_disk(tiny_chat_model: HookedTransformer) -> None:
    ram, disk = (
        sl.train_bipo(tiny_chat_model, PAIRS, 1, lr=0.05, max_steps=5, cache=cache, progress=False)
        for cache in ("ram", "disk")
    )
    assert torch.equal(ram.tensor, disk.tensor)


def test_auto_goes_to_disk_where_memory_is_short_and_leaves_nothing_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    store = ResidStore({0: 3, 7: 5}, 64, torch.float32)
    assert store.kind == "disk"
    rows = {row: torch.randn(n, 64) for row, n in ((0, 3), (7, 5))}
    for row, resid in rows.items():
        store.put(row, resid)
    assert all(torch.equal(store.get(row), resid) for row, resid in rows.items())
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) == 8 * 64 * 4
    del store
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_on_the_disk_before_it_is_mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for reserves in (True, False):
        if not reserves:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        store = ResidStore({0: 3000}, 64, torch.float32, "disk")
        (file,) = tmp_path.rglob("resid")
        assert file.stat().st_size == 3000 * 64 * 4
        assert file.stat().st_blocks * 512 >= file.stat().st_size  # no holes
        del store
    assert list(tmp_path.iterdir()) == []
    assert len(ResidStore({}, 64, torch.float32, "recompute").tokens) == 0


def test_a_full_disk_is_an_error_of_ours_that_names_what_is_needed_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(TrainingError, match=r"needs [\d.]+ GB in .* GB are free"):
        ResidStore({0: free // 4}, 64, torch.float32, "disk")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if hasattr(os, "posix_fallocate"):
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        ResidStore({0: 3}, 64, torch.float32, "disk")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        ResidStore({0: 3}, 64, torch.float32, "disk")


def test_numbers_that_sixteen_bits_can_t_hold_are_refused() -> None:
    store = ResidStore({0: 2}, 4, torch.float32, "fp16")
    with pytest.raises(TrainingError, match="exceeds fp16"):
        store.put(0, torch.full((2, 4), 1e5))


def test_an_unknown_cache_is_refused(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(TrainingError, match="cache='tape'"):
        sl.train_bipo(tiny_chat_model, PAIRS, 1, cache="tape", progress=False)


def test_without_its_lower_half_the_model_trains_to_the_same_vector_in_less_memory(
    tiny_folder: Callable[..., Path],
) -> None:
    model = sl.load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    options = {"lr": 0.05, "max_steps": 5, "val_pairs": PAIRS[6:], "progress": False}
    whole = sl.train_bipo(model, PAIRS[:6], 1, **options)
    size = sum(p.numel() for p in model.parameters())
    freed = sl.train_bipo(model, PAIRS[:6], 1, free_lower=True, **options)
    assert torch.equal(freed.tensor, whole.tensor)
    assert freed.model == whole.model
    upper = sum(p.numel() for block in model.blocks[2:] for p in block.parameters())
    rest = sum(p.numel() for p in (*model.ln_final.parameters(), *model.unembed.parameters()))
    assert sum(p.numel() for p in model.parameters()) == upper + rest < size
    with pytest.raises(sl.ModelError, match="load it again"):
        sl.generate(model, ["What now?"], vector=freed, progress=False)
    assert model not in living_models()


def test_the_lower_half_can_t_be_dropped_and_recomputed(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(TrainingError, match="use one of them"):
        sl.train_bipo(tiny_chat_model, PAIRS, 1, free_lower=True, cache="recompute", progress=False)
