"""Make the cells of a plan on a Ray cluster, one task each: a lost worker's cell runs again and goes on in its folder.

Ray is imported here and nowhere else, and only when it is asked for.
"""

import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from fsrobust.recipes.budget import Budget
from fsrobust.recipes.cell import Place, make_cell, training_data
from fsrobust.recipes.overall import Watcher
from fsrobust.recipes.plan import Cell
from fsrobust.records import write_bytes
from fsrobust.train import TrainingError
from fsrobust.types import InputError

RETRIES: Final = 3
"""How often a cell begins again on another worker when its own is lost."""


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster, "local" for one of this machine's own, and how many CPUs a cell has."""

    address: str
    cpus: int = 1


@dataclass(frozen=True)
class Job:
    """A cell to make; a worker that sees ``token`` shares the driver's disk."""

    cell: Cell
    place: Place
    token: Path
    cpus: int


@dataclass(frozen=True)
class Done:
    """What a job left: why it stopped, or could not be done, and its files where the disk is not shared."""

    stopped: str | None = None
    error: InputError | TrainingError | None = None
    files: Mapping[str, bytes] | None = None


class _Quiet:
    """A watcher on a worker: nobody sees its terminal."""

    def say(self, text: str) -> None:
        """Drop the sentence."""

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Drop the state."""

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Drop the row."""

    def attack(self, name: str, done: int, total: int) -> None:
        """Drop the state."""


def make_on_cluster(
    todo: Sequence[Cell], place: Place, watcher: Watcher, *, cluster: Cluster, budget: Budget
) -> list[InputError | TrainingError]:
    """Make every cell as a task of its own, with a GPU each where the cluster has any; return why some could not be.

    Raises:
        InputError: no Ray, or no cluster there.
    """
    with _connected(cluster) as ray, _token(todo[0].folder.parent) as token:
        total = ray.cluster_resources()
        gpus = 1 if total.get("GPU") else 0
        lanes = min(len(todo), max(1, int(total["GPU"] if gpus else total.get("CPU", 0) // cluster.cpus)))
        watcher.say(f"{len(todo)} cells on {lanes} workers of {len(ray.nodes())} nodes")
        root = place.root or os.environ.get("FSROBUST_DATA")  # workers need not have the driver's environment
        there = replace(
            place,
            root=Path(root).absolute() if root else None,
            device=torch.device("cuda" if gpus else "cpu"),
        )
        remote = ray.remote(num_cpus=cluster.cpus, num_gpus=gpus, max_retries=RETRIES)(work)
        jobs = {remote.remote(Job(_absolute(cell), there, token, cluster.cpus)): cell for cell in todo}
        return _collect(ray, jobs, watcher, {one.cell.name: one.seconds / lanes for one in budget.estimates})


def work(job: Job) -> Done:
    """Make a job's cell on this machine: in its folder, where the disk is shared, else return its files."""
    torch.set_num_threads(job.cpus)
    try:
        data = training_data(job.cell, job.place.root)
        if job.place.left is not None and job.place.left <= 0:
            return Done("the time limit is reached")
        stopped = make_cell(job.cell, data, job.place, _Quiet())
    except (InputError, TrainingError) as error:
        text = str(error)
        named = text if text.startswith(job.cell.name) else f"{job.cell.name}: {text}"
        return Done(error=type(error)(named))
    return Done(stopped, files=None if job.token.exists() or stopped else _files(job.cell))


def _files(cell: Cell) -> dict[str, bytes]:
    """Return what a finished cell leaves, without its checkpoints; the mark that it is done comes last."""
    found = [
        file for file in sorted(cell.folder.rglob("*")) if file.is_file() and cell.work not in file.parents
    ]
    last = cell.folder / "done"
    return {
        str(file.relative_to(cell.folder)): file.read_bytes()
        for file in [*(f for f in found if f != last), last]
    }


def _collect(
    ray: Any, jobs: dict[Any, Cell], watcher: Watcher, seconds: Mapping[str, float]
) -> list[InputError | TrainingError]:
    """Take in each job as it ends, and return why some failed."""
    failed, waiting, number = list[InputError | TrainingError](), list(jobs), 0
    started, whole = time.monotonic(), sum(seconds[cell.name] for cell in jobs.values())
    while waiting:
        ended, waiting = ray.wait(waiting, timeout=1.0)
        for job in ended:
            number += 1
            failed += _take(ray, job, jobs[job], watcher, f"{number}/{len(jobs)}")
        over = sum(seconds[jobs[job].name] for job in waiting)
        spent = time.monotonic() - started
        left = over * spent / (whole - over) if whole > over else max(0.0, whole - spent)
        watcher.overall(f"{number}/{len(jobs)} cells", number / len(jobs), left)
    return failed


def _take(ray: Any, job: Any, cell: Cell, watcher: Watcher, number: str) -> list[InputError | TrainingError]:
    try:
        done: Done = ray.get(job)
    except (
        ray.exceptions.RayError
    ) as error:  # its worker was lost too often, or met what is no user's mistake
        return [TrainingError(f"{cell.name}: {str(error).strip().splitlines()[-1]}")]
    for name, content in (done.files or {}).items():
        write_bytes(cell.folder / name, content)
    watcher.say(f"{number}  {done.error or f'{cell.name}: ' + (done.stopped or 'done')}")
    return [done.error] if done.error else []


def _absolute(cell: Cell) -> Cell:
    return replace(cell, folder=cell.folder.absolute())


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """Leave a file by which a worker can tell that it shares this disk."""
    token = folder.absolute() / f".shared-{os.getpid()}-{time.time_ns()}"
    write_bytes(token, b"")
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


@contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to a cluster, or start one here for "local"; let go of it after."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise InputError('Expected Ray for --ray; pip install -e ".[cluster]"') from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {"include_dashboard": False} if cluster.address == "local" else {}
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f'Expected a Ray cluster at "{cluster.address}" ("local", "auto" or HOST:PORT), but got: {error}'
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
