"""Preference pairs: a prompt, a response that shows the behaviour, and one that shows its opposite.

>>> import steerlens as sl
>>> pairs = sl.load_pairs("wealth-seeking")            # built in; or "mine.csv", "mine.jsonl", "hf:owner/name"
>>> len(pairs.train), len(pairs.val), len(pairs.test)
(120, 30, 50)
>>> pairs.flip()[0].chosen == pairs[0].rejected
True
"""

import hashlib
import logging
import operator
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from steerlens.checks.calls import checked, rows
from steerlens.checks.values import checked_kind, shown
from steerlens.errors import PairsError, SteerLensError
from steerlens.pairs.pair import Asked, PreferencePair, columns_of
from steerlens.text.encode import EncodedPair, Encoder
from steerlens.text.rows import SPLITS, OnBad, SplitName, check_columns, drawn_parts, good_rows, listed
from steerlens.text.templates import Template, checked_template

if TYPE_CHECKING:
    from steerlens.pairs.questions import ChoiceQuestions

log = logging.getLogger(__name__)


def check_pairs(name: str, pairs: object, *, error: type[SteerLensError] = PairsError) -> "PreferencePairs":
    """Return the pairs, or raise unless they are PreferencePairs with at least one in them."""
    found = checked_kind(
        name,
        pairs,
        PreferencePairs,
        error=error,
        cure="sl.load_pairs(...), or sl.PreferencePairs(prompts, chosen, rejected)",
    )
    if not len(found):
        raise error(f"{name} is empty: expected at least one pair")
    return found


class Split(NamedTuple):
    """Training, validation and test pairs; no prompt is in two of them."""

    train: "PreferencePairs"
    val: "PreferencePairs"
    test: "PreferencePairs"


class PreferencePairs(Sequence[PreferencePair]):
    """Pairs of responses to the same prompt, with the template that turns them into tokens.

    Args:
        prompts, chosen, rejected: texts, one each per pair. `chosen` shows the behaviour, `rejected` its opposite. A prompt
            may be a conversation: a list of messages `{"role": ..., "content": ...}` that ends with the user's; it takes the
            tokenizer's chat template, and everywhere else it is its transcript. Or one list of PreferencePair.
        template: "auto" (the tokenizer's chat template, else "plain"), "plain" (the prompt's text as it is: BOS once if
            the model has one, prompt, response, EOS), "llama-2" or "mistral" (the BiPO authors' formats), "vicuna"
            (FastChat's), or a function from the prompt to its text.
        system_prompt: for templates that have one; None keeps the template's own, "" leaves it out.
        rejected_prompts: prompts of their own for the rejected side, for contrasts between prompts
            (`extract_caa(position="prompt")`); None when both responses answer the same prompt.
        provenance: where the pairs come from, kept in every vector made from them.
        on_bad: what to do with rows whose texts are missing, empty or identical: "raise" an error that lists them, or "drop"
            them with a count.

    Raises:
        PairsError: lengths differ, a column is none, rows are bad, or the template or system prompt is none.
    """

    @checked(PairsError, "prompts", "chosen", "rejected", "rejected_prompts", template=checked_template, splits=rows)
    def __init__(
        self,
        prompts: "Sequence[Asked] | Sequence[PreferencePair]",
        chosen: Sequence[str] | None = None,
        rejected: Sequence[str] | None = None,
        template: Template = "auto",
        system_prompt: str | None = None,
        *,
        rejected_prompts: Sequence[Asked] | None = None,
        provenance: str = "in memory",
        splits: Sequence[SplitName] | None = None,
        on_bad: OnBad = "raise",
    ) -> None:
        columns = columns_of(prompts, chosen, rejected, rejected_prompts)
        check_columns(columns)
        n = len(columns["prompts"])
        if splits is not None and (
            len(splits) != n or not all(isinstance(part, str) and part in SPLITS for part in splits)
        ):
            raise PairsError(f"splits must name one of {SPLITS} for each of the {n} pairs; got {shown(splits)}")
        keep = good_rows(columns, on_bad, provenance)
        self.template, self.system_prompt, self.provenance = template, system_prompt, provenance
        self.rows: tuple[int, ...] = tuple(keep)
        """the pairs' 0-based rows in what they were made from"""
        rows = [[column[i] for column in columns.values()] for i in keep]
        self._pairs = tuple(PreferencePair(*row[:3]) for row in rows)
        self.rejected_prompts = None if rejected_prompts is None else tuple(row[3] for row in rows)
        self._splits = None if splits is None else tuple(splits[i] for i in keep)
        self._parent: PreferencePairs | None = None

    # -- a sequence of pairs ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self._pairs)

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> "PreferencePairs": ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> "PreferencePair | PreferencePairs":
        if isinstance(index, slice):
            return self._take(range(len(self))[index])
        with suppress(TypeError):  # no whole number
            return self._pairs[operator.index(index)]  # type: ignore[arg-type]
        try:
            picked = list(index)  # type: ignore[arg-type]
            if picked and all(type(i).__name__ in ("bool", "bool_") for i in picked):
                if len(picked) != len(self):
                    raise PairsError(
                        f"a mask of {len(picked)} truth values; expected one for each of {len(self)} pairs"
                    )
                picked = [i for i, keep in enumerate(picked) if keep]
            return self._take([operator.index(i) for i in picked])
        except (TypeError, OverflowError):
            raise PairsError(f"pairs[{shown(index)}]; expected a row, a slice, rows, or a mask") from None

    def __repr__(self) -> str:
        template = self.template if isinstance(self.template, str) else getattr(self.template, "__name__", "a function")
        return f"PreferencePairs({len(self)} pairs from {self.provenance}, template={template!r})"

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts' texts."""
        return tuple(pair.prompt for pair in self._pairs)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The responses that show the behaviour."""
        return tuple(pair.chosen for pair in self._pairs)

    @property
    def rejected(self) -> tuple[str, ...]:
        """The responses that show its opposite."""
        return tuple(pair.rejected for pair in self._pairs)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """One per pair: a vector keeps those of the pairs that trained or selected it."""
        return tuple(pair.fingerprint for pair in self._pairs)

    @property
    def digest(self) -> str:
        """16 hex digits of all texts in their order and roles: other for flipped or shuffled labels."""
        rows = [(p.prompt, p.chosen, p.rejected) for p in self._pairs]
        return hashlib.sha256(repr((rows, self.rejected_prompts)).encode()).hexdigest()[:16]

    def described(self) -> dict[str, Any]:
        """What a vector's settings say of its pairs."""
        template = self.template if isinstance(self.template, str) else "a function"
        told = {"pairs": len(self), "pairs_digest": self.digest, "template": template}
        return {**told, "system_prompt": self.system_prompt}

    # -- other sets made from this one --------------------------------------------------------------------------------

    def _take(self, indices: Sequence[int], flipped: Sequence[bool] | None = None) -> "PreferencePairs":
        new = object.__new__(PreferencePairs)
        new.__dict__.update(self.__dict__)
        pairs = [self._pairs[i] for i in indices]
        if flipped is not None:
            pairs = [
                PreferencePair(p.prompt, p.rejected, p.chosen) if f else p for p, f in zip(pairs, flipped, strict=True)
            ]
        new._pairs, new.rows = tuple(pairs), tuple(self.rows[i] for i in indices)
        new.rejected_prompts = (
            None if self.rejected_prompts is None else tuple(self.rejected_prompts[i] for i in indices)
        )
        new._splits = None if self._splits is None else tuple(self._splits[i] for i in indices)
        new._parent = self._parent or self
        return new

    def flip(self) -> "PreferencePairs":
        """The same pairs with chosen and rejected exchanged: the opposite behaviour."""
        if self.rejected_prompts is not None:
            raise PairsError(
                "pairs with rejected_prompts can't be flipped by exchanging responses: exchange the prompts"
            )
        new = self._take(range(len(self)), [True] * len(self))
        # Or the parts that are found through it would show the behaviour that these pairs call its opposite.
        new._parent = None if self._parent is None else self._parent.flip()
        return new

    @checked(PairsError)
    def shuffle_labels(self, *, seed: int) -> "PreferencePairs":
        """Chosen and rejected exchanged in a random half of the pairs: a control that keeps the texts and loses the behaviour."""
        if self.rejected_prompts is not None:
            raise PairsError(
                "pairs with rejected_prompts can't be shuffled by exchanging responses: exchange the prompts"
            )
        flipped = set(random.Random(seed).sample(range(len(self)), len(self) // 2))
        return self._take(range(len(self)), [i in flipped for i in range(len(self))])

    @checked(PairsError, template=checked_template)
    def with_template(self, template: Template, system_prompt: str | None = None) -> "PreferencePairs":
        """The same pairs in another template."""
        new = self._take(range(len(self)))
        new.template, new.system_prompt = template, system_prompt
        new._parent = None if self._parent is None else self._parent.with_template(template, system_prompt)
        return new

    @checked(PairsError)
    def split(self, seed: int = 0, *, val: float = 0.15, test: float = 0.25) -> Split:
        """Training, validation and test pairs, drawn with `seed`; equal prompts go to the same part.

        val, test: the parts' shares of all pairs. The split that the source declares is in `.train`, `.val`, `.test`.
        """
        source = self._take(range(len(self)))
        source._parent = None
        source._splits = tuple(drawn_parts(self.prompts, seed, val=val, test=test))
        return Split(source.train, source.val, source.test)

    @checked(PairsError)
    def as_choices(self, *, seed: int = 0) -> "ChoiceQuestions":
        """The prompts as questions with the two responses as options A and B, in random order: half of each part has A right.

        The parts, the template and the rows are kept; the option that shows the behaviour is the right one.

        Raises:
            PairsError: responses that can't stand as options under each other; the rows are listed.
        """
        from steerlens.pairs.questions import choices_from

        return choices_from(self, seed)

    def _part(self, name: SplitName) -> "PreferencePairs":
        if self._splits is None:
            return getattr(self.split(seed=0), name)
        return self._take([i for i, split in enumerate(self._splits) if split == name])

    @property
    def train(self) -> "PreferencePairs":
        """The pairs to train on: the source's own split where it declares one, else `split(seed=0).train`."""
        return self._part("train")

    @property
    def val(self) -> "PreferencePairs":
        """The pairs that may choose a layer, a learning rate or a stopping point."""
        return self._part("val")

    @property
    def test(self) -> "PreferencePairs":
        """The pairs to report on; nothing may be chosen by them."""
        return self._part("test")

    @property
    def splits(self) -> tuple[SplitName, ...] | None:
        """The part of each pair as the source declares it; None where it declares none."""
        return self._splits

    @property
    def parent(self) -> "PreferencePairs | None":
        """The set that this one was taken from, so that its other parts can be found."""
        return self._parent

    # -- tokens -------------------------------------------------------------------------------------------------------

    def encode(self, model: Any) -> list[EncodedPair]:
        """Token ids of every pair for a model (its `tokenizer` and `cfg` are read).

        The prompt is encoded by itself, so that nothing after it can change its tokens; a response continues it.

        Raises:
            PairsError: the model has no tokenizer, or pairs are longer than its context (the rows are listed).
        """
        if self.rejected_prompts is not None:
            raise PairsError(
                "these pairs have a prompt of their own on each side (rejected_prompts): only "
                "extract_caa(position='prompt') reads such contrasts"
            )
        encoder = Encoder(model, self.template, self.system_prompt)
        encoded = [encoder.pair(p.prompt, p.chosen, p.rejected) for p in self._pairs]
        bad = [row for row, pair in zip(self.rows, encoded, strict=True) if pair.length > model.cfg.n_ctx]
        if bad:
            raise PairsError(
                f"{len(bad)} of {len(self)} pairs are longer than the model's context of {model.cfg.n_ctx} tokens: rows "
                f"{listed(bad)} of {self.provenance}. Shorten them, or leave them out: pairs.drop_overlong(model)"
            )
        return encoded

    def drop_overlong(self, model: Any) -> "PreferencePairs":
        """The pairs that fit the model's context; how many were left out is logged."""
        encoder = Encoder(model, self.template, self.system_prompt)
        fits = [encoder.pair(p.prompt, p.chosen, p.rejected).length <= model.cfg.n_ctx for p in self._pairs]
        if not all(fits):
            log.warning("dropped %d of %d pairs over %d tokens", fits.count(False), len(self), model.cfg.n_ctx)
        return self._take([i for i, fit in enumerate(fits) if fit])
