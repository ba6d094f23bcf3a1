"""Multiple-choice questions: a question, its options, and which of them are right (or show the behaviour).

>>> import steerlens as sl
>>> questions = sl.load_pairs("wealth-seeking").as_choices(seed=0)   # or sl.load_questions("test_dataset_ab.json")
>>> questions.letters[0]
('(A)', '(B)')
>>> questions.as_pairs().train                                        # for extract_caa(position="answer")
"""

import hashlib
import operator
import random
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, overload

from steerlens.checks.calls import checked, rows, texts, whole
from steerlens.checks.values import LARGEST_COUNT, checked_texts, refusal, shown
from steerlens.errors import PairsError
from steerlens.pairs.lettered import ChoiceLayout, letters, meant, read_choices
from steerlens.pairs.preference import PreferencePair, PreferencePairs
from steerlens.text.conversation import Conversation
from steerlens.text.rows import SPLITS, OnBad, SplitName, drawn_parts, good_reasons, listed, why_no_text
from steerlens.text.templates import Template, checked_template

_LAYOUT = ChoiceLayout()
_MOST = 26  # letters


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question with its options as bare text, no letters."""

    question: str
    options: tuple[str, ...]
    correct: tuple[int, ...]
    """0-based, of the options that are right or show the behaviour; the best one first"""

    @property
    def wrong(self) -> tuple[int, ...]:
        """The options that are not in `correct`, in their order."""
        return tuple(i for i in range(len(self.options)) if i not in self.correct)

    @property
    def fingerprints(self) -> frozenset[str]:
        """Those of every pair that can be made of it, one right option against one wrong, in letters or in words.

        A letter counts as the option that it stands for, so the question is known again in another order of its
        options, with letters or without, and from the free-form pair that it was made of.
        """
        pairs = ((self.options[i], self.options[j]) for i in self.correct for j in self.wrong)
        return frozenset(PreferencePair(self.question, right, wrong).fingerprint for right, wrong in pairs)


class ChoiceQuestions(Sequence[ChoiceQuestion]):
    """Multiple-choice questions, with the layout that writes the options in and the template that makes tokens of them.

    Args:
        questions: with at least two options each, at least one right and one wrong.
        template, system_prompt: as in `PreferencePairs`.
        layout: how the options are written into the prompt, one for all or one each.
        categories: a topic each, for results by category; None when there are none.
        provenance: where the questions come from.
        splits: "train", "val" or "test" each; None when the source declares no parts.
        on_bad: what to do with questions that can't be asked: "raise" an error that lists the rows, or "drop" them.

    Raises:
        PairsError: lengths differ, questions are bad, or the template is not known.
    """

    @checked(PairsError, "layout", questions=rows, template=checked_template, categories=texts, splits=rows)
    def __init__(
        self,
        questions: Sequence[ChoiceQuestion],
        template: Template = "auto",
        system_prompt: str | None = None,
        *,
        layout: ChoiceLayout | Sequence[ChoiceLayout] = _LAYOUT,
        categories: Sequence[str] | None = None,
        provenance: str = "in memory",
        splits: Sequence[SplitName] | None = None,
        on_bad: OnBad = "raise",
    ) -> None:
        if not questions:
            raise PairsError("got no questions; expected at least one sl.ChoiceQuestion, in a list")
        wrong = [i for i, question in enumerate(questions) if not isinstance(question, ChoiceQuestion)]
        if wrong:
            raise PairsError(
                f"questions hold a {type(questions[wrong[0]]).__name__} in rows {listed(wrong)}; expected sl.ChoiceQuestion"
            )
        layouts = [layout] * len(questions) if isinstance(layout, ChoiceLayout) else rows("layout", layout, PairsError)
        if not all(isinstance(one, ChoiceLayout) for one in layouts):
            raise PairsError(refusal("layout", layout, "a ChoiceLayout, or a list with one for each question"))
        for name, column in (("layout", layouts), ("categories", categories), ("splits", splits)):
            if column is not None and len(column) != len(questions):
                raise PairsError(f"{name} has {len(column)} entries for {len(questions)} questions; expected one each")
        if splits is not None and not all(isinstance(part, str) and part in SPLITS for part in splits):
            raise PairsError(f"splits must name one of {SPLITS} for each question; got {shown(splits)}")
        reasons = [why_bad(question, written) for question, written in zip(questions, layouts, strict=True)]
        keep = good_reasons(reasons, on_bad, provenance, "questions")
        self.template, self.system_prompt, self.provenance = template, system_prompt, provenance
        self.rows: tuple[int, ...] = tuple(keep)
        """the questions' 0-based rows in what they were made from"""
        self._questions = tuple(questions[i] for i in keep)
        self.layouts: tuple[ChoiceLayout, ...] = tuple(layouts[i] for i in keep)
        """how each question's options are written"""
        self.categories = None if categories is None else tuple(categories[i] for i in keep)
        self._splits = None if splits is None else tuple(splits[i] for i in keep)

    def __len__(self) -> int:
        return len(self._questions)

    def __iter__(self) -> Iterator[ChoiceQuestion]:
        return iter(self._questions)

    @overload
    def __getitem__(self, index: int) -> ChoiceQuestion: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> "ChoiceQuestions": ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> "ChoiceQuestion | ChoiceQuestions":
        if isinstance(index, slice):
            return self._take(range(len(self))[index])
        with suppress(TypeError):  # no whole number
            return self._questions[operator.index(index)]  # type: ignore[arg-type]
        try:
            return self._take([operator.index(i) for i in index])  # type: ignore[union-attr]
        except (TypeError, OverflowError):
            raise PairsError(f"questions[{shown(index)}]; expected a row, a slice or rows") from None

    def __repr__(self) -> str:
        return f"ChoiceQuestions({len(self)} questions from {self.provenance})"

    # -- texts --------------------------------------------------------------------------------------------------------

    @property
    def prompts(self) -> tuple[str, ...]:
        """The questions with their lettered options written in: "{question}\\n\\nChoices:\\n (A) ...\\n (B) ..."."""
        return tuple(w.write(q.question, q.options) for q, w in zip(self._questions, self.layouts, strict=True))

    @property
    def letters(self) -> tuple[tuple[str, ...], ...]:
        """The responses that name each option, "(A)", "(B)", ..., as the source writes them."""
        return tuple(letters(w, len(q.options)) for q, w in zip(self._questions, self.layouts, strict=True))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of every pair that can be made of the questions; a vector keeps those of what trained or selected it."""
        return tuple(sorted(frozenset[str]().union(*(q.fingerprints for q in self._questions))))

    @property
    def digest(self) -> str:
        """16 hex digits of all texts in their order, and of what is right."""
        return hashlib.sha256(repr((self.prompts, [q.correct for q in self._questions])).encode()).hexdigest()[:16]

    @checked(PairsError, "known")
    def seen_rows(self, known: Collection[str]) -> tuple[int, ...]:
        """The rows of questions that are among a vector's `seen` fingerprints, in whatever form it saw them."""
        if not isinstance(known, Set):
            known = frozenset(checked_texts("known", known, error=PairsError, least=0))
        return tuple(r for r, q in zip(self.rows, self._questions, strict=True) if not known.isdisjoint(q.fingerprints))

    # -- other sets made from this one --------------------------------------------------------------------------------

    @checked(PairsError, shift=whole(least=-LARGEST_COUNT))
    def reordered(self, shift: int = 1) -> "ChoiceQuestions":
        """Each question's options moved on by `shift` places, what is right with them: to cancel a bias to a letter."""
        return self._permuted(lambda n: [(i - shift) % n for i in range(n)])

    @checked(PairsError)
    def shuffled(self, *, seed: int) -> "ChoiceQuestions":
        """Each question's options in a random order, what is right with them."""
        rng = random.Random(seed)
        return self._permuted(lambda n: rng.sample(range(n), n))

    def as_pairs(self) -> PreferencePairs:
        """Two-option questions as pairs of letters behind the lettered prompt, for `extract_caa(position="answer")`.

        A pair has the same fingerprint as the free-form pair of its two options.

        Raises:
            PairsError: a question has more than two options.
        """
        many = [row for row, q in zip(self.rows, self._questions, strict=True) if len(q.options) != 2]
        if many:
            raise PairsError(
                f"{len(many)} of {len(self)} questions of {self.provenance} have more than two options: rows {listed(many)}. "
                "Leave them out, or pair the options' texts: questions.answer_pairs(wrong='each')"
            )
        sides = [
            (names[q.correct[0]], names[q.wrong[0]]) for q, names in zip(self._questions, self.letters, strict=True)
        ]
        return self._paired(range(len(self)), self.prompts, sides)

    @checked(PairsError)
    def answer_pairs(self, *, wrong: Literal["first", "each"] = "first") -> PreferencePairs:
        """The bare questions with the options' texts as responses: the best right one against the first, or each, wrong one."""
        numbered = enumerate(self._questions)
        made = [(i, q, other) for i, q in numbered for other in (q.wrong[:1] if wrong == "first" else q.wrong)]
        sides = [(q.options[q.correct[0]], q.options[other]) for _, q, other in made]
        return self._paired([i for i, _, _ in made], [q.question for _, q, _ in made], sides)

    @property
    def train(self) -> "ChoiceQuestions":
        """The questions to train on: the source's own part where it declares one, else drawn with seed 0."""
        return self._part("train")

    @property
    def val(self) -> "ChoiceQuestions":
        """The questions that may choose a layer, a learning rate or a stopping point."""
        return self._part("val")

    @property
    def test(self) -> "ChoiceQuestions":
        """The questions to report on; nothing may be chosen by them."""
        return self._part("test")

    def _part(self, name: SplitName) -> "ChoiceQuestions":
        parts = drawn_parts([q.question for q in self._questions]) if self._splits is None else self._splits
        return self._take([i for i, part in enumerate(parts) if part == name])

    def _take(self, indices: Sequence[int], questions: Sequence[ChoiceQuestion] | None = None) -> "ChoiceQuestions":
        new = object.__new__(ChoiceQuestions)
        new.__dict__.update(self.__dict__)
        new._questions = tuple(self._questions[i] for i in indices) if questions is None else tuple(questions)
        new.rows, new.layouts = tuple(self.rows[i] for i in indices), tuple(self.layouts[i] for i in indices)
        new.categories = None if self.categories is None else tuple(self.categories[i] for i in indices)
        new._splits = None if self._splits is None else tuple(self._splits[i] for i in indices)
        return new

    def _permuted(self, order: Callable[[int], list[int]]) -> "ChoiceQuestions":
        orders = [order(len(q.options)) for q in self._questions]
        moved = [
            replace(q, options=tuple(q.options[i] for i in new), correct=tuple(new.index(i) for i in q.correct))
            for q, new in zip(self._questions, orders, strict=True)
        ]
        return self._take(range(len(self)), moved)

    def _paired(self, rows: Sequence[int], prompts: Sequence[str], sides: Sequence[tuple[str, str]]) -> PreferencePairs:
        chosen, rejected = [side[0] for side in sides], [side[1] for side in sides]
        splits = None if self._splits is None else [self._splits[i] for i in rows]
        pairs = PreferencePairs(
            prompts, chosen, rejected, self.template, self.system_prompt, provenance=self.provenance, splits=splits
        )
        pairs.rows = tuple(self.rows[i] for i in rows)
        return pairs


def why_bad(q: ChoiceQuestion, layout: ChoiceLayout) -> str | None:
    """Why a question can't be asked, or None."""
    if not isinstance(q.options, tuple) or not isinstance(q.correct, tuple):
        return "options or correct that are no tuple"
    if not all(isinstance(text, str) for text in (q.question, *q.options)):
        return "no text where one is expected"
    halves = [why for text in (q.question, *q.options) if (why := why_no_text(text)) and why.startswith("holds")]
    if halves:
        return f"a text that {halves[0]}"
    texts = [" ".join(text.split()) for text in q.options]
    if not q.question.strip():
        return "empty question"
    if not 2 <= len(texts) <= _MOST:
        return f"not 2 to {_MOST} options"
    if not all(texts):
        return "empty option"
    if len(set(texts)) < len(texts):
        return "options alike"
    if not q.correct or len(set(q.correct)) < len(q.correct) or not set(q.correct) < set(range(len(texts))):
        return "`correct` not the places of some of the options"
    read = read_choices(layout.write(q.question, q.options))
    # Or a vector that saw the question in letters would not be known to have seen it in words.
    if read is None or read[1] != q.options or meant(read[0])[0].split() != meant(q.question)[0].split():
        return "options that can't be told apart once they are written in"
    return None


def choices_from(pairs: PreferencePairs, seed: int) -> ChoiceQuestions:
    """`pairs.as_choices(seed=seed)`."""
    if pairs.rejected_prompts is not None:
        raise PairsError("pairs with rejected_prompts are contrasts between prompts: they hold no two answers to one")
    if any(isinstance(prompt, Conversation) for prompt in pairs.prompts):
        raise PairsError(
            "these pairs' prompts are conversations of several turns, into which no options can be written"
        )
    splits = pairs.splits
    parts = drawn_parts(pairs.prompts) if splits is None else splits
    rng, b_right = random.Random(seed), set()
    for part in SPLITS:
        rows = [i for i, own in enumerate(parts) if own == part]
        b_right |= set(rng.sample(rows, len(rows) // 2))
    questions = []
    for i, pair in enumerate(pairs):
        right, wrong = pair.chosen.strip(), pair.rejected.strip()
        options, place = ((wrong, right), 1) if i in b_right else ((right, wrong), 0)
        questions.append(ChoiceQuestion(pair.prompt.strip(), options, (place,)))
    bad = [row for row, question in zip(pairs.rows, questions, strict=True) if why_bad(question, _LAYOUT)]
    if bad:
        raise PairsError(
            f"the responses of {len(bad)} of {len(pairs)} pairs of {pairs.provenance} can't stand as options (alike, or with "
            f"lines that begin with a letter in brackets): rows {listed(bad)}; leave them out: pairs[[...]]"
        )
    name = f"{pairs.provenance} (A/B, seed {seed})"
    made = ChoiceQuestions(questions, pairs.template, pairs.system_prompt, provenance=name, splits=splits)
    made.rows = pairs.rows
    return made
