"""FAB: walk to the decision boundary, stay near the image (Croce and Hein, 2020a)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.probe import Probe
from fsrobust.attacks.projections import ORDERS, dual, lengths, to_plane
from fsrobust.seeding import Noise
from fsrobust.types import Images, InputError, Labels, Logits, PerSample, unknown_name

Classes = Int[Tensor, "B J"]
"""J wrong classes of each sample …"""
Margins = Float[Tensor, "B J"]
"""… and by how much each exceeds the true one: negative where the sample is classified rightly."""

_PULL: Final = 0.1
"""α_max: the weight of the step from the clean image, at most."""
_OVERSHOOT: Final = 1.05
"""η: how far a step goes, in steps to the plane."""
_RETREAT: Final = 0.9
"""β: where between the clean image, 0, and a point beyond the boundary, 1, the walk goes on."""
_SMALLEST: Final = 1e-8
"""Keeps α defined where both steps are 0."""


@dataclass(frozen=True)
class FAB:
    """The fast adaptive boundary attack: it minimises the distance to an adversarial image.

    With a ``target`` of k it walks to the boundary of the class that is k-th most likely among the wrong ones on
    the clean image (FAB-T), and where the model has no k-th it rests; without, to the nearest boundary, for a
    backward pass per wrong class and step. It walks outside the ball, too. Nothing is returned from there: a
    sample is won by an image in the ball, and then left alone; all others come back as they were.

    ``restart`` 0 sets out from the image, any other from a random point of its own, half eps away.
    """

    ball: Ball
    steps: int = 100
    target: int | None = None
    restart: int = 0
    family: ClassVar[str] = "fab"

    def __post_init__(self) -> None:
        if self.ball.norm not in ORDERS:
            raise unknown_name("norm", self.ball.norm, ORDERS)
        if self.steps < 1 or self.restart < 0 or (self.target is not None and self.target < 1):
            raise InputError(f"Expected steps and target ≥ 1, restart ≥ 0, but got {self}")

    @property
    def cost(self) -> int:
        """Three passes a step; without a target a way back for each wrong class, of ten."""
        return (11 if self.target is None else 3) * self.steps

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return ``x``; what fooled in the ball was seen on the way."""
        images, logits = x, probe.logits(x)
        wrong = _wrong_classes(logits, y, self.target)
        if not wrong.shape[1]:
            return images
        x_adv = self.start(x, noise.fold(self.restart))
        for _ in range(self.steps):
            kept = ~probe.won(logits, y)
            if not bool(kept.all()):
                probe = probe.select(kept)
                x, y, wrong, x_adv = x[kept], y[kept], wrong[kept], x_adv[kept]
            if not len(x):
                break
            x_adv = self.step(probe, x, x_adv, _gaps(y, wrong))
            logits = probe.logits(x_adv)
            crossed = (logits.argmax(1) != y)[:, None, None, None]
            x_adv = torch.where(crossed, x + _RETREAT * (x_adv - x), x_adv)
        return images

    def start(self, x: Images, noise: Noise) -> Images:
        """Return where the walk begins."""
        if not self.restart:
            return x
        shape = tuple(x.shape[1:])
        draw = 2 * noise.uniform(shape) - 1 if self.ball.norm == "linf" else noise.normal(shape)
        direction = draw / lengths(draw.flatten(1), ORDERS[self.ball.norm])[:, None, None, None]
        return (x + direction.to(x.dtype) * (self.ball.eps / 2)).clamp(0, 1)

    def step(self, probe: Probe, x: Images, x_adv: Images, margins: Callable[[Logits], Margins]) -> Images:
        """Return the next point: over the nearest boundary as it looks from here, and drawn towards x.

        Both ``x_adv`` and ``x`` go to the plane where the linearised margin is 0, a little further; their mean
        weighs more on the one that is nearer, and on ``x`` with α_max at most.
        """
        order = ORDERS[self.ball.norm]
        margin, normal = _nearest(probe, x_adv, margins, order)
        points, w = torch.stack([x_adv, x]).flatten(2), normal.flatten(1)
        rise = torch.stack([-margin, (w * (points[0] - points[1])).sum(1) - margin])
        steps = to_plane(points, w, rise, order=order)
        far = lengths(steps, order).clamp_min(_SMALLEST)
        pull = (far[0] / far.sum(0)).clamp_max(_PULL)[:, None]
        ends = points + _OVERSHOOT * steps
        return (ends[0] * (1 - pull) + ends[1] * pull).clamp(0, 1).view_as(x)


def _gaps(y: Labels, wrong: Classes) -> Callable[[Logits], Margins]:
    """Return logits ↦ z_j − z_y for every class j of ``wrong``."""
    return lambda logits: logits.gather(1, wrong) - logits.gather(1, y[:, None])


def _wrong_classes(logits: Logits, y: Labels, target: int | None) -> Classes:
    """Return the wrong classes, the most likely first, or the one that is ``target``-th, if there is one."""
    ranked = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
    return ranked if target is None else ranked[:, target - 1 : target]


def _nearest(
    probe: Probe, x: Images, margins: Callable[[Logits], Margins], order: float
) -> tuple[PerSample, Images]:
    """Return the margin whose boundary is nearest, |margin| / ‖gradient‖_q away were it linear, and its gradient."""
    shortest, nearest, normal = x.new_full((len(x),), torch.inf), x.new_zeros(len(x)), torch.zeros_like(x)
    for margin, gradient in probe.jacobian(x, margins):
        steepness = lengths(gradient.flatten(1), dual(order)).clamp_min(torch.finfo(x.dtype).tiny)
        distance = margin.abs() / steepness
        nearer = distance < shortest
        shortest = torch.where(nearer, distance, shortest)
        nearest = torch.where(nearer, margin.to(x.dtype), nearest)
        normal = torch.where(nearer[:, None, None, None], gradient, normal)
    return nearest, normal
