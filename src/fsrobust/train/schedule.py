"""The learning rate as a function of the epoch: never of its own earlier value.

One rate an epoch, since a step recorded as a graph holds it as a constant and is recorded once an epoch. A curve
becomes stairs: off by at most its rise over half an epoch, which the midpoint evens out over the run; only ramps of
one or two epochs are coarse.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from fsrobust.types import unknown_name

RISE: Final = 0.4
"""Share of a run after which "one-cycle" is at its peak (Wong et al., 2020)."""


def learning_rate(
    epoch: int,
    *,
    epochs: int,
    lr: float,
    milestones: Sequence[float],
    factor: float = 0.1,
    schedule: str = "steps",
) -> float:
    """Return the rate of a 1-based epoch.

    "steps": ``lr``·``factor`` to the number of milestones reached. Milestones are shares of the whole run. The paper's
    0.75 and 0.9 of 100 epochs drop the rate in epoch 75 and in epoch 90, as counted from 1. However short the run,
    its first epoch has the full rate. "cosine": ``lr``·(1 + cos πt)/2, t in (0, 1) being the middle of the epoch as a
    share of the run. "one-cycle": up linearly from 0 to ``lr`` at t = 0.4, and linearly down to 0. No epoch has a
    rate of 0.

    >>> [learning_rate(e, epochs=100, lr=1.0, milestones=(0.75, 0.9)) for e in (74, 75, 89, 90)]
    [1.0, 0.1, 0.1, 0.010000000000000002]

    Raises:
        InputError: no such schedule.
    """
    if schedule == "steps":
        reached = sum(epoch >= max(2, round(share * epochs)) for share in milestones)
        return float(lr * factor**reached)
    if schedule not in CURVES:
        raise unknown_name("schedule", schedule, ["steps", *CURVES])
    return float(lr * CURVES[schedule]((epoch - 0.5) / epochs))


CURVES: Final[dict[str, Callable[[float], float]]] = {
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "one-cycle": lambda t: t / RISE if t < RISE else (1 - t) / (1 - RISE),
}
"""Shares of the highest rate by the share t of the run that is over."""
