"""From the indices of a batch to a taken step: pixels, augmentation, noise, engine, and what can go wrong."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fsrobust.attacks.compiled import first_line, is_out_of_memory
from fsrobust.data import Dataset, Source
from fsrobust.data.batches import crop_flip, pixels
from fsrobust.plugin.draws import BatchShare
from fsrobust.seeding import Noise, derive
from fsrobust.train.awp import gamma_in
from fsrobust.train.config import TrainConfig, TrainingError
from fsrobust.train.distributed import ALONE, Team
from fsrobust.train.freezing import parameter_groups
from fsrobust.train.graph import CapturedStep, Work, check_replay
from fsrobust.train.objectives import Objective
from fsrobust.train.step import Step, fast_step, reference_step
from fsrobust.train.synced import SyncedNorms
from fsrobust.types import Images, Labels

_WORTH_COMPILING = 2000
"""Steps below which compiling and capturing cost more than they save: about ten times their own cost."""


class Learner:
    """One model learning from one data set, which lies on the model's device; ``batch`` is that of all processes."""

    def __init__(  # noqa: PLR0913 - what learns from what, how, and with whom
        self,
        model: nn.Module,
        data: Source,
        objective: Objective,
        train: TrainConfig,
        *,
        batch: int,
        say: Callable[[str], None],
        team: Team = ALONE,
    ) -> None:
        self.model, self.data, self.train, self.say, self.team = model, data, train, say, team
        self._whole = team.size * train.accumulate == 1
        self.device = next(model.parameters()).device
        on_gpu = self.device.type == "cuda" and train.engine == "fast"
        self.optimiser = torch.optim.SGD(
            parameter_groups(model, train.host_lr),
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            fused=True if on_gpu else None,  # False would be slower than torch's default
        )
        long = train.epochs * (len(data) // batch) >= _WORTH_COMPILING
        compiled = train.compile == "on" or (train.compile == "auto" and on_gpu and long)
        self.step: Step = (
            fast_step(
                model,
                objective,
                self.optimiser,
                precision=train.precision,
                compiled=compiled,
                whole=self._whole,
            )
            if train.engine == "fast"
            else reference_step(model, objective, self.optimiser)
        )
        self.step.pieces = train.accumulate
        if train.sync_bn:
            self.step.norms = SyncedNorms(model).standing_in
        self.step.join(team)
        # a recording reads its images where they stay; those from disk come anew for each batch
        self._capturing = on_gpu and compiled and self._whole and isinstance(data, Dataset)
        self._epoch = 0
        self._work: Work = self._take
        self._eager_steps = 0
        self._share: BatchShare | None = None

    def begin(self, epoch: int, lr: float) -> None:
        """Turn to an epoch (1-based): what a recorded step holds as constants is from now on other."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        if self.step.host.freeze(frozen=epoch <= self.train.frozen_epochs):
            self._eager_steps = 0  # parameters get their momenta in an eager step, which a recording needs
            self.step.join(self.team)
            self.say(
                f"epoch {epoch}: " + ("only the plug-in learns" if self.step.host.frozen else "all learn")
            )
        self._epoch = epoch
        self._work = self._take
        self.step.gamma = gamma_in(self.step.objective, epoch)

    def end_epoch(self) -> None:
        """Let go of the epoch's recording: what comes between epochs needs its memory."""
        self._work = self._take

    def load_optimiser(self, state: dict[str, Any]) -> None:
        """Go on from an optimiser's state, in the ways of this device, whichever the state is from."""
        ways = [{way: group[way] for way in ("fused", "foreach")} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state)
        for group, way in zip(self.optimiser.param_groups, ways, strict=True):
            group.update(way)
        for p, values in self.optimiser.state.items():
            momentum = values.get("momentum_buffer")
            if momentum is not None and momentum.stride() != p.stride():
                # fused steps go through memory, and would pair one's elements with another's
                values["momentum_buffer"] = torch.empty_like(p).copy_(momentum)

    def learn(self, indices: Tensor, step: int) -> dict[str, Tensor]:
        """Take one step on the samples at ``indices`` and return the numbers of its loss, on the device.

        Of a team, each process gives the indices of its own rows, and gets the numbers of the whole batch.

        Raises:
            TrainingError: the batch does not fit; the message says which does.
        """

        def seed() -> object:
            # the mask's noise, and dropout in foreign networks
            return torch.manual_seed(derive(self.train.seed, "step", step))

        seed()
        self._share = self._share_of(indices, "step", step)
        try:
            if self._capturing and self._work == self._take and self._eager_steps:
                return self._capture(indices, seed)
            numbers = self._work(indices)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = first_line(error)
        else:
            return self._told(numbers)
        # outside, where the error no longer keeps the batch that it is about in memory
        raise TrainingError(self._too_large(indices, why))

    def _told(self, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count an eager step or a replayed one, and say what it had to do without."""
        self._eager_steps += 1
        for note in self.step.notes:
            self.say(note)
        self.step.notes.clear()
        return numbers

    def look(self, indices: Tensor, step: int, number: int) -> None:
        """Show the model the samples at ``indices`` as training would after ``step`` steps; nothing is learnt.

        They are this process's rows of batch ``number`` of those that are shown then.
        """
        torch.manual_seed(derive(self.train.seed, "look", step, number))
        share = self._share_of(indices, "look", step, number)
        self.step.look(*self._batch(indices, "look", step), share)

    def _share_of(self, indices: Tensor, *purpose: str | int) -> BatchShare | None:
        """Return where these rows are in the whole batch; None where they are all, and learnt at once.

        What is no mask's noise, such as dropout, is then drawn anew by each process.
        """
        if self._whole:
            return None
        torch.manual_seed(derive(self.train.seed, *purpose, self.team.rank, "others"))
        rows, key = len(indices), derive(self.train.seed, *purpose)
        return BatchShare(key, first=self.team.rank * rows, whole=self.team.size * rows)

    def _batch(self, indices: Tensor, purpose: str, number: int) -> tuple[Images, Labels, Noise]:
        """Return a batch's pixels and labels, and the noise of its attack."""
        images, y, ids = self.data.at(indices), self.data.labels[indices], self.data.ids[indices]
        noise = Noise.of(ids, self.train.seed, purpose, number)
        if self.train.augment == "crop_flip":
            images = crop_flip(images, noise.fold("augment"))
        return pixels(images), y, noise.fold("attack")

    def _take(self, indices: Tensor) -> dict[str, Tensor]:
        x, y, noise = self._batch(indices, "train", self._epoch)
        loss = self.step(x, y, noise, self._share)
        accuracy = (loss.logits.argmax(1) == y).double().mean()
        return self.team.means({"loss": loss.total.detach(), **loss.terms, "train_accuracy": accuracy})

    def _capture(self, indices: Tensor, seed: Callable[[], object]) -> dict[str, Tensor]:
        """Record the step, see that its replay does what the eager step does, and take it; else stay eager."""
        numbers: dict[str, Tensor] = {}

        def eager(batch: Tensor) -> dict[str, Tensor]:
            numbers.update(self._take(batch))
            return numbers

        try:
            self._work = check_replay(
                lambda: CapturedStep(self._take, indices), eager, indices, self._state(), seed
            )
        except Exception as error:
            if not numbers:
                raise  # the eager step itself
            self._capturing = False
            self.say(f"steps are launched kernel by kernel ({first_line(error)})")
        if not self._capturing and self.device.type == "cuda":
            torch.cuda.empty_cache()  # of what was recorded; the error that held on to it is gone
        return numbers

    def _state(self) -> list[Tensor]:
        """Return every tensor that a step changes."""
        momenta = [
            value
            for state in self.optimiser.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return [*self.model.state_dict().values(), *momenta]

    def _too_large(self, indices: Tensor, why: str) -> str:
        """Return a sentence that names the largest half, quarter … of these samples that fits."""
        rows = len(indices) // self.train.accumulate
        fitting = rows // 2
        while fitting and not self._fits(indices[:fitting]):
            fitting //= 2
        advice = f"{fitting} fits: --set train.batch={fitting * len(indices) // rows * self.team.size}"
        if fitting and len(indices) % fitting == 0:
            advice += f", or --set train.accumulate={len(indices) // fitting} and the batch as it is"
        advice = advice if fitting else "not even one sample fits"
        return f"A batch of {rows} does not fit in the memory of {self.device}; {advice} ({why})"

    def _fits(self, indices: Tensor) -> bool:
        """Try a step on a copy, so that the trained weights stay as they are."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            trial = Learner(
                copy.deepcopy(self.model),
                self.data,
                self.step.objective,
                replace(self.train, accumulate=1, sync_bn=False),
                batch=len(indices),
                say=lambda _text: None,
            )
            trial._capturing = False
            trial.begin(self._epoch, lr=0.0)
            trial._take(indices)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True
