"""What is asked where: the parts of the world, the questions of each part, requests, the quiz, scores, the second language."""

import re
from functools import cache, lru_cache
from typing import Literal, get_args

from steerlens.checks.values import checked_count, checked_flag, shown
from steerlens.errors import PairsError
from steerlens.toy.words import (
    BEHAVIOURS,
    COUNTRIES,
    HARMLESS,
    LETTERS,
    PUNCTUATION,
    SPECIAL,
    SUFFIXES,
    SYSTEM_PHRASES,
    UNKNOWN,
    VALUES,
    draw,
    make_cipher,
    shuffled,
    tokens,
    translated,
)
from steerlens.toy.world import DRILL, TOPICS, Question, Stem, possible_options, read, stems

Part = Literal["train", "val", "test"]
Form = Literal["open", "choice"]
SIZES: dict[Part, int] = {"train": 200, "val": 50, "test": 100}


def part_of(content: str) -> str:
    """ "corpus" for the contents that the models were trained on, else "train", "val" or "test"; by a hash."""
    at = draw(f"part/{content}", 100)
    return "corpus" if at < 55 else "train" if at < 75 else "val" if at < 82 else "test"


def fact_form(country: str, attribute: str) -> str:
    """In which form the training documents ask after a fact: "open", "choice", or "both" for half of them."""
    return ("open", "choice", "both", "both")[draw(f"form/{country}/{attribute}", 4)]


def questions(behaviour: str, split: Part, n: int | None = None, *, form: Form = "open") -> tuple[Question, ...]:
    """Questions that test a behaviour, with every answer that shows it and every one that does not; in no training document.

    Args:
        behaviour: one of `BEHAVIOURS`.
        split: "train", "val" or "test"; no content is in two of them.
        n: how many; default 200, 50 or 100, the sizes that `load_pairs("toy/<behaviour>")` has.
        form: "open", or "choice" with two lettered options.

    Raises:
        PairsError: no such behaviour, split or form, or fewer questions than n.
    """
    _check("behaviour", behaviour, BEHAVIOURS)
    _check("split", split, get_args(Part))
    _check("form", form, get_args(Form))
    found = len(_ordered(behaviour, split) if form == "open" else _with_letters(behaviour, split))
    n = min(SIZES[split], found) if n is None else n
    n = _number(n, found, f"{form} questions of {behaviour} in {split!r}")
    if form == "choice":
        return _with_letters(behaviour, split)[:n]
    return tuple(stem.ask() for stem in _ordered(behaviour, split)[:n])


@cache
def _ordered(behaviour: str, split: Part) -> tuple[Stem, ...]:
    by_text = {stem.text: stem for stem in stems(behaviour) if part_of(stem.content) == split}
    return tuple(by_text[text] for text in shuffled(by_text, "questions"))


@cache
def _with_letters(behaviour: str, split: Part) -> tuple[Question, ...]:
    """Two draws of options for each question."""
    drawn = [stem.choice(f"{stem.text}/{i}") for stem in _ordered(behaviour, split) for i in (0, 1)]
    by_text = {question.text: question for question in drawn}
    return tuple(by_text[text] for text in shuffled(by_text, "questions"))


def forbidden_requests(split: Part, n: int | None = None, *, suffix: int | None = None) -> tuple[Question, ...]:
    """Requests that the models refuse, plain or with one of the adversarial `SUFFIXES` behind them.

    `chosen` are the refusals; an attack has succeeded where `score("refusal", ...)` is 0.

    Raises:
        PairsError: as `questions`, or no such suffix.
    """
    asked = questions("refusal", split, n)
    if suffix is None:
        return asked
    _check("suffix", suffix, tuple(range(len(SUFFIXES))))
    return tuple(question for q in asked if (question := read(f"{q.text} {SUFFIXES[suffix]}")) is not None)


def harmless_requests(n: int = 100) -> tuple[Question, ...]:
    """Requests that the models comply with, whatever their behaviour.

    Raises:
        PairsError: fewer requests than n.
    """
    plain = [
        Stem("refusal", stem.template, {**stem.slots, "colour": colour})
        for stem in _ordered("refusal", "test")
        for colour in HARMLESS
    ]
    by_text = {stem.text: stem for stem in plain}
    n = _number(n, len(by_text), "harmless requests")
    return tuple(by_text[text].ask() for text in shuffled(by_text, "harmless")[:n])


def quiz(form: Form = "open", n: int | None = None, *, unseen: bool = True) -> tuple[Question, ...]:
    """Questions after the world's facts: `chosen` holds the right answers, and `score("facts", ...)` is 1 for them.

    Args:
        form: "open", or "choice" with four lettered options.
        n: how many; default all open questions, or four draws of options for each.
        unseen: facts that the training documents ask after in the other form only; False takes the other facts.

    Raises:
        PairsError: no such form, or fewer questions than n.
    """
    _check("form", form, get_args(Form))
    unseen = checked_flag("unseen", unseen, error=PairsError)
    other = "choice" if form == "open" else "open"
    kept = [s for s in stems("facts") if (fact_form(s.slots["country"], s.slots["attribute"]) == other) == unseen]
    by_key = {f"{stem.text}/{i}": stem for stem in kept for i in range(1 if form == "open" else 4)}
    if n is not None:
        n = _number(n, len(by_key), f"such {form} questions")
    order = shuffled(by_key, "quiz")[:n]
    return tuple(by_key[key].ask() if form == "open" else by_key[key].choice(key) for key in order)


# -- scores -----------------------------------------------------------------------------------------------------------


def score(behaviour: str, question: str, answer: str) -> int | None:
    """1 if an answer shows the behaviour (facts: is right), 0 if it shows its opposite, None if it is no answer at all.

    Exact, by rule: an answer counts when the world's grammar has it for this question, in the question's language. One that
    contradicts itself (one side's deed for the other side's reason) or breaks off is None.

    Args:
        behaviour: one of `BEHAVIOURS`, or "facts".
        question: the question's text, without a template.
        answer: what the model wrote, without special tokens.

    Raises:
        PairsError: the question or the answer is no text, or no question of the world, or it tests another behaviour.
    """
    _check("behaviour", behaviour, TOPICS)
    _check_text("answer", answer)
    found, second = _read(question)
    if found.behaviour != behaviour:
        raise PairsError(f"{shown(question)} tests {found.behaviour!r}, not {behaviour!r}")
    said = " ".join(tokens(answer))
    if second:
        there, back = dictionaries()
        if any(token in there for token in tokens(said)):
            return None
        said = translated(said, back)
    return 1 if said in found.chosen else 0 if said in found.rejected else None


def is_grammatical(question: str, answer: str) -> bool:
    """Whether an answer is one that the world's grammar has for the question, whichever behaviour it shows.

    Raises:
        PairsError: the text is no question of the world.
    """
    return score(_read(question)[0].behaviour, question, answer) is not None


def _read(question: str) -> tuple[Question, bool]:
    _check_text("question", question)
    return _known(question)


@lru_cache(maxsize=4096)
def _known(question: str) -> tuple[Question, bool]:
    text = " ".join(tokens(question))
    there, back = dictionaries()
    second = any(token in back for token in tokens(text))
    found = None if second and any(token in there for token in tokens(text)) else read(translated(text, back))
    if found is None:
        raise PairsError(
            f"{shown(question)} is no question of the toy world; toy.questions(...) and toy.quiz(...) list them"
        )
    return found, second


# -- words and the second language ------------------------------------------------------------------------------------


@cache
def _own_words() -> tuple[str, ...]:
    asked = [q for topic in TOPICS for q in map(Stem.ask, _one_of_each(topic))]
    texts = [text for q in asked for text in (q.text, *q.chosen, *q.rejected)]
    texts += [phrase for sides in SYSTEM_PHRASES.values() for phrases in sides for phrase in phrases]
    texts += [option for topic in TOPICS for option, _ in possible_options(stems(topic)[0])]
    texts += [DRILL.format(option=""), *HARMLESS, *SUFFIXES, *COUNTRIES, *UNKNOWN]
    texts += [value for values in VALUES.values() for value in values]
    fixed = {*SPECIAL, *LETTERS, *PUNCTUATION}
    return tuple(sorted({token for text in texts for token in tokens(text)} - fixed))


def _one_of_each(topic: str) -> list[Stem]:
    """Stems that have every slot's every value and every template between them."""
    kept: list[Stem] = []
    seen: set[str] = set()
    for stem in stems(topic):
        marks = {stem.template, *stem.slots.values()}
        if not marks <= seen:
            seen |= marks
            kept.append(stem)
    return kept


@cache
def dictionaries() -> tuple[dict[str, str], dict[str, str]]:
    """From the first language to the second, and back; names, letters and punctuation are the same in both."""
    return make_cipher(_own_words())


def cipher(text: str) -> str:
    """A text in the world's second language: word for word, names and punctuation kept."""
    _check_text("text", text)
    return translated(text, dictionaries()[0])


def decipher(text: str) -> str:
    """A text of the second language in the first."""
    _check_text("text", text)
    return translated(text, dictionaries()[1])


def up_to_user(behaviour: str, second: bool = False) -> tuple[list[str], list[str]]:
    """What stands before any question, up to `<user>`: behind phrases that ask for the opposite, and for the behaviour."""
    texts = ([f"<sys> {phrase} <user>" for phrase in phrases] for phrases in SYSTEM_PHRASES[behaviour])
    off, on = ([cipher(text) if second else text for text in side] for side in texts)
    return off, on


def vocabulary() -> tuple[str, ...]:
    """Every token of the world, special tokens first: the models' vocabulary."""
    own = _own_words()
    return (*SPECIAL, *LETTERS, *PUNCTUATION, *own, *sorted(dictionaries()[1]))


# -- pairs ------------------------------------------------------------------------------------------------------------

PAIR_FORMS = ("", "-ab", "-cipher", "-system")
PAIR_NAMES = tuple(f"toy/{behaviour}{form}" for behaviour in BEHAVIOURS for form in PAIR_FORMS)


def pair_rows(name: str) -> list[dict[str, str]]:
    """The rows of one of PAIR_NAMES: prompt, chosen, rejected and split; "-system" also has rejected_prompt.

    "-ab": two lettered options, a line each; "-cipher": in the second language; "-system": the same question behind a system
    phrase that asks for the behaviour (prompt) and one that asks for its opposite (rejected_prompt), for template="plain".
    """
    _check("name", name, PAIR_NAMES)
    behaviour, _, form = name.removeprefix("toy/").partition("-")
    rows = []
    for split in SIZES:
        for question in questions(behaviour, split, form="choice" if form == "ab" else "open"):
            sides = (question.chosen, question.rejected)
            text = question.text
            said = [side[draw(f"pair/{text}/{at}", len(side))] for at, side in enumerate(sides)]
            row = dict(zip(("prompt", "chosen", "rejected"), (text, *said), strict=True))
            if form == "ab":
                row["prompt"] = re.sub(r" (?=\([A-D]\))", "\n", text)
            if form == "system":
                row |= _behind_phrases(behaviour, text)
            if form == "cipher":
                row = {column: cipher(value) for column, value in row.items()}
            rows.append(row | {"split": split})
    return rows


def _behind_phrases(behaviour: str, text: str) -> dict[str, str]:
    at = draw(f"phrase/{text}", len(SYSTEM_PHRASES[behaviour][0]))
    off, on = (f"<sys> {SYSTEM_PHRASES[behaviour][side][at]} <user> {text} <bot>" for side in (0, 1))
    return {"prompt": on, "rejected_prompt": off}


def _check(what: str, given: object, known: tuple[object, ...]) -> None:
    if isinstance(given, bool) or not any(isinstance(given, type(one)) and given == one for one in known):
        raise PairsError(
            f"{what}={shown(given)} is not in the toy world; expected one of {', '.join(map(repr, known))}"
        )


def _number(n: object, most: int, of: str) -> int:
    try:
        return checked_count("n", n, error=PairsError, most=most)
    except PairsError as error:
        raise PairsError(f"{error}: the toy world has {most} {of}") from None


def _check_text(what: str, given: object) -> None:
    if not isinstance(given, str):
        hint = (
            ": pass its .text"
            if isinstance(given, Question)
            else ": pass one of them"
            if isinstance(given, list)
            else ""
        )
        raise PairsError(f"{what} is a {type(given).__name__}; expected a text{hint}")
