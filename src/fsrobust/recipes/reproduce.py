"""Reproduce a table: make the cells that are missing, one after another or on a cluster, and read the table off."""

from collections.abc import Sequence

from fsrobust.recipes.budget import Budget
from fsrobust.recipes.cell import Place, make_cell, training_data
from fsrobust.recipes.cluster import Cluster, make_on_cluster
from fsrobust.recipes.overall import Overall, Watcher
from fsrobust.recipes.plan import Cell


def make_cells(
    cells: Sequence[Cell], place: Place, watcher: Watcher, *, budget: Budget, cluster: Cluster | None = None
) -> None:
    """Make every cell that is not done, one after another or on a cluster; killed, the same call goes on.

    Raises:
        InputError: the disk cannot hold the plan, or data are missing, both said before anything is trained; or
            what a cell cannot go on with, by its name.
    """
    budget.check()
    watcher.say(budget.text())
    todo = [cell for cell in cells if cell.state != "done"]
    if not todo:
        return
    data = training_data(
        todo[0], place.root
    )  # missing data are said before anything is made, or sent anywhere
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
