"""Shards: any number of processes, each with its own samples, give the record of one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fsrobust.attacks import APGD, ATTACKS, PGD, Ball, Cascade, Linf, Stage
from fsrobust.cli import run
from fsrobust.evaluate import Study, Subject, carry_out, read_records
from fsrobust.evaluate.naming import record_folder
from fsrobust.evaluate.shards import Shard, run_processes, wait_for_parts
from fsrobust.evaluate.stopping import Stopped
from fsrobust.evaluate.study import carry_out_shard
from fsrobust.recipes import sharding
from fsrobust.records import locked, read_npz
from fsrobust.types import InputError
from tests.endurance.killing import remains
from tests.evaluate.test_engine import natural_net
from tests.orphans import LINUX, await_end, children, with_tests
from tests.runs import digits

NAMES = ["pgd10", "short"]


def _short(ball: Ball) -> Cascade:
    fgsm = Stage("fgsm", PGD(ball, steps=1, step_size=ball.eps))
    return Cascade(ball, (fgsm, Stage("apgd-ce", APGD(ball, steps=6))))


@pytest.fixture(autouse=True)
def _short_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "short", _short)


def plan(folder: Path) -> Study:
    """Return a study of 30 test digits."""
    return Study(folder, Subject(natural_net(), "a network"), digits(30, "test"), 360, Linf(0.08))


def samples_of(study: Study, name: str) -> dict[str, Any]:
    """Return the verdicts on record."""
    return read_npz(record_folder(study, name) / "samples.npz")


@pytest.mark.parametrize("shards", [2, 4, 40])
def test_parts_make_the_record_of_one_process(shards: int, tmp_path: Path) -> None:
    """Verdicts are those of one process, up to one that float32 sums of another batch may tip; costs add up."""
    one, many = plan(tmp_path / "one"), plan(tmp_path / "many")
    carry_out(one, NAMES)
    for number in range(shards):
        carry_out_shard(many, NAMES, Shard(number, shards))
    ran: list[str] = []
    carry_out(many, NAMES, progress=lambda name, _done, _total: ran.append(name))
    assert ran == []  # everything was there
    for name in NAMES:
        ours, theirs = samples_of(many, name), samples_of(one, name)
        assert np.array_equal(ours["ids"], theirs["ids"])
        assert (ours["fooled_any"] != theirs["fooled_any"]).sum() <= 1
        assert not list(record_folder(many, name).glob("part*"))
        assert not list(record_folder(many, name).glob("progress*"))
    records = {folder: {r["name"]: r for r in read_records(tmp_path / folder)} for folder in ("one", "many")}
    assert records["one"]["pgd10"]["backwards"] == records["many"]["pgd10"]["backwards"]
    stages = [records[folder]["short"]["stages"] for folder in ("one", "many")]
    assert [[s["name"] for s in each] for each in stages] == [["fgsm", "apgd-ce"]] * 2
    assert abs(stages[0][0]["fooled"] - stages[1][0]["fooled"]) <= 1


def test_parts_whose_searches_end_at_different_steps_have_one_path(tmp_path: Path) -> None:
    """Auto-PGD stops where all are won: the shorter path stays as it ended, the last entry is the end for all."""
    study = plan(tmp_path)
    for number in range(15):  # two samples each: some are won at once
        carry_out_shard(study, ["apgd-ce"], Shard(number, 15))
    lengths = {len(read_npz(f)["right"]) for f in record_folder(study, "apgd-ce").glob("part-*.npz")}
    assert len(lengths) > 1
    outcome = carry_out(study, ["apgd-ce"])
    (record,) = (r for r in read_records(tmp_path) if r["kind"] == "attack")
    assert len(record["path"]) == max(lengths)
    assert record["path"][-1] == pytest.approx(outcome.accuracy("apgd-ce"))


def test_a_part_that_is_missing_is_made_by_whoever_writes_the_record(tmp_path: Path) -> None:
    """Half a set of parts is no result; the record is whole nevertheless."""
    study = plan(tmp_path)
    carry_out_shard(study, NAMES, Shard(0, 2))
    outcome = carry_out(study, NAMES)
    assert outcome.n == 30
    assert outcome.attacked["short"].all()


def test_parts_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    """A part of another set of samples is no part of this one."""
    study = plan(tmp_path)
    for number in range(2):
        carry_out_shard(study, ["pgd10"], Shard(number, 2))
    folder = record_folder(study, "pgd10")
    (folder / "part-1-of-2.npz").write_bytes((folder / "part-0-of-2.npz").read_bytes())
    with pytest.raises(InputError, match="make up 30 samples"):
        carry_out(study, ["pgd10"])


def _write_where_told(shard: Shard) -> None:
    if shard.number == 1 and shard.of == 3:
        raise InputError("no such thing")


@pytest.mark.slow
def test_processes_end_together() -> None:
    """All well, nothing is said; one failing, the sentence says which and the others do not go on for ever."""
    run_processes(_write_where_told, 2)
    with pytest.raises(InputError, match=r"Shard 1 of 3 ended with status 1"):
        run_processes(_write_where_told, 3)
    assert torch.get_num_threads() >= 1


@dataclass
class Crew:
    """Processes of a torchrun as the first of them sees them; what is asked of them is noted."""

    leads: bool
    notes: list[str]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Note when the first is through."""
        yield
        self.notes.append("others may go")

    def check_shared(self, folder: Path) -> None:
        """Note that they were asked whether they see one folder."""
        assert folder.is_dir()
        self.notes.append("all see it")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, in order, in process 0 of two that torchrun started; its own shard is noted, not run."""
    noted: list[str] = []

    @contextmanager
    def team_on(_device: torch.device) -> Iterator[Crew]:
        yield Crew(leads=True, notes=noted)
        noted.append("all are done")

    monkeypatch.setattr(sharding, "torchrun_shard", lambda: Shard(0, 2))
    monkeypatch.setattr(sharding, "team_on", team_on)
    monkeypatch.setattr(sharding.Sharded, "__call__", lambda _work, _shard: noted.append("work"))
    return noted


def work_of(*names: str, images: bool = False) -> sharding.Sharded:
    """Return an evaluation for processes."""
    return sharding.Sharded("target", "last", {"device": torch.device("cpu")}, names, None, images)


def test_the_first_of_torchruns_processes_holds_the_folder(tmp_path: Path, notes: list[str]) -> None:
    """From before any of them writes until all are done; in use by others, nobody begins."""
    study = plan(tmp_path)
    for number in range(2):
        carry_out_shard(study, ["pgd10"], Shard(number, 2))
    with locked(tmp_path), pytest.raises(InputError, match="in use by another process"):
        sharding.share_out(work_of("pgd10"), study, 1)
    assert notes == []
    assert sharding.share_out(work_of("pgd10"), study, 1)
    assert notes == ["others may go", "all see it", "work", "all are done"]
    with locked(tmp_path):  # free again
        pass


def test_images_that_are_wanted_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    """An attack on record whose images are wanted is shared out anew: the first process waits for all parts of it."""
    study, waited = plan(tmp_path), list[list[Path]]()
    carry_out(study, NAMES)
    monkeypatch.setattr(sharding, "wait_for_parts", lambda folders, *_: waited.append(folders))
    sharding.share_out(work_of(*NAMES), study, 1)
    sharding.share_out(work_of(*NAMES, images=True), study, 1)
    assert waited == [[], [record_folder(study, name) for name in NAMES]]
    carry_out(study, NAMES, images=True)
    sharding.share_out(work_of(*NAMES, images=True), study, 1)
    assert waited[2] == []
    assert notes


def test_shards_out_of_time_leave_no_part_and_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each notes where it is and ends in silence; the first says so, and a later call goes on."""
    study = plan(tmp_path)
    late = replace(work_of(*NAMES), deadline=time.time() - 1)
    monkeypatch.setattr(sharding.Sharded, "study", lambda _work: study)
    late(Shard(1, 2))
    assert not list((tmp_path / "eval").rglob("*.npz"))
    wait_for_parts(
        [record_folder(study, name) for name in NAMES], 15, lambda: "it is time"
    )  # returns at once
    with pytest.raises(Stopped, match="it is time"):
        carry_out(study, NAMES, stop=lambda: "it is time")
    replace(late, deadline=None)(Shard(1, 2))
    assert len(list((tmp_path / "eval").rglob("part-1-of-2.npz"))) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, trained for an epoch."""
    out = tmp_path_factory.mktemp("trained") / "run"
    settings = ("model.width=4", "train.epochs=1", "objective.steps=1")
    assert run(["train", "digits-at", "--out", str(out), *(w for s in settings for w in ("--set", s))]) == 0
    return out


def start(trained: Path, out: Path) -> "subprocess.Popen[str]":
    """Start an evaluation in two shards, in a process group of its own as a terminal gives it."""
    command = f"evaluate {trained} --out {out} --shards 2 --attacks pgd20,pgd100 --limit 60 --curve-samples 0"
    return subprocess.Popen(
        [sys.executable, "-m", "fsrobust", *command.split(), "--device", "cpu", "--batch", "30"],
        env=with_tests(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def shards_of(process: "subprocess.Popen[str]") -> list[int]:
    """Return the shard processes of an evaluation."""
    return [
        pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the evaluation leaves."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    process = start(trained, out)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return remains(out)


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="finds processes as Linux names them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_shards_end_with_the_process_that_started_them(
    number: signal.Signals, trained: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """The parent is ended when the first part is there: no shard goes on, and the same command has the same result."""
    out = tmp_path / "out"
    process = start(trained, out)
    while not list(out.glob("eval/*/part-*.npz")):
        assert process.poll() is None
        time.sleep(0.01)
    shards = shards_of(process)
    assert shards
    os.kill(process.pid, number)
    _, said = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
    await_end(shards, seconds=2)
    assert "Traceback" not in said
    again = start(trained, out)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert remains(out) == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="finds processes as Linux names them")
def test_interrupted_shards_say_nothing(trained: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal, also those that are still importing: no traceback."""
    # a shell's background job ignores it, and so its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(trained, tmp_path / "out")
    while len(shards := shards_of(process)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(1.0)  # they import
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode in (1, 130)  # some versions of typer have a code of their own
    assert "Traceback" not in said
    await_end(shards, seconds=2)
