"""Run jobs in forked children, kill them at any moment, and compare what they leave, times apart."""

import json
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Final

import numpy as np

from fsrobust.records import read_json
from tests.endurance.jobs import JOBS

ROOT: Final = Path(__file__).parents[2]
_POLL: Final = 0.002
TIMES: Final = frozenset(
    {"created", "seconds", "images_per_second", "step_seconds", "peak_memory_bytes", "stage_costs"}
    | {"commit", "dirty"}  # somebody may work on the code meanwhile
)
"""What two runs that do the same may differ in."""


def fork_server() -> ForkServerContext:
    """Return a server whose children have everything imported and the networks trained: a moment costs no start."""
    for name, value in {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}.items():
        os.environ[name] = value  # the server has them from here
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.endurance.warm"])
    first = context.Process(target=int)  # the server is ready once it has a child
    first.start()
    first.join()
    return context


def run(
    context: ForkServerContext, job: str, folder: Path, *, kill_at: float = math.inf
) -> tuple[bool, float]:
    """Start a job, or go on with it; SIGKILL it at ``kill_at`` seconds of its CPU time, if it gets there.

    Returns whether it was killed, and its seconds of CPU: they do not depend on what else the machine does.
    """
    process = context.Process(target=JOBS[job], args=(folder,))
    process.start()
    seconds = 0.0
    while seconds < kill_at and process.is_alive():
        seconds = _cpu_seconds(process.pid) or seconds
        time.sleep(_POLL)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"{job} ended with status {process.exitcode}"
    return process.exitcode != 0, seconds


def _cpu_seconds(pid: int | None) -> float | None:
    """Return the CPU time of another process, None if it is gone; Linux gives each process a clock of its own."""
    assert pid is not None
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def moments(seed: int, count: int) -> list[float]:
    """Return ``count`` moments of a run, as shares of its duration: one at random in each of as many equal parts."""
    draw = random.Random(seed)
    return [(part + draw.random()) / count for part in range(count)]


def remains(folder: Path) -> dict[str, Any]:
    """Return all that a job left, by file name: values without their times, bytes where there are none."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): _content(file) for file in files}


def _content(file: Path) -> Any:
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            return {
                name: (archive[name].dtype.str, archive[name].shape, archive[name].tobytes())
                for name in archive.files
                if name not in TIMES
            }
    if file.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in file.read_text().splitlines()]
    if file.suffix == ".json" or file.name == "done":
        return _timeless(read_json(file))  # its seal is checked, and left out: it covers the times
    return file.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _timeless(inner) for name, inner in value.items() if name not in TIMES}
    if isinstance(value, list):
        return [_timeless(inner) for inner in value]
    return value


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: what it left, and the CPU time it took."""

    job: str
    remains: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, context: ForkServerContext, job: str, folder: Path) -> "Reference":
        """Run a job undisturbed."""
        _, seconds = run(context, job, folder)
        return cls(job, remains(folder), seconds)

    def differences(self, folder: Path) -> list[str]:
        """Return the names of files that are missing, too many, or not the same, and which of these it is."""
        found = remains(folder)
        return [
            f"{name} ({'missing' if name not in found else 'too many' if name not in self.remains else 'another'})"
            for name in sorted(self.remains.keys() | found.keys())
            if self.remains.get(name) != found.get(name)
        ]
