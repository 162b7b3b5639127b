"""Make one cell of a plan: its data, its training, its attacks, and the mark that it is done."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fsrobust.data import Dataset, draw, load_dataset
from fsrobust.recipes.overall import CellWatcher
from fsrobust.recipes.plan import Cell
from fsrobust.recipes.row import make_row
from fsrobust.train import TrainingError
from fsrobust.train.control import Stopwatch
from fsrobust.types import InputError


@dataclass(frozen=True)
class Place:
    """Where cells are made: the root of the data, the device, and when to stop, in seconds since the epoch."""

    root: Path | None
    device: torch.device
    deadline: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return Stopwatch.until(self.deadline).limit


def make_cell(cell: Cell, data: Dataset, place: Place, watcher: CellWatcher) -> str | None:
    """Make one cell, or go on with it, and mark it as done; return why it had to stop before, if it had.

    Raises:
        InputError: with the cell's name.
        TrainingError: likewise.
    """
    model = replace(cell.run.model, channels=data.channels, classes=data.classes)
    try:
        made = make_row(
            replace(cell.run, model=model),
            data,
            work=cell.work,
            out=cell.folder,
            attacks=cell.attacks,
            curve_samples=cell.curve,
            root=place.root,
            device=place.device,
            time_limit=place.left,
            reporter=watcher,
            progress=watcher.attack,
            say=watcher.say,
        )
    except (InputError, TrainingError) as error:
        raise type(error)(f"{cell.name}: {error}") from error
    if made.stopped is None:
        cell.finish()
    return made.stopped


def training_data(cell: Cell, root: Path | None) -> Dataset:
    """Return what a cell is trained on; its table's cells share it.

    Raises:
        InputError: the training or the test images are not there.
    """
    return trained_on(cell, data_of(cell, root)[0])


def data_of(cell: Cell, root: Path | None) -> tuple[Dataset, Dataset]:
    """Return all training and all test images of a cell's data set: missing ones are said now, not hours later.

    Raises:
        InputError: the training or the test images are not there.
    """
    train = load_dataset(cell.run.data, "train", root=root)
    return train, load_dataset(cell.run.data, "test", root=root)


def trained_on(cell: Cell, train: Dataset) -> Dataset:
    """Return those of all training images that a cell of its size is trained on."""
    return train if cell.images is None else draw(train, count=cell.images, seed=0)
