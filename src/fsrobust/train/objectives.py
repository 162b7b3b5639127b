"""What training minimises: natural and adversarial training (Madry et al., 2018), with FSR's losses."""

from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import PGD, Ball, Linf
from fsrobust.plugin import Guarded, Parts, recalibration_loss, separation_loss
from fsrobust.types import Images, Labels, Logits


@dataclass(frozen=True)
class Loss:
    """The loss of one batch: ``total`` to back-propagate, its ``terms`` to show, the logits it judged."""

    total: Tensor
    terms: dict[str, Tensor]
    logits: Logits


@runtime_checkable
class Objective(Protocol):
    """A frozen value: how to attack a training batch (or not), and what to minimise on the result."""

    @property
    def attack(self) -> PGD | None:
        """The attack on the model as it is, in eval mode; None to train on clean images."""

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss of one train-mode forward pass."""


@dataclass(frozen=True)
class FSRWeights:
    """λ_sep and λ_rec; unused by a model without the plug-in."""

    separation: float = 1.0
    recalibration: float = 1.0


def classify(model: nn.Module, x: Images, y: Labels, weights: FSRWeights) -> Loss:
    """Return CE(z, y), for a guarded model + λ_sep·L_sep + λ_rec·L_rec; one forward pass, mean reduction."""
    if not isinstance(model, Guarded):
        logits = model(x).float()
        total = F.cross_entropy(logits, y)
        return Loss(total, {"classification": total.detach()}, logits.detach())
    parts = model.parts(x)
    logits = parts.logits.float()
    classification = F.cross_entropy(logits, y)
    separation, recalibration = separation_loss(parts, y), recalibration_loss(parts, y)
    total = classification + weights.separation * separation + weights.recalibration * recalibration
    terms = {
        "classification": classification.detach(),
        "separation": separation.detach(),
        "recalibration": recalibration.detach(),
        **mask_statistics(parts),
    }
    return Loss(total, terms, logits.detach())


def mask_statistics(parts: Parts) -> dict[str, Tensor]:
    """Return the mask's mean and its shares below 0.1 and above 0.9, averaged over insertion points.

    A mask that is all near 0 or all near 1 separates nothing; one that is near neither is no mask.
    """
    masks = [mask.detach() for mask in parts.mask]
    return {
        "mask_mean": torch.stack([mask.mean() for mask in masks]).mean(),
        "mask_near_0": torch.stack([(mask < 0.1).float().mean() for mask in masks]).mean(),
        "mask_near_1": torch.stack([(mask > 0.9).float().mean() for mask in masks]).mean(),
    }


@dataclass(frozen=True)
class Natural:
    """Cross-entropy on clean images: the undefended baseline."""

    fsr: FSRWeights = FSRWeights()
    attack: None = None

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss on ``x``; there are no adversarial images."""
        del x_adv
        return classify(model, x, y, self.fsr)


@dataclass(frozen=True)
class AT:
    """Cross-entropy on PGD's images, found in eval mode from a uniform start by the main logits alone.

    >>> AT(Linf(0.5), step_size=0.1).attack
    PGD(ball=Linf(eps=0.5), steps=10, step_size=0.1, loss='ce', random_start=True, restarts=1)
    """

    ball: Ball = field(default_factory=lambda: Linf(8 / 255))
    steps: int = 10
    step_size: float = 2 / 255
    fsr: FSRWeights = FSRWeights()

    def __post_init__(self) -> None:
        _ = self.attack  # steps and sizes that make no sense are refused here, not at the first batch

    @property
    def attack(self) -> PGD:
        """PGD on the cross-entropy with a random start."""
        return PGD(self.ball, steps=self.steps, step_size=self.step_size, random_start=True)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss on ``x_adv``."""
        del x
        return classify(model, x_adv, y, self.fsr)


OBJECTIVES: Final[dict[str, type[Natural] | type[AT]]] = {"natural": Natural, "at": AT}
