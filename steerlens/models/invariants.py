"""What is known of a model's weights: a digest of every number, and numbers that TransformerLens's processing leaves alone.

Folding LayerNorm, centring and folding value biases rewrite the weights and leave the function
(https://transformerlensorg.github.io: weight processing). With a norm's gain g and bias c, a weight W that reads it and its
bias b, what stays is g * W (on LayerNorm models up to a constant along d_model), b + c @ W, and of the attention
b_O + (b_V + c @ W_V) @ W_O. The numbers are projections of these on fixed random directions, of mean zero where centring
would change them.

Every weight is read once, a piece at a time, and multiplied on the host by numpy: there no device's precision (TF32,
bfloat16 passes, a missing float64) rounds it.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from os import cpu_count
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

_PIECE = 1 << 22  # numbers of a weight that are on the host at a time, for each thread; digests depend on it
_DIRECTIONS = 4
_ROTARY_ROWS = 16  # tables grow with the context, their first rows stay
# Hugging Face's order of a weight's axes. `load_model` lays weights out in it, so that reading them copies nothing.
STORED_ORDER = {
    **dict.fromkeys(("W_Q", "W_K", "W_V"), (0, 2, 1)),
    "W_O": (2, 0, 1),
    **dict.fromkeys(("W_in", "W_gate", "W_out", "W_U"), (1, 0)),
}
_WRITES = ("W_O", "W_out")
_EMBEDS = ("W_E", "W_pos")
_FOLDED = ("w", "b", "b_Q", "b_K", "b_V", "b_O", "b_in", "b_out", "b_U")
_Vectors = Float32[np.ndarray, "_ d_model"]


class Measured(NamedTuple):
    """What is known of a model's weights."""

    digest: str
    fingerprint: tuple[float, ...]
    scales: tuple[float, ...]


def measure(model: Any, settings: str) -> Measured:
    """Read all weights of a HookedTransformer; `settings` is what else its digest covers."""
    weights = {name: weight.detach() for name, weight in model.named_parameters(remove_duplicate=False)}
    small = {name: _host(weight).astype(np.float64) for name, weight in weights.items() if _is_small(name, weight)}
    directions = _directions(model.cfg.d_model, str(model.cfg.normalization_type).startswith("LN"))
    vectors = {name: _vectors(model, name, directions, small) for name in weights}
    digests, products = _read(weights, vectors)
    turns = {name: _turn(_host(table[:_ROTARY_ROWS]).astype(np.float64)) for name, table in rotary_tables(model)}
    whole = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        whole.update(f"{name} {tuple(weight.shape)}\n".encode() + b"".join(digests[name]))
    for name, number in sorted(turns.items()):  # in thousandths: processors differ in the last bits of a sine
        whole.update(f"{name} {number:.3f}\n".encode())
    whole.update(settings.encode())
    scales = [*_scales(model, products, small, directions), *turns.values()]
    return Measured(
        whole.hexdigest(),
        tuple(_fingerprint(model, products, small, directions)),
        tuple(round(number, 7) for number in scales),
    )


def rotary_tables(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The sines and cosines of every block that turns its queries and keys."""
    for i, block in enumerate(model.blocks):
        for name in ("rotary_sin", "rotary_cos"):
            # A dynamic rope rewrites its tables for long contexts.
            if hasattr(block.attn, name) and not getattr(model.cfg, "use_dynamic_ntk_rope", False):
                yield f"blocks.{i}.attn.{name}", getattr(block.attn, name)


def _turn(table: Float64[np.ndarray, "_ _"]) -> float:
    """A projection of the first rows of a rotary table."""
    return float(_draws(table.shape[1], table.size)[0] @ table.ravel()) / math.sqrt(table.size)


def _host(weight: Tensor) -> Float32[np.ndarray, "..."]:
    return weight.detach().float().contiguous().cpu().numpy()


def _kind(name: str) -> str:
    """W_K of "blocks.0.attn._W_K", and W_in of "blocks.0.mlp.experts.1.W_in.weight"."""
    return name.removesuffix(".weight").rpartition(".")[2].removeprefix("_")


def _is_small(name: str, weight: Tensor) -> bool:
    return weight.ndim < 2 or _kind(name).startswith("b_")


def _bias(name: str) -> str:
    return name.replace("W_", "b_")


def _norm(model: Any, name: str) -> str:
    """The norm that a weight reads."""
    if name.startswith("unembed"):
        return "ln_final"
    block = name.split(".")[1]
    # In a block without ln2 (GPT-J) attention and MLP read the same norm.
    own = "ln2" if ".mlp." in name and hasattr(model.blocks[int(block)], "ln2") else "ln1"
    return f"blocks.{block}.{own}"


@lru_cache(maxsize=4)
def _directions(d_model: int, centred: bool) -> _Vectors:
    """Fixed random directions; the first, and on LayerNorm models all, of mean zero."""
    first = torch.randn(d_model, generator=_generator(0), dtype=torch.float32, device="cpu")
    more = torch.randn(_DIRECTIONS - 1, d_model, generator=_generator(1), dtype=torch.float32, device="cpu")
    more = more - more.mean(-1, keepdim=True) if centred else more
    return torch.cat([(first - first.mean())[None], more]).numpy()


@lru_cache(maxsize=16)
def _draws(d_model: int, n: int) -> Float64[np.ndarray, "2 _"]:
    """Fixed random numbers for n columns; the first row is drawn as the fingerprint has drawn it ever since."""
    generator = _generator(0)
    torch.randn(d_model, generator=generator, dtype=torch.float32, device="cpu")
    first = torch.randn(n, generator=generator, dtype=torch.float32, device="cpu")
    more = torch.randn(1, n, generator=_generator(2), dtype=torch.float32, device="cpu")
    return torch.cat([first[None], more]).numpy().astype(np.float64)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _vectors(model: Any, name: str, directions: _Vectors, small: Mapping[str, np.ndarray]) -> _Vectors | None:
    """What a weight is multiplied by along d_model: the directions times the gain, and the bias, of the norm it reads."""
    kind = _kind(name)
    if kind in _WRITES or kind in _EMBEDS:
        return directions
    if kind not in STORED_ORDER:
        return None
    norm = _norm(model, name)
    gain, bias = small.get(f"{norm}.w"), small.get(f"{norm}.b")
    bias = np.zeros(directions.shape[1]) if bias is None else bias
    return np.concatenate([directions if gain is None else directions * gain, bias[None]]).astype(np.float32)


def _read(
    weights: Mapping[str, Tensor], vectors: Mapping[str, _Vectors | None]
) -> tuple[dict[str, list[bytes]], dict[str, Float64[np.ndarray, "_ _"]]]:
    """sha256 of every weight's pieces, and each weight's products with its vectors."""
    threads = min(8, cpu_count() or 1)
    digests: dict[str, list[bytes]] = {name: [] for name in weights}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in weights}
    waiting: deque[tuple[str, Future[tuple[bytes, np.ndarray | None]]]] = deque()

    def take() -> None:
        name, job = waiting.popleft()
        digest, product = job.result()
        digests[name].append(digest)
        if product is not None:
            parts[name].append(product)

    with ThreadPoolExecutor(threads) as pool:
        for name, weight in weights.items():
            stored = weight.permute(STORED_ORDER[_kind(name)]) if _is_transposed(name) else weight
            stored = stored if stored.ndim else stored[None]
            step, start = max(1, _PIECE // max(1, math.prod(stored.shape[1:]))), 0
            for start in range(0, len(stored), step):
                waiting.append(
                    (name, pool.submit(_piece, _host(stored[start : start + step]), vectors[name], _way(name, start)))
                )
                if len(waiting) > 2 * threads:
                    take()
        while waiting:
            take()
    join: dict[str, Any] = {
        name: sum if _kind(name) in _WRITES else partial(np.concatenate, axis=1) for name in weights
    }
    return digests, {name: join[name](found) for name, found in parts.items() if found}


def _is_transposed(name: str) -> bool:
    return _kind(name) in STORED_ORDER and not name.endswith(".weight")  # a Linear's is in that order by itself


def _way(name: str, start: int) -> int | None:
    """The row of d_model that a piece begins with where rows are d_model, else None."""
    return start if _kind(name) in _WRITES else None


def _piece(piece: np.ndarray, vectors: _Vectors | None, start: int | None) -> tuple[bytes, np.ndarray | None]:
    digest = hashlib.sha256(piece.data).digest()
    if vectors is None:
        return digest, None
    with np.errstate(all="ignore"):  # weights that are not finite give NaN, which is close to nothing
        if start is not None:
            product = vectors[:, start : start + len(piece)] @ piece.reshape(len(piece), -1)
        else:
            product = vectors @ piece.reshape(-1, piece.shape[-1]).T
        return digest, product.astype(np.float64)


_Products = Mapping[str, Float64[np.ndarray, "_ _"]]
_Small = Mapping[str, np.ndarray]


def _scales(model: Any, products: _Products, small: _Small, directions: _Vectors) -> Iterator[float]:
    """Of every weight the log of its size; of every bias the log of its size, and its direction."""
    width = model.cfg.d_model
    for name, found in products.items():
        kind, rows = _kind(name), found[1:_DIRECTIONS]
        if kind == "W_U":  # a constant over the vocabulary changes no probability
            rows = rows - rows.mean(-1, keepdims=True)
        size = math.sqrt((rows**2).mean()) or 1.0
        yield math.log(size)
        if kind in _WRITES:
            bias = directions.astype(np.float64) @ small.get(_bias(name), np.zeros(width))
            if kind == "W_O":
                bias = bias + found @ _values(model, name, products, small)
            yield from _size_and_part(math.sqrt((bias**2).mean()), float(bias[1]), size)
        elif kind not in _EMBEDS and kind != "W_V":  # what values are biased by is a part of W_O's
            bias = _read_bias(name, products, small)
            bias = bias - bias.mean() if kind == "W_U" else bias
            part = _draws(width, bias.size)[1] @ bias
            yield from _size_and_part(float(np.linalg.norm(bias)), float(part), size)
    for name, bias in small.items():
        if _kind(name) not in _FOLDED or "_norm" in name or "_post" in name or name.startswith("embed"):
            part = _draws(width, bias.size)[1] @ bias.ravel()
            yield from _size_and_part(float(np.linalg.norm(bias)), float(part), 0.0)


def _size_and_part(norm: float, part: float, unit: float) -> tuple[float, float]:
    """A bias's size, and one projection over it; far below the unit, what one column of the weight makes, neither counts."""
    size = math.hypot(norm, unit) or 1.0
    return math.log(size), part / size


def _read_bias(name: str, products: _Products, small: _Small) -> Float64[np.ndarray, " _"]:
    """A bias with that of the norm before it: b + c @ W."""
    own = small.get(_bias(name))
    return products[name][_DIRECTIONS] + (0.0 if own is None else own.ravel())


def _values(model: Any, name: str, products: _Products, small: _Small) -> Float64[np.ndarray, " _"]:
    """What the value biases add to every head's output, whatever it attends to."""
    grouped = name.replace("W_O", "_W_V")
    values = _read_bias(grouped if grouped in products else name.replace("W_O", "W_V"), products, small)
    values = values.reshape(-1, model.cfg.d_head)
    return values.repeat(model.cfg.n_heads // len(values), axis=0).ravel()


def _fingerprint(model: Any, products: _Products, small: _Small, directions: _Vectors) -> Iterator[float]:
    """r @ W @ s over its standard deviation, and the direction of each block's output bias; blind to a weight's size."""
    width = model.cfg.d_model
    for i, block in enumerate(model.blocks):
        mlp = getattr(block, "mlp", None)
        names = ["attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "mlp.W_in", "mlp.W_gate", "mlp.W_out"]
        for name in names if hasattr(mlp, "W_in") else names[:4]:
            grouped = f"blocks.{i}.{name.replace('.W_', '._W_')}"
            found = products.get(grouped, products.get(f"blocks.{i}.{name}"))
            if found is not None:
                yield _along(found[0], width)
        if hasattr(mlp, "b_out"):
            bias = small[f"blocks.{i}.mlp.b_out"]
            norm = float(np.linalg.norm(bias - bias.mean()))
            yield float(directions[0].astype(np.float64) @ (bias - bias.mean())) / norm if norm > 0 else 0.0
    for name in ("embed.W_E", "pos_embed.W_pos"):
        if name in products:
            yield _along(products[name][0], width)
    row = products["unembed.W_U"][0]
    yield _along(row - row.mean(), width)


def _along(row: Float64[np.ndarray, " _"], width: int) -> float:
    norm = float(np.linalg.norm(row))
    return float(row @ _draws(width, row.size)[0]) / norm if norm > 0 else 0.0
