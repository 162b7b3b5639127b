"""Run a cascade over a data set, stage by stage on what is left; killed anywhere, it goes on to the same result."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsrobust.attacks import Cascade, Search, Stage, search
from fsrobust.attacks.cascade import stage_seed
from fsrobust.attacks.probe import Query
from fsrobust.attacks.view import View
from fsrobust.evaluate.journal import Pace, read_or_say
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.searching import Say, batch_for, in_batches, pass_bytes, silent
from fsrobust.evaluate.stopping import Stop, heed, never
from fsrobust.records import write_npz
from fsrobust.seeding import derive
from fsrobust.types import Ids, Images, InputError, Labels

STANDING: Final = -1
"""In ``fooled_by``: no stage fooled this sample. 0 is the clean image, k the k-th stage."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is attacked, and how: the part of an evaluation that all stages share."""

    model: nn.Module
    x: Images
    y: Labels
    ids: Ids
    seed: int
    batch: int
    view: View | None = None
    surrogates: Mapping[str, Query] = field(default_factory=dict)
    say: Say = silent
    draws: int = 1
    stop: Stop = never

    @functools.cached_property
    def each(self) -> int:
        """The bytes that a pass of one sample puts out."""
        return pass_bytes(self.model, self.x[:1])

    def part(self, stage: Stage, rows: Tensor) -> Search:
        """Run a stage on some samples."""
        return search(
            stage.attack,
            self.model,
            self.x[rows],
            self.y[rows],
            ids=self.ids[rows],
            # each surrogate has starts of its own: five restarts through six views are thirty
            seed=derive(stage_seed(self.seed), stage.surrogate) if stage.surrogate else stage_seed(self.seed),
            view=self.view,
            surrogate=self.surrogates[stage.surrogate] if stage.surrogate else None,
            draws=self.draws,
        )


@dataclass
class StageCost:
    """What a stage was given, what it fooled, and what that cost, in samples and seconds."""

    name: str
    attacked: int = 0
    fooled: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0

    def sentence(self) -> str:
        """Return what the stage did, in a line.

        >>> StageCost("apgd-ce", attacked=80, fooled=30, seconds=12.0).sentence()
        'apgd-ce: fooled 30 of 80 in 12 s'
        """
        return f"{self.name}: fooled {self.fooled} of {self.attacked} in {self.seconds:.0f} s"

    @classmethod
    def of(cls, name: str, numbers: NDArray[np.float64]) -> "StageCost":
        """Return the cost of a row that ``cost_arrays`` made."""
        attacked, fooled, forwards, backwards, seconds = numbers.tolist()
        return cls(name, int(attacked), int(fooled), int(forwards), int(backwards), seconds)


def cost_arrays(costs: Sequence[StageCost]) -> dict[str, NDArray[Any]]:
    """Return costs as arrays for a file; counts of samples are exact in float64."""
    numbers = [[c.attacked, c.fooled, c.forwards, c.backwards, c.seconds] for c in costs]
    return {
        "stages": np.array([cost.name for cost in costs], str),
        "stage_costs": np.array(numbers, np.float64).reshape(-1, 5),
    }


@dataclass(eq=False)
class Standing:
    """Where a cascade is: who fell to which stage, with the images that did it; the stage under way and its place.

    ``fooled_by`` int16 [N]; ``images`` [N, C, H, W], the clean ones where nothing fooled; ``done`` counts the
    samples that the stage under way has been through, of those that stood when it began.
    """

    fooled_by: NDArray[np.int16]
    images: Images
    costs: list[StageCost] = field(default_factory=list)
    done: int = 0

    def rows(self) -> NDArray[np.int64]:
        """Return which samples stood when the stage under way began."""
        current = len(self.costs)
        return np.flatnonzero((self.fooled_by == STANDING) | (self.fooled_by == current))

    def note(self, rows: NDArray[np.int64], found: Search, seconds: float) -> None:
        """Take over what the stage under way did to ``rows``."""
        fooled: Bits = found.fooled_any.cpu().numpy()
        self.fooled_by[rows[fooled]] = len(self.costs)
        self.images[torch.from_numpy(rows[fooled])] = found.witness[found.fooled_any].to(self.images)
        cost = self.costs[-1]
        cost.attacked += len(rows)
        cost.fooled += int(fooled.sum())
        cost.forwards += found.forwards
        cost.backwards += found.backwards
        cost.seconds += seconds
        self.done += len(rows)


@dataclass(eq=False)
class Journal:
    """Progress of a cascade in a file: the images of the fooled, and what cannot be derived from them."""

    file: Path | None
    _pace: Pace = field(default_factory=Pace)

    def read(self, x: Images, say: Say) -> Standing | None:
        """Return where a killed run was, None if it had not got anywhere; of a damaged journal, that is said."""
        return read_or_say(self.file, lambda arrays: self._standing(arrays, x), say)

    @staticmethod
    def _standing(arrays: Mapping[str, NDArray[Any]], x: Images) -> Standing:
        images = x.cpu().clone()
        fooled_by = arrays["fooled_by"]
        if fooled_by.shape != (len(x),) or fooled_by.dtype != np.int16:
            raise ValueError("verdicts of other samples")
        images[torch.from_numpy(fooled_by > 0)] = torch.from_numpy(arrays["images"]).to(images)
        costs = [
            StageCost.of(str(name), counts)
            for name, counts in zip(arrays["stages"], arrays["stage_costs"], strict=True)
        ]
        return Standing(fooled_by, images, costs, int(arrays["done"]))

    def write(self, standing: Standing, *, now: bool = False) -> None:
        """Note where the cascade is, unless that was done a moment ago."""
        self._pace.note(lambda: self._write(standing), now=now)

    def _write(self, standing: Standing) -> None:
        if self.file is None:
            return
        arrays: dict[str, NDArray[Any]] = {
            "fooled_by": standing.fooled_by,
            "images": standing.images[torch.from_numpy(standing.fooled_by > 0)].numpy(),
            "done": np.array(standing.done),
            **cost_arrays(standing.costs),
        }
        write_npz(self.file, **arrays)


def run_cascade(
    cascade: Cascade,
    task: Task,
    natural: Bits,
    *,
    classes: int,
    journal: Journal,
    progress: Callable[[float], None],
) -> Standing:
    """Attack what is right when clean (``natural``, bool [N]) with each stage that makes sense, survivors only.

    ``progress`` gets the share of the cascade that is done, by what stages usually cost.

    Raises:
        InputError: a stage's surrogate is not among the task's.
        Stopped: the task was to stop before a batch; the journal has all batches before it.
    """
    stages = cascade.applicable(classes)
    missing = {stage.surrogate for stage in stages if stage.surrogate} - set(task.surrogates)
    if missing:
        raise InputError(
            f"Expected the surrogates {sorted(map(str, missing))}, but the model offers none such"
        )
    standing = journal.read(task.x, task.say) or Standing(
        np.where(natural, STANDING, 0).astype(np.int16), task.x.cpu().clone()
    )
    shares = np.cumsum([0.0, *(stage.attack.cost for stage in stages)]) / sum(
        stage.attack.cost for stage in stages
    )
    for number, stage in enumerate(stages, start=1):
        if number < len(standing.costs):
            continue
        if number > len(standing.costs):
            standing.costs.append(StageCost(stage.name))
            standing.done = 0
        before, after = shares[number - 1], shares[number]
        for part in _run_stage(stage, task, standing, journal):
            journal.write(standing)
            if part < 1 or number < len(stages):
                progress(float(before + part * (after - before)))
        task.say(standing.costs[-1].sentence())
    journal.write(standing, now=True)
    progress(1.0)  # also where the last stages had nothing left to attack
    return standing


def _run_stage(stage: Stage, task: Task, standing: Standing, journal: Journal) -> Iterator[float]:
    """Run the rest of the stage under way, and yield after each batch which share of it is done."""
    rows = standing.rows()
    left = rows[standing.done :]
    started = time.perf_counter()

    def attack(part: slice) -> Search:
        heed(task.stop, lambda: journal.write(standing, now=True))
        return task.part(stage, torch.from_numpy(left[part]).to(task.x.device))

    size = batch_for(stage.attack, task.batch, task.x.device, each=task.each, draws=task.draws)
    for part, found in in_batches(attack, len(left), size):
        now = time.perf_counter()
        standing.note(left[part], found, now - started)
        started = now
        yield standing.done / len(rows)
