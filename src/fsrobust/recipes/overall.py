"""One view over a whole plan: how much of it is done, and how long the rest will take at the pace seen so far."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from fsrobust.recipes.budget import Budget
from fsrobust.recipes.cost import Work, attack_work, epoch_work, remaining
from fsrobust.recipes.plan import Cell
from fsrobust.train import Reporter

_TRUSTED = 0.02
"""Share of the plan after which its pace says more than the estimate."""


@runtime_checkable
class CellWatcher(Reporter, Protocol):
    """Whoever watches a cell: its training and its attacks."""

    def attack(self, name: str, done: int, total: int) -> None:
        """Take the state of an attack, in samples."""


@runtime_checkable
class Watcher(CellWatcher, Protocol):
    """Whoever watches a plan: its cells, and the whole of it."""

    def overall(self, text: str, share: float, left: float) -> None:
        """Take the state of the plan: where it is, the share done in [0, 1], the seconds left."""


class Overall:
    """Passes on what a cell's training and attacks report, and tells the watcher where the plan stands."""

    def __init__(self, inner: Watcher, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self.inner, self.rates, self._clock = inner, budget.rates, clock
        self._todo = [one for one in budget.estimates if one.state != "done"]
        self._total = budget.seconds
        self._started, self._number, self._before = clock(), 0, 0.0
        self._cell: Cell | None = None
        self._left, self._trained, self._attacked = Work(0, 0), 0.0, 0.0
        self._epoch, self._skipped, self._before_attack = 0.0, 0.0, 0.0

    @property
    def done(self) -> float:
        """Seconds of the estimate that are done."""
        within = self.rates.seconds(Work(self._trained, self._attacked))
        return self._before + min(within, self.rates.seconds(self._left))

    @property
    def left(self) -> float:
        """Seconds that the rest will take: by the estimate at first, then by the pace seen."""
        trusted = self.done > _TRUSTED * self._total
        pace = (self._clock() - self._started) / self.done if trusted and self.done else 1.0
        return max(0.0, self._total - self.done) * pace

    @property
    def place(self) -> str:
        """Which cell of how many, "3/15  S5 uniform, seed 0"."""
        return f"{self._number}/{len(self._todo)}  {self._cell.name if self._cell else ''}"

    def begin(self, cell: Cell) -> None:
        """Go on to a cell."""
        self._cell, self._number = cell, self._number + 1
        self._left, self._trained, self._attacked = remaining(cell), 0.0, 0.0
        self._before_attack = 0.0
        self._epoch = epoch_work(cell)
        self._skipped = cell.run.train.epochs * self._epoch - self._left.training
        self._tell()

    def end(self) -> None:
        """Count the cell as done, however little of the estimate it needed."""
        self._before += self.rates.seconds(self._left)
        self._left, self._trained, self._attacked = Work(0, 0), 0.0, 0.0
        self._tell()

    def say(self, text: str) -> None:
        """Pass the sentence on."""
        self.inner.say(text)

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Count what of the training is done."""
        self.inner.batch(epoch, epochs, share, loss)
        self._trained = max(0.0, (epoch - 1 + share) * self._epoch - self._skipped)
        self._tell()

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Pass the row on."""
        self.inner.epoch(row, epochs)

    def attack(self, name: str, done: int, total: int) -> None:
        """Count the samples of an attack, or of a point of the curve, that are done."""
        self.inner.attack(name, done, total)
        if self._cell is not None:
            self._trained = self._left.training
            self._attacked = self._before_attack + attack_work(self._cell, name) * done / total
            self._before_attack = self._attacked if done == total else self._before_attack
        self._tell()

    def _tell(self) -> None:
        self.inner.overall(self.place, self.done / self._total if self._total else 1.0, self.left)
