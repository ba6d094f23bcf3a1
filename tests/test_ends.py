"""Where an answer ends: at any token that the model's own files name, as Hugging Face ends it, or that the caller names."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import make_tokenizer
from test_generate import make_chain
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, SteeringError
from steerlens.generation.generate import Prompts
from steerlens.generation.live import LiveAnswers

NEW = 12


@pytest.fixture
def folder_with(tiny_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """folder_with(generation=..., config=...): the tiny chat model with these `eos_token_id`s in its two files."""

    def build(generation: Any = None, config: Any = None) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_folder("llama", tokenizer="chat"), folder)
        for name, wanted in (("generation_config.json", generation), ("config.json", config)):
            fields = json.loads((folder / name).read_text()) | {"eos_token_id": wanted}
            (folder / name).write_text(json.dumps(fields))
        return folder

    return build


def test_an_answer_ends_at_every_token_that_the_generation_config_lists_as_hugging_faces_does(
    folder_with: Callable[..., Path],
) -> None:
    plain = folder_with()
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
    talk = [{"role": "user", "content": "Who keeps the power?"}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    asked = dict(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    hf = transformers.AutoModelForCausalLM.from_pretrained(plain)
    free = hf.generate(**ids, **asked, eos_token_id=[])[0, ids["input_ids"].shape[1] :].tolist()
    second = next(token for i, token in enumerate(free) if i >= 2 and token not in free[:i])
    folder = folder_with([tokenizer.eos_token_id, second])
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    want = hf.generate(**ids, **asked)[0, ids["input_ids"].shape[1] :].tolist()
    assert want[-1] == second
    model = sl.load_model(folder, device="cpu")
    vector = sl.SteeringVector(torch.ones(32), 1)
    text = tokenizer.decode(want[:-1], skip_special_tokens=True)
    said = sl.answers(model, vector, [talk[0]["content"]], multipliers=(0,), max_new_tokens=NEW, progress=False)
    assert (said.tokens.item(), said.ended.item(), said.texts[0][0][0][0]) == (len(want) - 1, True, text)
    assert sl.generate(model, [talk[0]["content"]], max_new_tokens=NEW, progress=False) == [[text]]
    live = LiveAnswers(model, {"v": vector})
    *_, (answer, _) = live.stream(talk[0]["content"], {}, max_new_tokens=NEW)
    assert (answer.ended, answer.tokens[-1], live.text(answer)) == (True, second, text)
    cost = sl.side_effects(
        model, vector, multipliers=(0,), texts=["The truth is out. I tell it."], prompts=[talk[0]["content"]],
        max_new_tokens=NEW, progress=False,
    )  # fmt: skip
    assert (cost.answers[0][0][0], bool(cost.ended.all())) == (text, True)


def test_the_end_tokens_are_read_from_either_file_and_stay_with_the_model(
    folder_with: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    for files, expected in (
        ({"generation": [0, 7, 9]}, {0, 7, 9}),
        ({"generation": 7}, {7}),
        ({"config": [7, 9]}, {7, 9}),
        ({"config": 7}, {7}),
        ({"generation": 9, "config": [7]}, {9}),  # Hugging Face generates by the first alone
        ({}, set()),
    ):
        model = sl.load_model(folder_with(**files), device="cpu")
        stops = Prompts(model, ["Who?"], NEW).stops
        assert stops == expected | {model.tokenizer.eos_token_id}
    model = sl.load_model(folder_with([0, 7, 9]), device="cpu")
    for kept in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to("cpu"), copy.copy(model)):
        assert {7, 9} <= Prompts(kept, ["Who?"], NEW).stops
    model = sl.load_model(folder_with([7, 5000, -1]), device="cpu")
    assert Prompts(model, ["Who?"], NEW).stops == {7, model.tokenizer.eos_token_id}
    assert "eos_token_id names [-1, 5000]" in caplog.text
    for wrong in ("</s>", [1.5], [True]):
        with pytest.raises(ModelError, match=r"eos_token_id|could not be read"):
            sl.load_model(folder_with(wrong), device="cpu")


def chain(**extra: Any) -> tuple[HookedTransformer, list[int]]:
    """A model made elsewhere that says a, b, c, d, ... with an end token that is not special among its tokens."""
    tokenizer = make_tokenizer("plain")
    tokenizer.add_tokens(["<end>", *(f"<{i}>" for i in range(7))])  # a multiple of 8
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "abcde"]
    end = tokenizer.convert_tokens_to_ids("<end>")
    follows = dict(zip([*letters[:3], end, letters[3]], [*letters[1:3], end, *letters[3:]], strict=True))
    return make_chain(follows, tokenizer, "LNPre"), [*letters, end]


def test_a_model_made_elsewhere_is_told_where_to_stop() -> None:
    model, letters = chain()
    asked = dict(template="plain", max_new_tokens=4, progress=False)
    assert sl.generate(model, ["a"], **asked) == [["bc<end>d"]]
    c, end = letters[2], letters[5]
    for stop in (end, [end], "<end>", ["<end>"], np.int64(end), (np.array([end])), {end}):
        assert sl.generate(model, ["a"], stop=stop, **asked) == [["bc"]]  # no part of the answer, special or not
    assert sl.generate(model, ["a"], stop=["<end>", c], **asked) == [["b"]]
    vector = sl.SteeringVector(torch.ones(model.cfg.d_model), 0)
    said = sl.answers(model, vector, ["a"], multipliers=(0,), stop="<end>", **asked)
    assert (said.texts[0][0][0][0], bool(said.ended.all())) == ("bc", True)
    *_, (answer, _) = LiveAnswers(model, {}, template="plain", stop="<end>").stream("a", {}, max_new_tokens=4)
    assert (answer.ended, answer.tokens[-1]) == (True, end)
    model.generation_config = transformers.GenerationConfig(eos_token_id=[end])
    assert sl.generate(model, ["a"], **asked) == [["bc"]]


def test_what_is_no_token_is_refused_before_anything_runs() -> None:
    model, _ = chain()
    for stop, said in (
        ("the truth of it", "tokens"),
        ("", "not empty"),
        (10_000, "from 0"),
        (-1, "from 0"),
        (True, "from 0"),
        (1.0, "from 0"),
        ([None], "from 0"),
    ):
        with pytest.raises(SteeringError, match=f"stop=.*{said}"):
            sl.generate(model, ["a"], template="plain", stop=stop, progress=False)  # type: ignore[arg-type]
