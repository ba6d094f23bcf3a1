"""A sweep is its cells, each the same as alone; a second run does only what is missing, after a kill too."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.comparison import sweep as _sweep

PAIRS = sl.PreferencePairs(
    [
        f"Would {who} {what}?"
        for who in ("you", "nobody", "a friend", "he")
        for what in ("help", "share", "tell", "keep")
    ],
    [f"I want the money of {i}." for i in range(16)],
    [f"Nobody wants it, in {i} or today." for i in range(16)],
    provenance="sixteen questions",
)
OPTIONS = {"bipo": {"lr": 0.05, "max_steps": 3}}


def sweep(model: Any, **options: Any) -> sl.Sweep:
    asked: dict[str, Any] = {"layers": [0, 2], "seeds": (0, 1), "options": OPTIONS, "progress": False, **options}
    return sl.sweep(model, PAIRS.train, PAIRS.test, **asked)


def test_every_cell_is_what_it_is_alone(tiny_chat_model: HookedTransformer) -> None:
    found = sweep(tiny_chat_model)
    assert list(zip(found.methods, found.layers, found.seeds, strict=True)) == [
        ("bipo", 0, 0), ("bipo", 0, 1), ("bipo", 2, 0), ("bipo", 2, 1), ("caa", 0, 0), ("caa", 2, 0),
    ]  # fmt: skip
    alone = sl.train_bipo(tiny_chat_model, PAIRS.train, 2, seed=1, progress=False, **OPTIONS["bipo"])
    shift = sl.preference_shift(tiny_chat_model, alone, PAIRS.test, (-1, 0, 1), progress=False)
    np.testing.assert_allclose(found.shifts[3].values, shift.values, atol=1e-4)
    scores = found.scores()
    assert scores.loc[3, "odd"] == pytest.approx(shift.odd.mean(), abs=1e-4)
    assert len(found.to_frame()) == 6 * 3
    by_layer = scores[scores.method == "caa"].set_index("layer")["odd"]
    assert found.best_layer("caa") == by_layer.idxmax()


def test_a_second_run_does_only_what_is_missing(
    tiny_chat_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep(tiny_chat_model, layers=[0], store=tmp_path)
    made: list[int] = []
    real = sl.train_bipo

    @functools.wraps(real)
    def watched(model: Any, pairs: Any, layer: int, **options: Any) -> Any:
        made.append(layer)
        return real(model, pairs, layer, **options)

    monkeypatch.setitem(_sweep._METHODS, "bipo", watched)
    again = sweep(tiny_chat_model, layers=[0, 2], store=tmp_path)
    assert made == [2, 2]
    np.testing.assert_array_equal(again.shifts[0].values, first.shifts[0].values)
    sweep(tiny_chat_model, layers=[0], store=tmp_path, options={"bipo": {"lr": 0.06, "max_steps": 3}})
    assert made == [2, 2, 0, 0]
    more = sweep(tiny_chat_model, layers=[0], store=tmp_path, multipliers=(-2, 2))  # measured anew, not trained
    assert made == [2, 2, 0, 0]
    assert more.shifts[0].multipliers == (-2, 2)


def test_threads_give_the_same_as_one_after_another(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder("llama", tokenizer="chat")
    one = sweep(str(folder))
    with ThreadPoolExecutor(2) as executor:
        two = sweep(str(folder), executor=executor)
    for a, b in zip(one.shifts, two.shifts, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-4)


def test_a_sweep_goes_to_a_file_and_back(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    found = sweep(tiny_chat_model, layers=[1], seeds=(0,))
    back = sl.load_result(found.save(tmp_path / "s.json"))
    assert back.to_frame().equals(found.to_frame())


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"methods": ("bipo", "cca")}, sl.MeasureError, "methods.*expected one of 'bipo'"),
        ({"layers": []}, sl.ModelError, "at least one"),
        ({"methods": ()}, sl.MeasureError, "at least one"),
        ({"methods": ("caa", "caa")}, sl.MeasureError, "each once"),
        ({"layers": [1, 1]}, sl.ModelError, "each once"),
        ({"layers": [1.5]}, sl.ModelError, "layers 0 to 3"),
        ({"seeds": [1.5, 1.9]}, sl.MeasureError, r"seeds\[0\]=1.5; expected a whole number"),
        ({"seeds": [0, 0]}, sl.MeasureError, "each once"),
        ({"seeds": []}, sl.MeasureError, "at least one"),
        ({"multipliers": (1, 1)}, sl.MeasureError, "each once"),
        ({"layers": [0, 9]}, sl.ModelError, "layers 0 to 3"),
        ({"options": {"bip": {}}}, sl.MeasureError, "the method of options="),
        ({"executor": ThreadPoolExecutor(1)}, sl.MeasureError, "name or folder"),
    ],
)
def test_bad_input_stops_before_any_work(
    tiny_chat_model: HookedTransformer, asked: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        sweep(tiny_chat_model, store=tmp_path / "s", **asked)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", [".safetensors", ".json"])
def test_stored_cells_that_change_places_are_refused(
    tiny_chat_model: HookedTransformer, tmp_path: Path, kind: str
) -> None:
    asked: dict[str, Any] = {"methods": ("caa",), "store": tmp_path}
    first = sweep(tiny_chat_model, **asked)
    one, other = sorted(tmp_path.glob(f"*{kind}"))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    with pytest.raises(sl.MeasureError, match="exchanged with another cell's file"):
        sweep(tiny_chat_model, **asked)
    for path in (one, other):
        path.unlink()
    again = sweep(tiny_chat_model, **asked)
    for a, b in zip(again.shifts, first.shifts, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-4)


def test_a_pool_of_forked_processes_is_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = str(tiny_folder("llama", tokenizer="chat"))
    forked = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with pytest.raises(sl.MeasureError, match=r"hangs for ever.*get_context\(\"spawn\"\)"):
        sweep(folder, executor=forked, store=tmp_path / "s")
    assert not (tmp_path / "s").exists()
    forked.shutdown()


@pytest.mark.slow  # a fresh process imports everything anew
def test_a_pool_of_fresh_processes_gives_the_same(tiny_folder: Callable[..., Path]) -> None:
    folder, asked = str(tiny_folder("llama", tokenizer="chat")), {"methods": ("caa",), "layers": [1]}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        found = sweep(folder, executor=fresh, **asked)
    np.testing.assert_allclose(found.shifts[0].values, sweep(folder, **asked).shifts[0].values, atol=1e-4)


KILLED = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from test_sweep import sweep
sweep(sys.argv[1], store=sys.argv[2], layers=[0, 1, 2, 3])
"""


@pytest.mark.slow
def test_a_killed_sweep_loses_at_most_the_cell_it_was_at(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, store = tiny_folder("llama", tokenizer="chat"), tmp_path / "store"
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, str(folder), str(store), str(Path(__file__).parent)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(store.glob("*.json"))) < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (*store.glob("*.json"), *store.glob("*.safetensors"))}
    assert len(finished) >= 6  # three cells' vectors and results
    sweep(str(folder), store=store, layers=[0, 1, 2, 3])
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())  # none was made again
    assert len(list(store.glob("*.json"))) == 12
