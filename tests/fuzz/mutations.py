"""How a valid file is changed: bytes turned, cut, doubled or moved; and where it holds JSON, its types, depths and lengths."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

HUGE = (10**30, -(10**19), 2**63, 1e308, -1e-308, 10**6, -1, 0)
TEXTS = ("", "x", "\ud800", "²", "３", "a" * 5000)
ODD: tuple[Any, ...] = (None, True, False, *TEXTS, [], {}, [[]], [None], {"": ""}, {"$array": []}, *HUGE)
DEEP = ("[" * 50_000 + "]" * 50_000, '{"a":' * 400 + "1" + "}" * 400)
RAW = ("NaN", "1e999", "-Infinity", "9" * 5000, '{"a": 1, "a": 2}', "", *DEEP)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The file with one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spans = list(_objects(data)) if rng.random() < 0.7 else []
        data = _json_changed(data, rng.choice(spans), rng) if spans else rng.choice(_BYTES)(data, rng)
    return data


def _objects(data: bytes) -> Iterator[tuple[int, int]]:
    """Where JSON objects and lists lie in a file: the whole of it, a line of it, or a text within other bytes."""
    decoder, at, tries, text = json.JSONDecoder(), 0, 0, data.decode("latin-1")
    while (
        len(text) - at > 1
        and (start := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)) >= 0
    ):
        try:
            _, end = decoder.raw_decode(text, start)
        except RecursionError:
            return
        except ValueError:
            at, tries = start + 1, tries + 1
            if tries > 1000:
                return
            continue
        if end - start > 2:
            yield start, end
        at = end


def _json_changed(data: bytes, span: tuple[int, int], rng: random.Random) -> bytes:
    start, end = span
    try:
        found = json.loads(data[start:end].decode("latin-1"))
    except RecursionError:  # nested as deep as it goes, by a change before
        return data[:start] + data[end:]
    inner = _texts_of_json(found)
    if inner and rng.random() < 0.7:  # the record of a safetensors file is JSON in JSON
        holder, name = rng.choice(inner)
        with suppress(ValueError, RecursionError):  # changed before
            holder[name] = _edited(json.loads(holder[name]), rng)
        new = json.dumps(found)
    else:
        new = _edited(found, rng)
    changed = new.encode("latin-1", "replace")
    before = data[:start]
    if start >= 8 and 0 <= int.from_bytes(data[start - 8 : start], "little") - (end - start) < 8:
        # A safetensors header or a GGUF's text: with its new length, or it would be refused for that alone.
        before = data[: start - 8] + len(changed).to_bytes(8, "little")
        data = data[:end] + data[start + int.from_bytes(data[start - 8 : start], "little") :]
    return before + changed + data[end:]


def _texts_of_json(found: Any) -> list[tuple[Any, Any]]:
    return [
        (holder, name)
        for holder, name in _places(found)
        if isinstance(holder[name], str) and holder[name][:1] in ("{", "[")
    ]


def _edited(found: Any, rng: random.Random) -> str:
    """A JSON value as a text again, with one thing in it changed."""
    places = _places(found)
    if not places:
        return rng.choice(RAW)
    holder, name = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        holder[name] = rng.choice(ODD)
    elif kind == 1:
        del holder[name]
    elif kind == 2:  # another value of the same text
        other, there = rng.choice(places)
        holder[name], other[there] = other[there], holder[name]
    elif kind == 3:
        holder[name] = [holder[name]] * rng.choice((1, 2, 50))
    elif kind == 4 and isinstance(holder, list):
        holder.insert(0, holder[name])
    elif kind == 4:
        holder[rng.choice(("x", "$type", "layer", "dtype"))] = holder[name]
    elif kind == 5 and isinstance(holder[name], (int, float)):
        holder[name] = rng.choice(HUGE)
    elif kind == 6 and isinstance(holder[name], str):
        holder[name] = rng.choice(
            (holder[name][1:], holder[name].upper(), "U500000000", "float16", holder[name] * 100, "../../x")
        )
    else:
        holder[name] = "\0here"
        return json.dumps(found).replace(json.dumps("\0here"), rng.choice(RAW) or "null", 1)
    return json.dumps(found)


def _places(found: Any) -> list[tuple[Any, Any]]:
    """(holder, key or index) of every value, at most some thousands of them."""
    places: list[tuple[Any, Any]] = []
    level = [found]
    while level and len(places) < 5000:
        new = [
            (h, k) for h in level if isinstance(h, (dict, list)) for k in (h if isinstance(h, dict) else range(len(h)))
        ]
        places += new
        level = [h[k] for h, k in new]
    return places


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 16))):
        if changed:
            changed[_near(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[_near(changed, rng)] = rng.choice((0, 1, 127, 128, 255, 34, 123, 92))
    return bytes(changed)


def _near(data: bytes | bytearray, rng: random.Random) -> int:
    """A place, often in the header, where the counts are."""
    return rng.randrange(min(len(data), rng.choice((16, 64, 400, len(data)))))


def _integer(data: bytes, rng: random.Random) -> bytes:
    """A count of eight bytes is another one."""
    at = _near(data, rng) if data else 0
    value = rng.choice((0, 1, 2**31 - 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
    return data[:at] + value + data[at + 8 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.7 else data[rng.randrange(len(data) + 1) :]


def _doubled(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b][:100_000] + data[b:]


def _moved(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _inserted(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    new = rng.choice((b"\0", b"\n", b'"', b"{", b"\xff\xfe", b"\xf0\x9f\x98\x80", b" " * 3000, b"," * 300, b"[" * 300))
    return data[:at] + new + data[at:]


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _byte,
    _integer,
    _cut,
    _doubled,
    _moved,
    _inserted,
)
