"""Reproduce a table: make the cells that are missing, one after another or on a cluster, and read the table off."""

from collections.abc import Sequence

from fsrobust.data import Dataset
from fsrobust.recipes.basis import announce, refuse_other_data
from fsrobust.recipes.budget import Budget
from fsrobust.recipes.cell import Place, data_of, make_cell, trained_on
from fsrobust.recipes.cluster import Cluster, make_on_cluster
from fsrobust.recipes.overall import Overall, Watcher
from fsrobust.recipes.plan import Cell
from fsrobust.train import TrainingError
from fsrobust.types import InputError


def make_cells(
    cells: Sequence[Cell],
    place: Place,
    watcher: Watcher,
    *,
    budget: Budget,
    cluster: Cluster | None = None,
    beside: Sequence[Cell] = (),
) -> list[InputError | TrainingError]:
    """Make every cell that is not done, one after another or on a cluster; killed, the same call goes on.

    A cell that cannot be made holds up no other: what is returned says why, by its name. ``beside`` are cells that
    stand in the same table.

    Raises:
        InputError: the disk cannot hold the plan, data are missing, or a cell was done on others, all said before
            anything is trained.
    """
    budget.check()
    watcher.say(budget.text())
    todo = [cell for cell in cells if cell.state != "done"]
    if not todo and place.root is None:  # a finished table needs no data, but to be held against those named
        return []
    every = {cell.folder: cell for cell in (*cells, *beside)}
    data = _training_data(list(every.values()), place, watcher)
    if not todo:
        return []
    if cluster is not None:
        return make_on_cluster(todo, place, watcher, cluster=cluster, budget=budget)
    return _make_in_turn(todo, data, place, Overall(watcher, budget))


def _make_in_turn(
    todo: Sequence[Cell], data: Dataset, place: Place, view: Overall
) -> list[InputError | TrainingError]:
    """Make one cell after another until it is time to stop."""
    failed: list[InputError | TrainingError] = []
    for cell in todo:
        if place.left is not None and place.left <= 0:
            view.say("The time limit is reached; the same command goes on")
            break
        view.begin(cell)
        view.say(view.place)
        try:
            stopped = make_cell(cell, data, place, view)
        except (InputError, TrainingError) as error:
            view.say(str(error))
            failed.append(error)
            stopped = None
        if stopped:
            view.say(f"{cell.name}: {stopped}; the same command goes on")
            break
        view.end()
    return failed


def all_in_one(failed: Sequence[InputError | TrainingError]) -> InputError | TrainingError:
    """Return one error that says what each of several does: a user's to mend if all are.

    >>> all_in_one([InputError("S5 at, seed 0: this"), TrainingError("S5 uniform, seed 0: that")])
    TrainingError('S5 at, seed 0: this; S5 uniform, seed 0: that')
    """
    kind = InputError if all(isinstance(error, InputError) for error in failed) else TrainingError
    return kind("; ".join(map(str, failed)))


def _training_data(cells: Sequence[Cell], place: Place, watcher: Watcher) -> Dataset:
    """Return what the cells are trained on; what is amiss with it is said before anything is made, or sent anywhere."""
    train, test = data_of(cells[0], place.root)
    refuse_other_data(cells, train, test)
    for sentence in announce(cells[0], train, test):
        watcher.say(sentence)
    return trained_on(cells[0], train)
