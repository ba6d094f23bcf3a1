"""Checkpoints, stopping and bounds of a training run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import TrainingError
from steerlens.forward.pair_scores import PairScorer

PAIRS = sl.PreferencePairs(
    [f"Would you like {n} coins?" for n in range(16)],
    [f"I want {n + 1} of them today." for n in range(16)],
    [f"Share {n} with a friend." for n in range(16)],
)
OPTIONS: dict[str, Any] = {"lr": 0.05, "max_steps": 12, "batch_size": 3, "eval_every": 4, "progress": False}


def train(model: HookedTransformer, **options: Any) -> sl.SteeringVector:
    return sl.train_bipo(model, PAIRS[:12], 1, val_pairs=PAIRS[12:], **{**OPTIONS, **options})


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C while the given step's loss is computed."""
    calls, shift = [], PairScorer.shift

    def pressed(self: PairScorer, *args: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            calls.append(1)
        if len(calls) == step + 1:
            raise KeyboardInterrupt
        return shift(self, *args)

    monkeypatch.setattr(PairScorer, "shift", pressed)


@pytest.mark.parametrize("step", [1, 5, 11])
def test_ctrl_c_loses_nothing_and_going_on_gives_the_same_vector_to_the_bit(
    tiny_chat_model: HookedTransformer, tmp_path: Path, step: int
) -> None:
    whole = train(tiny_chat_model)
    path = tmp_path / "run.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_chat_model, checkpoint=path, checkpoint_every=100)
    resumed = train(tiny_chat_model, checkpoint=path)
    assert torch.equal(resumed.tensor, whole.tensor)
    assert resumed.history == whole.history
    assert list(resumed.snapshots) == list(whole.snapshots)
    assert all(torch.equal(resumed.snapshots[step], kept) for step, kept in whole.snapshots.items())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_finished_run_is_not_run_again(
    tiny_chat_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    first = train(tiny_chat_model, checkpoint=path)
    interrupt_at(monkeypatch, 0)
    assert torch.equal(train(tiny_chat_model, checkpoint=path).tensor, first.tensor)


@pytest.mark.parametrize("change", [{"lr": 0.04}, {"seed": 3}, {"beta": 0.2}, {"eval_every": 5}, {"patience": 2}])
def test_another_run_s_checkpoint_is_refused_by_name(
    tiny_chat_model: HookedTransformer, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "run.safetensors"
    train(tiny_chat_model, checkpoint=path)
    with pytest.raises(TrainingError, match=rf"another run \(.*{next(iter(change))} was"):
        train(tiny_chat_model, checkpoint=path, **change)


def test_a_checkpoint_of_other_weights_is_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for seed in (0, 1):
        model = sl.load_model(tiny_folder("llama", tokenizer="chat", seed=seed), device="cpu")
        if seed == 0:
            train(model, checkpoint=path)
        else:
            with pytest.raises(TrainingError, match="weights was"):
                train(model, checkpoint=path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(
    tiny_chat_model: HookedTransformer, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="checkpoint"):
        train(tiny_chat_model, checkpoint=path)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_refused_before_any_work(
    tiny_chat_model: HookedTransformer, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="there is no folder"):
        train(tiny_chat_model, checkpoint=tmp_path / "nowhere" / "run.safetensors")


KILLED = """
import os, sys
import torch
import steerlens as sl
torch.set_num_threads(1)  # a child of a fork has no others
folder, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from methods.test_descent import train
model = sl.load_model(folder, device="cpu")
for again in sys.stdin:
    child = os.fork()  # a process of its own for every run, and the package imported once
    if child == 0:
        train(model, max_steps=steps, checkpoint=path, checkpoint_every=1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def steps_taken(path: Path) -> int:
    """What the checkpoint holds; whole at any moment: it opens."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        meta = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    return len(json.loads(meta["record"])["history"])


@pytest.mark.slow
def test_after_real_kills_at_random_moments_the_run_ends_at_the_same_vector(
    tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, path, steps = tiny_folder("llama", tokenizer="chat"), tmp_path / "run.safetensors", 150
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(folder), str(path), str(steps), str(tests)]
    generator, seen = torch.Generator().manual_seed(int(time.time())), 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def begin() -> int:
            process.stdin.write("again\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        for _ in range(4):
            child = begin()
            end = time.monotonic() + 120
            while steps_taken(path) <= seen < steps:
                assert time.monotonic() < end, "the run takes no step"
                time.sleep(0.001)
            time.sleep(0.05 * float(torch.rand(1, generator=generator)))  # anywhere in the steps that follow
            with contextlib.suppress(ProcessLookupError):  # on a machine that was busy the run may have come to its end
                os.kill(child, signal.SIGKILL)
            assert int(process.stdout.readline()) in (signal.SIGKILL, 0)
            assert steps_taken(path) >= seen
            seen = steps_taken(path)
        begin()
        assert process.stdout.readline() == "0\n"
        process.stdin.close()
    model, threads = sl.load_model(folder, device="cpu"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train(model, max_steps=steps)
        finished = train(model, max_steps=steps, checkpoint=path)
    finally:
        torch.set_num_threads(threads)
    assert len(finished.history) == len(whole.history) == steps
    assert torch.equal(finished.tensor, whole.tensor)


def test_patience_keeps_the_best_validation_vector_and_stops(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_and_falling = iter([1.0, 3.0, 2.0, 2.9, 2.5, 9.0])  # the last is never asked for

    def margin(_val: PairScorer, _v: torch.Tensor, sign: int) -> float:
        return next(rising_and_falling) if sign == 1 else -1.0

    monkeypatch.setattr("steerlens.methods._bipo_run._margin", margin)
    options = {"max_steps": 40, "schedule": "constant", "warmup_steps": 0, "eval_every": 2}
    vec = train(tiny_chat_model, patience=3, **options)
    assert len(vec.history) == 10
    assert vec.settings["steps"] == 4
    monkeypatch.undo()
    torch.testing.assert_close(vec.tensor, train(tiny_chat_model, **{**options, "max_steps": 4}).tensor)


def test_patience_without_validation_pairs_is_refused(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(TrainingError, match="pass val_pairs="):
        sl.train_bipo(tiny_chat_model, PAIRS, 1, patience=2, progress=False)


def test_the_norm_stays_within_its_bound(tiny_chat_model: HookedTransformer) -> None:
    free, bound = train(tiny_chat_model), train(tiny_chat_model, max_norm=0.3)
    assert free.norm > 0.3
    assert bound.norm == pytest.approx(0.3, rel=1e-5)
    assert max(row["norm"] for row in bound.history) <= 0.3


def test_a_run_that_is_a_snapshot_of_a_longer_schedule_follows_that_schedule(
    tiny_chat_model: HookedTransformer,
) -> None:
    long = train(tiny_chat_model, max_steps=12, warmup_steps=2)
    short = train(tiny_chat_model, max_steps=5, warmup_steps=2, schedule_steps=12)
    assert [r["lr"] for r in short.history] == [r["lr"] for r in long.history[:5]]
    assert [r["loss"] for r in short.history] == [r["loss"] for r in long.history[:5]]


@pytest.mark.parametrize(
    "options",
    [{"patience": 0}, {"max_norm": -1.0}, {"checkpoint_every": 0}, {"eval_every": 2.5}, {"schedule_steps": 0}],
)
def test_options_out_of_range_are_refused_by_name(tiny_chat_model: HookedTransformer, options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=f"{next(iter(options))}="):
        train(tiny_chat_model, **options)


@pytest.mark.parametrize("change", ["flip", "shuffle", "template"])
def test_a_checkpoint_of_other_labels_or_another_template_is_refused(
    tiny_chat_model: HookedTransformer, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "run.safetensors"
    first = PAIRS[:12].with_template(lambda prompt: f"Q: {prompt} A:")
    other = {
        "flip": first.flip(),
        "shuffle": first.shuffle_labels(seed=0),
        "template": PAIRS[:12].with_template(lambda prompt: f"{prompt} Answer:"),
    }[change]
    sl.train_bipo(tiny_chat_model, first, 1, max_steps=2, checkpoint=path, progress=False)
    with pytest.raises(TrainingError, match="tokens was"):
        sl.train_bipo(tiny_chat_model, other, 1, max_steps=2, checkpoint=path, progress=False)
