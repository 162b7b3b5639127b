"""What a plan costs before it is carried out: seconds and bytes, by a short calibration or by what cells have taken.

The unit of work is one gradient of one image with respect to its pixels; a cell's work is a count of those.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from fsrobust.attacks import make_attack
from fsrobust.attacks.view import FrozenView
from fsrobust.config import Run
from fsrobust.data import DATASETS
from fsrobust.evaluate import read_records
from fsrobust.evaluate.adaptive import ADAPTIVE, adaptive
from fsrobust.evaluate.curves import STEPS, radii
from fsrobust.evaluate.price import expected_share
from fsrobust.plugin import build
from fsrobust.plugin.surrogates import SURROGATES
from fsrobust.recipes.plan import Cell
from fsrobust.recipes.start import initial_model
from fsrobust.records import Metrics

_STANDING: Final = 0.5
"""Share of the samples that a trained network is expected to withstand an attack on, before any has been seen."""
_PASSES: Final = 2
"""Passes of a gradient, forward and back."""
_LEARN: Final = {"natural": 1.5, "at": 1.5, "trades": 3.5, "mart": 3.0}
"""A step's losses: a forward and a full backward pass are three passes; TRADES and MART have two of either."""


@dataclass(frozen=True)
class Work:
    """Gradients of one image: in training, and in evaluation."""

    training: float
    evaluation: float


@dataclass(frozen=True)
class Rates:
    """Seconds a gradient of one image takes in training and in evaluation, and how that is known."""

    training: float
    evaluation: float
    source: str

    def seconds(self, work: Work) -> float:
        """Return how long some work takes."""
        return work.training * self.training + work.evaluation * self.evaluation


def epoch_work(cell: Cell) -> float:
    """Return the work of one epoch, its validation included."""
    train = cell.run.train
    return _steps_work(cell) + (train.validation * 11 if train.train_on == "minus_validation" else 0)


def _steps_work(cell: Cell) -> float:
    """Return the work of one epoch's steps, which is what its metrics give the seconds of."""
    objective = cell.run.objective
    steps = 0 if objective.name == "natural" else objective.steps
    return _counts(cell)[0] * (steps + _LEARN[objective.name])


def attack_work(cell: Cell, name: str) -> float:
    """Return the work of an attack on a cell's samples; names such as "eps 0.03" are points of the curve."""
    if name.startswith("eps "):
        return cell.curve * STEPS
    wanted, there = cell.attacks[name], _counts(cell)[1]
    ball = cell.run.evaluation.make()
    # through each surrogate the model itself is asked about every image, too
    attack, asked = (adaptive(ball, SURROGATES), 1.5) if name == ADAPTIVE else (make_attack(name, ball), 1.0)
    each = asked * attack.cost / _PASSES * expected_share(attack, _STANDING)
    return (there if wanted is None else min(wanted, there)) * each


def checkpoint_work(cell: Cell) -> float:
    """Return the work of evaluating one checkpoint."""
    points = len(radii(cell.run.evaluation.make())) - 1
    return sum(attack_work(cell, name) for name in cell.attacks) + points * cell.curve * STEPS


def remaining(cell: Cell) -> Work:
    """Return what is left of a cell's work, by its metrics and records."""
    if cell.state == "done":
        return Work(0, 0)
    train = cell.run.train
    # of a single epoch, the best is the last
    checkpoints = 2 if train.train_on == "minus_validation" and train.epochs > 1 else 1
    epochs = train.epochs - len(Metrics(cell.work / "metrics.jsonl").rows())
    recorded = sum(attack_work(cell, r["name"]) for r in _attack_records(cell))
    return Work(epochs * epoch_work(cell), max(0.0, checkpoints * checkpoint_work(cell) - recorded))


def measured(cells: Sequence[Cell]) -> Rates | None:
    """Return the rates of what has been done, None where no epoch has."""
    spent, work = {"train": 0.0, "attack": 0.0}, {"train": 0.0, "attack": 0.0}
    for cell in cells:
        rows = Metrics(cell.work / "metrics.jsonl").rows()
        spent["train"] += sum(row["seconds"] for row in rows)
        work["train"] += len(rows) * _steps_work(cell)
        for record in _attack_records(cell):
            spent["attack"] += record["seconds"]
            work["attack"] += attack_work(cell, record["name"])
    if not work["train"]:
        return None
    training = spent["train"] / work["train"]
    evaluation = spent["attack"] / work["attack"] if work["attack"] else training
    return Rates(training, evaluation, "by what its finished epochs and attacks took")


def calibrate(run: Run, device: torch.device, *, seconds: float = 0.5) -> Rates:
    """Return the rate of float32 gradients, as attacks ask for them, at the largest batch that takes ``seconds``."""
    view = FrozenView(initial_model(run).to(device).eval())
    size = DATASETS[run.data.removeprefix("synthetic:")].image_size
    _time_gradient(view, torch.rand(2, run.model.channels, *size, device=device))  # warms up
    batch = 1
    while True:
        x = torch.rand(batch, run.model.channels, *size, device=device)
        took = min(_time_gradient(view, x) for _ in range(2))
        if took > seconds / 4 or batch >= run.train.batch:
            rate = took / batch
            return Rates(rate, rate, f"by a calibration on {batch} images in float32")
        batch = min(run.train.batch, 4 * batch)


def _time_gradient(view: FrozenView, x: torch.Tensor) -> float:
    started = time.perf_counter()
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(view(x).logsumexp(1).sum(), x)
    gradient.sum().item()  # waits for the device
    return time.perf_counter() - started


def disk(cell: Cell) -> int:
    """Return the bytes a cell takes: three checkpoints at most, packed weights of two, bits and pictures."""
    with torch.device("meta"):
        model = build(cell.run.model)
    parameters = sum(value.numel() for value in model.parameters())
    checkpoints, packed = 3 * 2 * 4 * parameters, 2 * 2 * parameters
    return checkpoints + packed + 2 * len(cell.attacks) * (200_000 + 4 * _counts(cell)[1])


def disk_left(cell: Cell) -> int:
    """Return the bytes a cell has yet to take."""
    if cell.state == "done":
        return 0
    taken: int = sum(file.stat().st_size for file in cell.folder.rglob("*") if file.is_file())
    return max(0, disk(cell) - taken)


def _counts(cell: Cell) -> tuple[int, int]:
    """Return how many images there are to train on and to attack, which a plan need not have on disk.

    Smoke's made-up sets have enough of either.
    """
    spec = DATASETS.get(cell.run.data)
    train, test = (spec and spec.samples) or (10**9, 256)
    return (train if cell.images is None else min(train, cell.images)), test


def _attack_records(cell: Cell) -> list[dict[str, Any]]:
    return [
        record
        for record in read_records(cell.folder, lambda _why: None)
        if record["kind"] == "attack" and record["name"] in cell.attacks
    ]
