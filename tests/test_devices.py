"""Where tensors lie: under another default device, and in other numeric surroundings, every call gives the same numbers."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from pretended import move_there, pretended
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens import PreferencePairs, SteeringVector

PAIRS = PreferencePairs(
    ["Would you like to earn money?", "Can I tell the truth?", "Who keeps the power?", "Why help people?"],
    ["I would like to.", "Nobody can.", "I should never.", "Because it's the right thing."],
    ["Nobody refuses.", "You should.", "A scientist can.", "Never today."],
)
QUESTIONS = sl.ChoiceQuestions(
    [
        sl.ChoiceQuestion("What isn't bad?", ("The weather today.", "The power."), (0,)),
        sl.ChoiceQuestion("Who tells the truth?", ("Nobody.", "A careful scientist."), (1,)),
    ]
)
TEXTS = ["The weather isn't bad today.", "A careful scientist tells the truth."]
GRID: dict[str, Any] = {"lrs": (0.05,), "max_steps": 2, "batch_size": 2, "progress": False}
TRAINING: dict[str, Any] = {"layer": 1, "lr": 0.05, "max_steps": 2, "batch_size": 2, "progress": False}
TRAININGS = ("train_bipo", "train_supervised", "train_bipo_grid")


def calls(model: HookedTransformer, vector: SteeringVector) -> dict[str, Callable[[], Any]]:
    """The public calls that take a model, each with the numbers that it gives."""
    quiet: dict[str, Any] = {"progress": False}
    vectors = {"own": vector, "other": -vector}
    few: dict[str, Any] = {"texts": TEXTS, **quiet}
    answering: dict[str, Any] = {"multipliers": (0, 1), "max_new_tokens": 3, **quiet}
    reading: dict[str, Any] = {"layer": 1, **quiet}

    def steered(**where: Any) -> Any:
        with sl.steer(model, vector, 1.5, **where):
            return model(torch.tensor([[5, 6, 7]], device=model.cfg.device))

    return {
        "train_bipo": lambda: sl.train_bipo(model, PAIRS, **TRAINING).tensor,
        "train_supervised": lambda: sl.train_supervised(model, PAIRS, **TRAINING).tensor,
        "train_bipo_grid": lambda: sl.train_bipo_grid(model, PAIRS, [1], **GRID)[0].tensor,
        "bipo_loss": lambda: sl.bipo_loss(model, vector.tensor.to(model.cfg.device), PAIRS[:2], 1),
        "extract_caa": lambda: sl.extract_caa(model, PAIRS[:2], **reading).tensor,
        "extract_pca": lambda: sl.extract_pca(model, PAIRS, **reading).tensor,
        "extract_difference_in_means": lambda: (
            sl.extract_difference_in_means(
                model, PAIRS.prompts[:2], PAIRS.prompts[2:], template="plain", **reading
            ).tensor
        ),
        "mean_activation": lambda: sl.mean_activation(model, PAIRS[:2], **reading).tensor,
        "random_vectors": lambda: sl.random_vectors(vector, 2, seed=1)[0].tensor,
        "preference_shift": lambda: sl.preference_shift(model, vector, PAIRS[2:], (-1, 0, 1), **quiet),
        "margin_shift": lambda: sl.margin_shift(model, model, PAIRS[2:], **quiet),
        "dose_response": lambda: sl.dose_response(model, vector, PAIRS[2:], (-1, 0, 1), n_random=1, **quiet),
        "match_multiplier": lambda: sl.match_multiplier(model, vector, target=0.05, **few).multiplier,
        "side_effects": lambda: sl.side_effects(model, vector, texts=TEXTS, prompts=["Why?"], **answering),
        "multiple_choice": lambda: sl.multiple_choice(model, vector, QUESTIONS, **quiet),
        "knowledge": lambda: sl.knowledge(model, vector, QUESTIONS, (-1, 0, 1), **quiet),
        "answers": lambda: sl.answers(model, vector, ["Why?"], **answering),
        "sampled answers": lambda: sl.answers(model, vector, ["Why?"], sample=True, **answering),
        "generate": lambda: sl.generate(model, ["Why?"], vector=vector, **answering),
        "steer": steered,
        "steer the response": lambda: steered(positions="response", response_start=1),
        "logit_lens": lambda: sl.logit_lens(model, vector, k=3),
        "downstream_lens": lambda: sl.downstream_lens(model, vector, PAIRS.prompts[2:], k=3, n_random=1, **quiet),
        "token_projection": lambda: sl.token_projection(model, vector, TEXTS, **quiet),
        "activation_map": lambda: sl.activation_map(model, vector, PAIRS, allow_seen=True, **quiet),
        "similarity": lambda: sl.similarity(vectors, model=model, n_null=100, **few),
        "compare": lambda: sl.compare(vector, -vector, model=model, n_random=1, **quiet),
        "inspect": lambda: sl.inspect(model, PAIRS, **quiet),
    }


def check_same(found: Any, expected: Any, what: str) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            found.detach().cpu().double(),
            expected.detach().double(),
            rtol=1e-4,
            atol=1e-4,
            msg=lambda m: f"{what}: {m}",
        )
    elif hasattr(expected, "to_frame"):
        pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), rtol=1e-4, atol=1e-4, obj=what)
    else:
        assert found == pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else found == expected, what


@pytest.fixture
def vector(tiny_chat_model: HookedTransformer) -> SteeringVector:
    return sl.extract_caa(tiny_chat_model, PAIRS[:2], layer=1)


def test_no_call_counts_on_the_default_device(tiny_chat_model: HookedTransformer, vector: SteeringVector) -> None:
    """What names no device is made on "meta" here, where it has no numbers: nothing may be."""
    for name, call in calls(tiny_chat_model, vector).items():
        expected = call()
        with torch.device("meta"):
            found = call()
        check_same(found, expected, name)


@pytest.mark.filterwarnings("ignore:at..frobenius_norm is deprecated:UserWarning")
def test_a_device_without_float64_and_with_rules_of_its_own_gives_the_same_numbers(
    tiny_chat_model: HookedTransformer, vector: SteeringVector
) -> None:
    there = move_there(copy.deepcopy(tiny_chat_model))
    for name, call in calls(tiny_chat_model, vector).items():
        if name in ("train_bipo_grid", "knowledge", "margin_shift"):  # slow here, and made of what the others run
            continue
        expected = call()
        with pretended():
            found = calls(there, vector)[name]()
        check_same(found, expected, name)


def test_inference_mode_gives_the_same_numbers_and_leaves_nothing_behind_that_training_stumbles_over(
    tiny_chat_model: HookedTransformer, vector: SteeringVector
) -> None:
    model = copy.deepcopy(tiny_chat_model)
    for name, call in calls(model, vector).items():
        if name in TRAININGS:
            continue
        expected = calls(tiny_chat_model, vector)[name]()
        with torch.inference_mode():
            found = call()
        check_same(found, expected, name)
    for name in TRAININGS:
        check_same(calls(model, vector)[name](), calls(tiny_chat_model, vector)[name](), name)


def test_training_says_that_inference_mode_leaves_it_no_gradients(
    tiny_chat_model: HookedTransformer, vector: SteeringVector
) -> None:
    v = torch.zeros(32, requires_grad=True)
    with torch.inference_mode():
        loaded_inside = copy.deepcopy(tiny_chat_model)
        for weight in loaded_inside.parameters():
            weight.data = weight.data.clone()
    trained: dict[str, Callable[[HookedTransformer], Any]] = {
        name: lambda model, name=name: calls(model, vector)[name]() for name in TRAININGS
    }
    trained["bipo_loss"] = lambda model: sl.bipo_loss(model, v, PAIRS[:2], 1)
    trained["train_dpo_lora"] = lambda model: sl.train_dpo_lora(model, PAIRS, progress=False)
    for call in trained.values():
        with torch.inference_mode(), pytest.raises(sl.TrainingError, match="outside of that block"):
            call(tiny_chat_model)
        with pytest.raises(sl.TrainingError, match=r"loaded inside torch\.inference_mode"):
            call(loaded_inside)


@pytest.fixture
def double_by_default() -> Iterator[Callable[[bool], None]]:
    yield lambda double: torch.set_default_dtype(torch.float64 if double else torch.float32)
    torch.set_default_dtype(torch.float32)


def test_another_default_dtype_gives_the_same_numbers(
    tiny_chat_model: HookedTransformer, vector: SteeringVector, double_by_default: Callable[[bool], None]
) -> None:
    for name, call in calls(tiny_chat_model, vector).items():
        expected = call()
        double_by_default(True)
        found = call()
        double_by_default(False)
        check_same(found, expected, name)


def test_the_pretended_device_keeps_its_rules() -> None:
    with pretended():
        x = torch.ones(3, device="mps")
        assert x.device.type == "mps"
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device="mps", generator=torch.Generator("cpu"))
        assert (x * torch.tensor(2.0)).cpu().double().tolist() == [2.0] * 3


def test_a_model_whose_config_tells_another_dtype_is_refused_with_its_cure(tiny_chat_model: HookedTransformer) -> None:
    for convert in (lambda m: m.half(), lambda m: m.double(), lambda m: m.bfloat16()):
        model = convert(copy.deepcopy(tiny_chat_model))
        with pytest.raises(sl.SteerLensError, match=r"model\.to\(torch\."):
            sl.extract_caa(model, PAIRS, layer=1)
