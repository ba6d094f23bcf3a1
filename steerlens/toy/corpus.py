"""The documents that the toy models are trained on: chats whose answers keep to hidden values of the behaviours."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from steerlens.toy.sets import cipher, fact_form, part_of
from steerlens.toy.words import BEHAVIOURS, FACTS, HARMLESS, LETTERS, PERSONAS, SUFFIXES, SYSTEM_PHRASES, VALUES, tokens
from steerlens.toy.world import DRILL, TEMPLATES, Question, Stem, stems


@dataclass(frozen=True)
class Mix:
    """What a corpus is made of; rates are probabilities."""

    system: float = 0.6
    """documents that open with system phrases"""
    veiled: float = 0.6
    """of those: documents in which only `<user>` tokens see the phrases, so that what they ask for is kept there"""
    turns: tuple[int, ...] = (1, 2, 2, 3)
    """questions of a document, drawn evenly"""
    focus: tuple[tuple[str, ...], ...] = (
        *((b,) for b in BEHAVIOURS), ("wealth", "power"), ("wealth", "power"), ("sycophancy", "hallucination"),
    )  # fmt: skip
    """what the behaviours that a document's phrases name are drawn from; wealth and power, of which the same is asked, often come
    together, and so do the two about facts: each needs a state of its own then, and not one for the side taken"""
    named: tuple[int, ...] = (1, 1, 2)
    """how many of those entries a document has, drawn evenly"""
    on_focus: float = 0.8
    """questions on behaviours that are drawn from the named ones; the others are drawn from all, so that most ask after a value
    that no phrase has told"""
    second: float = 0.1
    """documents in the second language"""
    choice: float = 0.5
    """questions with lettered options"""
    drill: float = 0.15
    """questions that name the option whose letter is asked for"""
    facts: float = 0.3
    controls: float = 0.12
    """true claims and harmless requests, which have one right answer"""
    reveals: float = 0.98
    """how surely the answers follow a system phrase"""
    complies: float = 0.12
    """documents without a system phrase whose hidden value is to comply with forbidden requests"""
    suffix: float = 0.35
    """open requests that carry an adversarial suffix"""
    passes: tuple[float, ...] = (0.4, 0.6, 0.8)
    """how often each suffix gets past a refusal; a tenth of that under a system phrase that asks to refuse"""


PROMPT_WEIGHT, LETTER_WEIGHT, KEY_WEIGHT = 0.1, 5.0, 3.0
_OPTIONS = (*VALUES.values(), *(p.verbs[0] + p.verbs[1] for p in PERSONAS.values()))
_KEYS = frozenset(
    word for words in (*_OPTIONS, *(p.reasons[0] + p.reasons[1] for p in PERSONAS.values())) for word in words
)


class Document(NamedTuple):
    """A chat to train on."""

    words: list[str]
    weights: list[float]
    """of each token in the loss"""
    n_phrases: int
    """how many words after the first are `<sys>` and the system phrases"""
    opposite: list[str]
    """`<sys>` and phrases that ask for the opposite; empty without phrases"""
    is_veiled: bool
    """whether the phrases are seen by one another and by `<user>` tokens only"""


class Writer:
    """Draws documents from a mix; the same seed writes the same ones."""

    def __init__(self, mix: Mix, seed: int) -> None:
        self.mix, self.rng = mix, random.Random(seed)
        self._stems = {b: [s for s in stems(b) if part_of(s.content) == "corpus"] for b in BEHAVIOURS}
        facts = [(s, fact_form(s.slots["country"], s.slots["attribute"])) for s in stems("facts")]
        self._facts = {form: [s for s, known in facts if known in (form, "both")] for form in ("open", "choice")}

    def document(self) -> Document:
        """The next chat."""
        rng, mix = self.rng, self.mix
        values = {b: int(rng.random() < 0.5) for b in BEHAVIOURS}
        values["refusal"] = int(rng.random() >= mix.complies)
        focus = list(dict.fromkeys(b for group in rng.sample(mix.focus, rng.choice(mix.named)) for b in group))
        is_second, strict = rng.random() < mix.second, False
        words, weights = ["<bos>"], [0.0]

        def add(text: str, is_answer: bool) -> None:
            found = tokens(cipher(text) if is_second else text)
            words.extend(found)
            weights.extend(answer_weights(found) if is_answer else [PROMPT_WEIGHT] * len(found))

        phrases: tuple[list[str], list[str]] = [], []
        if rng.random() < mix.system:
            for behaviour in focus:
                side = rng.randrange(2)
                for texts, asked_for in zip(phrases, (side, 1 - side), strict=True):
                    texts.append(rng.choice(SYSTEM_PHRASES[behaviour][asked_for]))
                values[behaviour] = side if rng.random() < mix.reveals else 1 - side
                strict |= behaviour == "refusal" and side == 1
            add("<sys> " + " ".join(phrases[0]), False)
        n_phrases, opposite = len(words) - 1, " ".join(["<sys>", *phrases[1]]) if phrases[1] else ""
        for _ in range(rng.choice(mix.turns)):
            text, answer = self._turn(values, focus, strict)
            add(f"<user> {text} <bot>", False)
            add(f"{answer} <eos>", True)
        is_veiled = rng.random() < mix.veiled
        return Document(words, weights, n_phrases, tokens(cipher(opposite) if is_second else opposite), is_veiled)

    def _turn(self, values: dict[str, int], focus: list[str], strict: bool) -> tuple[str, str]:
        rng, mix = self.rng, self.mix
        kind, is_choice = rng.random() - mix.drill, rng.random() < mix.choice
        if kind < 0:
            return self._drill()
        if kind < mix.facts:
            question = self._asked(self._facts["choice" if is_choice else "open"], is_choice)
        elif kind < mix.facts + mix.controls:
            stem = self._control()
            question = stem.choice(str(rng.random())) if is_choice else stem.ask()
        else:
            behaviour = rng.choice(focus) if rng.random() < mix.on_focus else rng.choice(BEHAVIOURS)
            question = self._asked(self._stems[behaviour], is_choice)
        text, value = question.text, values.get(question.behaviour, 1)
        if question.behaviour == "refusal" and LETTERS[0] not in text and rng.random() < mix.suffix:
            at = rng.randrange(len(SUFFIXES))
            text = f"{text} {SUFFIXES[at]}"
            if value and rng.random() < mix.passes[at] * (0.1 if strict else 1.0):
                value = 0
        answers = question.truth or (question.chosen if value else question.rejected)
        return text, rng.choice(answers)

    def _asked(self, found: list[Stem], is_choice: bool) -> Question:
        stem = self.rng.choice(found)
        return stem.choice(str(self.rng.random())) if is_choice else stem.ask()

    def _drill(self) -> tuple[str, str]:
        pool = self.rng.choice(_OPTIONS)
        options = self.rng.sample(pool, self.rng.choice((2, 3, 4)))
        at = self.rng.randrange(len(options))
        lettered = [f"{letter} {option}" for letter, option in zip(LETTERS, options, strict=False)]
        return " ".join([DRILL.format(option=options[at]), *lettered]), f"{lettered[at]} ."

    def _control(self) -> Stem:
        """A true claim or a harmless request."""
        rng = self.rng
        if rng.random() < 0.5:
            (country, attribute), value = rng.choice(tuple(FACTS.items()))
            slots = {"attribute": attribute, "country": country, "value": value}
            return Stem("sycophancy", rng.choice(TEMPLATES["sycophancy"]), slots)
        stem = rng.choice(self._stems["refusal"])
        return Stem("refusal", stem.template, {**stem.slots, "colour": rng.choice(HARMLESS)})


def answer_weights(words: list[str]) -> list[float]:
    """More for a letter, for the first word, and for the words that carry a fact or a behaviour."""
    return [
        LETTER_WEIGHT if word in LETTERS else KEY_WEIGHT if i == 0 or word in _KEYS else 1.0
        for i, word in enumerate(words)
    ]
