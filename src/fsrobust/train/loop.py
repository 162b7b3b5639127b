"""Training: epochs of steps, validation, checkpoints; stopped anywhere and resumed, it gives the same bits.

Every random draw is a function of (seed, epoch, step, sample id), so a resumed run needs no generator state:
it seeds each step anew, as the undisturbed run did.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsrobust.attacks.compiled import first_line
from fsrobust.data import Source, hold_out
from fsrobust.data.batches import training_batches
from fsrobust.records import Metrics, locked, provenance, write_json
from fsrobust.seeding import forked
from fsrobust.train.averaging import REFRESHED, Average
from fsrobust.train.checkpoint import (
    WEIGHTS,
    find_resumable,
    load_state,
    rewind,
    save_checkpoint,
    start_anew,
)
from fsrobust.train.config import (
    History,
    TrainConfig,
    TrainingError,
    check_same_run,
    describe_run,
    read_begun,
)
from fsrobust.train.control import Reporter, Silent, Stopwatch
from fsrobust.train.distributed import Team, check_shares, team_on
from fsrobust.train.fast import check_collapse
from fsrobust.train.freezing import check_host
from fsrobust.train.learner import Learner
from fsrobust.train.objectives import Objective
from fsrobust.train.pairs import circumstances, refuse_pairs, settings_of
from fsrobust.train.position import Position
from fsrobust.train.schedule import learning_rate
from fsrobust.train.telemetry import cost
from fsrobust.train.trained import read_weights
from fsrobust.train.validation import validate, validation_batch
from fsrobust.types import InputError


def fit(  # noqa: PLR0913 - the public entry: what, how, where to, and how long
    model: nn.Module,
    data: Source,
    *,
    objective: Objective,
    train: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    config: Mapping[str, object] | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    reporter: Reporter | None = None,
) -> History:
    """Train ``model`` in place, where its parameters are, and return the metrics of each epoch.

    With ``out``, the run directory holds configuration, metrics and checkpoints; ``resume`` goes on from the
    newest sound one and yields, on CPU, the bits of a run that was never stopped. ``time_limit`` is in
    seconds. ``config`` is what config.json should say beside this function's own arguments. Where weights are
    averaged, ``model`` is left with the average, as the last checkpoint has it. Started by torchrun, all processes
    train one model, of which rank 0 writes and tells: see ``fsrobust.train.distributed``.

    Raises:
        InputError: an ``out`` that is in use, holds another run, or has nothing to resume; settings that cannot go
            together.
        TrainingError: the loss is not finite, or one-step training has collapsed.
    """
    train, folder = train or TrainConfig(), Path(out) if out is not None else None
    device = next(model.parameters()).device
    refuse_pairs(settings_of(objective, train) | circumstances(device))
    check_host(model, frozen_epochs=train.frozen_epochs, host_lr=train.host_lr)
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))  # recordings and events are of the present one
        team = stack.enter_context(team_on(device))
        if folder is not None and team.leads:
            stack.enter_context(locked(folder))
        stopwatch = stack.enter_context(Stopwatch(time_limit))
        stack.enter_context(forked(device))
        watched = reporter if reporter is not None and team.leads else Silent()
        run = _Run(model, data, objective, train, folder, watched, team)
        stack.callback(run.learner.step.host.freeze, frozen=False)
        run.open(config or {}, resume=resume)
        return run.go(stopwatch)


class _Run:
    """One run from first to last epoch."""

    def __init__(  # noqa: PLR0913 - as ``fit``, and with whom
        self,
        model: nn.Module,
        data: Source,
        objective: Objective,
        train: TrainConfig,
        out: Path | None,
        reporter: Reporter,
        team: Team,
    ) -> None:
        device = next(model.parameters()).device
        rest, held_out = (
            hold_out(data, count=train.validation, seed=train.seed)
            if train.train_on == "minus_validation"
            else (data, None)
        )
        self.model, self.objective, self.train = model, objective, train
        self.out, self.reporter, self.team = out, reporter, team
        self.data: Source = rest.to(device)
        # few, and asked for in every epoch: in memory wherever the rest is
        self.validation = held_out.to(device).resident() if held_out is not None else None
        self.batch = min(train.batch, len(self.data))
        check_shares(self.batch, team.size, train.accumulate, samples=len(self.data))
        self.device = device
        self.learner = Learner(
            model, self.data, objective, train, batch=self.batch, say=reporter.say, team=team
        )
        self.average = Average(model, train)
        self.position, self.pace = Position(), float("inf")  # seconds a batch, once they are known
        self.rows: list[dict[str, Any]] = []

    def open(self, config: Mapping[str, object], *, resume: bool) -> None:
        """Write config.json, or check it and load the newest sound checkpoint."""
        if self.out is None:
            return
        own = {**provenance(self.device), "processes": self.team.size}
        written = describe_run(self.objective, self.train, self.data, config) | {"provenance": own}
        with self.team.in_turn():
            self._open(self.out, written, resume=resume)
        self.team.check_same(self.position.step, "checkpoint")

    def _open(self, out: Path, written: Mapping[str, object], *, resume: bool) -> None:
        file, metrics = out / "config.json", Metrics(out / "metrics.jsonl")
        if file.exists() and not resume and self.team.leads:
            raise InputError(f'"{out}" already holds a run; give --resume to go on, or another --out')
        if self.team.leads and not file.exists():
            write_json(file, written, sealed=True)
        if not resume:
            return
        remarks = check_same_run(read_begun(file), written, out)
        checkpoint, passed_over = find_resumable(out)
        for remark in (*remarks, *passed_over):
            self.reporter.say(remark)
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.team.leads:
            for remark in start_anew(out):
                self.reporter.say(remark)
        if self.team.leads:
            metrics.truncate(self.position.epoch - 1)
        self.rows = metrics.rows()
        if len(self.rows) < self.position.epoch - 1:
            self.reporter.say(
                f'"{metrics.path}" is damaged: the metrics from epoch {len(self.rows) + 1} to '
                f"{self.position.epoch - 1} are lost; the training itself is not affected"
            )
        self.reporter.say(self._where() if checkpoint else "nothing to resume yet: starting anew")

    def _where(self) -> str:
        if self.position.epoch > self.train.epochs:
            return f"already trained: {self.train.epochs} epochs"
        return f"resumed at epoch {self.position.epoch}, batch {self.position.batch}"

    def _restore(self, checkpoint: Path) -> None:
        tensors = read_weights(checkpoint / WEIGHTS).tensors
        state = load_state(checkpoint)
        try:
            self.model.load_state_dict(tensors)
            self.average.load(state)
            self.learner.load_optimiser(state["optimiser"])
            self.position = Position(**state["position"])
            self.position.sums = {k: v.to(self.device) for k, v in self.position.sums.items()}
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f'"{checkpoint}" holds no state of this run: {first_line(error)}') from error
        if self.out is not None and self.team.leads:
            rewind(self.out, self.position.step, best=self.position.best_step)

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint, if this run is kept at all; the model has the weights that it is to offer."""
        if self.out is None or not self.team.leads:
            return
        state = {
            "optimiser": self.learner.optimiser.state_dict(),
            "position": self.position.state(),
            **self.average.state(),
        }
        save_checkpoint(self.out, self.position.step, self.model, state, best=best)

    def go(self, stopwatch: Stopwatch) -> History:
        """Train until the last epoch, or until asked to stop."""
        if self.position.epoch <= self.train.epochs:
            self.reporter.say(self._plan())
        stopped = None
        while self.position.epoch <= self.train.epochs and not stopped:
            stopped = self._epoch(stopwatch)
        self.average.install(self._show)
        if stopped and self.position.batch:  # between epochs the last checkpoint says it all
            self.save()
        return History(self.rows, self.position.best_epoch, stopped)

    def _show(self) -> None:
        """Pass the same first batches through, whichever epoch it is: what they do depends on the step alone."""
        order = training_batches(len(self.data), batch=self.batch, seed=self.train.seed, epoch=0)
        for number, indices in enumerate(self.team.share(order)[:REFRESHED].to(self.device)):
            self.learner.look(indices, self.position.step, number)

    def _plan(self) -> str:
        kept = f", {len(self.validation)} held out to choose the best" if self.validation is not None else ""
        return (
            f"training on {len(self.data)} samples of {self.data.name}{kept}; "
            f"{self.train.epochs} epochs, {self.train.engine} engine, {self.device}"
        )

    def _epoch(self, stopwatch: Stopwatch) -> str | None:
        """Train the rest of the present epoch; return why it stopped early, if it did."""
        train, position = self.train, self.position
        lr = learning_rate(
            position.epoch,
            epochs=train.epochs,
            lr=train.lr,
            milestones=train.milestones,
            schedule=train.schedule,
        )
        self.learner.begin(position.epoch, lr)
        order = training_batches(len(self.data), batch=self.batch, seed=train.seed, epoch=position.epoch)
        order = order.to(self.device)
        stride = self.team.stride(self.pace, self.device)
        started, shown, first = time.perf_counter(), 0.0, position.batch
        for indices in self.data.stream(self.team.share(order)[position.batch :]):
            due = position.batch % stride == 0
            stopped = self.team.agree(stopwatch.stop_reason()) if due else None
            if stopped:
                self._check_finite(order)
                return stopped
            numbers = self.learner.learn(indices, position.step)
            self.average.after_step()
            position.add(numbers)
            now = time.perf_counter()
            # reading the loss waits for the device; and several processes must find a bad one at the same step
            look = now - shown > 0.5 if self.team.size == 1 else due
            if look or self.device.type == "cpu":
                self._check_finite(order)
                shown = now
                share, loss = position.batch / len(order), float(numbers["loss"])
                self.reporter.batch(position.epoch, train.epochs, share, loss)
        self._check_finite(order)
        self.learner.end_epoch()
        seconds = time.perf_counter() - started
        self.pace = seconds / max(1, len(order) - first)
        self.average.after_epoch(position.epoch)
        with self.average.installed(self._show):
            self._close_epoch(lr, seconds, images=(len(order) - first) * self.batch)
        return None

    def _check_finite(self, order: Tensor) -> None:
        """Stop at the first loss of the epoch that was not finite; steps after it are of no use.

        Raises:
            TrainingError: there was one; the message names its step and samples.
        """
        position = self.position
        if position.bad is None or int(position.bad) < 0:
            return
        batch = int(position.bad)
        ids = ", ".join(str(i) for i in self.data.ids[order[batch]][:8].tolist())
        saved = self.out is not None and (self.out / "checkpoints" / "last").exists()
        kept = f'; "{self.out}" keeps the last good checkpoint' if saved else ""
        raise TrainingError(
            f"The loss was not finite at step {position.step - position.batch + batch + 1} "
            f"(epoch {position.epoch}, samples {ids} …){kept}; a lower train.lr usually helps"
        )

    def _close_epoch(self, lr: float, seconds: float, *, images: int) -> None:
        """Validate, write the epoch's row, checkpoint, and move on to the next epoch."""
        position = self.position
        means = {name: float(total) / position.batch for name, total in position.sums.items()}
        row: dict[str, Any] = {"epoch": position.epoch, "step": position.step, "lr": lr, **means}
        if self.validation is not None:
            batch = validation_batch(self.batch, processes=self.team.size, pieces=self.train.accumulate)
            row |= validate(
                self.learner.step, self.validation, batch=batch, seed=self.train.seed, team=self.team
            )
            check_collapse(row, self.out)
        row |= cost(self.learner.step.laps, seconds, images)
        score = float(row.get("validation_robust", row.get("validation_natural", -1.0)))
        best = score > position.best_score
        if best:
            position.best_score, position.best_epoch = score, position.epoch
            position.best_step = position.step
        self.rows.append(row)
        position.next_epoch()
        if self.out is not None and self.team.leads:
            # the row first: a checkpoint never knows of an epoch that the metrics lack
            Metrics(self.out / "metrics.jsonl").append(row)
        self.save(best=best)
        self.reporter.epoch(row, self.train.epochs)
