"""FGSM, PGD and C&W: steepest ascent inside a ball (Goodfellow et al., 2015; Madry et al., 2018)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import LOSSES, kl_divergence
from fsrobust.attacks.probe import Probe
from fsrobust.seeding import Noise
from fsrobust.types import Images, InputError, Labels, Logits, PerSample, unknown_name


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent: ``steps`` times step, project to the ball, clamp to [0, 1].

    ``step_size`` is in the ball's norm and in units of pixels in [0, 1]. With ``random_start`` each restart
    begins at a uniform draw from the ball; of several restarts a sample keeps the first that fooled it.

    The loss "kl" is KL(p(x) ‖ p(x_adv)): it asks for no label, only to be told apart from the clean image, whose
    softmax is taken once. Its gradient at x is zero, so it needs ``jitter``: a start at x + jitter · N(0, 1).
    """

    ball: Ball
    steps: int
    step_size: float
    loss: str = "ce"
    random_start: bool = False
    restarts: int = 1
    jitter: float = 0.0
    family: ClassVar[str] = "pgd"

    def __post_init__(self) -> None:
        if self.loss not in (*LOSSES, "kl"):
            raise unknown_name("loss", self.loss, [*LOSSES, "kl"])
        if self.steps < 1 or self.restarts < 1 or not self.step_size >= 0 or not self.jitter >= 0:
            raise InputError(f"Expected steps, restarts ≥ 1, step_size and jitter ≥ 0, but got {self}")
        if self.random_start and self.jitter:
            raise InputError(f"Expected a random start or a jitter, but got both: {self}")
        if self.loss == "kl" and not (self.random_start or self.jitter):
            raise InputError(
                "Expected a random start or a jitter with the loss kl, whose gradient at x is zero"
            )
        if self.restarts > 1 and not self.random_start:
            raise InputError(f"Expected random_start with {self.restarts} restarts: they would all be alike")

    @property
    def cost(self) -> int:
        """Two passes a step, restart by restart."""
        return 2 * self.steps * self.restarts

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the last iterate of the restart that fooled, else of the last restart."""
        adversarial = self.climb(probe, x, y, self.start(x, noise.fold(0)))
        for restart in range(1, self.restarts):
            lost = probe.logits(adversarial).argmax(1) == y
            again = self.climb(probe, x, y, self.start(x, noise.fold(restart)))
            adversarial = torch.where(lost[:, None, None, None], again, adversarial)
        return adversarial

    def start(self, x: Images, noise: Noise) -> Images:
        """Return where the ascent begins."""
        if self.jitter:
            return self.ball.project(x + self.jitter * noise.normal(tuple(x.shape[1:])).to(x.dtype), x)
        return self.ball.sample(x, noise) if self.random_start else x

    def climb(self, probe: Probe, x: Images, y: Labels, x_adv: Images) -> Images:
        """Return the last iterate of one ascent from ``x_adv``."""
        loss = self._loss(probe, x, y)
        for _ in range(self.steps):
            gradient, _ = probe.gradient(x_adv, loss)
            x_adv = self.ball.project(self.ball.ascend(x_adv, gradient, self.step_size), x)
        return x_adv

    def _loss(self, probe: Probe, x: Images, y: Labels) -> Callable[[Logits], PerSample]:
        if self.loss == "kl":
            clean = probe.logits(x).log_softmax(1)
            return lambda logits: kl_divergence(clean, logits.log_softmax(1))
        loss = LOSSES[self.loss]
        return lambda logits: loss(logits, y)
