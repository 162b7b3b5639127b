"""Auto-PGD: gradient ascent with momentum whose step halves where it stalls (Croce and Hein, 2020, alg. 1)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import LOSSES, TARGETED, kth_wrong
from fsrobust.attacks.probe import Probe
from fsrobust.seeding import Noise
from fsrobust.types import Flags, Images, InputError, Labels, Logits, PerSample, unknown_name

_MOMENTUM: Final = 0.25
"""Share of the last move that is made again: 1 − α with the paper's α = 0.75."""
_RISING: Final = 0.75
"""Share of steps that must have raised the loss, or the step was too long."""


@dataclass(frozen=True)
class APGD:
    """``steps`` steps from a random point of the ball's surface; nothing to tune.

    With ``target`` k, from 1, the loss is a targeted one and aims at the k-th most likely wrong class of the clean
    image. A sample whose search is won leaves the batch. ``restart`` only names other noise.
    """

    ball: Ball
    loss: str = "ce"
    steps: int = 100
    target: int | None = None
    restart: int = 0
    family: ClassVar[str] = "apgd"

    def __post_init__(self) -> None:
        known = LOSSES if self.target is None else TARGETED
        if self.loss not in known:
            raise unknown_name("loss" if self.target is None else "targeted loss", self.loss, known)
        if self.steps < 1 or self.restart < 0 or (self.target is not None and self.target < 1):
            raise InputError(f"Expected steps and target ≥ 1 and restart ≥ 0, but got {self}")

    @property
    def cost(self) -> int:
        """Two passes a step."""
        return 2 * self.steps

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the iterate of the largest loss."""
        result = x.clone()
        climb = self._start(probe, x, y, noise.fold(self.loss, self.target or 0, self.restart))
        windows = dict(checkpoints(self.steps))
        for step in range(self.steps):
            climb.advance(self.ball, momentum=_MOMENTUM if step else 0.0)
            probe, climb = self._look(probe, climb, step, last=step == self.steps - 1)
            if len(climb.rows) == 0:
                break
            if step in windows:
                climb.adapt(step, windows[step])
        result[climb.rows] = climb.best
        return result

    def _start(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> "_Climb":
        aim = y if self.target is None else kth_wrong(probe.logits(x), y, self.target)
        x_adv = self.ball.sample_surface(x, noise)
        gradient, logits = probe.gradient(x_adv, lambda z: self._loss(z, y, aim))
        loss = self._loss(logits, y, aim)
        return _Climb(
            rows=torch.arange(len(x), device=x.device),
            x=x,
            y=y,
            aim=aim,
            x_adv=x_adv,
            before=x_adv,
            gradient=gradient,
            best=x_adv,
            best_gradient=gradient,
            best_loss=loss,
            step_size=torch.full_like(x[:, :1, :1, :1], 2 * self.ball.eps),
            losses=loss.new_zeros(len(x), self.steps + 1),
            best_before=loss,
            halved=torch.ones_like(y, dtype=torch.bool),
        )

    def _look(self, probe: Probe, climb: "_Climb", step: int, *, last: bool) -> tuple[Probe, "_Climb"]:
        """Query the new iterate, drop what is won, take note of the rest; the last one needs no gradient."""
        if last:
            gradient, logits = climb.gradient, probe.logits(climb.x_adv)
        else:
            gradient, logits = probe.gradient(climb.x_adv, lambda z: self._loss(z, climb.y, climb.aim))
        climb.gradient = gradient
        loss = self._loss(logits, climb.y, climb.aim)
        won = probe.won(logits, climb.y)
        if bool(won.any()):
            probe, climb, loss = probe.select(~won), climb.keep(~won), loss[~won]
        climb.note(loss, step)
        return probe, climb

    def _loss(self, logits: Logits, y: Labels, aim: Labels) -> PerSample:
        return LOSSES[self.loss](logits, y) if self.target is None else TARGETED[self.loss](logits, y, aim)


@dataclass(eq=False)
class _Climb:
    """Where the ascents of the samples in ``rows`` are; one entry of every tensor per sample.

    ``losses[:, t + 1]`` is the loss after step t; column 0 stays 0, so that a check's first difference, which
    reaches back before the first step, is with 0 as in the reference implementation. ``best_before`` and
    ``halved`` are as of the last check.
    """

    rows: Tensor
    x: Images
    y: Labels
    aim: Labels
    x_adv: Images
    before: Images
    gradient: Images
    best: Images
    best_gradient: Images
    best_loss: PerSample
    step_size: Float[Tensor, "B 1 1 1"]
    losses: Float[Tensor, "B T"]
    best_before: PerSample
    halved: Flags

    def keep(self, kept: Flags) -> "_Climb":
        """Return the climb of the samples that are left."""
        return replace(self, **{field.name: getattr(self, field.name)[kept] for field in fields(self)})

    def advance(self, ball: Ball, *, momentum: float) -> None:
        """Step along the gradient, and once more along the last move."""
        stepped = ball.project(ball.ascend(self.x_adv, self.gradient, self.step_size), self.x)
        moved = self.x_adv + (stepped - self.x_adv) * (1 - momentum) + (self.x_adv - self.before) * momentum
        self.before, self.x_adv = self.x_adv, ball.project(moved, self.x)

    def note(self, loss: PerSample, step: int) -> None:
        """Keep the loss of this step, and image and gradient where it is the largest so far."""
        self.losses[:, step + 1] = loss
        better = loss > self.best_loss
        wide = better[:, None, None, None]
        self.best = torch.where(wide, self.x_adv, self.best)
        self.best_gradient = torch.where(wide, self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def adapt(self, step: int, window: int) -> None:
        """Halve the step and go back to the best point where the last ``window`` steps led nowhere.

        That is where too few of them raised the loss, or where the step was not halved at the last check and no
        new best has been found since.
        """
        recent = self.losses[:, step + 1 - window : step + 2]
        rises = (recent.diff(dim=1) > 0).sum(1)
        stuck = ~self.halved & (self.best_loss <= self.best_before)
        self.halved = (rises <= _RISING * window) | stuck
        self.best_before = self.best_loss
        wide = self.halved[:, None, None, None]
        self.step_size = torch.where(wide, self.step_size / 2, self.step_size)
        self.x_adv = torch.where(wide, self.best, self.x_adv)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)


def checkpoints(steps: int) -> Iterator[tuple[int, int]]:
    """Yield (step, window): after which steps, counted from 0, to look back over how many.

    Windows shrink from 22 % of the steps to 6 %, by 3 % each time.

    >>> list(checkpoints(100))[:4]
    [(21, 22), (40, 19), (56, 16), (69, 13)]
    """
    window, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    step = window - 1
    while step < steps:
        yield step, window
        window = max(window - shrink, least)
        step += window
