"""What `sl.inspect` warns of: each check looks at one mistake and returns sentences that say what to do about it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from steerlens._stats import mean_interval
from steerlens.forward.parts import foreign_parts, has_hooks
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.conversation import Conversation
from steerlens.text.encode import EncodedPair, Encoder
from steerlens.text.marks import formats_in, token_marks
from steerlens.text.pieces import token_name
from steerlens.text.templates import Turn

LENGTH = 0.10  # mean difference over mean length of a response
ONE_SIDED = 0.20  # of the pairs
P_VALUE = 0.01
END_NATS = -10.0
MARGIN_PER_TOKEN = 1.0
CHAT_NAME = re.compile(r"(chat|instruct|vicuna|zephyr|tulu|alpaca)|[-_](it|sft|dpo|rlhf)\b", re.IGNORECASE)
FORMATS = {"llama-2": "[INST]", "mistral": "[INST]", "vicuna": "USER:"}


@dataclass(frozen=True)
class Material:
    """What the checks read."""

    model: Any
    pairs: PreferencePairs
    turns: Sequence[Turn]
    encoded: Sequence[EncodedPair]
    end: int

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.model.tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template of its own."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def own_format(self) -> bool:
        """Whether the tokenizer's own chat template was used."""
        return self.pairs.template == "auto" and self.has_chat_template

    def rows(self, bad: Sequence[bool]) -> str:
        """Where something is so, as text: "3 of 50 pairs (rows 1, 4, 9)"."""
        found = [row for row, is_bad in zip(self.pairs.rows, bad, strict=True) if is_bad]
        return f"all {len(bad)} pairs" if all(bad) else f"{len(found)} of {len(bad)} pairs (rows {_some(found)})"


def template_warnings(m: Material) -> Iterator[str]:
    """The wrong template, or none."""
    template, chat = m.pairs.template, str(getattr(m.tokenizer, "chat_template", None) or "")
    name = str(m.model.cfg.model_name)
    if template == "plain" and chat:
        yield (
            "template='plain', but the tokenizer has a chat template: a chat model reads these prompts as running text. "
            "Use template='auto', unless the prompts are written in its format already."
        )
    if template in ("auto", "plain") and not chat and CHAT_NAME.search(name.rpartition("/")[2]):
        yield (
            f"{name} sounds like a chat model and its tokenizer has no chat template, so the prompts stay plain. Set "
            "model.tokenizer.chat_template, or use template='vicuna', 'llama-2', 'mistral' or a function."
        )
    if isinstance(template, str) and FORMATS.get(template, "") not in chat and chat:
        yield f"template={template!r} is not the format of this tokenizer's chat template: use template='auto'."
    if template != "auto" and chat:
        own = Encoder(m.model, "auto").end_of_turn()
        if own != m.end:
            yield (
                f"responses end with {_token(m, m.end)}, but in the tokenizer's chat template a turn ends with "
                f"{_token(m, own)}: use template='auto', or write the token at the end of the responses."
            )
    if m.turns[0].parting:
        yield (
            f"the chat template's generation prompt is not how it writes a finished answer: {m.turns[0].parting}. Pairs are "
            "encoded as it stores them, while sl.generate begins where the template does (a thought first, perhaps). To train "
            "behind a thought, write the prompts in the template's format with the thought closed, and take template='plain'."
        )
    if m.own_format and m.turns[0].end is None:
        yield (
            f"the chat template writes no token at the end of an answer: {_token(m, m.end)} ends the responses. If the model "
            "was trained with another, write it into model.tokenizer.chat_template."
        )
    if m.own_format and "strftime_now" in chat:
        yield (
            "the chat template writes today's date into every prompt, so tokens and vectors change from day to day: put a "
            "fixed date into model.tokenizer.chat_template."
        )


def system_warnings(m: Material) -> Iterator[str]:
    """A system prompt that does not arrive."""
    wanted = (m.pairs.system_prompt or "").strip()
    if wanted and not any(wanted in turn.prompt for turn in m.turns):
        yield "the template does not write the system prompt: put it into the prompts, and pass system_prompt=None."


def bos_warnings(m: Material) -> Iterator[str]:
    """Two BOS in front, or none where the tokenizer itself writes one."""
    bos = m.tokenizer.bos_token_id
    counts = [leading(pair.prompt, bos) for pair in m.encoded]
    doubled = [count > 1 for count in counts]
    if any(doubled):
        yield (
            f"{m.rows(doubled)} open with more than one BOS: take {_token(m, bos)} out of the prompts or the template "
            "function; it is added where it is missing."
        )
    if m.own_format and m.model.cfg.default_prepend_bos and bos is not None and not any(counts):
        yield (
            f"the chat template writes no BOS, and the tokenizer by itself would put {_token(m, bos)} in front: if the model "
            "was trained with one, write it into model.tokenizer.chat_template."
        )


def text_warnings(m: Material) -> Iterator[str]:
    """Texts that bring a format along, white space at the seam, turns that end in the middle."""
    yield from _mark_warnings(m)
    yield from _repeat_warnings(m)
    if m.own_format:
        changed = [
            any(text.strip() not in t.response(text) for text in (p.chosen, p.rejected))
            for t, p in zip(m.turns, m.pairs, strict=True)
        ]
        if any(changed):
            yield (
                f"the chat template changes the responses of {m.rows(changed)} (a thought that it cuts off, capitals, or signs "
                "that it escapes): the model is trained on what it makes of them. See an example, or pass template='plain'."
            )
    sides = [(pair.chosen, pair.rejected) for pair in m.encoded]
    early = [any(m.end in side[:-1] for side in both) for both in sides]
    if any(early):
        yield (
            f"{_token(m, m.end)} stands inside a response of {m.rows(early)}: what follows is another turn. Cut it off."
        )
    same = [a == b for a, b in sides]
    if any(same):
        yield f"chosen and rejected are the same tokens in {m.rows(same)}: their margin never moves. Leave them out."
    yield from _seam_warnings(m)


def _mark_warnings(m: Material) -> Iterator[str]:
    """Texts that bring a chat format along."""
    own = {mark for mark in (*m.tokenizer.all_special_tokens, "[INST]", "[/INST]", "<<SYS>>") if mark.strip()}
    in_prompts = formats_in(m.pairs.prompts)
    inside = [any(mark in text for mark in own) for text in m.pairs.prompts]
    for i in {i for found in in_prompts.values() for i in found}:
        inside[i] = True
    if m.pairs.template != "plain" and any(inside):
        named = f" ({', '.join(in_prompts)})" if in_prompts else ""
        yield (
            f"the prompts of {m.rows(inside)} hold special tokens or format marks of their own{named}, and the template puts its "
            "own around them: pass bare questions, or template='plain'."
        )
    marks = [token_marks(" ".join((p.prompt, p.chosen, p.rejected))) for p in m.pairs]
    known = {str(token) for token in m.tokenizer.added_tokens_decoder.values()}
    foreign = [found - known for found in marks]
    if any(foreign):
        yield (
            f"{m.rows([bool(found) for found in foreign])} hold {', '.join(map(repr, sorted(set().union(*foreign))[:4]))}, no "
            "token of this tokenizer: another model's mark, read here letter by letter. Take such marks out; for texts in this "
            "model's own format, template='plain'."
        )


def _repeat_warnings(m: Material) -> Iterator[str]:
    """Responses that say their prompt again."""
    again = [
        any(_last_turn(p.prompt) and side.strip().startswith(_last_turn(p.prompt)) for side in (p.chosen, p.rejected))
        for p in m.pairs
    ]
    if any(again):
        yield (
            f"a response of {m.rows(again)} begins with its own prompt again, which is then read twice: cut the prompt off the "
            "beginning of the responses."
        )


def _last_turn(prompt: str) -> str:
    return (prompt.turns[-1][1] if isinstance(prompt, Conversation) else prompt).strip()


def _seam_warnings(m: Material) -> Iterator[str]:
    turns = list(zip(m.turns, m.pairs, strict=True))
    if m.own_format:
        spaced = [_keeps_space(t, p.chosen) or _keeps_space(t, p.rejected) for t, p in turns]
        if any(spaced):
            yield (
                f"a response of {m.rows(spaced)} begins with white space, which the chat template keeps: the model would not "
                "write it there. Strip the responses."
            )
        return
    doubled = [t.lead[-1:] == " " and (p.chosen[:1].isspace() or p.rejected[:1].isspace()) for t, p in turns]
    if any(doubled):
        yield (
            f"a response of {m.rows(doubled)} begins with white space, and the template puts a space before it: strip the "
            "responses."
        )
    trailing = [t.prompt[-1:] == " " for t, _ in turns]
    if any(trailing):
        yield (
            f"the prompts of {m.rows(trailing)} end in a space, which tokenizers put in front of the next word: take it off "
            "and begin the responses with it."
        )
    glued = [not t.prompt[-1:].isspace() and not (t.lead + p.chosen)[:1].isspace() for t, p in turns]
    if any(glued):
        yield (
            f"nothing stands between prompt and response in {m.rows(glued)} ({turns[glued.index(True)][0].prompt[-12:]!r} + "
            f"{turns[glued.index(True)][1].chosen[:12]!r}): begin the responses with a space, or end the prompts in a line break."
        )
    if any(trailing):
        return  # they merge, and have been told
    merged = [_merges(m, t.prompt, t.lead + text) for t, p in turns for text in (p.chosen, p.rejected)]
    either = [a or b for a, b in zip(merged[::2], merged[1::2], strict=True)]
    if any(either):
        yield (
            f"in {m.rows(either)} the tokenizer would join the prompt's last token with the response's first; they are kept "
            "apart, as the model would not read them in running text. Move the white space to the response."
        )


def _keeps_space(turn: Turn, text: str) -> bool:
    return text[:1].isspace() and turn.response(text).startswith(turn.lead + text[0])


def _merges(m: Material, prompt: str, text: str) -> bool:
    head = m.tokenizer.encode(prompt, add_special_tokens=False)
    return m.tokenizer.encode(prompt + text, add_special_tokens=False)[: len(head)] != head


def bias_warnings(
    m: Material, first: Sequence[tuple[str, int, int]], openings: dict[str, tuple[int, int]]
) -> Iterator[str]:
    """What tells chosen from rejected without the behaviour: length, the first token."""
    chosen, rejected = (np.array([len(side) for side in sides], float) for sides in _sides(m))
    gap = chosen - rejected
    low, high = (side[0] for side in mean_interval(gap[:, None]))
    share = gap.mean() / ((chosen.mean() + rejected.mean()) / 2)
    if abs(share) >= LENGTH and low * high > 0:
        longer = "chosen" if share > 0 else "rejected"
        yield (
            f"{longer} responses are longer by {abs(gap.mean()):.1f} tokens ({abs(share):.0%}): sums of nats then reward "
            "length and damage. Even the lengths out, or read per-token and odd parts (shift.odd_per_token)."
        )
    n = len(m.encoded)
    words = [(f"the word {word!r}", c, r) for word, (c, r) in openings.items()]
    tokens = [(f"the token {token!r}", c, r) for token, c, r in first if token.strip().lower() not in openings]
    for what, c, r in [*words, *tokens]:
        if abs(c - r) >= ONE_SIDED * n and c + r > 0 and binomtest(c, c + r).pvalue < P_VALUE:
            yield (
                f"{what} opens {c} chosen and {r} rejected responses of {n}: a vector may learn it instead of the behaviour. "
                "Rephrase some, or turn some questions round."
            )


def _sides(m: Material) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return [pair.chosen for pair in m.encoded], [pair.rejected for pair in m.encoded]


def set_warnings(m: Material, repeated: Sequence[int], shared: Sequence[int], overlong: Sequence[int]) -> Iterator[str]:
    """Pairs that occur twice, leak, or do not fit."""
    if repeated:
        yield f"pairs that repeat earlier ones: rows {_some(repeated)}. Leave them out, or they count twice."
    if shared:
        yield (
            f"prompts that are in another of training, validation and test too: rows {_some(shared)}. Draw the parts anew "
            "with pairs.split(seed=0), which keeps equal prompts together."
        )
    if overlong:
        yield (
            f"pairs longer than the context of {m.model.cfg.n_ctx} tokens: rows {_some(overlong)}. Nothing is cut off by "
            "itself: shorten them, or pairs.drop_overlong(model)."
        )


def model_warnings(m: Material, end_nats: float, margin_per_token: np.ndarray) -> Iterator[str]:
    """What the unsteered model says about the texts."""
    if end_nats < END_NATS:
        yield (
            f"the model hardly ever ends here: {_token(m, m.end)} has log p = {end_nats:.1f} nats after the examples' "
            "responses (median). Is it this model's end of turn, and are the responses complete?"
        )
    known = margin_per_token[np.isfinite(margin_per_token)]
    if len(known) and abs(known.mean()) > MARGIN_PER_TOKEN:
        unlikely = "rejected" if known.mean() > 0 else "chosen"
        yield (
            f"the {unlikely} responses are unlikelier by {abs(known.mean()):.2f} nats per token before any steering: look for "
            "odd formatting on that side."
        )
    if has_hooks(m.model):
        yield "a hook is on the model: these margins are those of the hooked model. model.reset_hooks() takes it off."
    foreign = foreign_parts(m.model)
    if foreign:
        yield f"modules of the model are not TransformerLens's own, and these margins are theirs too: {', '.join(foreign[:4])}."


def _some(rows: Sequence[int], limit: int = 6) -> str:
    return ", ".join(map(str, rows[:limit])) + (", ..." if len(rows) > limit else "")


def leading(prompt: Sequence[int], bos: int | None) -> int:
    """How many BOS tokens open a prompt."""
    count = 0
    while bos is not None and count < len(prompt) and prompt[count] == bos:
        count += 1
    return count


def _token(m: Material, token: int) -> str:
    return repr(token_name(m.tokenizer, token))
