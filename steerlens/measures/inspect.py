"""`sl.inspect`: the pairs as the model will see them, before anything is trained on them."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.calls import flag
from steerlens.checks.values import checked_count, checked_list, shown
from steerlens.errors import PairsError
from steerlens.forward.door import checked
from steerlens.forward.pair_scores import choose_route
from steerlens.forward.readout import sum_logprobs
from steerlens.forward.whole_route import logits_from, whole_pass
from steerlens.measures import _inspection_checks as checks
from steerlens.measures.inspection import EncodedExample, Inspection
from steerlens.pairs.preference import SPLITS, PreferencePairs
from steerlens.text.encode import EncodedPair, Encoder
from steerlens.text.pieces import pieces, token_name
from steerlens.text.templates import render


@checked(PairsError, "examples", margin=flag)
def inspect(
    model: HookedTransformer,
    pairs: PreferencePairs,
    *,
    examples: int | Sequence[int] = 3,
    margin: bool = True,
    batch_size: int = 8,
    progress: bool = True,
) -> Inspection:
    """Look at pairs as a model will see them: encoded examples, biases, repeats, leaks, lengths, the unsteered margin.

    Nothing is trained, steered, cut off or left out. `.warnings` says what looks wrong and what to do about it:

        template    "plain" on a tokenizer with a chat template; a chat model's name without one; another format's marks; an
                    end of turn that is not the chat template's; today's date in the prompt; a system prompt that is lost
        BOS         more than one in front, or none from a chat template whose tokenizer writes one
        texts       format marks inside prompts; an end of turn inside a response; equal sides; white space at the seam
        lengths     a mean difference of at least 10% of a response whose 95% interval leaves out 0
        first word  a token, "yes" or "no" that opens at least 20% more of the one side, p < 0.01 (binomial)
        parts       repeated pairs; prompts that are in two of training, validation and test; pairs beyond the context
        model       log p(end of turn) under -10 nats (median over the examples); a mean margin beyond 1 nat per token; hooks

    Args:
        model: any HookedTransformer with a tokenizer.
        pairs: all of them, or one part; the others are found through it.
        examples: how many pairs to show token by token (evenly spaced), or which (indices into `pairs`).
        margin: whether to compute the unsteered log-probabilities of all pairs (one forward pass); the examples' are computed
            in any case.
        batch_size: pairs at once.

    Raises:
        PairsError: no pairs, pairs with rejected_prompts, an example that is not there, or a text that can't be encoded.
        ModelError: no HookedTransformer.
    """
    if pairs.rejected_prompts is not None:
        raise PairsError(
            f"{pairs!r}: expected at least one pair whose two responses answer the same prompt (no rejected_prompts)"
        )
    encoder = Encoder(model, pairs.template, pairs.system_prompt)
    encoded = [encoder.pair(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    turns = [render(model.tokenizer, prompt, pairs.template, pairs.system_prompt) for prompt in pairs.prompts]
    material = checks.Material(model, pairs, turns, encoded, encoder.end_of_turn(pairs.prompts[0]))
    fits = [i for i, pair in enumerate(encoded) if pair.length <= model.cfg.n_ctx]
    wanted = _chosen_examples(examples, len(pairs), fits)
    nats = np.full((len(pairs), 2), np.nan)
    if margin and fits:
        nats[fits] = _log_probs(model, [encoded[i] for i in fits], batch_size, progress)
    shown = [_example(model, pairs.rows[i], encoded[i]) for i in wanted]
    ends = [side[-1] for example in shown for side in (example.chosen_nats, example.rejected_nats)]
    end_nats = float(np.median(ends)) if ends else float("nan")
    lengths = {name: np.array([len(getattr(p, name)) for p in encoded]) for name in ("prompt", "chosen", "rejected")}
    per_token = nats[:, 0] / lengths["chosen"] - nats[:, 1] / lengths["rejected"]
    repeated, shared, overlong = _repeats(pairs.fingerprints, pairs.rows), _shared(pairs), _others(pairs.rows, fits)
    first, openings = _first_tokens(material), _openings(pairs)
    return Inspection(
        model=str(model.cfg.model_name),
        data=pairs.provenance,
        rows=pairs.rows,
        prompts=pairs.prompts,
        template=_template_words(material),
        system_prompt=_system_words(material),
        bos=_bos_words(material),
        end_of_turn=token_name(material.tokenizer, material.end),
        end_nats=end_nats,
        n_ctx=int(model.cfg.n_ctx),
        prompt_tokens=lengths["prompt"],
        chosen_tokens=lengths["chosen"],
        rejected_tokens=lengths["rejected"],
        chosen_nats=nats[:, 0],
        rejected_nats=nats[:, 1],
        first_tokens=tuple(first),
        openings=openings,
        repeated_pairs=repeated,
        repeated_prompts=_repeats([_plain(prompt) for prompt in pairs.prompts], pairs.rows),
        shared_prompts=shared,
        overlong=overlong,
        examples=tuple(shown),
        warnings=(
            *checks.template_warnings(material),
            *checks.system_warnings(material),
            *checks.bos_warnings(material),
            *checks.text_warnings(material),
            *checks.bias_warnings(material, first, openings),
            *checks.set_warnings(material, repeated, shared, overlong),
            *checks.model_warnings(material, end_nats, per_token),
        ),
    )


@torch.no_grad()
def _log_probs(
    model: HookedTransformer, encoded: Sequence[EncodedPair], batch_size: int, progress: bool
) -> Float[np.ndarray, "pair 2"]:
    """log p of both responses, in nats, unsteered."""
    route, last = choose_route(model, encoded), model.cfg.n_layers - 1
    nats = np.zeros((len(encoded), 2))
    order = sorted(range(len(encoded)), key=lambda i: encoded[i].length)
    with tqdm(total=len(order), desc="unsteered margin", unit="pair", disable=not progress, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = [encoded[i] for i in rows]
            resid = route.resid(batch, [last])[0]
            nats[rows] = route.logprobs(batch, resid, last, None, "all").cpu().double().numpy()
            bar.update(len(rows))
    return nats


def _chosen_examples(wanted: int | Sequence[int], n: int, fits: Sequence[int]) -> list[int]:
    """Indices of the pairs to show."""
    if not hasattr(wanted, "__len__"):
        count = min(checked_count("examples", wanted, error=PairsError, least=0), len(fits))
        return [fits[round(i * (len(fits) - 1) / max(1, count - 1))] for i in range(count)]
    listed = checked_list("examples", wanted, error=PairsError, of="indices into the pairs", least=0)
    rows = [checked_count(f"examples[{i}]", row, error=PairsError, least=0) for i, row in enumerate(listed)]
    missing = [row for row in rows if row not in fits]
    if missing:
        raise PairsError(f"examples={shown(wanted)}: there is no pair {missing[0]} that fits; expected 0 to {n - 1}")
    return rows


def _example(model: HookedTransformer, row: int, pair: EncodedPair) -> EncodedExample:
    prompt = pieces(model.tokenizer, pair.prompt)
    chosen, rejected = (
        pieces(model.tokenizer, [*pair.prompt, *ids])[len(prompt) :] for ids in (pair.chosen, pair.rejected)
    )
    nats = [_token_log_probs(model, pair.prompt, ids) for ids in (pair.chosen, pair.rejected)]
    return EncodedExample(row, prompt, chosen, rejected, *nats)


@torch.no_grad()
def _token_log_probs(model: HookedTransformer, prompt: Sequence[int], response: Sequence[int]) -> tuple[float, ...]:
    """log p of each of a response's tokens, in nats, by the model's own forward pass."""
    final, _ = whole_pass(model, [*prompt, *response])
    token = torch.tensor(response, device=final.device)
    each = torch.arange(len(token), device=final.device)
    return tuple(sum_logprobs(logits_from(model, final, len(prompt) - 1)[:-1], token, each, len(token)).tolist())


def _first_tokens(m: checks.Material) -> list[tuple[str, int, int]]:
    """The five most one-sided first tokens: (text, chosen, rejected)."""
    chosen, rejected = Counter(p.chosen[0] for p in m.encoded), Counter(p.rejected[0] for p in m.encoded)
    order = sorted(chosen | rejected, key=lambda t: (-abs(chosen[t] - rejected[t]), t))
    return [(pieces(m.tokenizer, [t])[0], chosen[t], rejected[t]) for t in order[:5]]


def _openings(pairs: PreferencePairs) -> dict[str, tuple[int, int]]:
    def count(texts: Sequence[str], word: str) -> int:
        return sum(bool(re.match(rf"\W*{word}\b", text, re.IGNORECASE)) for text in texts)

    return {word: (count(pairs.chosen, word), count(pairs.rejected, word)) for word in ("yes", "no")}


def _plain(prompt: str) -> str:
    """What makes two prompts equal to `PreferencePairs.split`."""
    return prompt.strip().lower()


def _repeats(keys: Sequence[str], rows: Sequence[int]) -> tuple[int, ...]:
    seen: set[str] = set()
    found = []
    for key, row in zip(keys, rows, strict=True):
        if key in seen:
            found.append(row)
        seen.add(key)
    return tuple(found)


def _shared(pairs: PreferencePairs) -> tuple[int, ...]:
    """Rows of these pairs whose prompt is in two of the whole set's parts."""
    whole = pairs if pairs.parent is None else pairs.parent
    parts = [{_plain(prompt) for prompt in getattr(whole, name).prompts} for name in SPLITS]
    shared = {prompt for prompt in set().union(*parts) if sum(prompt in part for part in parts) > 1}
    return tuple(row for row, prompt in zip(pairs.rows, pairs.prompts, strict=True) if _plain(prompt) in shared)


def _others(rows: Sequence[int], fits: Sequence[int]) -> tuple[int, ...]:
    inside = set(fits)
    return tuple(row for i, row in enumerate(rows) if i not in inside)


def _template_words(m: checks.Material) -> str:
    if callable(m.pairs.template):
        return "a function"
    if m.pairs.template == "auto":
        return "chat template" if m.has_chat_template else "plain (the tokenizer has no chat template)"
    return str(m.pairs.template)


def _system_words(m: checks.Material) -> str:
    if m.pairs.system_prompt:
        return repr(m.pairs.system_prompt)
    if m.pairs.system_prompt == "" or callable(m.pairs.template):
        return "none"
    empty = render(m.tokenizer, m.pairs[0].prompt, m.pairs.template, "").prompt
    return "none" if m.turns[0].prompt == empty else "the template's own"


def _bos_words(m: checks.Material) -> str:
    bos = m.tokenizer.bos_token_id
    counts = sorted({checks.leading(pair.prompt, bos) for pair in m.encoded})
    shown = " or ".join(map(str, counts))
    return f"{shown} in front of every prompt" + (f" ({m.tokenizer.bos_token})" if counts != [0] else "")
