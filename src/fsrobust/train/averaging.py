"""Averages of weights over a run: EMA, and SWA (Izmailov et al., 2018), with batch statistics of their own.

The average is what validation judges and what checkpoints offer to evaluation. The run itself goes on from the raw
weights, which a checkpoint keeps beside it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fsrobust.train.config import TrainConfig

REFRESHED: Final = 32
"""Batches from which statistics are made anew: a mean over some thousand images, at a tenth of an epoch's cost."""


class Average:
    """The average of a model's trained weights so far; of "none", every method does nothing.

    "ema" takes in the weights after each step: a ← a + max(1 − decay, 9/(10 + n)) · (w − a), n being the steps so
    far, so that a short run does not remember its initial weights. "swa" takes in those after each epoch beyond the
    share ``swa_start`` of the run, all alike: a ← a + (w − a)/(n + 1).
    """

    def __init__(self, model: nn.Module, train: TrainConfig) -> None:
        self.model, self.train = model, train
        self.count = 0
        self._weights: list[Tensor] = []
        self._raw: dict[str, Tensor] | None = None
        if train.averaging != "none":
            self._weights = [p.detach().clone() for p in model.parameters()]

    def after_step(self) -> None:
        """Take in the weights after a step."""
        if self.train.averaging == "ema":
            self._take_in(max(1 - self.train.ema_decay, 9 / (10 + self.count)))

    def after_epoch(self, epoch: int) -> None:
        """Take in the weights after a 1-based epoch."""
        if self.train.averaging == "swa" and epoch > self.train.swa_start * self.train.epochs:
            self._take_in(1 / (self.count + 1))

    def _take_in(self, share: float) -> None:
        with torch.no_grad():
            for average, weight in zip(self._weights, self.model.parameters(), strict=True):
                average.lerp_(weight, share)
        self.count += 1

    def install(self, refresh: Callable[[], None]) -> None:
        """Give the model the average, if there is one yet; ``refresh`` shows the batch norms some batches."""
        if not self.count or self._raw is not None:
            return
        self._raw = _copies(self.model)
        with torch.no_grad():
            for weight, average in zip(self.model.parameters(), self._weights, strict=True):
                weight.copy_(average)
        refresh_statistics(self.model, refresh)

    @contextmanager
    def installed(self, refresh: Callable[[], None]) -> Iterator[None]:
        """Give the model the average while inside, and the raw weights and statistics back after, bit for bit."""
        self.install(refresh)
        try:
            yield
        finally:
            if self._raw is not None:
                self.model.load_state_dict(self._raw)
            self._raw = None

    def state(self) -> dict[str, object]:
        """Return what a checkpoint keeps beside the model's weights: nothing, if nothing is averaged."""
        if self.train.averaging == "none":
            return {}
        raw = _copies(self.model) if self._raw is None else self._raw
        return {"raw": raw, "average": {"count": self.count, "weights": list(self._weights)}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's state, whose weights the model already has: now it gets the raw ones."""
        if self.train.averaging == "none":
            return
        self.model.load_state_dict(state["raw"])
        self.count = int(state["average"]["count"])
        with torch.no_grad():
            for ours, theirs in zip(self._weights, state["average"]["weights"], strict=True):
                ours.copy_(theirs)


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def refresh_statistics(model: nn.Module, show: Callable[[], None]) -> None:
    """Make every batch norm's running statistics the plain mean over the batches that ``show`` passes through.

    Those of the raw weights stand until the first batch. The count of batches seen stays, as does the model's mode.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]
    if not norms:
        return
    before = [(norm, norm.momentum, int(norm.num_batches_tracked or 0)) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = None  # torch's word for a plain mean
            norm.num_batches_tracked.zero_()  # type: ignore[union-attr]
        show()
    finally:
        for norm, momentum, count in before:
            norm.momentum = momentum
            norm.num_batches_tracked.fill_(count)  # type: ignore[union-attr]
