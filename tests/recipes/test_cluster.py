"""Cells on a Ray cluster: the same numbers, a lost worker's cell made again, errors with the cell's name."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fsrobust.cli import run
from fsrobust.recipes.cell import Place
from fsrobust.recipes.cluster import Job, work
from fsrobust.recipes.paper import paper_table
from fsrobust.recipes.plan import Cell, plan
from fsrobust.recipes.table import read_table
from fsrobust.records import Metrics

PLACE = Place(None, torch.device("cpu"))
MEMORY = 80 * 2**20
"""The least that Ray's object stores may have."""


def cells(out: Path) -> list[Cell]:
    """Return the two cells of S6 at smoke scale."""
    return plan(paper_table("S6"), scale="smoke", out=out)


def command(out: Path, *arguments: str) -> int:
    """Reproduce S6 at smoke scale."""
    return run(["reproduce", "S6", "--scale", "smoke", "--out", str(out), *arguments])


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of two nodes with a CPU each, on this machine; gone afterwards."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield cluster.address
    finally:
        cluster.shutdown()


def holder(directory: Path) -> int | None:
    """Return the process that holds a directory's lock, as the kernel's own table has it."""
    lock = directory / "lock"
    if not lock.exists():
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[-3].endswith(f":{inode}"):
            return int(words[-4])
    return None


def kill_once(cell: Cell, killed: list[int]) -> None:
    """Kill whoever attacks the cell's trained network, once, before the cell is done."""
    until = time.monotonic() + 120
    while not killed and time.monotonic() < until:
        if Metrics(cell.work / "metrics.jsonl").rows():
            pid = holder(cell.folder)
            if pid is not None and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
                assert not (cell.folder / "done").exists()
                killed.append(pid)
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # of processes and files that Ray leaves to be collected
def test_a_lost_workers_cell_is_made_again(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker is killed while it attacks: its cell goes on elsewhere, and the table is that of one machine."""
    first, _ = cells(tmp_path / "cluster")
    killed: list[int] = []
    killer = threading.Thread(target=kill_once, args=(first, killed))
    killer.start()
    assert command(tmp_path / "cluster", "--ray", address) == 0
    killer.join()
    assert len(killed) == 1
    said = capsys.readouterr().err
    assert "2 cells on 2 workers of 2 nodes" in said
    assert said.count(": done") == 2
    assert [cell.state for cell in cells(tmp_path / "cluster")] == ["done", "done"]
    assert len(Metrics(first.folder / "metrics.jsonl").rows()) == 1  # trained once
    assert command(tmp_path / "alone", "--device", "cpu") == 0
    tables = [read_table(paper_table("S6"), cells(tmp_path / name), "smoke") for name in ("cluster", "alone")]
    assert tables[0] == tables[1]
    assert not list((tmp_path / "cluster").rglob(".shared-*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as above
def test_a_cell_that_fails_is_named_and_the_others_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a cluster of this machine's own: exit 2, the cell's name, the other cell done."""
    bad, good = cells(tmp_path)
    bad.work.mkdir(parents=True)
    (bad.work / "config.json").write_text("{")
    assert command(tmp_path, "--ray", "local") == 2
    message = capsys.readouterr().err
    assert "fsrobust: S6 binary, seed 0: " in message
    assert "is damaged" in message
    assert [bad.state, good.state] == ["begun", "done"]


def test_a_worker_on_another_disk_returns_its_files(tmp_path: Path) -> None:
    """Without the driver's token the cell comes back as files, its mark last and its checkpoints left behind."""
    cell = cells(tmp_path / "there")[1]
    token = tmp_path / "token"
    done = work(Job(cell, PLACE, token, cpus=1))
    assert (done.stopped, done.error) == (None, None)
    assert done.files is not None
    names = list(done.files)
    assert names[-1] == "done"
    assert {"config.json", "metrics.jsonl", "weights/last.sha256"} <= set(names)
    assert not any(name.startswith("work") for name in names)
    here = cells(tmp_path / "here")[1]
    for name, content in done.files.items():
        (here.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (here.folder / name).write_bytes(content)
    there, copied = (read_table(paper_table("S6"), [one], "smoke") for one in (cell, here))
    assert copied == there
    assert len(copied.rows) == 2
    token.touch()
    assert work(Job(cell, PLACE, token, cpus=1)).files is None  # a disk that is shared has them already


def test_a_job_that_comes_too_late_does_nothing(tmp_path: Path) -> None:
    """The time limit is the plan's, wherever a cell waits."""
    cell = cells(tmp_path)[0]
    late = Place(None, torch.device("cpu"), deadline=time.time() - 1)
    assert work(Job(cell, late, tmp_path / "token", cpus=1)).stopped == "the time limit is reached"
    assert cell.state == "new"


def test_without_ray_one_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and nothing is begun."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command(tmp_path, "--ray", "local") == 2
    assert 'pip install -e ".[cluster]"' in capsys.readouterr().err
    assert {cell.state for cell in cells(tmp_path)} == {"new"}


def test_ray_is_imported_by_nobody_else(tmp_path: Path) -> None:
    """A plan without --ray does not load it."""
    code = (
        "import sys; from fsrobust.cli import run; "
        f"code = run(['reproduce', 'S6', '--dry-run', '--scale', 'smoke', '--out', {str(tmp_path)!r}]); "
        "sys.exit(code or 'ray' in sys.modules)"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
