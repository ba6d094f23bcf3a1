"""Whatever a model is made of: the numbers are those of its own forward pass by hand, or a refusal."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_routes import FITS, FITS_NOT, OWN_PAIRS, own_model
from transformer_lens import HookedTransformer
from transformer_lens.components import RMSNorm, TransformerBlock, Unembed

import steerlens as sl
from steerlens.errors import ModelError
from steerlens.forward.hooked_route import last_token_resid
from steerlens.forward.packed_route import FlatRoute
from steerlens.forward.pair_scores import PairScorer, choose_route
from steerlens.forward.parts import foreign_parts, has_hooks, is_plain
from steerlens.generation.generate import decode
from steerlens.generation.live import LiveAnswers
from steerlens.measures._text_kl import TextKL
from steerlens.models.load import load_model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Scaled(torch.nn.Module):
    """A sparse autoencoder's place, held by a smaller thing; what it does depends on the whole text."""

    def __init__(self, inner: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        x = x if self.inner is None else self.inner(x, *args, **options)
        return 0.5 * x + 0.25 * x.mean(1, keepdim=True)


class OutOfPlace(TransformerBlock):
    """A block that leaves its hook points aside."""

    def forward(self, resid_pre: torch.Tensor, **_: Any) -> torch.Tensor:
        return resid_pre + self.mlp(self.ln2(resid_pre))


class LoudUnembed(Unembed):
    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(residual)


class Doubled(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Attends(torch.nn.Module):
    """No attention of TransformerLens's: it fills no KV cache and has no hook points."""

    def forward(self, query_input: torch.Tensor, **_: Any) -> torch.Tensor:
        return query_input.cumsum(1) / torch.arange(1, query_input.shape[1] + 1)[:, None]


def unembed_of_another_class(model: HookedTransformer) -> None:
    model.unembed.__class__ = LoudUnembed


def parametrized(model: HookedTransformer) -> None:
    torch.nn.utils.parametrize.register_parametrization(model.blocks[1].mlp, "W_in", Doubled())


def forward_of_one_part(model: HookedTransformer) -> None:
    attn = model.blocks[1].attn
    plain = attn.forward
    attn.forward = lambda *args, **options: 0.5 * plain(*args, **options)


def method_of_one_part(model: HookedTransformer) -> None:
    block = model.blocks[1]
    plain = block.apply_mlp
    block.apply_mlp = lambda x: 3 * plain(x)


def own_part_in_a_wrong_place(model: HookedTransformer) -> None:
    model.blocks[1].hook_mlp_out = RMSNorm(model.cfg)


def norm_where_a_hook_point_was(model: HookedTransformer) -> None:
    model.blocks[1].hook_mlp_out = model.blocks[0].ln1  # a module that stands elsewhere too


CHANGES: dict[str, Callable[[HookedTransformer], Any]] = {
    "hook point": lambda model: setattr(model.blocks[1], "hook_mlp_out", Scaled()),
    "stream": lambda model: setattr(model.blocks[0], "hook_resid_post", Scaled()),
    "mlp": lambda model: setattr(model.blocks[1], "mlp", Scaled(model.blocks[1].mlp)),
    "attention": lambda model: setattr(model.blocks[0], "attn", Attends()),
    "block": lambda model: model.blocks.__setitem__(0, Scaled(model.blocks[0])),
    "norm": lambda model: setattr(model, "ln_final", Scaled()),
    "embedding": lambda model: setattr(model, "embed", Scaled(model.embed)),
    "unembedding": unembed_of_another_class,
    "parametrization": parametrized,
    "forward": forward_of_one_part,
    "method": method_of_one_part,
    "wrong place": own_part_in_a_wrong_place,
    "elsewhere too": norm_where_a_hook_point_was,
}


def by_hand(
    model: HookedTransformer, ids: list[int], added: torch.Tensor, start: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of one text, and the stream after block 0, by `model(tokens)` with a PyTorch hook on that block."""
    streams: list[torch.Tensor] = []

    def add(_module: Any, _args: Any, resid: torch.Tensor) -> torch.Tensor:
        streams.append(resid)
        return resid + (torch.arange(resid.shape[1]) >= start)[:, None] * added

    handle = model.blocks[0].register_forward_hook(add)
    logits = model(torch.tensor([ids]))[0]
    handle.remove()
    return logits, streams[0][0]


def log_prob(logits: torch.Tensor, ids: list[int], n: int) -> torch.Tensor:
    return logits[n - 1 : -1].double().log_softmax(-1)[torch.arange(len(ids) - n), torch.tensor(ids[n:])].sum()


def test_a_model_as_it_was_made_is_of_its_own_parts(tiny_models: dict[str, HookedTransformer]) -> None:
    made = [own_model(**options) for options in (*FITS, *FITS_NOT, {"positional_embedding_type": "shortformer"})]
    for model in (*tiny_models.values(), *made):
        assert foreign_parts(model) == []
        assert is_plain(model)
    assert foreign_parts(copy.deepcopy(tiny_models["llama"])) == []


@pytest.mark.parametrize("change", CHANGES)
def test_scores_streams_and_gradients_are_those_of_the_models_own_forward(change: str) -> None:
    model = own_model(positional_embedding_type="rotary", rotary_dim=8)
    v = noise(32).requires_grad_()
    before = PairScorer(model, OWN_PAIRS, 0).logprobs([0, 1], v)
    CHANGES[change](model)
    assert foreign_parts(model)
    with pytest.raises(ModelError, match="not TransformerLens's own"):
        choose_route(model, OWN_PAIRS, "flat")
    scorer = PairScorer(model, OWN_PAIRS, 0)
    for positions in ("all", "response"):
        expected = []
        for row, pair in enumerate(OWN_PAIRS):
            n = len(pair.prompt)
            start = 0 if positions == "all" else n - 1
            for side in (pair.chosen, pair.rejected):
                logits, _ = by_hand(model, [*pair.prompt, *side], v, start)
                expected.append(log_prob(logits, [*pair.prompt, *side], n))
            stream = by_hand(model, [*pair.prompt, *pair.chosen], 0 * v, 0)[1]
            prompt, chosen, _ = scorer.parts(row)
            torch.testing.assert_close(torch.cat([prompt, chosen]), stream, rtol=1e-5, atol=1e-5)
        ours, theirs = scorer.logprobs([0, 1], v, 1.0, positions).flatten(), torch.stack(expected)  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        gradients = [torch.autograd.grad(sums[0] - 2 * sums[3], v)[0] for sums in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
        if positions == "all":
            assert (ours.view(2, 2) - before).abs().max() > 0.01  # the change does something


@pytest.mark.parametrize("change", ["hook point", "attention", "block", "norm", "forward"])
def test_generated_tokens_are_those_of_the_models_own_forward(change: str) -> None:
    model, v, rows = own_model(), 2 * noise(32), [[3, 1, 4, 1, 5], [9, 2]]
    plain = decode(model, rows, torch.stack([v, -v]), 0, 6, "all", set())
    CHANGES[change](model)
    for positions in ("all", "response"):
        found = decode(model, rows, torch.stack([v, -v]), 0, 6, positions, set())  # type: ignore[arg-type]
        for row, sign, answer in zip(rows, (1, -1), found, strict=True):
            ids = list(row)
            for _ in range(6):
                logits, _ = by_hand(model, ids, sign * v, 0 if positions == "all" else len(row) - 1)
                ids.append(int(logits[-1].argmax()))
            assert answer.tokens == ids[len(row) :]
        if positions == "all":
            assert [answer.tokens for answer in found] != [answer.tokens for answer in plain]
    whole = found[0].tokens
    stopped = decode(model, rows[:1], v[None], 0, 6, "response", {whole[2]})[0]
    assert stopped.tokens == whole[: whole.index(whole[2])]
    assert stopped.ended


def test_every_way_in_sees_a_spliced_module(tiny_folder: Callable[..., Path]) -> None:
    model = load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    vector, texts = sl.SteeringVector(2 * noise(32), 0), ["Tell the truth", "Who keeps the power today?"]
    model.blocks[2].hook_mlp_out = Scaled()
    model.setup()
    ids = [list(pair.prompt) for pair in sl.PreferencePairs(texts, ["a", "b"], ["c", "d"]).encode(model)]
    finals = [by_hand(model, one, vector.tensor, 0)[0][-1].log_softmax(-1) for one in ids]
    plain = [by_hand(model, one, 0 * vector.tensor, 0)[0][-1].log_softmax(-1) for one in ids]

    lens = sl.downstream_lens(model, vector, texts, k=3, n_random=0, progress=False)
    change = torch.stack([a - b for a, b in zip(finals, plain, strict=True)]).mean(0)
    torch.testing.assert_close(lens.mean()[0], float(change.max()), rtol=1e-4, atol=1e-4)
    last = last_token_resid(model, ids, 0)
    streams = torch.stack([by_hand(model, one, 0 * vector.tensor, 0)[1][-1] for one in ids])
    torch.testing.assert_close(last, streams, rtol=1e-4, atol=1e-5)

    steered, unsteered = next(LiveAnswers(model, {"v": vector}).stream(texts[0], {"v": 1.0}))
    assert steered.tokens[0] == int(finals[0].argmax())
    assert unsteered.tokens[0] == int(plain[0].argmax())
    *_, (steered, _) = LiveAnswers(model, {"v": vector}, positions="response").stream(
        texts[0], {"v": 1.0}, max_new_tokens=4
    )
    grown = list(ids[0])
    for token in steered.tokens:
        logits = by_hand(model, grown, vector.tensor, len(ids[0]) - 1)[0][-1]
        assert token == int(logits.argmax())
        assert steered.steered[len(grown) - len(ids[0])] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-4)
        grown.append(token)

    kl = TextKL(model, texts, [0], batch_size=2)
    found = kl.kl(vector, [1.0])[0]
    for tokens, nats in zip(kl.tokens, found, strict=True):
        q, p = (by_hand(model, list(tokens), k * vector.tensor, 0)[0].double().log_softmax(-1)[1:] for k in (1, 0))
        assert nats == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert any("not TransformerLens's own" in text for text in sl.inspect(model, PAIRS, progress=False).warnings)


PAIRS = sl.PreferencePairs(["Tell the truth", "Who keeps the power?"], ["I want money.", "Nobody."], ["No.", "I do."])


def test_hooks_that_look_at_positions_are_right_too() -> None:
    model, v = own_model(), noise(32)

    def at_one_place(x: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([x[:, :2], 0 * x[:, 2:3], x[:, 3:]], 1)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", at_one_place)]):
        ours = PairScorer(model, OWN_PAIRS, 0).logprobs([0, 1], v)
        for row, pair in zip(ours, OWN_PAIRS, strict=True):
            ids = [*pair.prompt, *pair.chosen]
            torch.testing.assert_close(row[0], log_prob(by_hand(model, ids, v, 0)[0], ids, len(pair.prompt)))


def test_patched_classes_and_hooks_on_all_modules_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, v = own_model(), noise(32)
    plain = TransformerBlock.forward
    assert FlatRoute.fits(model, 20)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
    try:
        assert has_hooks(model)
        assert not FlatRoute.fits(model, 20)
    finally:
        handle.remove()
    monkeypatch.setattr(TransformerBlock, "forward", lambda self, *args, **options: 2 * plain(self, *args, **options))
    assert foreign_parts(model) == ["blocks.0 (TransformerBlock)", "blocks.1 (TransformerBlock)"]
    ours = PairScorer(model, OWN_PAIRS, 0).logprobs([0], v)
    ids, n = [*OWN_PAIRS[0].prompt, *OWN_PAIRS[0].chosen], len(OWN_PAIRS[0].prompt)
    torch.testing.assert_close(ours[0, 0], log_prob(by_hand(model, ids, v, 0)[0], ids, n))


def test_the_logit_lens_reads_no_weights_that_the_model_does_not_use(tiny_folder: Callable[..., Path]) -> None:
    model, v = load_model(tiny_folder("llama"), device="cpu"), sl.SteeringVector(noise(32), 1)
    model.blocks[2].hook_mlp_out = Scaled()
    sl.logit_lens(model, v, k=3)  # which is not on its way
    with model.hooks(fwd_hooks=[("unembed.hook_in", lambda x, hook: x)]), pytest.raises(ModelError, match="hook is on"):
        sl.logit_lens(model, v, k=3)
    model.ln_final = Scaled(model.ln_final)
    with pytest.raises(ModelError, match=r"ln_final \(Scaled\).*sl.downstream_lens"):
        sl.logit_lens(model, v, k=3)


def compiled_forward(model: HookedTransformer) -> None:
    model.blocks[1].forward = torch.compile(model.blocks[1].forward)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while its compiler is imported
def test_compiled_models_are_refused_at_every_door(tiny_folder: Callable[..., Path]) -> None:
    whole = load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    v = sl.SteeringVector(noise(32), 1)
    changes: list[Callable[[HookedTransformer], Any]] = [
        lambda model: model.compile(),
        lambda model: model.blocks[1].compile(),
        lambda model: model.blocks.__setitem__(1, torch.compile(model.blocks[1])),
        lambda model: setattr(model.blocks[0], "mlp", torch.jit.script(torch.nn.Identity())),
        compiled_forward,
    ]
    models = [torch.compile(whole)]
    for change in changes:
        models.append(copy.deepcopy(whole))
        change(models[-1])
    for model in models:
        doors: list[Callable[[], Any]] = [
            lambda model=model: sl.steer(model, v).__enter__(),
            lambda model=model: sl.generate(model, ["Why?"], vector=v, progress=False),
            lambda model=model: sl.preference_shift(model, v, PAIRS, progress=False),
            lambda model=model: sl.train_bipo(model, PAIRS, layer=1, progress=False),
            lambda model=model: sl.extract_caa(model, PAIRS, layer=1),
            lambda model=model: sl.downstream_lens(model, v, ["Why?"], k=3, progress=False),
        ]
        for door in doors:
            with pytest.raises(ModelError, match="is compiled, and hooks don't fire"):
                door()


def test_a_model_with_a_forward_of_its_own_is_steered_but_not_run_in_parts(tiny_folder: Callable[..., Path]) -> None:
    model, v = load_model(tiny_folder("llama", tokenizer="chat"), device="cpu"), sl.SteeringVector(noise(32), 1)
    tokens, plain = torch.tensor([[5, 6, 7]]), model.forward
    with sl.steer(model, v):
        steered = model(tokens)
    model.forward = lambda *args, **options: 0.5 * plain(*args, **options)
    with sl.steer(model, v):
        torch.testing.assert_close(model(tokens), 0.5 * steered)
    for door in (
        lambda: sl.preference_shift(model, v, PAIRS, progress=False),
        lambda: sl.generate(model, ["Why?"], vector=v, progress=False),
    ):
        with pytest.raises(ModelError, match="has its own forward"):
            door()


def test_steering_a_layer_that_is_not_its_own() -> None:
    model, v, tokens = own_model(), sl.SteeringVector(noise(32), 0), torch.tensor([[3, 1, 4]])
    model.blocks[0].__class__ = OutOfPlace
    with sl.steer(model, v):
        torch.testing.assert_close(model(tokens)[0], by_hand(model, [3, 1, 4], 0 * v.tensor, 0)[0])
        steered = model(tokens)
    torch.testing.assert_close(steered[0], by_hand(model, [3, 1, 4], v.tensor, 0)[0])
    with pytest.raises(ModelError, match="positions='all'"), sl.steer(model, v, 1.0, "response", response_start=1):
        pass
