"""Careless values for every argument of every public call: one error of ours, before the model runs or a file is written."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.checks.values import LARGEST_COUNT, LARGEST_SEED, shown
from steerlens.forward.steer import check_model


class Worked(BaseException):
    """The model was asked for something: all arguments had passed."""


class Unshowable:
    """What has no text of its own."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


CARELESS: tuple[Any, ...] = (
    None, "x", "", b"x", "\ud800", "a\0b", "n" * 5000, [], ["x"], [""], ["\ud800"], [1], [None], [[1]], (), {}, {"x": 1}, {1},
    object(), Unshowable(), -1, 0, 1.5, math.nan, math.inf, -math.inf, True, 1j, 10**5000, 2**70, np.array([]), np.ones((2, 2)),
    np.array(["x"]), torch.ones(3, 3), torch.tensor(math.nan), pd.DataFrame({"x": [1]}), pd.NA, int, print, [math.nan], [True],
    [10**5000], iter([1]), np.datetime64("2020-01-01"),
)  # fmt: skip


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def finite(value: Any) -> bool:
    return (whole(value) and abs(value) < 2**1000) or (isinstance(value, float) and math.isfinite(value))


def a_text(value: Any) -> bool:
    return isinstance(value, str) and "\ud800" not in value


def some_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0 and all(map(a_text, value))


def a_path(value: Any) -> bool:
    return a_text(value) and value != "" and "\0" not in value and len(value) < 255


def nothing(value: Any) -> bool:
    return False


def some_multipliers(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(finite, value))


@dataclass(frozen=True)
class Kind:
    """What of the careless values may pass for an argument after all, and what else must."""

    may_pass: Callable[[Any], bool]
    must_pass: tuple[Any, ...] = ()


FLAG = Kind(lambda v: isinstance(v, bool), (np.True_, False))
COUNT = Kind(lambda v: whole(v) and 1 <= v <= LARGEST_COUNT, (np.int64(1), torch.tensor(2)))
FROM_ZERO = Kind(lambda v: whole(v) and 0 <= v <= LARGEST_COUNT, (np.int64(0),))
SEED = Kind(lambda v: whole(v) and 0 <= v <= LARGEST_SEED, (np.int64(3), torch.tensor(3)))
NUMBER = Kind(finite, (np.float32(0.5), np.int64(1), torch.tensor(0.5)))
ABOVE_ZERO = Kind(lambda v: finite(v) and v > 0, (np.float32(0.5), np.int64(1)))
LAYER = Kind(lambda v: whole(v) and 0 <= v < 4, (np.int64(1), torch.tensor(1)))
LAYERS = Kind(
    lambda v: isinstance(v, list) and len(v) > 0 and all(whole(x) and 0 <= x < 4 for x in v), (np.arange(2), range(1))
)
MULTIPLIERS = Kind(
    some_multipliers, (np.arange(-1, 2), np.float32([0, 1]), range(2), torch.arange(2), pd.Series([0.0, 1.0]))
)
TEXT = Kind(lambda v: a_text(v) and v != "")
WORDS = Kind(a_text)
TEXTS = Kind(some_texts, (("a b",), pd.Series(["a b"])))
PATH = Kind(a_path)
CHOICE = Kind(nothing)
OURS = Kind(nothing)  # a model, a vector, pairs, a result
TEMPLATE = Kind(callable)

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("progress", "allow_seen", "swap", "margin", "centred", "second", "both_signs", "nulls", "free_lower"), FLAG),
    **dict.fromkeys(("batch_size", "max_new_tokens", "n", "k", "epochs", "max_steps", "rank", "eval_every", "patience"), COUNT),
    **dict.fromkeys(("checkpoint_every", "schedule_steps"), COUNT),
    **dict.fromkeys(("n_random", "warmup_steps"), FROM_ZERO),
    **dict.fromkeys(("beta", "lr", "alpha", "max_grad_norm", "max_norm", "norm", "temperature", "max_multiplier"), ABOVE_ZERO),
    **dict.fromkeys(("multiplier", "like_multiplier", "min_nats"), NUMBER),
    **dict.fromkeys(("weight_decay",), Kind(lambda v: finite(v) and v >= 0, (np.float64(0),))),
    **dict.fromkeys(("model", "vector", "vectors", "like", "pairs", "val_pairs", "measure_on"), OURS),
    **dict.fromkeys(("a", "b", "questions", "quiz", "v", "answers", "judge", "tuned", "executor"), OURS),
    **dict.fromkeys(("positions", "position", "form", "quiz_form", "by", "centring", "schedule"), CHOICE),
    **dict.fromkeys(("sign", "cache", "on_bad"), CHOICE),
    **dict.fromkeys(("prompts", "other_prompts", "texts", "target_modules"), TEXTS),
    **dict.fromkeys(("checkpoint", "file", "store", "base", "adapter", "path", "source", "name", "data_dir"), PATH),
    "seed": SEED,
    "n_null": Kind(lambda v: whole(v) and 100 <= v < LARGEST_COUNT, (np.int64(100),)),
    "seeds": Kind(lambda v: isinstance(v, list) and len(v) > 0 and all(map(whole, v)) and max(v) < 2**63, (np.arange(2), range(1))),
    "lrs": Kind(lambda v: isinstance(v, list) and len(v) > 0 and all(map(finite, v)), (np.array([0.1]),)),
    "layer": LAYER,
    "layers": LAYERS,
    "multipliers": MULTIPLIERS,
    "target": NUMBER,
    "tolerance": Kind(lambda v: finite(v) and 0 < v < 1, (np.float32(0.5),)),
    "between": Kind(nothing, (np.array([0.5, 2.0]), [1, 2])),
    "template": TEMPLATE,
    "system_prompt": WORDS,
    "primer": WORDS,
    "title": WORDS,
    "label": TEXT,
    "behaviour": Kind(nothing),
    "methods": Kind(nothing),
    "options": Kind(lambda v: isinstance(v, dict) and not v),
    "order": Kind(nothing),
    "examples": Kind(
        lambda v: (whole(v) and 0 <= v <= LARGEST_COUNT) or shown(v) in ("[]", "[1]", "()", "array([], dtype=float64)"),
        (np.int64(1), np.arange(2)),
    ),
    "stop": Kind(lambda v: True),
    "dtype": CHOICE,
    "device": CHOICE,
    "results": OURS,
}  # fmt: skip
# Where a name means something else.
OWN: dict[tuple[str, str], Kind] = {
    ("compare", "side_effects"): FLAG,
    ("dose_response", "side_effects"): OURS,
    ("answers", "sample"): FLAG,
    ("compare", "prompts"): Kind(lambda v: isinstance(v, (list, tuple, np.ndarray)) and all(map(a_text, v))),
    ("bipo_loss", "sign"): Kind(lambda v: whole(v) and abs(v) == 1, (np.float64(-1.0), np.int64(1))),
    ("downstream_lens", "min_nats"): Kind(lambda v: finite(v) or (isinstance(v, float) and math.isinf(v)), (np.float32(-5),)),
    ("sweep", "model"): Kind(a_path),
    ("steer", "response_start"): Kind(nothing),  # with positions="all" there is none
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> HookedTransformer:
    return sl.load_model("toy", device="cpu")


def right_calls(model: HookedTransformer, folder: Path) -> dict[str, dict[str, Any]]:
    """Every public call with arguments that pass."""
    pairs = sl.load_pairs("toy/wealth")
    generator = torch.Generator().manual_seed(0)
    one, two = (sl.SteeringVector(t, 2) for t in torch.randn(2, model.cfg.d_model, generator=generator))
    train, test = pairs.train[:3], pairs.test[:3]
    asked = pairs.as_choices()[:3]
    prompts, texts = list(test.prompts), [" ".join((p.prompt, p.chosen)) for p in test]
    quiet = {"progress": False}
    on = {"model": model, "vector": one, **quiet}
    of = {"model": model, "vectors": one, **quiet}
    learn = {"model": model, "pairs": train, "layer": 2, **quiet}
    return {
        "steer": {"model": model, "vector": one},
        "generate": {"prompts": prompts, **on},
        "answers": {"prompts": prompts, "sample": True, **of},
        "activation_map": {"pairs": test, **of},
        "multiple_choice": {"questions": asked, **of},
        "truthful_qa": {"questions": asked, "form": "qa", **of},
        "knowledge": {"questions": asked, "multipliers": (0, 1), **of},
        "dose_response": {"pairs": test, **on},
        "downstream_lens": {"prompts": prompts, **on},
        "preference_shift": {"pairs": test, **on},
        "inspect": {"model": model, "pairs": test, **quiet},
        "logit_lens": dict(on),
        "margin_shift": {"model": model, "tuned": model, "pairs": test, **quiet},
        "match_multiplier": {"target": 0.1, "texts": texts, **on},
        "token_projection": {"texts": texts, **of},
        "side_effects": {"texts": texts, "prompts": prompts, **of},
        "similarity": {"vectors": [one, two], "model": model, "pairs": test, **quiet},
        "compare": {"a": one, "b": two, "model": model, "pairs": test, **quiet},
        "sweep": {"model": model, "pairs": train, "measure_on": test, "layers": [2], **quiet},
        "playground": {"model": model, "vectors": one},
        "bipo_loss": {"model": model, "v": one.tensor, "pairs": train, "layer": 2},
        "train_bipo": {**learn, "val_pairs": pairs.val[:2]},
        "train_bipo_grid": {**{k: v for k, v in learn.items() if k != "layer"}, "layers": [2], "val_pairs": pairs.val[:2]},
        "train_supervised": learn,
        "train_dpo_lora": {"model": model, "pairs": train, **quiet},
        "extract_caa": learn,
        "extract_pca": learn,
        "extract_difference_in_means": {"model": model, "prompts": prompts, "other_prompts": texts, "layer": 2, **quiet},
        "toy_reference": {"model": model, "behaviour": "wealth", "layer": 2, **quiet},
        "random_vectors": {"like": one, "n": 1, "model": model, "pairs": train},
        "mean_activation": learn,
    }  # fmt: skip


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's forward pass, of every route, and Hugging Face's, raise Worked."""

    def worked(*args: Any, **kwargs: Any) -> None:
        raise Worked

    def nowhere(*args: Any) -> None:
        raise sl.ModelError("no network here")

    monkeypatch.setattr("torch.nn.Module._call_impl", worked)
    monkeypatch.setattr("steerlens.forward.packed_route.FlatRoute.__init__", worked)
    monkeypatch.setattr("steerlens.generation.packed_decode.FlatDecoder.__init__", worked)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", worked)
    monkeypatch.setattr("steerlens.methods.dpo_lora.AutoModelForCausalLM.from_pretrained", worked)
    monkeypatch.setattr("steerlens.models.load.hub_folder", nowhere)
    monkeypatch.setattr("steerlens.comparison.compare._lens", worked)


def outcome(call: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """How a call ends: "ours", "passed", or what it raised."""
    try:
        found = call(**arguments)
        if hasattr(found, "__enter__") and not isinstance(found, Path):
            with found:
                pass
    except sl.SteerLensError as error:
        return "ours" if len(str(error)) < 700 else f"a long error: {error!s:.300}"
    except (Worked, IndexError) as error:  # of a sequence, what Python expects
        return "passed" if isinstance(error, Worked) else "ours"
    except TypeCheckError:  # of jaxtyping, which is on in the tests
        return "ours"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.150}"
    return "passed" if found is not NotImplemented else "ours"


def faults(name: str, call: Callable[..., Any], right: dict[str, Any]) -> Iterator[str]:
    """What is wrong with how a call takes careless values, argument by argument."""
    if (found := outcome(call, right)) != "passed":
        yield f"{name}: the right call: {found}"
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        kind = OWN.get((name, parameter.name)) or KINDS[parameter.name]
        for value in CARELESS:
            may_be_none = value is None and parameter.default is None
            if may_be_none or kind.may_pass(value):  # some other argument may make it wrong, and often it is right
                continue
            if (found := outcome(call, {**right, parameter.name: value})) != "ours":
                yield f"{name}({parameter.name}={shown(value):.50}): {found}"
        # One of them a call: what comes after the door is slow beside it.
        value = kind.must_pass[len(name) % len(kind.must_pass)] if kind.must_pass else None
        if value is not None and (found := outcome(call, {**right, parameter.name: value})) != "passed":
            yield f"{name}({parameter.name}={shown(value):.50}): {found}"


def test_a_careless_value_meets_an_error_of_ours_before_any_work(
    toy: HookedTransformer, tmp_path: Path, no_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def known(model: object) -> HookedTransformer:  # its parts are looked at once, not 5,000 times
        return toy if model is toy else check_model(model)

    monkeypatch.setattr("steerlens.forward.door.check_model", known)
    monkeypatch.setattr("steerlens.forward.steer.check_model", known)
    found = [
        fault for name, right in right_calls(toy, tmp_path).items() for fault in faults(name, getattr(sl, name), right)
    ]
    assert not found, "\n".join(found)
