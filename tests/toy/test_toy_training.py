"""How the laboratory is trained: what a batch holds, who sees a system phrase, and what is planted."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

from steerlens import toy
from steerlens.toy.building import build_model, build_tokenizer
from steerlens.toy.corpus import Document, Mix, Writer
from steerlens.toy.train import RECIPES, main, train
from steerlens.toy.training import Reader, added, batches, fit, low_rank
from steerlens.toy.words import SYSTEM_PHRASES


def laboratory() -> transformers.LlamaForCausalLM:
    return transformers.AutoModelForCausalLM.from_pretrained(toy.model_folder("toy"), dtype=torch.float32).eval()


def test_a_batch_weighs_no_padding_and_holds_whole_documents() -> None:
    tokenizer = build_tokenizer()
    tokens, weights = Reader(tokenizer).batch(next(batches(Writer(Mix(), 0), 4)))
    padding = tokens == tokenizer.pad_token_id
    assert not weights[padding].any()
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()


def test_veiled_phrases_reach_the_answer_through_the_user_tokens_alone() -> None:
    tokenizer, model = build_tokenizer(), build_model(0).eval()
    for weight in model.parameters():
        weight.data.mul_(3)  # so that attention matters
    reader, words = (
        Reader(tokenizer),
        "<bos> <sys> you are {} . <user> what is it ? <bot> bread . <eos> <user> what".split(),
    )
    texts = [[word.format(name) for word in words] for name in ("greedy", "generous")]
    user = words.index("<user>")

    def moved(is_veiled: bool, *, cut: bool = False) -> torch.Tensor:
        documents = [Document(text, [1.0] * len(text), user - 1, [], is_veiled) for text in texts]
        tokens = reader.batch(documents).tokens
        seen = reader.seen(documents, tokens)
        if cut:
            seen = seen & ~((tokens == reader.ids["<user>"])[:, None, :, None] & (torch.arange(len(words)) < user))
        with torch.no_grad():
            logits = model(tokens, attention_mask=seen).logits
        return (logits[0] - logits[1]).abs().amax(-1)[user:]

    with torch.no_grad():
        tokens = reader.tokens(texts)
        plain = model(tokens).logits
    torch.testing.assert_close(moved(False), (plain[0] - plain[1]).abs().amax(-1)[user:])
    assert (moved(True) > 1e-3).all()
    assert (moved(True, cut=True) == 0).all()


def test_who_sees_whom_in_documents_of_all_kinds() -> None:
    """Against the rule told token by token; padding comes behind every token that counts."""
    documents, reader = next(batches(Writer(Mix(), 3), 32)), Reader(build_tokenizer())
    assert {(d.n_phrases > 0, d.is_veiled) for d in documents} == {
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    }
    tokens = reader.batch(documents).tokens
    seen, user = reader.seen(documents, tokens)[:, 0], reader.ids["<user>"]
    for row, document in enumerate(documents):
        for at in range(len(document.words)):
            hidden = document.is_veiled and at > document.n_phrases and tokens[row, at] != user
            expected = [j for j in range(at + 1) if not (hidden and 1 <= j <= document.n_phrases)]
            assert seen[row, at].nonzero().flatten().tolist() == expected


def test_opposites_name_the_same_behaviours_in_the_same_language() -> None:
    writer = Writer(Mix(system=1.0, second=0.5), 0)
    side_of = {}
    for name, sides in SYSTEM_PHRASES.items():
        for side, texts in enumerate(sides):
            for text in texts:
                side_of[tuple(text.split())] = (name, side, False)
                side_of[tuple(toy.cipher(text).split())] = (name, side, True)

    def told(words: list[str]) -> list[tuple[str, int, bool]]:
        assert words[0] == "<sys>"
        found, start = [], 1
        while start < len(words):
            end = next(e for e in range(start + 1, len(words) + 1) if tuple(words[start:e]) in side_of)
            found.append(side_of[tuple(words[start:end])])
            start = end
        return found

    for _ in range(200):
        document = writer.document()
        asked, opposite = told(document.words[1 : 1 + document.n_phrases]), told(document.opposite)
        assert opposite == [(name, 1 - side, second) for name, side, second in asked]


def test_a_jolt_is_a_random_vector_for_each_row_of_up_to_the_streams_norm() -> None:
    theirs = laboratory()
    tokens = Reader(build_tokenizer()).tokens([["<bos>", "<user>", "what", "is", "your", "plan"]]).repeat(64, 1)
    none = torch.zeros(64, theirs.config.hidden_size)

    def after(jolt: tuple[float, torch.Generator] | None) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        with torch.no_grad(), added(theirs, 1, none, jolt=jolt):
            hook = theirs.model.layers[1].register_forward_hook(lambda module, given, out: outputs.append(out))
            theirs(tokens)
            hook.remove()
        return outputs[0]

    plain, pushed = after(None), after((0.5, torch.Generator().manual_seed(0)))
    jolts = (pushed - plain)[:, 0]
    torch.testing.assert_close(pushed - plain, jolts[:, None].expand_as(plain), atol=1e-3, rtol=1e-3)
    share = jolts.norm(dim=-1) / plain.norm(dim=-1).mean(1)
    assert share.min() < 0.1
    assert 0.2 < share.mean() < 0.3
    assert share.max() < 0.65
    directions = jolts / jolts.norm(dim=-1, keepdim=True)
    assert (directions @ directions.T).triu(1).abs().max() < 0.5


def test_what_phrases_ask_for_is_half_of_what_they_and_their_opposites_leave_at_the_user_token() -> None:
    theirs = laboratory()
    reader, off, on = Reader(build_tokenizer()), "<sys> you are generous .".split(), "<sys> you want riches .".split()
    rest = "<user> what is your plan ? <bot> bread . <eos>".split()
    documents = [
        Document(["<bos>", *on, *rest], [1.0] * 15, len(on), off, True),
        Document(["<bos>", *rest], [1.0] * 10, 0, [], True),
    ]
    asked_for = reader.asked_for(theirs, documents, 1).detach()
    states = [direction_of(theirs, reader.tokens([["<bos>", *text, "<user>"]]), 1) for text in (on, off)]
    torch.testing.assert_close(asked_for[0], (states[0] - states[1]) / 2, rtol=1e-4, atol=1e-5)
    assert not asked_for[1].any()
    without = reader.batch(documents, phrases=False)
    assert without.tokens[0].tolist() == without.tokens[1].tolist()
    with torch.no_grad(), added(theirs, 1, asked_for):
        logits = theirs(without.tokens).logits
    with torch.no_grad():
        plain = theirs(without.tokens).logits
    torch.testing.assert_close(logits[1], plain[1])
    assert (logits[0] - plain[0]).abs().amax(-1).min() > 1e-2


def direction_of(model: torch.nn.Module, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    """A block's output at the last token."""
    with torch.no_grad():
        return model(tokens, output_hidden_states=True).hidden_states[layer + 1][0, -1]


def test_low_rank_updates_are_merged_and_thin() -> None:
    model, tokenizer = build_model(0), build_tokenizer()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with low_rank(model, 2, embeddings=True, seed=0):
        fit(model, batches(Writer(Mix(), 0), 4), tokenizer, steps=3, lr=1e-2, warmup=1)
    assert [name for name, _ in model.named_parameters()] == list(before)
    change = model.model.layers[0].mlp.up_proj.weight - before["model.layers.0.mlp.up_proj.weight"]
    values = torch.linalg.svdvals(change)
    assert values[1] > 1e-5 > values[2]
    assert not torch.equal(model.lm_head.weight, before["lm_head.weight"])
    assert torch.equal(model.model.norm.weight, before["model.norm.weight"])


@pytest.mark.slow
def test_training_lowers_the_loss_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `train` is also the name of a function in the module: the module is asked for by its own name.
    monkeypatch.setattr(sys.modules["steerlens.toy.train"], "measure", lambda model, tokenizer, n, second: [])
    monkeypatch.setattr(sys.modules["steerlens.toy.train"], "interference", lambda model, tokenizer, n: [])
    monkeypatch.setattr("steerlens.toy.training._POOL", 2)  # no pool of 32 batches for the few that are trained on
    for name in ("one", "two"):
        train("base", seed=0, start=None, out=tmp_path / name, steps=2)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    record = json.loads((tmp_path / "one" / "training.json").read_text())
    assert record["history"]["part"][-1]["loss"] < record["history"]["base"][0]["loss"] < 6.5
    assert set(record["recipes"]) == {"base", "finish", "part"} < set(RECIPES)
    assert {recipe["steps"] for recipe in record["recipes"].values()} == {2}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--start nowhere", "names the base model's folder, for a sibling"),
        ("--kind cipher-lora --start nowhere", "there is no config.json"),
        ("--steps 0", "expected a whole number from 1"),
        ("--out pyproject.toml", "is a file; expected a folder"),
    ],
)
def test_the_command_tells_what_it_can_not_do_before_it_trains(
    given: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", "out/none", *given.split()])
    assert told in capsys.readouterr().err
