"""BiPO against a plain Hugging Face implementation, the authors' own run, finite differences and identities."""

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import RELATIVE, ROUNDING
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, PairsError, TrainingError, VectorError
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.parts import has_hooks
from steerlens.models.identity import identify
from steerlens.models.load import load_model
from steerlens.text.encode import EncodedPair

SHARED = Path(__file__).parents[3] / "shared"
WHO = ("Would you like", "Does the assistant want", "Should my old friend begin", "Is it right", "Does nobody like")
WHAT = ("to earn more money?", "to help people honestly, because it's the right thing?")
PAIRS = sl.PreferencePairs(
    [f"{who} {what}" for who in WHO for what in WHAT],
    ["I want to earn more money.", "The power, and all of the wealth.", "Certainly!", "Yes, 35% of it.", "Today."] * 2,
    ["I refuse.", "I would like to share the wealth, because it's the right thing.", "No.", "A walk.", "Never."] * 2,
    template="plain",
)
ORDER = [([0, 3, 5], -1), ([9, 1, 2], 1), ([4, 6, 8], 1), ([7, 0, 1], -1)] * 2
LN2 = math.log(2)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def train(model: HookedTransformer, pairs: sl.PreferencePairs = PAIRS, layer: int = 1, **options: Any) -> Any:
    return sl.train_bipo(model, pairs, layer, progress=False, **options)


def steady(**options: Any) -> dict[str, Any]:
    """Every step with the same learning rate, so that a longer run begins like a shorter one."""
    return {"schedule": "constant", "warmup_steps": 0, "lr": 0.02, **options}


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_loss_of_no_vector_is_ln_2(tiny_models: dict[str, HookedTransformer], sign: int, layer: int) -> None:
    for model in tiny_models.values():
        loss = sl.bipo_loss(model, torch.zeros(32), PAIRS, layer, sign)
        assert float(loss) == pytest.approx(LN2, rel=RELATIVE)


@pytest.mark.parametrize("layer", [0, 3])
def test_the_other_sign_is_the_other_vector_on_flipped_pairs(tiny_chat_model: HookedTransformer, layer: int) -> None:
    v, pairs = noise(32), PAIRS.with_template("auto")
    minus = sl.bipo_loss(tiny_chat_model, v, pairs, layer, -1)
    assert float(minus) == pytest.approx(float(sl.bipo_loss(tiny_chat_model, -v, pairs.flip(), layer, 1)), rel=RELATIVE)
    assert abs(float(minus) - float(sl.bipo_loss(tiny_chat_model, v, pairs, layer, 1))) > 1e-3


def test_beta_multiplies_the_shift(tiny_chat_model: HookedTransformer) -> None:
    v = noise(32)
    x = sl.preference_shift(tiny_chat_model, sl.SteeringVector(v, 1), PAIRS, (-1, 1), progress=False).values
    for sign, column in ((-1, 0), (1, 1)):
        for beta in (0.01, 0.5):
            expected = -F.logsigmoid(torch.from_numpy(sign * beta * x[:, column])).mean()
            loss = sl.bipo_loss(tiny_chat_model, v, PAIRS, 1, sign, beta)
            assert float(loss) == pytest.approx(float(expected), rel=RELATIVE)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_gradient_is_that_of_finite_differences(tiny_folder: Callable[..., Path], family: str) -> None:
    model = load_model(tiny_folder(family), dtype="float64", device="cpu")
    for layer, sign in ((0, 1), (2, -1), (3, 1)):
        v = (0.3 * noise(32)).double().requires_grad_()
        loss = sl.bipo_loss(model, v, PAIRS[:3], layer, sign)
        gradient = torch.autograd.grad(loss, v)[0]
        assert loss.dtype == torch.float64
        assert gradient.norm() > 0.01
        for seed in range(3):
            way = noise(32, seed=seed).double() * 1e-5
            with torch.no_grad():
                ahead, behind = (sl.bipo_loss(model, v + step, PAIRS[:3], layer, sign) for step in (way, -way))
            assert float(ahead - behind) / 2 == pytest.approx(float(gradient @ way), rel=1e-5, abs=1e-11)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"sign": 0}, TrainingError, r"sign=0 is not known; expected one of 1, -1"),
        ({"layer": 4}, ModelError, "layer=4; .* layers 0 to 3"),
        ({"v": torch.zeros(31)}, VectorError, "31 numbers; expected d_model = 32"),
        ({"v": torch.full((32,), math.nan)}, VectorError, "NaN"),
        ({"model": torch.nn.Linear(2, 2)}, ModelError, "expected a transformer_lens.HookedTransformer"),
        ({"pairs": PAIRS[:0]}, PairsError, "pairs is empty"),
        ({"beta": 0.0}, TrainingError, r"beta=0.0; expected a finite number above 0"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(
    tiny_chat_model: HookedTransformer, change: dict[str, Any], error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        sl.bipo_loss(**{"model": tiny_chat_model, "v": torch.zeros(32), "pairs": PAIRS, "layer": 1, **change})


# --- training, step by step -----------------------------------------------------------------------------------------


def two_forwards(hf: Any, encoded: Sequence[EncodedPair], layer: int, added: torch.Tensor | None) -> torch.Tensor:
    """(pair, 2) log-probabilities by one padded forward pass over prompt + response; `added` at every position."""
    sides = [(pair.prompt, side) for pair in encoded for side in (pair.chosen, pair.rejected)]
    width = max(len(p) + len(r) for p, r in sides)
    tokens, mask = torch.zeros(2, len(sides), width, dtype=torch.long)
    for i, (prompt, response) in enumerate(sides):
        tokens[i, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        mask[i, : len(prompt) + len(response)] = 1

    def add(_module: Any, _args: Any, output: Any) -> Any:
        if added is None:
            return output
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    inner = getattr(hf, hf.base_model_prefix)
    handle = (inner.h if hf.config.model_type == "gpt2" else inner.layers)[layer].register_forward_hook(add)
    try:
        logprobs = hf(tokens, attention_mask=mask, use_cache=False).logits.double().log_softmax(-1)
    finally:
        handle.remove()
    picked = logprobs[:, :-1].gather(2, tokens[:, 1:, None])[:, :, 0]
    sums = [picked[i, len(p) - 1 : len(p) + len(r) - 1].sum() for i, (p, r) in enumerate(sides)]
    return torch.stack(sums).view(-1, 2)


def plain_training(
    folder: Path,
    encoded: Sequence[EncodedPair],
    layer: int,
    order: Sequence[Any],
    *,
    lr: float,
    warmup: int,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    beta: float = 0.1,
) -> tuple[torch.Tensor, list[float], list[float]]:
    """The vector, losses and gradient norms, as the authors' trainer does it: two models' forwards in every step."""
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").requires_grad_(False)
    v = torch.zeros(hf.config.hidden_size, requires_grad=True)
    optimiser = torch.optim.AdamW([v], lr=lr, weight_decay=weight_decay)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, warmup, len(order))
    losses, norms = [], []
    for rows, sign in order:
        batch = [encoded[row] for row in rows]
        with torch.no_grad():
            reference = two_forwards(hf.eval(), batch, layer, None)
        shift = two_forwards(hf, batch, layer, sign * v) - reference
        loss = -F.logsigmoid(sign * beta * (shift[:, 0] - shift[:, 1])).mean()
        optimiser.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_([v], clip)))
        losses.append(float(loss.detach()))
        optimiser.step()
        schedule.step()
    return v.detach(), losses, norms


@pytest.mark.parametrize(
    ("family", "layer", "settings"),
    [
        ("llama", 1, {}),
        ("llama", 3, {"clip": 0.02}),
        ("gpt2", 0, {"weight_decay": 0.05}),
        ("mistral", 2, {"beta": 0.3, "clip": 0.1}),
    ],
)
def test_training_is_the_plain_implementations(
    tiny_folder: Callable[..., Path], family: str, layer: int, settings: dict[str, float]
) -> None:
    folder = tiny_folder(family)
    model = load_model(folder, device="cpu")
    expected, losses, norms = plain_training(folder, PAIRS.encode(model), layer, ORDER, lr=0.05, warmup=2, **settings)
    ours = {"max_grad_norm" if name == "clip" else name: value for name, value in settings.items()}
    vec = train(model, layer=layer, order=ORDER, lr=0.05, warmup_steps=2, **ours)
    history = vec.history
    assert [row["loss"] for row in history] == pytest.approx(losses, abs=1e-5)
    assert [row["grad_norm"] for row in history] == pytest.approx(norms, rel=1e-4)
    assert [row["sign"] for row in history] == [sign for _, sign in ORDER]
    assert vec.norm == pytest.approx(float(expected.norm()), rel=1e-5)
    assert float(torch.cosine_similarity(vec.tensor, expected, dim=0)) >= 1 - 1e-6
    assert max(norms) > settings.get("clip", 0)  # where it may clip, it does
    assert max(abs(loss - LN2) for loss in losses) > 0.01


@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="no ../shared/parity beside the repository")
def test_training_is_the_authors_own_run() -> None:
    run = json.loads((SHARED / "parity/wealth_stories260k_layer2.json").read_text())
    after = load_file(SHARED / "parity/wealth_stories260k_layer2.safetensors")["vector_after_step"]
    model = load_model(SHARED / "models/stories260k", device="cpu")
    pairs = sl.load_pairs(SHARED / "data/bipo/wealth-seeking/train.csv", template="llama-2", on_bad="drop")
    at = {row: i for i, row in enumerate(pairs.rows)}
    order = [([at[row] for row in step["rows"]], step["sign"]) for step in run["steps"]]
    vec = train(model, pairs, run["layer"], order=order, lr=run["peak_lr"], warmup_steps=run["warmup_steps"])
    for name in ("loss", "lr", "grad_norm"):
        expected = [step[name] for step in run["steps"]]
        assert [row[name] for row in vec.history] == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert [row["norm"] for row in vec.history] == pytest.approx(after.norm(dim=1).tolist(), rel=1e-5)
    assert float(torch.cosine_similarity(vec.tensor, after[-1], dim=0)) >= 1 - 1e-6


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_is_transformers_schedule(tiny_chat_model: HookedTransformer, schedule: str) -> None:
    history = train(tiny_chat_model, max_steps=12, warmup_steps=4, lr=0.3, batch_size=2, schedule=schedule).history
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    reference = transformers.get_scheduler(name, optimiser, num_warmup_steps=4, num_training_steps=12)
    for row in history:
        assert row["lr"] == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        reference.step()


@pytest.mark.parametrize(
    ("steps", "asked", "warmup"), [(20, 100, 2), (20, 20, 2), (20, 19, 19), (5, 100, 0), (5, 0, 0)]
)
def test_a_warm_up_that_is_not_shorter_than_the_run_takes_a_tenth_of_it(
    tiny_chat_model: HookedTransformer, steps: int, asked: int, warmup: int
) -> None:
    vec = train(tiny_chat_model, PAIRS[:1], max_steps=steps, warmup_steps=asked, lr=0.1)
    rates = [row["lr"] for row in vec.history]
    assert rates.index(max(rates)) == warmup
    assert rates[warmup] == 0.1


# --- signs, order, seeds --------------------------------------------------------------------------------------------


def watch_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """The rows and signs of every step from here on."""
    seen: list[tuple[list[int], list[int]]] = []
    shift = PairScorer.shift

    def watched(self: PairScorer, rows: Any, vector: Any, multipliers: Any = 1.0, *rest: Any) -> Any:
        if vector.requires_grad:
            seen.append((list(rows), [multipliers] * len(rows) if isinstance(multipliers, int) else list(multipliers)))
        return shift(self, rows, vector, multipliers, *rest)

    monkeypatch.setattr(PairScorer, "shift", watched)
    return seen


@pytest.mark.parametrize("sign", ["batch", "pair", "both"])
def test_an_epoch_sees_every_pair_once(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    seen = watch_steps(monkeypatch)
    vec = train(tiny_chat_model, epochs=3, batch_size=4, sign=sign)
    assert len(seen) == len(vec.history) == 9
    assert [row["epoch"] for row in vec.history] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    times = 2 if sign == "both" else 1
    epochs = [[row for rows, _ in seen[i : i + 3] for row in rows] for i in (0, 3, 6)]
    for rows in epochs:
        assert Counter(rows) == dict.fromkeys(range(10), times)
    assert epochs[0] != epochs[1]


def test_batch_draws_one_sign_a_step_and_pair_one_a_pair_and_both_takes_both(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_steps(monkeypatch)
    batch, pair, both = (train(tiny_chat_model, epochs=8, batch_size=4, sign=s) for s in ("batch", "pair", "both"))
    drawn = {"batch": seen[:24], "pair": seen[24:48], "both": seen[48:]}
    assert {len(set(signs)) for _, signs in drawn["batch"]} == {1}
    assert {row["sign"] for row in batch.history} == {1, -1}
    assert {len(set(signs)) for _, signs in drawn["pair"]} == {1, 2}
    assert 0 in {row["sign"] for row in pair.history}
    for rows, signs in drawn["both"]:
        assert sorted(zip(rows, signs, strict=True)) == sorted((row, s) for row in set(rows) for s in (1, -1))
    assert {row["sign"] for row in both.history} == {0}
    for history, steps in ((batch.history, drawn["batch"]), (pair.history, drawn["pair"])):
        shown = [signs[0] if len(set(signs)) == 1 else 0 for _, signs in steps]
        assert [row["sign"] for row in history] == shown


def test_both_is_the_mean_of_both_signs_losses(tiny_chat_model: HookedTransformer) -> None:
    first = train(tiny_chat_model, **steady(max_steps=1, batch_size=10, sign="both", lr=3.0))
    second = train(tiny_chat_model, **steady(max_steps=2, batch_size=10, sign="both", lr=3.0))
    losses = [float(sl.bipo_loss(tiny_chat_model, first.tensor, PAIRS, 1, sign)) for sign in (1, -1)]
    assert second.history[1]["loss"] == pytest.approx(sum(losses) / 2, rel=RELATIVE)
    assert second.history[0]["loss"] == pytest.approx(LN2, rel=RELATIVE)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_sign_per_row_may_be_given(tiny_chat_model: HookedTransformer) -> None:
    order = [([0, 1], [1, -1]), ([2, 3, 4], [-1, 1, 1])]
    vec = train(tiny_chat_model, order=order, **steady())
    first = train(tiny_chat_model, order=order[:1], **steady())
    losses = [
        float(sl.bipo_loss(tiny_chat_model, first.tensor, PAIRS[row : row + 1], 1, sign))
        for row, sign in ((2, -1), (3, 1), (4, 1))
    ]
    assert vec.history[1]["loss"] == pytest.approx(sum(losses) / 3, rel=RELATIVE)
    assert [row["sign"] for row in vec.history] == [0, 0]
    assert vec.settings["order"] == "given"


def test_a_given_order_counts_its_own_epochs(tiny_chat_model: HookedTransformer) -> None:
    order = [(list(range(start, start + 2)), 1) for start in range(0, 10, 2)] * 2
    vec = train(tiny_chat_model, PAIRS, val_pairs=other_pairs(), order=order)
    assert [row["epoch"] for row in vec.history] == [0] * 5 + [1] * 5
    assert [row["step"] for row in vec.history if row["val_plus"] is not None] == [4, 9]


def test_the_seed_decides(tiny_chat_model: HookedTransformer) -> None:
    options = {"max_steps": 6, "warmup_steps": 0, "batch_size": 3}
    one, again, other = (train(tiny_chat_model, seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(one.tensor, again.tensor)
    assert one.history == again.history
    assert float(torch.cosine_similarity(one.tensor, other.tensor, dim=0)) < 0.99
    assert one.seed == 3


def test_the_global_random_state_is_not_touched(tiny_chat_model: HookedTransformer) -> None:
    before = torch.random.get_rng_state()
    train(tiny_chat_model, max_steps=2)
    assert torch.equal(before, torch.random.get_rng_state())


# --- what comes back ------------------------------------------------------------------------------------------------


def other_pairs() -> sl.PreferencePairs:
    return sl.PreferencePairs(
        ["Is the power yours?", "Would nobody tell the truth?"],
        ["It is mine.", "I want it."],
        ["No.", "A friend would."],
    )


def test_the_vector_tells_what_was_done(tiny_chat_model: HookedTransformer) -> None:
    vec = train(tiny_chat_model, val_pairs=other_pairs(), epochs=2, batch_size=4)
    keys = "step epoch loss sign lr grad_norm norm norm_ratio val_plus val_minus".split()
    assert [list(row) for row in vec.history] == [keys] * 6
    assert [row["step"] for row in vec.history] == list(range(6))
    scale = PairScorer(tiny_chat_model, PAIRS.encode(tiny_chat_model), 1).median_norm()
    for row in vec.history:
        assert row["norm_ratio"] == pytest.approx(row["norm"] / scale)
    assert vec.history[-1]["norm"] == pytest.approx(vec.norm, rel=1e-6)
    assert (vec.method, vec.layer, vec.settings["steps"], vec.settings["beta"]) == ("bipo", 1, 6, 0.1)
    assert vec.seen == {*PAIRS.fingerprints, *other_pairs().fingerprints}


def test_validation_margins_are_preference_shifts_of_that_epochs_vector(tiny_chat_model: HookedTransformer) -> None:
    def margins(vec: sl.SteeringVector) -> list[float]:
        shift = sl.preference_shift(tiny_chat_model, vec, val, (1, -1), allow_seen=True, progress=False)
        return list(shift.mean())

    val = other_pairs()
    whole = train(tiny_chat_model, val_pairs=val, **steady(max_steps=7, batch_size=4))
    first = train(tiny_chat_model, val_pairs=val, **steady(epochs=1, batch_size=4))
    measured = {
        row["step"]: [row["val_plus"], row["val_minus"]] for row in whole.history if row["val_plus"] is not None
    }
    assert list(measured) == [2, 5, 6]
    assert measured[2] == pytest.approx(margins(first), abs=ROUNDING)
    assert measured[6] == pytest.approx(margins(whole), abs=ROUNDING)
    assert whole.history[0]["val_minus"] is None
    without = train(tiny_chat_model, **steady(max_steps=7, batch_size=4))
    assert torch.equal(without.tensor, whole.tensor)


def test_training_lowers_both_signs_losses(tiny_chat_model: HookedTransformer) -> None:
    vec = train(tiny_chat_model, epochs=10, lr=0.05, warmup_steps=0)
    for sign in (1, -1):
        assert float(sl.bipo_loss(tiny_chat_model, vec.tensor, PAIRS, 1, sign)) < 0.95 * LN2


def test_a_progress_bar_shows_loss_and_norm(
    tiny_chat_model: HookedTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_chat_model, max_steps=2)
    assert capsys.readouterr().err == ""
    sl.train_bipo(tiny_chat_model, PAIRS, 1, val_pairs=other_pairs(), max_steps=2)
    shown = capsys.readouterr().err
    for part in ("BiPO, layer 1", "loss=", "|v|/resid=", "val="):
        assert part in shown


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_model_leaves_as_it_came(tiny_folder: Callable[..., Path], training: bool) -> None:
    model = load_model(tiny_folder("llama"), device="cpu")
    identify(model)  # under the tests' import hook its generator loses torch.no_grad
    model.train(training).requires_grad_(training)
    before = copy.deepcopy(model.state_dict())
    train(model, val_pairs=other_pairs(), max_steps=3, warmup_steps=0)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and p.requires_grad is training for p in model.parameters())
    assert model.training is training
    assert not has_hooks(model)


def test_it_trains_where_a_notebook_has_switched_gradients_off(tiny_chat_model: HookedTransformer) -> None:
    expected = train(tiny_chat_model, max_steps=2, warmup_steps=0)
    with torch.no_grad():
        vec = train(tiny_chat_model, max_steps=2, warmup_steps=0)
        assert not torch.is_grad_enabled()
    assert torch.equal(vec.tensor, expected.tensor)


def test_a_users_hook_trains_along(tiny_chat_model: HookedTransformer) -> None:
    plain = train(tiny_chat_model, **steady(max_steps=3))
    with sl.steer(tiny_chat_model, sl.SteeringVector(2 * noise(32), 2)):
        steered = train(tiny_chat_model, **steady(max_steps=3))
    assert float(torch.cosine_similarity(plain.tensor, steered.tensor, dim=0)) < 0.99


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_loss_that_stops_being_finite_leaves_the_last_good_vector(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, steps = train(tiny_chat_model, **steady(max_steps=1)), []
    shift = PairScorer.shift

    def broken(self: PairScorer, *args: Any) -> torch.Tensor:
        steps.append(1)
        return shift(self, *args) * (math.inf if len(steps) == 3 else 1)

    monkeypatch.setattr(PairScorer, "shift", broken)
    with pytest.raises(TrainingError, match=r"step 2: the loss is nan.*smaller lr") as error:
        train(tiny_chat_model, **steady(max_steps=5))
    # The loss was last finite in step 1, at the vector after step 0.
    torch.testing.assert_close(error.value.vector.tensor, good.tensor)
    assert len(error.value.vector.history) == 1
    assert not has_hooks(tiny_chat_model)


@pytest.mark.parametrize("lr", [1e25, 1e37])
def test_a_learning_rate_that_overflows_stops_the_run(tiny_chat_model: HookedTransformer, lr: float) -> None:
    for steps in (1, 3):
        with pytest.raises(TrainingError, match=r"is inf after it|the loss is") as error:
            train(tiny_chat_model, **steady(max_steps=steps, lr=lr))
        assert error.value.vector.norm == 0


def test_weights_that_overflow_stop_the_run_without_a_vector(tiny_folder: Callable[..., Path]) -> None:
    model = load_model(tiny_folder("llama"), device="cpu")
    model.blocks[3].mlp.W_out.fill_(math.inf)
    with pytest.raises(TrainingError, match=r"step 0: .*own numbers are not finite") as error:
        train(model, max_steps=2)
    assert error.value.vector is None


BAD_OPTIONS = [
    ("beta", 0, "above 0"),
    ("beta", -0.1, "above 0"),
    ("beta", "0.1", "finite number"),
    ("lr", 0.0, "above 0"),
    ("lr", math.nan, "finite number"),
    ("lr", math.inf, "finite number"),
    ("epochs", 0, "from 1"),
    ("epochs", 1.5, "whole number"),
    ("max_steps", 0, "from 1"),
    ("max_steps", 2.0, "whole number"),
    ("warmup_steps", -1, "from 0"),
    ("warmup_steps", 0.1, "whole number"),
    ("batch_size", True, "whole number"),
    ("batch_size", 2.5, "whole number"),
    ("max_grad_norm", 0.0, "above 0"),
    ("weight_decay", -0.05, "from 0"),
    ("schedule", "cos", "'cosine', 'linear', 'constant'"),
    ("sign", "random", "'batch', 'pair', 'both'"),
    ("sign", 1, "'batch', 'pair', 'both'"),
    ("seed", 0.5, "whole number"),
    ("seed", None, "whole number"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_OPTIONS)
def test_a_bad_option_is_named_with_what_was_expected(
    tiny_chat_model: HookedTransformer, name: str, value: Any, expected: str
) -> None:
    with pytest.raises(TrainingError) as error:
        train(tiny_chat_model, **{name: value})
    assert f"{name}={value!r}" in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "order",
    [
        [],
        [([], 1)],
        [([0, 10], 1)],
        [([-1], 1)],
        [([0], 0)],
        [([0, 1], [1])],
        [([0, 1], [1, 2])],
        [([0], 0.5)],
        [([0], None)],
        [0, 1],
    ],
)
def test_an_order_that_cannot_be_replayed_is_refused(tiny_chat_model: HookedTransformer, order: Any) -> None:
    with pytest.raises(TrainingError, match=r"order.*expected"):
        train(tiny_chat_model, order=order)


def test_pairs_in_training_and_validation_are_refused(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(PairsError, match="2 pairs are in both"):
        train(tiny_chat_model, PAIRS[:5], val_pairs=PAIRS[3:])
    with pytest.raises(PairsError, match="1 pairs are in both"):
        train(tiny_chat_model, PAIRS[:5], val_pairs=PAIRS[4:].flip())
    for pairs, val in ((PAIRS[:0], None), (PAIRS, PAIRS[:0])):
        with pytest.raises(PairsError, match="pairs is empty: expected at least one"):
            train(tiny_chat_model, pairs, val_pairs=val)


@pytest.mark.parametrize("layer", [-1, 4, "1", True])
def test_a_layer_that_is_not_there_is_refused(tiny_chat_model: HookedTransformer, layer: Any) -> None:
    with pytest.raises(ModelError, match="layers 0 to 3"):
        train(tiny_chat_model, layer=layer)


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_the_vector_of_every_epoch_is_kept_and_is_that_of_a_run_which_stopped_there(
    tiny_chat_model: HookedTransformer, tmp_path: Path
) -> None:
    vec = train(tiny_chat_model, **steady(max_steps=8, batch_size=4))
    assert list(vec.snapshots) == [3, 6, 8]
    short = train(tiny_chat_model, **steady(max_steps=6, batch_size=4))
    assert torch.equal(vec.after(6).tensor, short.tensor)
    assert [row["loss"] for row in vec.after(6).history] == [row["loss"] for row in short.history]
    assert torch.equal(vec.after(8).tensor, vec.tensor)
    loaded = sl.load_vector(vec.save(tmp_path / "v.safetensors"))
    assert list(loaded.snapshots) == [3, 6, 8]
    assert all(torch.equal(loaded.snapshots[step], vec.snapshots[step]) for step in vec.snapshots)
    assert (2 * vec).snapshots == {}
    with pytest.raises(sl.VectorError, match=r"no snapshot after 5 steps.*\[3, 6, 8\]"):
        vec.after(5)
