"""One evaluation over several processes: those it starts itself, or those that torchrun started."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from fsrobust.evaluate import Study
from fsrobust.evaluate.naming import lacks, record_folder
from fsrobust.evaluate.shards import Shard, run_processes, torchrun_shard, wait_for_parts
from fsrobust.evaluate.stopping import Stopped
from fsrobust.evaluate.study import carry_out_shard
from fsrobust.recipes.execute import find_target, plan_study
from fsrobust.records import locked
from fsrobust.train.control import Stopwatch
from fsrobust.train.distributed import team_on
from fsrobust.types import InputError


@dataclass(frozen=True)
class Sharded:
    """An evaluation for processes that have nothing but these words: ``find_target`` and ``plan_study``'s arguments.

    The ``deadline`` is in seconds since the epoch, which all processes share.
    """

    target: str
    checkpoint: str
    plan: dict[str, Any]
    attacks: tuple[str, ...]
    batch: int | None
    images: bool
    deadline: float | None = None

    def study(self) -> Study:
        """Return the study that each of the processes has a shard of."""
        return plan_study(find_target(self.target, checkpoint=self.checkpoint), **self.plan)

    def __call__(self, shard: Shard) -> None:
        """Run a shard of it, on a GPU of its own where there are several; out of time, note where it is."""
        plan, device = self.plan, self.plan["device"]
        if device.type == "cuda" and torch.cuda.device_count() > 1:
            plan = {**plan, "device": torch.device("cuda", shard.number % torch.cuda.device_count())}
        study = replace(self, plan=plan).study()
        stop = Stopwatch.until(self.deadline).stop_reason
        with contextlib.suppress(Stopped):
            carry_out_shard(study, self.attacks, shard, batch=self.batch, images=self.images, stop=stop)


def share_out(work: Sharded, study: Study, shards: int) -> bool:
    """Run the shards of a study, if there are to be any; return whether this process is to make the records.

    Started by torchrun, each process runs its own shard, and the first one waits for the others. Out of time, what is
    missing is left to ``carry_out``, which is out of time as well.

    Raises:
        InputError: more shards than samples; or another process holds the study's folder, or does not share it.
    """
    mine = torchrun_shard()
    if mine is not None:
        _run_mine(work, study, mine)
        return mine.number == 0
    if shards > len(study.data):
        raise InputError(f"Expected at most a shard per sample, {len(study.data)}, but got --shards {shards}")
    if shards > 1:
        with locked(study.folder):
            run_processes(work, shards)
    return True


def _run_mine(work: Sharded, study: Study, shard: Shard) -> None:
    """Run a shard beside those of other processes, in a folder that the first one holds until all are there."""
    lacking: list[str] = []
    with contextlib.ExitStack() as held, team_on(torch.device("cpu")) as team:
        with team.in_turn():
            if team.leads:
                held.enter_context(locked(study.folder))
                lacking = [name for name in work.attacks if lacks(study, name, images=work.images)]
        team.check_shared(study.folder)
        work(shard)
        stop = Stopwatch.until(work.deadline).stop_reason
        wait_for_parts([record_folder(study, name) for name in lacking], len(study.data), stop)
