"""Shards: any number of processes, each with its own samples, give the record of one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fsrobust.attacks import APGD, ATTACKS, PGD, Ball, Cascade, Linf, Stage
from fsrobust.evaluate import Study, Subject, carry_out, read_records
from fsrobust.evaluate.shards import Shard, run_processes
from fsrobust.evaluate.study import carry_out_shard, record_folder
from fsrobust.records import read_npz
from fsrobust.types import InputError
from tests.evaluate.test_engine import natural_net
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
