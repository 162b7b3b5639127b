"""Where a run is, and what its present epoch has come to so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Position:
    """Where a run is: ``epoch`` (1-based) with ``batch`` of its batches done, ``step`` in all."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = -1.0
    best_epoch: int | None = None
    best_step: int | None = None
    bad: Tensor | None = None

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Add a batch's numbers, on the device, in float64 so that their order of size does not matter.

        ``bad`` is the first batch of the epoch whose loss was not finite, -1 as long as there is none.
        """
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()
        finite = torch.isfinite(numbers["loss"])
        bad = torch.full_like(finite, -1, dtype=torch.int64) if self.bad is None else self.bad
        self.bad = torch.where((bad < 0) & ~finite, self.batch, bad)
        self.batch += 1
        self.step += 1

    def next_epoch(self) -> None:
        """Turn to the next epoch."""
        self.epoch, self.batch, self.sums, self.bad = self.epoch + 1, 0, {}, None

    def state(self) -> dict[str, object]:
        """Return what a checkpoint keeps: one is written only while all losses are finite."""
        return {name: value for name, value in vars(self).items() if name != "bad"}
