"""The learning rate, epoch by epoch."""

import pytest

from fsrobust.train import TrainConfig
from fsrobust.train.schedule import learning_rate


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
