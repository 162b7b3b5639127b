"""From the indices of a batch to a taken step: pixels, augmentation, noise, engine, and what can go wrong."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fsrobust.attacks.compiled import first_line, is_out_of_memory
from fsrobust.data import Dataset, Source
from fsrobust.data.batches import crop_flip, pixels
from fsrobust.seeding import Noise, derive
from fsrobust.train.awp import gamma_in
from fsrobust.train.config import TrainConfig, TrainingError
from fsrobust.train.freezing import parameter_groups
from fsrobust.train.graph import CapturedStep, Work, check_replay
from fsrobust.train.objectives import Objective
from fsrobust.train.step import Step, fast_step, reference_step
from fsrobust.types import Images, Labels

_WORTH_COMPILING = 2000
"""Steps below which compiling and capturing cost more than they save: about ten times their own cost."""


class Learner:
    """One model learning from one data set, which lies on the model's device."""

    def __init__(
        self,
        model: nn.Module,
        data: Source,
        objective: Objective,
        train: TrainConfig,
        *,
        batch: int,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.data, self.train, self.say = model, data, train, say
        self.device = next(model.parameters()).device
        on_gpu = self.device.type == "cuda" and train.engine == "fast"
        self.optimiser = torch.optim.SGD(
            parameter_groups(model, train.host_lr),
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            fused=on_gpu,
        )
        long = train.epochs * (len(data) // batch) >= _WORTH_COMPILING
        compiled = train.compile == "on" or (train.compile == "auto" and on_gpu and long)
        self.step: Step = (
            fast_step(model, objective, self.optimiser, precision=train.precision, compiled=compiled)
            if train.engine == "fast"
            else reference_step(model, objective, self.optimiser)
        )
        # a recording reads its images where they stay; those from disk come anew for each batch
        self._capturing = on_gpu and compiled and isinstance(data, Dataset)
        self._epoch = 0
        self._work: Work = self._take
        self._eager_steps = 0

    def begin(self, epoch: int, lr: float) -> None:
        """Turn to an epoch (1-based): what a recorded step holds as constants is from now on other."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        if self.step.host.freeze(frozen=epoch <= self.train.frozen_epochs):
            self._eager_steps = 0  # parameters get their momenta in an eager step, which a recording needs
            self.say(
                f"epoch {epoch}: " + ("only the plug-in learns" if self.step.host.frozen else "all learn")
            )
        self._epoch = epoch
        self._work = self._take
        self.step.gamma = gamma_in(self.step.objective, epoch)

    def learn(self, indices: Tensor, step: int) -> dict[str, Tensor]:
        """Take one step on the samples at ``indices`` and return the numbers of its loss, on the device.

        Raises:
            TrainingError: the batch does not fit; the message says which does.
        """

        def seed() -> object:
            # the mask's noise, and dropout in foreign networks
            return torch.manual_seed(derive(self.train.seed, "step", step))

        seed()
        try:
            if self._capturing and self._work == self._take and self._eager_steps:
                return self._capture(indices, seed)
            numbers = self._work(indices)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(self._too_large(indices, error)) from error
        self._eager_steps += 1
        for note in self.step.notes:
            self.say(note)
        self.step.notes.clear()
        return numbers

    def look(self, indices: Tensor, step: int) -> None:
        """Show the model the samples at ``indices`` as training would after ``step`` steps; nothing is learnt."""
        torch.manual_seed(derive(self.train.seed, "look", step, int(indices[0])))
        self.step.look(*self._batch(indices, "look", step))

    def _batch(self, indices: Tensor, purpose: str, number: int) -> tuple[Images, Labels, Noise]:
        """Return a batch's pixels and labels, and the noise of its attack."""
        images, y, ids = self.data.at(indices), self.data.labels[indices], self.data.ids[indices]
        noise = Noise.of(ids, self.train.seed, purpose, number)
        if self.train.augment == "crop_flip":
            images = crop_flip(images, noise.fold("augment"))
        return pixels(images), y, noise.fold("attack")

    def _take(self, indices: Tensor) -> dict[str, Tensor]:
        x, y, noise = self._batch(indices, "train", self._epoch)
        loss = self.step(x, y, noise)
        accuracy = (loss.logits.argmax(1) == y).double().mean()
        return {"loss": loss.total.detach(), **loss.terms, "train_accuracy": accuracy}

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
            if is_out_of_memory(error):
                raise
            self._capturing = False
            self.say(f"steps are launched kernel by kernel ({first_line(error)})")
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

    def _too_large(self, indices: Tensor, error: BaseException) -> str:
        """Return a sentence that names the largest half, quarter … of the batch that fits."""
        fitting = len(indices) // 2
        while fitting and not self._fits(indices[:fitting]):
            fitting //= 2
        advice = f"{fitting} fits: --set train.batch={fitting}" if fitting else "not even one sample fits"
        return f"A batch of {len(indices)} does not fit in the memory of {self.device}; {advice} ({first_line(error)})"

    def _fits(self, indices: Tensor) -> bool:
        """Try a step on a copy, so that the trained weights stay as they are."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            trial = Learner(
                copy.deepcopy(self.model),
                self.data,
                self.step.objective,
                self.train,
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
