"""An attack in parts: each process takes every n-th sample and leaves a file; the parts together are the result.

Noise follows samples, not processes, so the verdicts are those of a single process; only what a random network draws
itself does not. A part that is there is not made again, and one that was killed goes on from its own journal.
"""

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fsrobust.evaluate.cascade import StageCost, Standing, cost_arrays
from fsrobust.evaluate.engine import GALLERY, AttackResult
from fsrobust.evaluate.stopping import Stop, never
from fsrobust.processes import end_with_parent
from fsrobust.records import read_npz, write_npz
from fsrobust.train.distributed import environment_rank
from fsrobust.types import InputError

_PER_SAMPLE: Final = ("attacked", "fooled_last", "fooled_any", "predicted")
_POLL: Final = 0.2


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th sample, from the ``number``-th on, counted from 0.

    >>> Shard(1, 3).rows(7).tolist()
    [1, 4]
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InputError(f"Expected a shard from 0 to {self.of - 1} of {self.of}, but got {self.number}")

    def rows(self, n: int) -> NDArray[np.int64]:
        """Return which of ``n`` samples are this shard's."""
        return np.arange(self.number, n, self.of)

    def file(self, folder: Path, what: str) -> Path:
        """Return where this shard keeps something of the record in ``folder``."""
        return folder / f"{what}-{self.number}-of-{self.of}.npz"


def write_part(folder: Path, shard: Shard, rows: NDArray[np.int64], result: AttackResult) -> None:
    """Leave a shard's result."""
    arrays: dict[str, NDArray[Any]] = {name: getattr(result, name) for name in _PER_SAMPLE}
    arrays |= {
        "rows": rows,
        "right": np.array(result.path),
        "cost": np.array([result.forwards, result.backwards, result.seconds]),
        "last": result.last,
        "images": result.images.numpy(),
    }
    if result.standing is not None:
        arrays |= {"fooled_by": result.standing.fooled_by, **cost_arrays(result.standing.costs)}
    write_npz(shard.file(folder, "part"), **arrays)


def read_parts(folder: Path, n: int) -> AttackResult | None:
    """Return the result that the parts in ``folder`` make of ``n`` samples, None while some are missing."""
    files = _complete(folder, n)
    try:
        return _merge([read_npz(file) for file in files], n) if files else None
    except (InputError, KeyError, ValueError) as error:
        raise InputError(
            f'The parts of an attack in "{folder}" are damaged ({error}); remove part-*.npz there and run again'
        ) from error


def _complete(folder: Path, n: int) -> list[Path]:
    """Return the files of one whole set of parts; a shard without samples leaves none."""
    for first in sorted(folder.glob("part-0-of-*.npz")):
        of = int(first.stem.rpartition("-")[2])
        files = [Shard(number, of).file(folder, "part") for number in range(min(of, n))]
        if all(file.is_file() for file in files):
            return files
    return []


def remove_parts(folder: Path) -> None:
    """Clear away what shards, journals and notes left, once it is on record."""
    for file in (*folder.glob("part-*.npz"), *folder.glob("progress*.npz")):
        file.unlink(missing_ok=True)


def _merge(parts: Sequence[Mapping[str, NDArray[Any]]], n: int) -> AttackResult:
    order = np.argsort(np.concatenate([part["rows"] for part in parts]))
    if not np.array_equal(np.concatenate([part["rows"] for part in parts])[order], np.arange(n)):
        raise InputError(f"Expected parts that make up {n} samples, but they do not")

    def whole(name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate([part[name] for part in parts])[order]
        return joined

    forwards, backwards, seconds = np.sum([part["cost"] for part in parts], axis=0).tolist()
    early = np.concatenate([part["rows"][:GALLERY] for part in parts])
    last = np.concatenate([part["last"] for part in parts])[np.argsort(early)][:GALLERY]
    images = torch.from_numpy(whole("images"))
    return AttackResult(
        **{name: whole(name) for name in _PER_SAMPLE},
        path=_merge_paths(parts, n),
        forwards=int(forwards),
        backwards=int(backwards),
        seconds=seconds,
        last=last,
        images=images,
        standing=Standing(whole("fooled_by"), images, _merge_costs(parts))
        if "fooled_by" in parts[0]
        else None,
    )


def _merge_paths(parts: Sequence[Mapping[str, NDArray[Any]]], n: int) -> list[float]:
    """Return the share right at each query, and at the end; a part whose search was over sooner stays as it ended."""
    length = max(len(part["right"]) for part in parts)
    if length == 0:
        return []
    paths = []
    for part in parts:
        *queries, end = part["right"].tolist()
        stays = queries[-1] if queries else end
        paths.append([*queries, *[stays] * (length - 1 - len(queries)), end])
    shares = np.array([len(part["rows"]) for part in parts]) / n
    return [float(share) for share in shares @ np.array(paths)]


def _merge_costs(parts: Sequence[Mapping[str, NDArray[Any]]]) -> list[StageCost]:
    names, total = parts[0]["stages"], np.sum([part["stage_costs"] for part in parts], axis=0)
    return [StageCost.of(str(name), row) for name, row in zip(names, total, strict=True)]


def run_processes(work: Callable[[Shard], None], shards: int) -> None:
    """Run ``work``, which must pickle, once per shard in processes side by side, with as many threads for each.

    They end before this returns, and with this process if it is killed.

    Raises:
        InputError: a shard failed; the others are stopped, and what they noted stays.
        SystemExit: SIGTERM came, which else would end this process at once.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share CUDA, which cannot be shared
    threads = max(1, torch.get_num_threads() // shards)
    processes = [
        context.Process(target=_one_process, args=(work, Shard(number, shards), threads), daemon=True)
        for number in range(shards)
    ]
    with _sigterm_unwinds():
        try:
            with _deaf_to_interrupts():
                for process in processes:
                    process.start()
            while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
                time.sleep(_POLL)
            failed = [number for number, process in enumerate(processes) if process.exitcode]
        finally:
            started = [process for process in processes if process.pid is not None]
            for process in started:
                process.terminate()
            for process in started:
                process.join()
    if failed:
        raise InputError(
            f"Shard {failed[0]} of {shards} ended with status {processes[failed[0]].exitcode}; the same command "
            "goes on from where each shard was"
        )


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM raise, as Ctrl-C does, where it would end the process at once: what was started is ended first."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # as a shell would report it


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Keep Ctrl-C, which goes to all processes of a terminal, from those started here: each would print a traceback."""
    resource_tracker.ensure_running()  # started by the first process, it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_process(work: Callable[[Shard], None], shard: Shard, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    try:
        work(shard)
    except (InputError, OSError) as error:
        sys.exit(f"shard {shard.number} of {shard.of}: {error}")


def torchrun_shard() -> Shard | None:
    """Return the shard of a process that torchrun started, None for any other."""
    rank, size = environment_rank()
    return Shard(rank, size) if size > 1 else None


def wait_for_parts(folders: Sequence[Path], n: int, stop: Stop = never) -> None:
    """Return once all ``folders`` have their parts, or it is time to stop; torchrun ends all if a process fails."""
    while not all(_complete(folder, n) for folder in folders) and stop() is None:
        time.sleep(_POLL)
