"""What a plan will take, cell by cell, and whether the disk and the time limit have room for it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fsrobust.recipes.cost import Rates, calibrate, disk_left, measured, remaining
from fsrobust.recipes.plan import Cell
from fsrobust.train.control import duration
from fsrobust.types import InputError


@dataclass(frozen=True)
class Estimate:
    """What is left to do of a cell: its state, the seconds of one worker, and bytes that it has not taken yet."""

    cell: Cell
    state: str
    seconds: float
    size: int


@dataclass(frozen=True)
class Budget:
    """A plan's estimates, the rates they rest on, free bytes, and the seconds there are (None: no limit)."""

    estimates: Sequence[Estimate]
    rates: Rates
    free: int
    limit: float | None = None

    @property
    def seconds(self) -> float:
        """What the whole plan takes one worker."""
        return sum(one.seconds for one in self.estimates)

    @property
    def size(self) -> int:
        """The bytes it will take."""
        return sum(one.size for one in self.estimates)

    def check(self) -> None:
        """Refuse a plan that the disk cannot hold.

        Raises:
            InputError: less is free than the estimate asks for.
        """
        if self.size > self.free:
            folder = self.estimates[0].cell.folder.parent
            raise InputError(
                f'Expected {gigabytes(self.size)} free for "{folder}", but there are {gigabytes(self.free)}; choose '
                "fewer rows or seeds, or another --out"
            )

    def text(self) -> str:
        """Return the plan as lines: each cell's state and cost, then the whole, then what it does not fit."""
        width = max(len(one.cell.name) for one in self.estimates)
        lines = [
            f"{one.cell.name:<{width}}  {one.state:<5}  {_cost(one):<16}  {one.cell.folder}"
            for one in self.estimates
        ]
        return "\n".join([*lines, *self.remarks()])

    def remarks(self) -> list[str]:
        """Return what the whole plan takes, and what it does not fit."""
        if not self.seconds:
            return ["Everything is done."]
        lines = [
            f"About {duration(self.seconds)} for one worker and {gigabytes(self.size)} on disk ({gigabytes(self.free)} "
            f"free); estimated {self.rates.source}."
        ]
        if self.limit is not None and self.seconds > self.limit:
            lines.append(
                f"That is more than the time limit of {duration(self.limit)}: what is not done by then is left to "
                "the same command, called again."
            )
        if self.size > self.free:
            lines.append("The disk cannot hold that.")
        return lines

    def describe(self) -> dict[str, object]:
        """Return the plan as plain values."""
        cells = [
            {
                "row": one.cell.row,
                "seed": one.cell.run.train.seed,
                "state": one.state,
                "folder": str(one.cell.folder),
                "seconds": round(one.seconds, 1),
                "bytes": one.size,
            }
            for one in self.estimates
        ]
        whole = {"seconds": round(self.seconds, 1), "bytes": self.size, "free_bytes": self.free}
        return {"cells": cells, **whole, "remarks": self.remarks()}


def _cost(one: Estimate) -> str:
    return "" if one.state == "done" else f"{duration(one.seconds)}, {gigabytes(one.size)}"


def draw_up(cells: Sequence[Cell], device: torch.device, *, limit: float | None = None) -> Budget:
    """Return what some cells will take: by what they have taken so far, else by a calibration of about a second."""
    todo = [cell for cell in cells if cell.state != "done"]
    rates = measured(cells) or (calibrate(todo[0].run, device) if todo else Rates(0, 0, "from nothing"))
    estimates = [
        Estimate(cell, cell.state, rates.seconds(remaining(cell)), disk_left(cell)) for cell in cells
    ]
    return Budget(estimates, rates, _free(cells[0].folder), limit)


def _free(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    return shutil.disk_usage(there).free


def gigabytes(size: int) -> str:
    """Return bytes in the unit that fits.

    >>> gigabytes(2_000_000), gigabytes(2_500_000_000)
    ('2 MB', '2.5 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
