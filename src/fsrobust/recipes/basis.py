"""What cells rest on: whether what is done was done on the data at hand, and how much of an official set that is."""

import functools
from collections.abc import Callable, Sequence

from fsrobust.data import Dataset, draw, hold_out, portion
from fsrobust.recipes.cell import trained_on
from fsrobust.recipes.plan import Cell
from fsrobust.recipes.row import DRAW
from fsrobust.recipes.table import attack_records, configuration, planned
from fsrobust.report.portions import in_words
from fsrobust.types import InputError


def announce(cell: Cell, train: Dataset, test: Dataset) -> list[str]:
    """Return what to know of the data before anything is made: that they are not the whole, and what that means."""
    found = portion(train.name, classes=train.classes, train=len(train), test=len(test))
    said = in_words(found, published=cell.run.published is not None)
    return [] if said is None else [said]


def refuse_other_data(cells: Sequence[Cell], train: Dataset, test: Dataset) -> None:
    """Refuse cells that were done on other samples than these: a table is of one data set.

    Raises:
        InputError: there is such a cell, or one whose files are damaged; the message says what to do.
    """

    @functools.cache
    def trained(seed: int) -> str:
        # rows of a table hold out the same images, whatever else they differ in
        return _rest(next(cell for cell in cells if cell.run.train.seed == seed), train).sha256

    @functools.cache
    def attacked(count: int | None) -> str:
        return (test if count is None else draw(test, count=count, seed=DRAW)).sha256

    for cell in (cell for cell in cells if cell.state == "done"):
        other = _other(cell, trained, attacked)
        if other:
            raise InputError(
                f"{cell.name}, was done on other {other} images of {cell.run.data} than those at hand; let --data-root "
                f'name the data it was done on, choose another --out, or remove "{cell.folder}" to make it anew'
            )


def _rest(cell: Cell, train: Dataset) -> Dataset:
    """Return what a cell learns from, its validation images held out."""
    chosen, settings = trained_on(cell, train), cell.run.train
    if settings.train_on != "minus_validation":
        return chosen
    return hold_out(chosen, count=settings.validation, seed=settings.seed)[0]


def _other(cell: Cell, trained: Callable[[int], str], attacked: Callable[[int | None], str]) -> str | None:
    """Return which images of a done cell are others, None if none are."""
    if (configuration(cell).get("data") or {}).get("sha256") != trained(cell.run.train.seed):
        return "training"
    # of each attack the newest, as the table has it: a cell may have been made again, or attacked by hand
    newest = {
        (record["weights_sha256"], record["name"]): record["data"]["sha256"]
        for record in attack_records(cell)
        if planned(cell, record)
    }
    at_hand = {attacked(count) for count in cell.attacks.values()}
    return None if set(newest.values()) <= at_hand else "test"
