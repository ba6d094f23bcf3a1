"""A hundred mutations and more in every test run; `make fuzz` makes ten thousand."""

import random

import pytest

from fuzz import kinds
from fuzz.__main__ import run
from fuzz.mutations import mutated


@pytest.mark.filterwarnings("ignore")
def test_no_changed_file_of_a_vector_result_ledger_or_table_raises_anything_but_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kinds, "_model", lambda folder: {})
    counts, failures = run(120, seed=0)
    assert failures == []
    total = {word: sum(count[word] for count in counts.values()) for word in ("read", "refused")}
    assert min(total.values()) >= 5  # the mutations are neither all harmless nor all hopeless


def test_a_mutation_depends_on_its_seed_alone() -> None:
    data = b'{"a": [1, 2.5, "x"], "b": {"c": null}}' * 3
    once, again, other = (mutated(data, random.Random(f"0 {i}")) for i in (1, 1, 2))
    assert once == again != data
    assert other != once
