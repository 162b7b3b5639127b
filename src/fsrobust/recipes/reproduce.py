"""Reproduce a table: make the cells that are missing, one after another or on a cluster, and read the table off."""

from collections.abc import Sequence

from fsrobust.data import Dataset
from fsrobust.recipes.basis import announce, refuse_other_data
from fsrobust.recipes.budget import Budget
from fsrobust.recipes.cell import Place, data_of, make_cell, trained_on
from fsrobust.recipes.cluster import Cluster, make_on_cluster
from fsrobust.recipes.overall import Overall, Watcher
from fsrobust.recipes.plan import Cell


def make_cells(
    cells: Sequence[Cell], place: Place, watcher: Watcher, *, budget: Budget, cluster: Cluster | None = None
) -> None:
    """Make every cell that is not done, one after another or on a cluster; killed, the same call goes on.

    Raises:
        InputError: the disk cannot hold the plan, data are missing, or a cell was done on others, all said before
            anything is trained; or what a cell cannot go on with, by its name.
    """
    budget.check()
    watcher.say(budget.text())
    todo = [cell for cell in cells if cell.state != "done"]
    if not todo and place.root is None:  # a finished table needs no data, but to be held against those named
        return
    data = _training_data(cells, place, watcher)
    if not todo:
        return
    if cluster is not None:
        make_on_cluster(todo, place, watcher, cluster=cluster, budget=budget)
        return
    view = Overall(watcher, budget)
    for cell in todo:
        if place.left is not None and place.left <= 0:
            watcher.say("The time limit is reached; the same command goes on")
            return
        view.begin(cell)
        watcher.say(view.place)
        stopped = make_cell(cell, data, place, view)
        if stopped:
            watcher.say(f"{cell.name}: {stopped}; the same command goes on")
            return
        view.end()


def _training_data(cells: Sequence[Cell], place: Place, watcher: Watcher) -> Dataset:
    """Return what the cells are trained on; what is amiss with it is said before anything is made, or sent anywhere."""
    train, test = data_of(cells[0], place.root)
    refuse_other_data(cells, train, test)
    for sentence in announce(cells[0], train, test):
        watcher.say(sentence)
    return trained_on(cells[0], train)
