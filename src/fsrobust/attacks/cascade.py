"""Attacks in a row, each on what the ones before left standing: restarts, targets, AutoAttack."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from fsrobust.attacks.apgd import APGD
from fsrobust.attacks.balls import Ball
from fsrobust.attacks.base import Attack
from fsrobust.attacks.fab import FAB
from fsrobust.attacks.probe import Probe
from fsrobust.attacks.square import Square
from fsrobust.seeding import Noise, derive
from fsrobust.types import Flags, Images, InputError, Labels, Logits


@dataclass(frozen=True)
class Stage:
    """One attack of a cascade, under the name that a sample it fools gets.

    With a ``surrogate`` it climbs the gradients of the view of that name; which there are, the model says. A stage
    is left out where there are fewer ``classes``: the ninth most likely wrong one takes ten.
    """

    name: str
    attack: Attack
    surrogate: str | None = None
    classes: int = 2


@dataclass(frozen=True)
class Cascade:
    """Stages on one ball. The first look is at the clean image: what is wrong there needs no attack.

    A model that is random is asked for so many ``draws`` at each query and at each verdict; their mean counts.
    """

    ball: Ball
    stages: tuple[Stage, ...]
    draws: int = 1
    family: ClassVar[str] = "cascade"

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise InputError(f"Expected one or more stages with names of their own, but got {names}")
        if self.draws < 1:
            raise InputError(f"Expected draws ≥ 1, but got {self.draws}")
        if any(stage.attack.ball != self.ball for stage in self.stages):
            raise InputError(f"Expected all stages in {self.ball}, but got {self.stages}")

    @property
    def cost(self) -> int:
        """What all stages cost together."""
        return self.draws * sum(stage.attack.cost for stage in self.stages)

    def applicable(self, classes: int) -> tuple[Stage, ...]:
        """Return the stages that make sense with so many classes."""
        return tuple(stage for stage in self.stages if stage.classes <= classes)

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return, for what none of the stages fooled, the last stage's images.

        Raises:
            InputError: a stage wants a surrogate; only an evaluation, which has the whole model, can give one.
        """
        wanted = [stage.surrogate for stage in self.stages if stage.surrogate]
        if wanted:
            raise InputError(f"Expected stages on the model itself, but got surrogates: {', '.join(wanted)}")
        result = x.clone()
        left = torch.arange(len(x), device=x.device)
        logits = probe.logits(x)
        won = self._over(probe, logits, y)
        for stage in self.applicable(logits.shape[1]):
            left, probe, noise = left[~won], probe.select(~won), noise.select(~won)
            if len(left) == 0:
                break
            result[left] = stage.attack.run(probe, x[left], y[left], noise.fold(stage.attack.family))
            won = self._over(probe, probe.logits(result[left]), y[left])
        return result

    def _over(self, probe: Probe, logits: Logits, y: Labels) -> Flags:
        """Return which samples need no further stage; of a random model, these logits are another draw to decide by."""
        return probe.won(logits, y) if self.draws == 1 else logits.argmax(1) != y


def stage_seed(seed: int) -> int:
    """Return the seed by which a stage that is run alone sees the noise that it has in a cascade."""
    return derive(seed, Cascade.family)


TARGETS: Final = 9
"""How many of the wrong classes AutoAttack's targeted attacks aim at."""


def apgd_t(ball: Ball) -> Cascade:
    """Return targeted Auto-PGD at each of the most likely wrong classes."""
    return Cascade(ball, _targeted("apgd-t", lambda k: APGD(ball, "dlr", target=k)))


def fab_t(ball: Ball) -> Cascade:
    """Return targeted FAB at each of the most likely wrong classes."""
    return Cascade(ball, _targeted("fab-t", lambda k: FAB(ball, target=k)))


def autoattack(ball: Ball) -> Cascade:
    """Return AutoAttack's version "standard" (Croce and Hein, 2020).

    Auto-PGD on the cross-entropy and on nine targeted DLR losses, FAB at nine targets, Square with 5,000 queries.
    """
    stages = (
        Stage("apgd-ce", APGD(ball)),
        *apgd_t(ball).stages,
        *fab_t(ball).stages,
        Stage("square", Square(ball)),
    )
    return Cascade(ball, stages)


def autoattack_plus(ball: Ball) -> Cascade:
    """Return AutoAttack's version "plus": five restarts each, and FAB without a target, too."""
    five = range(5)
    stages = (
        *(Stage(_numbered("apgd-ce", r), APGD(ball, restart=r)) for r in five),
        *(Stage(_numbered("apgd-dlr", r), APGD(ball, "dlr", restart=r)) for r in five),
        *(Stage(_numbered("fab", r), FAB(ball, restart=r)) for r in five),
        Stage("square", Square(ball)),
        *apgd_t(ball).stages,
        *fab_t(ball).stages,
    )
    return Cascade(ball, stages)


DRAWS: Final = 20
"""How many answers of a random model AutoAttack's version for them takes as one."""


def autoattack_rand(ball: Ball) -> Cascade:
    """Return AutoAttack's version "rand", for networks that answer differently each time.

    Auto-PGD on the cross-entropy and on the DLR loss, every gradient the mean of 20. There a search goes by the last
    of the 20 answers, and a sample counts as fooled by a single one; here it is the mean that counts.
    """
    stages = (Stage("apgd-ce", APGD(ball)), Stage("apgd-dlr", APGD(ball, "dlr")))
    return Cascade(ball, stages, draws=DRAWS)


def _targeted(name: str, make: Callable[[int], Attack]) -> tuple[Stage, ...]:
    return tuple(Stage(_numbered(name, k), make(k), classes=k + 1) for k in range(1, TARGETS + 1))


def _numbered(name: str, number: int) -> str:
    return f"{name} {number}"
