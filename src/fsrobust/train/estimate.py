"""What training will cost, from a few steps of it on this machine: seconds and memory."""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from fsrobust.data import Dataset, hold_out
from fsrobust.data.batches import training_batches
from fsrobust.seeding import forked
from fsrobust.train.checkpoint import save_checkpoint
from fsrobust.train.config import TrainConfig
from fsrobust.train.learner import Learner
from fsrobust.train.objectives import Objective
from fsrobust.train.telemetry import peak_memory
from fsrobust.train.validation import validate, validation_batch

ENOUGH: Final = 3.0
"""Seconds after which a calibration stops repeating what it times; it takes at least three looks."""
_LOOKS: Final = 3


@dataclass(frozen=True)
class Estimate:
    """Predicted seconds by part, and the most memory held at any time, in bytes.

    ``epochs`` is None for an evaluation. The part "warm-up" is what only the first steps cost. Loading data
    and starting Python are not counted. Memory is that of tensors on a GPU, of this whole process on a CPU.
    """

    device: str
    parts: Mapping[str, float]
    peak_memory_bytes: int
    epochs: int | None = None

    @property
    def seconds(self) -> float:
        """Predicted seconds in all."""
        return sum(self.parts.values())

    @property
    def epoch_seconds(self) -> float | None:
        """Predicted seconds of an epoch with its validation and checkpoint, warm-up apart."""
        return None if self.epochs is None else (self.seconds - self.parts.get("warm-up", 0.0)) / self.epochs

    def summary(self) -> dict[str, object]:
        """Return everything as plain values: for JSON."""
        return {**asdict(self), "seconds": self.seconds, "epoch_seconds": self.epoch_seconds}


def estimate_training(
    model: nn.Module, data: Dataset, *, objective: Objective, train: TrainConfig | None = None
) -> Estimate:
    """Return what ``fit`` into a run directory would cost, where the model is; the model stays as it is.

    Some steps are taken on a copy, at the run's own batch, engine and precision; so is one validation batch,
    and one checkpoint is written and thrown away. A run that would be compiled is compiled here, too.

    Raises:
        InputError: what ``fit`` refuses.
        TrainingError: a batch that does not fit.
    """
    train = train or TrainConfig()
    device = next(model.parameters()).device
    held_out: Dataset | None = None
    if train.train_on == "minus_validation":
        data, held_out = hold_out(data, count=train.validation, seed=train.seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with forked(device):
        calibration = _Calibration(copy.deepcopy(model), data.to(device), objective, train, device)
        warm_up, steps = calibration.steps()
        validation = calibration.validation(held_out.to(device)) if held_out is not None else 0.0
        checkpoint = calibration.checkpoint()
    each = {"steps": steps, "validation": validation, "checkpoints": checkpoint}
    parts = {"warm-up": warm_up} | {name: train.epochs * seconds for name, seconds in each.items()}
    return Estimate(str(device), parts, peak_memory(device), train.epochs)


class _Calibration:
    """A short training, timed; all results are in seconds."""

    def __init__(
        self, model: nn.Module, data: Dataset, objective: Objective, train: TrainConfig, device: torch.device
    ) -> None:
        self.batch = min(train.batch, len(data))
        self.train, self.device = train, device
        self.learner = Learner(model, data, objective, train, batch=self.batch, say=lambda _text: None)
        self.learner.begin(1, train.lr)
        order = training_batches(len(data), batch=self.batch, seed=train.seed, epoch=1)
        self.order, self.taken = order.to(device), 0

    def _step(self) -> None:
        self.learner.learn(self.order[self.taken % len(self.order)], self.taken)
        self.taken += 1

    def steps(self) -> tuple[float, float]:
        """Return what the first step costs beyond the others, and all steps of an epoch."""
        first = timed(self._step, self.device)
        # on a GPU the first step of every epoch may record a graph
        opening = timed(self._step, self.device) if self.device.type == "cuda" else None
        mean = mean_seconds(self._step, self.device)
        rest = (len(self.order) - 1) * mean
        return max(0.0, first - mean), rest + (mean if opening is None else opening)

    def validation(self, data: Dataset) -> float:
        """Return what validation costs after an epoch."""
        batch = validation_batch(self.batch, processes=1, pieces=self.train.accumulate)
        few = data.select(range(min(batch, len(data))))

        def work() -> object:
            return validate(self.learner.step, few, batch=batch, seed=self.train.seed)

        seconds = timed(work, self.device)
        if seconds < ENOUGH / _LOOKS:  # the first was warming up
            seconds = mean_seconds(work, self.device, share=1 / _LOOKS)
        return seconds * len(data) / len(few)

    def checkpoint(self) -> float:
        """Return what a checkpoint costs to write."""
        state = {"optimiser": self.learner.optimiser.state_dict()}
        with tempfile.TemporaryDirectory() as folder:
            return timed(
                lambda: save_checkpoint(Path(folder), 1, self.learner.model, state, best=True), self.device
            )


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``work`` takes, the device's part included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def mean_seconds(
    work: Callable[[], object], device: torch.device, *, share: float = 1.0, looks: int = _LOOKS
) -> float:
    """Return the mean seconds of ``work`` over so many looks or more, until they took a ``share`` of ENOUGH.

    The mean, not the median: a run pays for the slow steps, too.
    """
    times: list[float] = []
    while len(times) < looks or sum(times) < share * ENOUGH:
        times.append(timed(work, device))
    return sum(times) / len(times)
