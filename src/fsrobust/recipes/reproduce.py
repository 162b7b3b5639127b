"""Reproduce a table: plan its cells, make those that are missing, print ours beside the published numbers."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from fsrobust.config import Run
from fsrobust.data import Dataset, draw, load_dataset
from fsrobust.evaluate import Outcome, read_outcome, read_records
from fsrobust.evaluate.engine import Progress
from fsrobust.recipes.paper import COLUMNS, PaperTable
from fsrobust.recipes.row import make_row
from fsrobust.report.spread import Spread, SpreadRow, spread
from fsrobust.train import Reporter
from fsrobust.types import InputError, unknown_name

Scale = Literal["full", "small", "smoke"]
ATTACKS: Final = ("fgsm", "pgd20", "pgd100", "cw")


@dataclass(frozen=True)
class Size:
    """How large a reproduction is: None leaves the paper's own. ``note`` stands above the table.

    ``images`` are trained on, ``samples`` attacked, ``curve`` of them at every eps of the curve.
    """

    images: int | None
    samples: int | None
    curve: int
    note: str | None = None


SIZES: Final[dict[Scale, Size]] = {
    "full": Size(None, None, 200),
    "small": Size(
        10_000,
        1_000,
        100,
        "small: a narrow network, 10,000 training images, 8 epochs. It can show how rows compare here, not "
        "what the published numbers should be.",
    ),
    "smoke": Size(
        256, 16, 0, "smoke: not evidence. Made-up images, one epoch; it shows that every row runs."
    ),
}
_NARROW: Final = {"vgg16": 0.25, "wrn34_10": 1, "wrn28_10": 1}
"""Widths of small networks that count no channels; the others have 16."""


def scaled(run: Run, scale: Scale) -> Run:
    """Return the run at another size; published numbers are of the full one only.

    Raises:
        InputError: no such scale.
    """
    if scale not in SIZES:
        raise unknown_name("scale", scale, SIZES)
    if scale == "full":
        return run
    width = _NARROW.get(run.model.name, 16 if scale == "small" else 4)
    model = replace(run.model, width=width)
    if scale == "small":
        train = replace(run.train, epochs=8, batch=64, lr=min(run.train.lr, 0.05))
        return replace(run, model=model, train=train, published=None)
    return replace(
        run,
        data=f"synthetic:{run.data}",
        model=model,
        objective=replace(run.objective, steps=2),
        train=replace(run.train, epochs=1, batch=64, validation=16),
        published=None,
    )


@dataclass(frozen=True)
class Cell:
    """One run of one row: a seed. ``state`` is "done", "begun" or "new"."""

    row: str
    run: Run
    folder: Path

    @property
    def state(self) -> str:
        """What its folder says."""
        if (self.folder / "done").is_file():
            return "done"
        return "begun" if self.folder.exists() else "new"


def plan(
    table: PaperTable, *, scale: Scale, out: Path, rows: Sequence[str] | None = None, seeds: int = 1
) -> list[Cell]:
    """Return the cells of a table, row by row: ``rows`` of it, or all, each with seeds 0 … ``seeds`` − 1.

    Raises:
        InputError: no such row or scale, or no seed.
    """
    if seeds < 1:
        raise InputError(f"Expected at least 1 seed, but got {seeds}")
    cells = []
    for row in rows or table.rows:
        run = scaled(table.run(row), scale)
        for seed in range(seeds):
            seeded = replace(run, train=replace(run.train, seed=seed))
            slug = row.replace("=", "-").replace("+", "-")
            cells.append(Cell(row, seeded, out / f"{table.name}-{scale}" / f"{slug}-s{seed}"))
    return cells


def reproduce(  # noqa: PLR0913 - what, how large, where, how long, who watches
    table: PaperTable,
    *,
    scale: Scale,
    out: Path,
    rows: Sequence[str] | None = None,
    seeds: int = 1,
    root: Path | None = None,
    device: torch.device,
    time_limit: float | None = None,
    reporter: Reporter,
    progress: Progress | None = None,
    say: Callable[[str], None],
) -> Spread:
    """Make every cell that has no record and return the table of all that have; killed, the same call goes on.

    Raises:
        InputError: the data set is not there: said before anything is trained.
    """
    started = time.monotonic()
    cells = plan(table, scale=scale, out=out, rows=rows, seeds=seeds)
    todo = [cell for cell in cells if cell.state != "done"]
    if todo:
        data = _training_data(todo[0].run, scale, root)
    for number, cell in enumerate(todo, start=1):
        left = None if time_limit is None else time_limit - (time.monotonic() - started)
        if left is not None and left <= 0:
            say("The time limit is reached; the same command goes on")
            break
        say(f"{number}/{len(todo)}  {table.name} {cell.row}, seed {cell.run.train.seed}")
        run = replace(cell.run, model=replace(cell.run.model, channels=data.channels, classes=data.classes))
        made = make_row(
            run,
            data,
            work=cell.folder / "work",
            out=cell.folder,
            attacks=ATTACKS,
            limit=SIZES[scale].samples,
            curve_samples=SIZES[scale].curve,
            root=root,
            device=device,
            time_limit=left,
            reporter=reporter,
            progress=progress,
            say=say,
        )
        if made.stopped:
            say(f"{cell.row}: {made.stopped}; the same command goes on")
            break
        (cell.folder / "done").write_text("all attacks on record\n")
    return read_table(table, cells, scale)


def _training_data(run: Run, scale: Scale, root: Path | None) -> Dataset:
    data = load_dataset(run.data, "train", root=root)
    load_dataset(run.data, "test", root=root)  # missing test files are said now, not hours later
    images = SIZES[scale].images
    return data if images is None else draw(data, count=images, seed=0)


def read_table(table: PaperTable, cells: Sequence[Cell], scale: Scale) -> Spread:
    """Return mean and spread over the seeds of every row that has a record, for either checkpoint."""
    rows = []
    for row in dict.fromkeys(cell.row for cell in cells):
        done = [cell for cell in cells if cell.row == row and cell.state == "done"]
        for checkpoint in ("last", "best"):
            outcomes = [o for cell in done for o in _outcomes(cell.folder, checkpoint)]
            if not outcomes:
                continue
            published = table.published.get(row, {}) if scale == "full" and checkpoint == "last" else {}
            rows.append(SpreadRow(row, checkpoint, spread(outcomes, COLUMNS), dict(published)))
    return Spread(f"{table.name}: {table.title}", SIZES[scale].note, COLUMNS, rows)


def _outcomes(folder: Path, checkpoint: str) -> Iterator[Outcome]:
    records = _records(folder, checkpoint)
    if not records and (folder / "weights" / f"{checkpoint}.sha256").is_file():
        # the best epoch was the last: the same weights have one record, under the name they were first met by
        records = _records(folder, "last")
    if records:
        yield read_outcome(folder, records)


def _records(folder: Path, checkpoint: str) -> list[dict[str, Any]]:
    return [
        record
        for record in read_records(folder)
        if record["kind"] == "attack" and record["checkpoint"] == checkpoint and record["name"] in ATTACKS
    ]
