"""What training minimises: natural training, AT, TRADES and MART, each with FSR's losses.

``label_smoothing`` s takes, in the classification term alone, (1 − s) · CE(z, y) + s · mean_k CE(z, k) for CE(z, y):
in natural training and AT the cross-entropy, in TRADES that of the clean images, in MART the first summand of the BCE.
KL terms, MART's margin and weight, FSR's losses and every attack keep the hard labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import PGD, Ball, Linf
from fsrobust.attacks.losses import kl_divergence
from fsrobust.plugin import Parts, insertion_points, parts_of, recalibration_loss, separation_loss
from fsrobust.plugin.draws import drawn_again
from fsrobust.plugin.loss import Nonrobust
from fsrobust.train.awp import AWP
from fsrobust.types import Images, InputError, Labels, Logits, PerSample


@dataclass(frozen=True)
class Loss:
    """The loss of one batch: ``total`` to back-propagate, its ``terms`` to show, the logits it judged."""

    total: Tensor
    terms: dict[str, Tensor]
    logits: Logits


def mean_of(losses: Sequence[Loss]) -> Loss:
    """Return the loss of a batch from those of its parts, which are of one size."""
    terms = {name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in losses[0].terms}
    total = torch.stack([loss.total for loss in losses]).mean()
    return Loss(total, terms, torch.cat([loss.logits for loss in losses]))


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
    """λ_sep and λ_rec, and what f⁻ is trained towards; unused by a model without the plug-in.

    A plug-in whose separation is not learnt has no L_sep, whatever λ_sep.
    """

    separation: float = 1.0
    recalibration: float = 1.0
    nonrobust: Nonrobust = "mispredicted"

    def __post_init__(self) -> None:
        check_weight("lambda_sep", self.separation)
        check_weight("lambda_rec", self.recalibration)


def check_weight(name: str, weight: float) -> None:
    """Refuse the weight of a loss that would make it grow.

    Raises:
        InputError: it is negative or not finite.
    """
    if not 0 <= weight < float("inf"):
        raise InputError(f"Expected objective.{name} of at least 0, but got {weight}")


def check_smoothing(share: float) -> None:
    """Refuse a share of smoothed labels that is none.

    Raises:
        InputError: it is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"Expected objective.label_smoothing in [0, 1), but got {share}")


def classify(
    model: nn.Module, x: Images, y: Labels, weights: FSRWeights, label_smoothing: float = 0.0
) -> Loss:
    """Return CE(z, y), for a guarded model + λ_sep·L_sep + λ_rec·L_rec; one forward pass, mean reduction."""
    passed = _forward(model, x)
    total = F.cross_entropy(passed.logits, y, label_smoothing=label_smoothing)
    return _with_fsr(total, {"classification": total.detach()}, passed, y, weights)


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
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss on ``x``; there are no adversarial images."""
        del x_adv
        return classify(model, x, y, self.fsr, self.label_smoothing)


@dataclass(frozen=True)
class AT:
    """Cross-entropy on PGD's images, found in eval mode from a uniform start by the main logits alone.

    >>> AT(Linf(0.5), step_size=0.1).attack
    PGD(ball=Linf(eps=0.5), steps=10, step_size=0.1, loss='ce', random_start=True, restarts=1, jitter=0.0)
    """

    ball: Ball = field(default_factory=lambda: Linf(8 / 255))
    steps: int = 10
    step_size: float = 2 / 255
    fsr: FSRWeights = FSRWeights()
    label_smoothing: float = 0.0
    awp: AWP = field(default_factory=AWP)

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)
        _ = self.attack  # steps and sizes that make no sense are refused here, not at the first batch

    @property
    def attack(self) -> PGD:
        """PGD on the cross-entropy with a random start."""
        return PGD(self.ball, steps=self.steps, step_size=self.step_size, random_start=True)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss on ``x_adv``."""
        del x
        return classify(model, x_adv, y, self.fsr, self.label_smoothing)


@dataclass(frozen=True)
class TRADES:
    """CE(f(x), y) + β · mean KL(p(x) ‖ p(x_adv)) (Zhang et al., 2019), gradients through both arguments.

    The attack ascends that KL from x + 0.001 · N(0, 1). Loss and batch statistics come from two forward passes,
    clean then adversarial, each with mask noise of its own unless ``share_noise``. FSR's losses are taken on the
    adversarial one [our inference: the paper's code has no TRADES].
    """

    ball: Ball = field(default_factory=lambda: Linf(8 / 255))
    steps: int = 10
    step_size: float = 2 / 255
    beta: float = 6.0
    fsr: FSRWeights = FSRWeights()
    share_noise: bool = False
    label_smoothing: float = 0.0
    awp: AWP = field(default_factory=AWP)

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)
        check_weight("beta", self.beta)
        _ = self.attack

    @property
    def attack(self) -> PGD:
        """PGD on the divergence from the clean prediction."""
        return PGD(self.ball, steps=self.steps, step_size=self.step_size, loss="kl", jitter=JITTER)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss of a clean and an adversarial pass."""
        clean, adversarial = _two_passes(model, x, x_adv, share_noise=self.share_noise)
        natural = F.cross_entropy(clean, y, label_smoothing=self.label_smoothing)
        robust = kl_divergence(clean.log_softmax(1), adversarial.logits.log_softmax(1)).mean()
        terms = {"classification": natural.detach(), "robustness": robust.detach()}
        return _with_fsr(natural + self.beta * robust, terms, adversarial, y, self.fsr)


@dataclass(frozen=True)
class MART:
    """BCE(p(x_adv), y) + λ · mean KL(p(x) ‖ p(x_adv)) · (1 − p(x)[y]) (Wang et al., 2020).

    BCE = CE(z_adv, y) − log(1.0001 − max_{k≠y} p_adv[k]); the weight multiplies the KL alone and carries a
    gradient. The attack is PGD on the cross-entropy from x + 0.001 · N(0, 1). ``weight`` is λ: 5 for ResNet-18, 6
    for wide ResNets. Passes, noise and FSR's losses as in TRADES.
    """

    ball: Ball = field(default_factory=lambda: Linf(8 / 255))
    steps: int = 10
    step_size: float = 2 / 255
    weight: float = 5.0
    fsr: FSRWeights = FSRWeights()
    share_noise: bool = False
    label_smoothing: float = 0.0
    awp: AWP = field(default_factory=AWP)

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)
        check_weight("mart_weight", self.weight)
        _ = self.attack

    @property
    def attack(self) -> PGD:
        """PGD on the cross-entropy from beside the image."""
        return PGD(self.ball, steps=self.steps, step_size=self.step_size, jitter=JITTER)

    def loss(self, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the loss of a clean and an adversarial pass."""
        clean, adversarial = _two_passes(model, x, x_adv, share_noise=self.share_noise)
        log_p, log_q = clean.log_softmax(1), adversarial.logits.log_softmax(1)
        wrong = log_q.exp().scatter(1, y[:, None], 0.0).amax(1)
        boosted = (_smoothed(log_q, y, self.label_smoothing) - (1.0001 - wrong).log()).mean()
        doubt = 1 - log_p.exp().gather(1, y[:, None]).squeeze(1)
        robust = (kl_divergence(log_p, log_q) * doubt).mean()
        terms = {"classification": boosted.detach(), "robustness": robust.detach()}
        return _with_fsr(boosted + self.weight * robust, terms, adversarial, y, self.fsr)


JITTER: Final = 0.001
"""Standard deviation of the start of TRADES' and MART's attacks, in pixels of [0, 1]."""


def _smoothed(log_p: Logits, y: Labels, share: float) -> PerSample:
    """Return −(1 − s) log p[y] − s · mean_k log p[k]."""
    hard = F.nll_loss(log_p, y, reduction="none")
    return hard if share == 0 else (1 - share) * hard - share * log_p.mean(1)


@dataclass(frozen=True)
class _Pass:
    """One train-mode forward pass: float32 logits, and the plug-in's parts if there are any."""

    logits: Logits
    parts: Parts | None


def _forward(model: nn.Module, x: Images) -> _Pass:
    if insertion_points(model):
        parts = parts_of(model, x)
        return _Pass(_wide(parts.logits), parts)
    return _Pass(_wide(model(x)), None)


def _wide(logits: object) -> Tensor:
    """Return logits in float32 or wider: no softmax is taken in half precision.

    Raises:
        InputError: no tensor, as of networks with further heads in train mode.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"Expected one tensor of logits from the model in train mode, but got a {type(logits).__name__}; "
            "switch its further heads off, or wrap it"
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def _two_passes(model: nn.Module, x: Images, x_adv: Images, *, share_noise: bool) -> tuple[Logits, _Pass]:
    """Return clean logits and the adversarial pass; one batch of both would mix their batch statistics."""
    if not share_noise:
        return _wide(model(x)), _forward(model, x_adv)
    with drawn_again(model, x.device):
        clean = _wide(model(x))
    return clean, _forward(model, x_adv)


def _with_fsr(total: Tensor, terms: dict[str, Tensor], passed: _Pass, y: Labels, weights: FSRWeights) -> Loss:
    """Return ``total`` + λ_sep·L_sep + λ_rec·L_rec, the latter two where there is a plug-in."""
    if passed.parts is None:
        return Loss(total, {**terms}, passed.logits.detach())
    recalibration = recalibration_loss(passed.parts, y)
    total = total + weights.recalibration * recalibration
    if passed.parts.separation_learns:
        separation = separation_loss(passed.parts, y, nonrobust=weights.nonrobust)
        total = total + weights.separation * separation
        terms = {**terms, "separation": separation.detach()}
    terms = {**terms, "recalibration": recalibration.detach(), **mask_statistics(passed.parts)}
    return Loss(total, terms, passed.logits.detach())
