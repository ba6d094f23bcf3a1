"""The formulas count the tokens that really pass through the blocks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import steerlens as sl
from analyses import costs, knowledge, paper, tokens
from analyses.study import StudyConfig
from steerlens.forward import hooked_route as _hooked_route
from steerlens.forward import pair_scores as _scores
from steerlens.measures import _text_kl
from steerlens.text.encode import Encoder

MOST = (24, 6, 10)


@pytest.fixture(scope="module")
def model() -> Any:
    return sl.load_model("toy")


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Tokens that leave each block, all blocks together: all of them, and those that a gradient flows back through."""
    found = {"forward": 0, "backward": 0}

    def count(_module: Any, _args: Any, resid: Tensor) -> None:
        found["forward"] += resid.shape[0] * resid.shape[1]
        found["backward"] += resid.shape[0] * resid.shape[1] * resid.requires_grad

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for module in (_scores, _hooked_route, _text_kl):  # a hook that only counts asks for no passes of their own
            patch.setattr(module, "needs_whole_passes", lambda _: False)
        for block in model.blocks:
            stack.callback(block.hook_resid_post.register_forward_hook(count).remove)
        yield found


def some_vector(model: Any) -> sl.SteeringVector:
    return sl.SteeringVector(torch.full((model.cfg.d_model,), 0.01), 1)


def worked_out(model: Any, config: StudyConfig) -> costs.Costs:
    cfg = model.cfg
    encoded = config.pairs().train.encode(model)
    lettered = config.letter_pairs().train.encode(model)
    sizes = [np.mean([len(p.prompt) for p in encoded]), np.mean([len(p.chosen) + len(p.rejected) for p in encoded])]
    letters = np.mean([len(p.prompt) + len(p.chosen) + len(p.rejected) for p in lettered]) - 8
    lengths = costs.Lengths(*MOST, *map(float, (*sizes, letters)))
    return costs.Costs(config, costs.Shape(cfg.n_layers, cfg.d_model, 1.0, cfg.d_vocab), lengths)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("bipo",), ("bipo", "caa", "freeform", "random")])
def test_the_tokens_of_a_study_are_those_that_pass_through_the_model(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, methods: tuple[str, ...]
) -> None:
    config = tokens.Config(most=MOST, steps=20, lr=0.001, methods=methods, prompts=5, out=tmp_path)
    monkeypatch.setattr(sl, "load_model", lambda _, **__: model)
    k = worked_out(model, config)
    expected = k.make(methods) + k.read(config.prompts)
    with counted(model) as found:
        tokens.run(config)
    # The model's own forward pass pads a batch's prompts and responses to one length: a few tokens more.
    assert found["forward"] == pytest.approx(expected.forward, rel=0.15)
    assert found["backward"] == pytest.approx(expected.backward, rel=0.15)
    assert found["forward"] >= 0.99 * expected.forward


def test_the_tokens_of_a_shift_are_those_that_pass_through_the_model(model: Any) -> None:
    config = StudyConfig(most=MOST)
    k, vector = worked_out(model, config), some_vector(model)
    with counted(model) as found:
        sl.preference_shift(model, vector, config.pairs().test, (-1, 0, 1), progress=False)
    assert found["forward"] == pytest.approx(k.shift().forward, rel=0.15)
    assert found["backward"] == 0


def test_the_tokens_of_questions_are_those_that_pass_through_the_model(model: Any) -> None:
    config = knowledge.Config(limit=8)
    questions, k = knowledge.quiz(config), worked_out(model, StudyConfig(most=MOST))
    vector = some_vector(model)
    with counted(model) as found:
        sl.knowledge(model, vector, questions, (-1, 0, 1), progress=False)
    encoder, options = Encoder(model), np.mean([len(q.options) for q in questions])
    # A question is asked in each order of its options, and each option is told by its letter alone.
    each = np.mean([len(encoder.prompt(text)) for text in questions.prompts]) + options
    expected = k.options(len(questions) * options, float(each), 0, 3)
    assert found["forward"] == pytest.approx(expected.forward, rel=0.15)


def test_every_study_of_the_suite_has_its_row() -> None:
    table = costs.table(share=0.4)
    assert list(table["study"]) == [name for name in table["study"] if name in paper.STUDIES]
    assert set(table["study"]) == set(paper.STUDIES)
    assert (table["hours, float32"] > table["hours, bfloat16"]).all()
    np.testing.assert_allclose(costs.table(share=0.8)["hours, bfloat16"] * 2, table["hours, bfloat16"])
    # A BiPO vector of 20 epochs by hand: 2600 steps of 4 pairs of 102 tokens, 16 of 32 blocks, forward and back.
    k = costs.Costs(StudyConfig(model="llama-2-7b-chat"), costs.SHAPES["llama-2-7b-chat"], costs.WEALTH)
    assert k.bipo().backward == pytest.approx(2600 * 4 * 102 * 16)
