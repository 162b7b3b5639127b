"""The learning rate, epoch by epoch."""

import math

import numpy as np
import pytest

from fsrobust.train import TrainConfig
from fsrobust.train.schedule import learning_rate
from fsrobust.types import InputError


def test_the_papers_hundred_epochs() -> None:
    """0.1 in epochs 1 to 74, 0.01 in 75 to 89, 0.001 in 90 to 100, counted from 1; float64 rounding."""
    paper = TrainConfig()
    expected = [0.1] * 74 + [0.01] * 15 + [0.001] * 11
    assert len(expected) == paper.epochs
    rates = [
        learning_rate(epoch, epochs=paper.epochs, lr=paper.lr, milestones=paper.milestones)
        for epoch in range(1, 101)
    ]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_a_short_run_begins_at_the_full_rate(epochs: int) -> None:
    """However short the run, its first epoch has the full rate, and rates never rise."""
    rates = [
        learning_rate(epoch, epochs=epochs, lr=0.3, milestones=(0.75, 0.9)) for epoch in range(1, epochs + 1)
    ]
    assert rates[0] == 0.3
    assert rates == sorted(rates, reverse=True)


def test_milestones_are_free() -> None:
    """Without milestones the rate is constant; ``factor`` is what each of them multiplies by."""
    assert {learning_rate(e, epochs=9, lr=0.3, milestones=()) for e in range(1, 10)} == {0.3}
    rates = [learning_rate(e, epochs=4, lr=1.0, milestones=(0.5,), factor=0.5) for e in range(1, 5)]
    assert rates == [1.0, 0.5, 0.5, 0.5]


def rates(schedule: str, epochs: int, lr: float = 0.2) -> list[float]:
    """Return the rates of a run."""
    return [
        learning_rate(epoch, epochs=epochs, lr=lr, milestones=(0.5,), schedule=schedule)
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("epochs", [1, 3, 5, 15, 100])
def test_one_cycle_is_a_triangle_at_the_middle_of_each_epoch(epochs: int) -> None:
    """Interpolated by numpy between 0, the peak at 0.4 of the run, and 0; never 0 itself."""
    middles = np.arange(epochs) + 0.5
    expected = np.interp(middles, [0, 0.4 * epochs, epochs], [0, 0.2, 0])
    assert rates("one-cycle", epochs) == pytest.approx(expected.tolist(), rel=1e-12)
    assert min(rates("one-cycle", epochs)) > 0


def test_one_cycle_warms_up_even_in_five_epochs() -> None:
    """The first of five epochs has a quarter of the rate that the third comes near to."""
    assert rates("one-cycle", 5, lr=1.0) == pytest.approx([0.25, 0.75, 5 / 6, 0.5, 1 / 6])


@pytest.mark.parametrize("epochs", [1, 4, 100])
def test_cosine_falls_from_the_rate_to_zero(epochs: int) -> None:
    """Half of one plus the cosine, at the middle of each epoch: it falls, never to 0, and means half the rate."""
    found = rates("cosine", epochs)
    assert found == pytest.approx([0.1 + 0.1 * math.cos(math.pi * (k + 0.5) / epochs) for k in range(epochs)])
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0
    assert sum(found) / epochs == pytest.approx(0.1)


def test_an_unknown_schedule_is_refused() -> None:
    """The message names the nearest."""
    with pytest.raises(InputError, match='did you mean "cosine"'):
        rates("cosin", 3)
