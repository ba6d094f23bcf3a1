"""Which tokens end an answer: those of the tokenizer and its template, of the model's generation_config, and of the caller.

`load_model` keeps generation_config.json with the model, as `model.generation_config` (Hugging Face's name for it); a model made
elsewhere may be given one, or its calls `stop=`.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from steerlens.checks.values import shown
from steerlens.errors import ModelError, SteeringError
from steerlens.text.encode import Encoder

log = logging.getLogger(__name__)
Stop = int | str | Sequence[int | str]


def configured_ends(config: Any, d_vocab: int) -> set[int]:
    """`eos_token_id` of a generation_config or config: one id, several, or none; ids beyond the vocabulary are left out.

    Raises:
        ModelError: it is neither a whole number nor a list of them.
    """
    named = getattr(config, "eos_token_id", None)
    listed = [] if named is None else list(named) if isinstance(named, (list, tuple, set)) else [named]
    if not all(_is_id(token) for token in listed):
        raise ModelError(f"eos_token_id={named!r:.80} of the model's config; expected a token's id, or a list of them")
    outside = sorted(token for token in listed if not 0 <= token < d_vocab)
    if outside:
        log.warning("eos_token_id names %s, which the vocabulary of %d tokens doesn't have: left out", outside, d_vocab)
    return set(listed) - set(outside)


def stop_tokens(model: Any, encoder: Encoder, prompts: Sequence[str], stop: Stop | None) -> set[int]:
    """Every token that ends an answer to the prompts.

    stop: more of them: ids, or texts that are one token each.

    Raises:
        SteeringError: `stop` names no token.
    """
    d_vocab = int(model.cfg.d_vocab)
    own = configured_ends(getattr(model, "generation_config", None), d_vocab)
    return encoder.ends(prompts) | own | set(_given(encoder, stop, d_vocab))


def _given(encoder: Encoder, stop: Stop | None, d_vocab: int) -> Iterable[int]:
    if stop is None:
        return
    one = isinstance(stop, str) or _is_id(stop) or not isinstance(stop, Iterable)
    for wanted in [stop] if one else stop:  # type: ignore[union-attr]
        ids: list[Any] = encoder.token_ids(wanted) if isinstance(wanted, str) else [wanted]
        if len(ids) != 1:
            raise SteeringError(
                f"stop={shown(wanted)} is {len(ids)} tokens ({shown(ids)}); expected a text that is one token"
            )
        if not _is_id(ids[0]) or not 0 <= int(ids[0]) < d_vocab:
            raise SteeringError(
                f"stop={shown(wanted)}; expected token ids from 0 to {d_vocab - 1}, or texts that are one token each"
            )
        yield int(ids[0])


def _is_id(token: object) -> bool:
    """A whole number, numpy's among them, and no truth value."""
    return (
        hasattr(token, "__index__") and type(token).__name__ not in ("bool", "bool_") and not hasattr(token, "__len__")
    )
