"""Read and steer `blocks.{layer}.hook_resid_post`; with `models.py` the only file that touches TransformerLens.

>>> with sl.steer(model, vec, multiplier=1.5):
...     logits, cache = model.run_with_cache("I would like to be")     # any call inside is steered
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as KeyValueCache
from transformer_lens.hook_points import HookPoint

from steerlens.checks.values import checked_number, checked_positions, shown
from steerlens.errors import ModelError, SteeringError
from steerlens.forward.parts import check_not_compiled, is_own
from steerlens.models.identity import ModelIdentity, identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.origin import remember_origin
from steerlens.vectors.vector import SteeringVector, check_fits

Positions = Literal["all", "response"]


def hook_name(layer: int) -> str:
    """Where a layer is read and steered."""
    return f"blocks.{layer}.hook_resid_post"


def check_model(model: object) -> HookedTransformer:
    """Return the model when steerlens can work with it.

    Raises:
        ModelError: it is no HookedTransformer, its weights are packed in 8 or 4 bits or of another dtype than its config says, or
            it is compiled; says how to get one.
    """
    if isinstance(model, HookedTransformer):
        check_not_compiled(model)
        if model.cfg.load_in_4bit or not all(weight.is_floating_point() for weight in model.parameters()):
            raise ModelError(
                "the model's weights are packed in 8 or 4 bits; steerlens needs plain ones, to tell whether a vector belongs "
                "to them. Load it in 16 bits: sl.load_model(name, dtype='bfloat16')"
            )
        if model.W_E.dtype != model.cfg.dtype:
            raise ModelError(
                f"the model's weights are {model.W_E.dtype}, its config says {model.cfg.dtype}, as after .half() or .double(), and "
                f"parts of it compute in either: convert it with model.to({model.W_E.dtype}), which tells the config too"
            )
        return model
    if isinstance(model, torch.nn.Module) and type(model).__name__ == "OptimizedModule":
        check_not_compiled(model)
    if type(model).__name__ == "TransformerBridge":
        raise ModelError(
            "a TransformerBridge keeps Hugging Face's own blocks, which have no KV cache that steerlens can share between "
            "two responses; load the model with sl.load_model(name), or HookedTransformer.from_pretrained(name)"
        )
    raise ModelError(
        f"got a {type(model).__module__}.{type(model).__name__}; expected a transformer_lens.HookedTransformer: "
        "sl.load_model(name or folder) makes one of any Hugging Face model of the families it knows"
    )


# -- steering ---------------------------------------------------------------------------------------------------------


@contextmanager
def steer(
    model: HookedTransformer,
    vector: SteeringVector,
    multiplier: float = 1.0,
    positions: Positions = "all",
    *,
    response_start: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Add `multiplier * vector` to the residual stream of every forward pass inside the `with` block.

    Blocks nest, and their vectors add up. The model leaves as it came, after an exception too. The block is for the thread that
    enters it: a pass of any other thread through it raises.

    What is added has a name in `run_with_cache`: "blocks.{layer}.hook_steering", and with _1, _2 and so on behind it in blocks
    nested at the same layer. TransformerLens's decompositions leave it out; put it beside them:

        _, cache = model.run_with_cache(tokens)
        added = cache["blocks.13.hook_steering"][None]                      # (1, batch, pos, d_model)
        parts = torch.cat([cache.decompose_resid(), added])                 # their sum is the final resid_post
        cache.logit_attrs(parts, " yes")                                    # direct logit attribution, the vector's last

    Args:
        model: any HookedTransformer with the weights the vector was made on.
        vector: its `layer` says where it is added.
        multiplier: how much of it; negative for the opposite behaviour, 0 for the unsteered model.
        positions: "all" (as BiPO trains and steers), or "response": from the last prompt token on, where the first response
            token is decided (CAA steers after the prompt). Right with a KV cache too.
        response_start: for "response": the index of the last prompt token in the tokens passed, padding counted; one
            number, or one per row.

    Raises:
        VectorError: the vector does not fit the model.
        SteeringError: positions="response" without response_start, or the other way round; a number that is none; in a forward
            pass, where another thread runs the model.
        ModelError: the model is compiled, so that no hook of it fires.
    """
    model = check_model(model)
    check_fits(vector, identify(model))
    positions = checked_positions(positions)
    if (positions == "response") != (response_start is not None):
        raise SteeringError(
            f"positions={positions!r} with response_start={shown(response_start)}: 'response' needs response_start=, the index of "
            "the last prompt token in the tokens that you pass (sl.generate finds it by itself), and 'all' takes none"
        )
    multiplier = checked_number("multiplier", multiplier, error=SteeringError)
    added = (multiplier * vector.tensor).to(model.cfg.device)
    starts = None if response_start is None else _starts(response_start).to(model.cfg.device)
    with ExitStack() as stack:
        past = [0] if starts is None else stack.enter_context(_past_length(model, vector.layer))
        named = stack.enter_context(_named(model, vector.layer))

        def change(resid: Tensor) -> Tensor:
            if starts is None:
                return resid + named(added.to(resid).expand_as(resid))
            if starts.shape[0] not in (1, resid.shape[0]):
                raise SteeringError(f"response_start has {starts.shape[0]} rows; the batch has {resid.shape[0]}")
            where = torch.arange(resid.shape[1], device=resid.device) + past[0] >= starts.to(resid.device)
            return resid + named((where[..., None] * added.to(resid)).expand_as(resid))

        stack.enter_context(added_at(model, vector.layer, change))
        yield


def _starts(response_start: int | Sequence[int]) -> Int[Tensor, "row 1"]:
    try:
        starts = torch.as_tensor(response_start, device="cpu").reshape(-1, 1)
    except Exception:  # torch has many for what is no array
        starts = torch.zeros(0, 1, device="cpu")
    if starts.dtype not in (torch.int32, torch.int64) or not len(starts) or bool((starts < 0).any()):
        raise SteeringError(f"response_start={shown(response_start)}; expected an index from 0, or one for each row")
    return starts


@contextmanager
def added_at(model: HookedTransformer, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the residual stream after `layer` by `change` of it, for as long as the block lasts."""
    # A plain PyTorch hook: TransformerLens's own bookkeeping (reset_hooks, nested contexts) can't remove it, and it
    # removes nobody else's. Hooks that TransformerLens adds later, run_with_cache's, see the steered stream.
    hook = _in_its_thread(lambda _module, _args, resid: change(resid))
    handle = _after(model, layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _in_its_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for passes of this thread; one of any other thread raises, for nothing would tell its numbers from its own."""
    owner = threading.current_thread()

    def checked(*args: Any) -> Any:
        if threading.current_thread() is not owner:
            raise SteeringError(
                f"the thread {threading.current_thread().name!r} runs a model that the thread {owner.name!r} is steering: "
                "their numbers would mix. Steer in the thread that runs the model, and give each thread a model of its own "
                "(sl.load_model, or copy.deepcopy of the model outside the block)"
            )
        return hook(*args)

    return checked


@contextmanager
def _named(model: HookedTransformer, layer: int) -> Iterator[HookPoint]:
    """A hook point for what is added, so that run_with_cache finds it; known to the model by name, and no part of it."""
    plain = f"blocks.{layer}.hook_steering"
    name = next(name for name in chain([plain], (f"{plain}_{n}" for n in count(1))) if name not in model.hook_dict)
    point = HookPoint()
    point.name = name
    model.mod_dict[name] = model.hook_dict[name] = point
    try:
        yield point
    finally:
        for known in (model.mod_dict, model.hook_dict):
            known.pop(name, None)


@contextmanager
def reading(model: HookedTransformer, layers: Sequence[int]) -> Iterator[dict[int, Float[Tensor, "batch pos d_model"]]]:
    """The residual stream after each layer, filled in by every forward pass inside the block."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        return lambda _module, _args, resid: found.update({layer: resid})

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_after(model, layer).register_forward_hook(_in_its_thread(keep(layer))).remove)
        yield found


def _after(model: HookedTransformer, layer: int) -> torch.nn.Module:
    """The module whose output is the residual stream after the layer."""
    block: Any = model.blocks[layer]
    # A block of somebody else's need not have that hook point, nor run what stands in its place.
    return block.hook_resid_post if is_own(model, f"blocks.{layer}", block) else block


@contextmanager
def _past_length(model: HookedTransformer, layer: int) -> Iterator[list[int]]:
    """How many positions the KV cache held before the current forward pass: one number, kept up to date."""
    past = [0]

    def read(_module: Any, _args: Any, pattern: Tensor) -> None:
        past[0] = pattern.shape[-1] - pattern.shape[-2]  # keys less queries

    block: Any = model.blocks[layer]
    known = is_own(model, f"blocks.{layer}", block) and is_own(model, f"blocks.{layer}.attn", block.attn)
    if not known or not is_own(model, f"blocks.{layer}.attn.hook_pattern", block.attn.hook_pattern):
        raise ModelError(
            f"positions='response' with response_start= reads from layer {layer}'s attention how much a KV cache holds; its "
            f"block or attention is not TransformerLens's own ({type(block).__name__}). Steer at positions='all'"
        )
    handle = block.attn.hook_pattern.register_forward_hook(_in_its_thread(read))
    try:
        yield past
    finally:
        handle.remove()


# -- forward passes in parts ------------------------------------------------------------------------------------------


def new_kv_cache(model: HookedTransformer, batch: int) -> KeyValueCache:
    """An empty KV cache."""
    return KeyValueCache.init_cache(model.cfg, model.cfg.device, batch)


def free_below(model: HookedTransformer, layer: int) -> None:
    """Let go of the weights that are needed up to `layer`: the embedding and blocks 0 to `layer`; the model is spent."""
    modules = [model.embed, getattr(model, "pos_embed", None), *model.blocks[: layer + 1]]
    for module in modules:
        for weight in () if module is None else module.parameters():
            weight.data = weight.data.new_empty(0)


def make_vector(
    model: HookedTransformer,
    tensor: Tensor,
    layer: int,
    *,
    method: str,
    settings: Mapping[str, Any],
    pairs: PreferencePairs | None = None,
    selected_by: PreferencePairs | None = None,
    seed: int | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    snapshots: Mapping[int, Tensor] | None = None,
    identity: ModelIdentity | None = None,
) -> SteeringVector:
    """A SteeringVector that knows the model and the pairs that it was made from.

    identity: the model's, where it was taken before the model lost its lower half.
    """
    seen = {f for used in (pairs, selected_by) if used is not None for f in used.fingerprints}
    vector = SteeringVector(
        tensor,
        layer,
        method=method,
        model=identify(model) if identity is None else identity,
        settings=settings,
        data="none" if pairs is None else pairs.provenance,
        seen=frozenset(seen),
        seed=seed,
        history=tuple(history),
        snapshots=snapshots or {},
    )
    if pairs is not None:
        remember_origin(vector, model, pairs)
    return vector
