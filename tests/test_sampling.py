"""Draws of the next token: their frequencies are the probabilities, and a row's draws are its own."""

import pytest
import torch
from scipy import stats

from steerlens.generation.sampling import drawn, likeliest

LOGITS = torch.randn(3, 12, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    n = 4000
    choose = drawn([7, 8, 9], n, temperature)
    counts = torch.zeros(3, 12)
    for step in range(n):
        counts[torch.arange(3), choose(LOGITS, [0, 1, 2], step)] += 1
    for row in range(3):
        expected = n * (LOGITS[row].double() / temperature).softmax(-1)
        large = expected > 5
        rest = torch.tensor([expected[~large].sum()]), torch.tensor([counts[row][~large].sum()])
        expected, got = torch.cat([expected[large], rest[0]]), torch.cat([counts[row][large].double(), rest[1]])
        if expected[-1] == 0:
            expected, got = expected[:-1], got[:-1]
        assert stats.chisquare(got.numpy(), expected.numpy()).pvalue > 1e-3


def test_a_rows_draws_depend_on_its_seed_and_step_alone() -> None:
    choose, alone = drawn([1, 2, 3], 50, 1.0), drawn([3], 50, 1.0)
    together = [choose(LOGITS, [0, 1, 2], step)[2] for step in range(50)]
    assert together == [alone(LOGITS[2:], [0], step)[0] for step in range(50)]
    assert together == [choose(LOGITS[[2, 0]], [2, 0], step)[0] for step in range(50)]
    assert len(set(map(int, together))) > 1


def test_cold_draws_are_the_likeliest_token_and_no_draw_has_probability_zero() -> None:
    assert torch.equal(drawn([1, 2, 3], 1, 1e-3)(LOGITS, [0, 1, 2], 0), likeliest(LOGITS, [0, 1, 2], 0))
    barred = LOGITS.clone()
    barred[:, [0, 5, 11]] = -torch.inf
    choose = drawn([1, 2, 3], 300, 1.0)
    found = {int(token) for step in range(300) for token in choose(barred, [0, 1, 2], step)}
    assert not found & {0, 5, 11}


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    drawn([1], 5, 1.0)(LOGITS[:1], [0], 0)
    assert torch.equal(before, torch.get_rng_state())
