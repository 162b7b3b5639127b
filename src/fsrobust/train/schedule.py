"""The learning rate as a function of the epoch: never of its own earlier value."""

from collections.abc import Sequence


def learning_rate(
    epoch: int, *, epochs: int, lr: float, milestones: Sequence[float], factor: float = 0.1
) -> float:
    """Return the rate of a 1-based epoch: ``lr``·``factor`` to the number of milestones reached.

    Milestones are shares of the whole run. The paper's 0.75 and 0.9 of 100 epochs drop the rate in epoch 75
    and in epoch 90, as counted from 1. However short the run, its first epoch has the full rate.

    >>> [learning_rate(e, epochs=100, lr=1.0, milestones=(0.75, 0.9)) for e in (74, 75, 89, 90)]
    [1.0, 0.1, 0.1, 0.010000000000000002]
    """
    reached = sum(epoch >= max(2, round(share * epochs)) for share in milestones)
    return float(lr * factor**reached)
