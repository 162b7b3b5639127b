"""Hours of small jobs in random order, killed at random and resumed, each compared with an undisturbed run.

    scripts/soak --time 2h --out DIR

A quarter of the time goes to one process that trains and evaluates again and again: its memory and descriptors must
not grow. Ends with a summary and a line of JSON; exit code 1 if anything differed, grew or was left behind.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Final

from fsrobust.progress import parse_duration
from tests.endurance.jobs import JOBS, evaluation, training
from tests.endurance.killing import Reference, fork_server, run

KILLS: Final = 3
"""Times that a job is killed at most, before it may finish."""
GROWTH: Final = 0.1
"""Share by which a process's memory may grow from its second quarter to its last: an allocator's noise."""


EXPECTED: Final = ("pymp-", "torchinductor")
"""In the folder for temporary files: the fork server's socket, which is in use, and torch's own cache."""


@dataclass
class Tally:
    """What became of a job's runs; ``differing`` names the files that were not the undisturbed run's."""

    runs: int = 0
    kills: int = 0
    differing: list[str] = field(default_factory=list)


def sample(pid: int | str = "self") -> tuple[float, int]:
    """Return a process's resident memory in MB and its open descriptors, as Linux tells them."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def live_long(folder: Path, seconds: float, file: Path) -> None:
    """Train and evaluate in this one process until the time is up; write a sample after each round."""
    samples: list[tuple[float, int]] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or len(samples) < 8:
        for job in (training, evaluation):
            job(folder)
            shutil.rmtree(folder)
        samples.append(sample())
        file.write_text(json.dumps(samples))


def growth(samples: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Return how many rounds there were, and the medians of the second and the last quarter.

    >>> growth([(50.0, 3), (60.0, 4), (60.0, 4), (66.0, 5)])["memory_growth"]
    0.1
    """
    quarter = len(samples) // 4
    (memory, files), (memory_end, files_end) = (
        [statistics.median(column) for column in zip(*part, strict=True)]
        for part in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    return {
        "rounds": len(samples),
        "memory_mb": memory_end,
        "memory_growth": round(memory_end / memory - 1, 3),
        "descriptors": files_end,
        "descriptor_growth": files_end - files,
    }


def disturb(context: ForkServerContext, reference: Reference, folder: Path, draw: random.Random) -> int:
    """Run a job that is killed up to ``KILLS`` times and then left alone; return how often it was killed."""
    kills = sum(
        run(context, reference.job, folder, kill_at=draw.random() * reference.seconds)[0]
        for _ in range(draw.randint(0, KILLS))
    )
    run(context, reference.job, folder)
    return kills


def soak(out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Run everything for so long; return the summary."""
    scratch, draw, ends = out / "tmp", random.Random(seed), time.monotonic() + seconds
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(scratch)  # whatever is left there is ours
    shared = set(os.listdir("/dev/shm"))  # noqa: PTH208
    context = fork_server()
    long_lived = context.Process(target=live_long, args=(out / "long", seconds / 4, out / "samples.json"))
    long_lived.start()
    long_lived.join()
    references = {job: Reference.of(context, job, out / "reference" / job) for job in JOBS}
    tallies, here = {job: Tally() for job in JOBS}, []
    while time.monotonic() < ends:
        job, folder = draw.choice(list(JOBS)), out / "run"
        tally = tallies[job]
        tally.kills += disturb(context, references[job], folder, draw)
        tally.runs += 1
        tally.differing += references[job].differences(folder)
        shutil.rmtree(folder)
        here.append(sample())
        (out / "progress.json").write_text(json.dumps({job: asdict(one) for job, one in tallies.items()}))
    return {
        "seed": seed,
        "jobs": {job: asdict(tally) for job, tally in tallies.items()},
        "long_lived": growth(json.loads((out / "samples.json").read_text())),
        "parent": growth(here) if len(here) >= 4 else None,
        "left_in_tmp": sorted(p.name for p in scratch.iterdir() if not p.name.startswith(EXPECTED)),
        "left_in_shm": sorted(set(os.listdir("/dev/shm")) - shared),  # noqa: PTH208
    }


def faults(summary: dict[str, Any]) -> list[str]:
    """Return what is wrong with a summary, in sentences."""
    found = [
        f"{job}: {tally['differing']} differ" for job, tally in summary["jobs"].items() if tally["differing"]
    ]
    for name in ("long_lived", "parent"):
        grown = summary[name]
        if grown and (grown["memory_growth"] > GROWTH or grown["descriptor_growth"] > 0):
            found.append(f"{name}: grew, {grown}")
    found += [f"left behind: {summary[place]}" for place in ("left_in_tmp", "left_in_shm") if summary[place]]
    return found


def main() -> int:
    """Soak for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--time", type=parse_duration, default=parse_duration("2h"), help="such as 90s, 25m, 1h30m"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="a folder that is not there yet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    summary = soak(options.out, options.time, options.seed)
    wrong = faults(summary)
    lines = [
        f"{job}: {tally['runs']} runs, {tally['kills']} kills, {len(tally['differing'])} files differ"
        for job, tally in summary["jobs"].items()
    ]
    lines += wrong or ["nothing differs, nothing grows, nothing is left behind"]
    sys.stdout.write("\n".join([*lines, json.dumps(summary)]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
