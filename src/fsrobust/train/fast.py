"""Fast AT: one-step adversarial training, and the guard without which its accuracy cannot be believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import nn

from fsrobust.attacks import PGD, Ball, Linf
from fsrobust.train.awp import AWP
from fsrobust.train.config import TrainingError
from fsrobust.train.objectives import FSRWeights, Loss, check_smoothing, classify
from fsrobust.types import Images, Labels

_SHARE: Final = 0.5
_POINTS: Final = 0.2


@dataclass(frozen=True)
class FastAT:
    """Cross-entropy on images found by one step of 1.25 · eps from a uniform start (Wong et al., 2020).

    Some two passes a batch instead of AT's eleven. One-step training can collapse within an epoch: it then
    withstands its own step and nothing else (catastrophic overfitting). So validation judges by ``check``, ten steps
    of eps/4: that picks the best checkpoint, and ``check_collapse`` stops the run.

    >>> FastAT(Linf(0.5)).attack.step_size
    0.625
    """

    ball: Ball = field(default_factory=lambda: Linf(8 / 255))
    fsr: FSRWeights = field(default_factory=FSRWeights)
    label_smoothing: float = 0.0
    awp: AWP = field(default_factory=AWP)

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    @property
    def attack(self) -> PGD:
        """One step, longer than the ball's radius, projected back."""
        return PGD(self.ball, steps=1, step_size=1.25 * self.ball.eps, random_start=True)

    @property
    def check(self) -> PGD:
        """The attack by which validation judges."""
        return PGD(self.ball, steps=10, step_size=self.ball.eps / 4, random_start=True)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss on ``x_adv``."""
        del x
        return classify(model, x_adv, y, self.fsr, self.label_smoothing)


def has_collapsed(one_step: float, robust: float) -> bool:
    """Return whether accuracy under several steps is below half of that under one, by 20 points or more.

    A sound run keeps some 80 % of it; of a collapsed one the former falls to nothing while the latter rises. The 20
    points are for the first epochs and small validation splits, where halves are noise.

    >>> has_collapsed(0.56, 0.46), has_collapsed(0.85, 0.02), has_collapsed(0.15, 0.04)
    (False, True, False)
    """
    return one_step - robust > max(_SHARE * one_step, _POINTS)


def check_collapse(row: Mapping[str, Any], out: Path | None) -> None:
    """Stop a run whose validation shows catastrophic overfitting, before its epoch is recorded or checkpointed.

    Going back and on with more steps would end in a run that is neither method; so the choice is left to the user,
    who keeps what was good: ``last`` and ``best`` are of epochs before.

    Raises:
        TrainingError: it does; the message says what is kept and how to go on.
    """
    one_step, robust = row.get("validation_one_step"), row.get("validation_robust")
    if one_step is None or robust is None or not has_collapsed(one_step, robust):
        return
    saved = out is not None and (out / "checkpoints" / "last").exists()
    kept = f'; "{out}" keeps the epoch before, and the best by PGD' if saved else ""
    raise TrainingError(
        f"One-step training has collapsed in epoch {row['epoch']}: {100 * one_step:.1f} % of the validation samples "
        f"withstand one step, but {100 * robust:.1f} % withstand ten{kept}; train with a smaller objective.eps or "
        "train.lr, or anew with objective.name=at and objective.steps=2 or more"
    )
