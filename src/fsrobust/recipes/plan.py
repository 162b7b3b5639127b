"""The plan of a reproduction: its cells, how large each is, and what each one's folder says of it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from fsrobust.attacks import ATTACKS, SUITES
from fsrobust.config import Run
from fsrobust.data import DATASETS
from fsrobust.evaluate.adaptive import ADAPTIVE
from fsrobust.recipes.paper import PaperTable
from fsrobust.records import read_json, write_json
from fsrobust.types import InputError, unknown_name

Scale = Literal["full", "small", "smoke"]


@dataclass(frozen=True)
class Size:
    """How large a reproduction is: None leaves the paper's own. ``note`` stands above the table.

    ``images`` are trained on, ``samples`` attacked, ``autoattack`` of them by AutoAttack, ``curve`` at every eps, and
    ``adaptive``, where the plug-in is, by attacks that adapt to it: 0 where that would cost more than the row.
    Where ``pixels`` is given the counts are of images of so many, and of fewer larger ones.
    """

    images: int | None
    samples: int | None
    autoattack: int | None
    curve: int
    pixels: int | None = None
    note: str | None = None
    adaptive: int = 0

    def at(self, run: Run) -> "Size":
        """Return the counts for a run's images: as many fewer as they are larger, so that a row takes as long.

        >>> from fsrobust.recipes.paper import paper_table
        >>> SIZES["small"].at(paper_table("S2").base).images  # 64 × 64 pixels
        2500
        """
        if self.pixels is None:
            return self
        height, width = DATASETS[run.data].image_size
        share = min(1.0, self.pixels / (height * width))

        def fewer(count: int | None) -> int | None:
            return None if count is None else round(share * count)

        return replace(
            self,
            images=fewer(self.images),
            samples=fewer(self.samples),
            autoattack=fewer(self.autoattack),
            curve=round(share * self.curve),
        )


SIZES: Final[dict[Scale, Size]] = {
    "full": Size(None, None, None, 200, adaptive=1_000),
    "small": Size(
        10_000,
        1_000,
        300,
        100,
        32 * 32,
        "small: a network of width 8, 10,000 training images (2,500 of 64 × 64 pixels), 8 epochs. It can show how "
        "rows compare here, not what the published numbers should be.",
    ),
    "smoke": Size(
        128, 8, 4, 0, None, "smoke: not evidence. Made-up images, one epoch; it shows that every row runs."
    ),
}
_HELD_OUT: Final = 0.1
"""Share of a small run's training images that choose its best checkpoint."""
_NARROW: Final = {"vgg16": 0.25, "wrn34_10": 1, "wrn28_10": 1}
"""Widths of small networks that count no channels."""
_CURVES: Final = "FigS2"
"""The figure that is made of curves, which smoke leaves out elsewhere."""


def scaled(run: Run, scale: Scale) -> Run:
    """Return the run at another size; published numbers are of the full one only.

    Raises:
        InputError: no such scale.
    """
    if scale not in SIZES:
        raise unknown_name("scale", scale, SIZES)
    if scale == "full":
        return run
    width = _NARROW.get(run.model.name, 8 if scale == "small" else 4)
    model = replace(run.model, width=width)
    if scale == "small":
        images = SIZES[scale].at(run).images
        assert images is not None
        train = replace(
            run.train,
            epochs=8,
            batch=64,
            lr=min(run.train.lr, 0.05),
            validation=round(_HELD_OUT * images),
        )
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
    """One run of one row: a seed. ``attacks`` says how many test samples each of them meets, None for all.

    ``images`` are trained on (None: all); ``curve`` samples are attacked at every eps.
    """

    table: str
    row: str
    run: Run
    folder: Path
    attacks: Mapping[str, int | None]
    images: int | None
    curve: int

    @property
    def name(self) -> str:
        """The cell as a person calls it."""
        return f"{self.table} {self.row}, seed {self.run.train.seed}"

    @property
    def work(self) -> Path:
        """Where it is trained."""
        return self.folder / "work"

    @property
    def state(self) -> str:
        """What its folder says, "done", "begun" or "new"; a cell that lacks an attack which is due by now is begun."""
        try:
            if set(read_json(self.folder / "done")["attacks"]) >= set(self.attacks):
                return "done"
        except (InputError, KeyError, TypeError, OSError):
            pass
        return "begun" if self.folder.exists() else "new"

    def finish(self) -> None:
        """Write, whole or not at all, that every attack is on record."""
        write_json(self.folder / "done", {"attacks": list(self.attacks)})


def plan(
    table: PaperTable, *, scale: Scale, out: Path, rows: Sequence[str] | None = None, seeds: int = 1
) -> list[Cell]:
    """Return the cells of a table, row by row: ``rows`` of it, or all, each with seeds 0 … ``seeds`` − 1.

    Raises:
        InputError: no such row or scale, or no seed.
    """
    if seeds < 1:
        raise InputError(f"Expected at least 1 seed, but got {seeds}")
    return [
        cell
        for row in dict.fromkeys(rows or table.rows)
        for cell in _cells(table, row, scale=scale, out=out, seeds=range(seeds))
    ]


def finished(table: PaperTable, *, scale: Scale, out: Path) -> list[Cell]:
    """Return every cell of a table that is done in ``out``, row by row in the paper's order, whoever asked for it."""
    there = [
        cell
        for row in table.rows
        for cell in _cells(table, row, scale=scale, out=out, seeds=_seeds(out, table, row, scale))
    ]
    return [cell for cell in there if cell.state == "done"]


def _folder(out: Path, table: PaperTable, row: str, scale: Scale, seed: int | str) -> Path:
    slug = row.replace("=", "-").replace("+", "-")
    return out / f"{table.name}-{scale}" / f"{slug}-s{seed}"


def _seeds(out: Path, table: PaperTable, row: str, scale: Scale) -> list[int]:
    """Return the seeds of which a row has a folder."""
    pattern = _folder(out, table, row, scale, "*")
    found = (folder.name.rpartition("-s")[2] for folder in pattern.parent.glob(pattern.name))
    return sorted(int(seed) for seed in found if re.fullmatch("0|[1-9][0-9]{0,8}", seed))


def _cells(table: PaperTable, row: str, *, scale: Scale, out: Path, seeds: Iterable[int]) -> Iterator[Cell]:
    """Yield a row's cells, one for each seed."""
    run = scaled(table.run(row), scale)
    size = SIZES[scale].at(run)
    for seed in seeds:
        yield Cell(
            table.name,
            row,
            replace(run, train=replace(run.train, seed=seed)),
            _folder(out, table, row, scale, seed),
            _attacks(table, run, scale, size),
            size.images,
            size.curve or (2 if table.name == _CURVES else 0),
        )


def _attacks(table: PaperTable, run: Run, scale: Scale, size: Size) -> dict[str, int | None]:
    """Return the white-box attacks, AutoAttack (at smoke scale only where the paper has it), and what adapts."""
    attacks: dict[str, int | None] = dict.fromkeys(SUITES["whitebox"], size.samples)
    if "autoattack" in ATTACKS and (scale != "smoke" or "autoattack" in table.columns):
        attacks["autoattack"] = size.autoattack
    if size.adaptive and run.model.fsr:
        attacks[ADAPTIVE] = size.adaptive
    return attacks


def columns(table: PaperTable, cells: Sequence[Cell]) -> tuple[str, ...]:
    """Return the columns to show: clean accuracy, what the cells are attacked with, and the paper's own.

    What the paper has and no cell can have is left out.
    """
    known = ["natural", *SUITES["whitebox"], "ensemble"]
    met = {"natural", "ensemble", *(name for cell in cells for name in cell.attacks)}
    return tuple(name for name in dict.fromkeys([*known, *table.columns, *sorted(met)]) if name in met)
