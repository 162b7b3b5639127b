"""Ascents whose images fool other networks too: diverse inputs, smoothed gradients, momentum.

DI-FGSM (Xie et al., CVPR 2019), TI-FGSM (Dong et al., CVPR 2019) and MI-FGSM (Dong et al., CVPR 2018) each change
one line of the same loop, so they are one attack here. What they give up on the network whose gradients they climb,
they gain on others.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import cross_entropy
from fsrobust.attacks.probe import Probe
from fsrobust.seeding import Noise
from fsrobust.types import Images, InputError, Labels, PerSample

SMALLEST: Final = 0.9
"""Share of its height and width to which an image is shrunk at most."""


@dataclass(frozen=True)
class TransferPGD:
    """PGD on cross-entropy from x, with any of three changes; without them it is PGD, bit for bit.

    ``diversity``: the probability that, at a step, the gradient is taken at the image shrunk to 0.9 … 1 of its size
    somewhere on black; size and place are real numbers, drawn per sample and step. ``kernel``: the width in pixels
    of the Gaussian by which gradients are smoothed, odd; 1 leaves them. ``momentum``: μ in
    g ← μ·g + ∇/‖∇‖₁, the direction of the step.

    With diversity the network is asked about images that are not in the ball, so no query decides anything: the
    last iterate alone counts.
    """

    ball: Ball
    steps: int
    step_size: float
    diversity: float = 0.0
    kernel: int = 1
    momentum: float = 0.0
    family: ClassVar[str] = "transfer"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step_size >= 0 or not self.momentum >= 0:
            raise InputError(f"Expected steps ≥ 1, step_size and momentum ≥ 0, but got {self}")
        if not 0 <= self.diversity <= 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"Expected diversity in [0, 1] and an odd kernel, but got {self}")

    @property
    def cost(self) -> int:
        """Two passes a step."""
        return 2 * self.steps

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the last iterate."""
        x_adv, direction = x, torch.zeros_like(x)
        for step in range(self.steps):
            gradient = smooth(self._gradient(probe, x_adv, y, noise.fold(step)), self.kernel)
            direction = self.momentum * direction + _of_length_one(gradient) if self.momentum else gradient
            x_adv = self.ball.project(self.ball.ascend(x_adv, direction, self.step_size), x)
        return x_adv

    def _gradient(self, probe: Probe, x_adv: Images, y: Labels, noise: Noise) -> Images:
        if self.diversity:
            u = noise.uniform((4,)).to(x_adv.dtype)
            size = torch.where(u[:, 0] < self.diversity, SMALLEST + (1 - SMALLEST) * u[:, 1], 1.0)
            ask = probe.model
            # what the model says of the shrunk image is no verdict on the image: no watch
            probe = replace(probe, model=lambda image: ask(shrink(image, size, u[:, 2:])), watch=None)
        return probe.gradient(x_adv, lambda logits: cross_entropy(logits, y))[0]


def shrink(x: Images, size: PerSample, place: Float[Tensor, "B 2"]) -> Images:
    """Return each image at ``size`` times its height and width on a black canvas of the old size; bilinear.

    ``place`` in [0, 1] is where the canvas's spare rows and columns go: 0 below and to the right of the image.
    A size of 1 leaves the image as it is, bit for bit. Products with two matrices per sample: unlike a gather, their
    gradient is the same sum on every run.

    >>> shrink(torch.tensor([[[[1.0, 1.0, 1.0, 1.0]] * 4]]), torch.tensor([0.5]), torch.tensor([[0.0, 1.0]]))[0, 0, 0]
    tensor([0., 0., 1., 1.])
    """
    rows = _bilinear(x.shape[2], size, place[:, 0])
    columns = _bilinear(x.shape[3], size, place[:, 1])
    return rows @ x @ columns.mT


def _bilinear(count: int, size: PerSample, place: PerSample) -> Float[Tensor, "B 1 N N"]:
    """Return whose row i holds the shares of the old pixels in the new pixel i: hats around where i came from."""
    pixels = torch.arange(count, device=size.device, dtype=size.dtype)
    start = place * (1 - size) * count
    source = (pixels - start[:, None] + 0.5) / size[:, None] - 0.5
    return (1 - (source[:, :, None] - pixels).abs()).clamp_min(0)[:, None]


def smooth(gradient: Images, width: int) -> Images:
    """Return the gradient convolved with a Gaussian ``width`` pixels wide, zeros beyond the border."""
    if width == 1:
        return gradient
    channels = gradient.shape[1]
    kernel = gaussian(width).to(gradient).expand(channels, 1, width, width)
    return F.conv2d(gradient, kernel, padding=width // 2, groups=channels)


def gaussian(width: int) -> Float[Tensor, "W W"]:
    """Return a Gaussian kernel of sum 1 that spans three standard deviations to either side, as its authors' does.

    >>> gaussian(3)[1]
    tensor([0.0106, 0.9570, 0.0106])
    """
    bell = (-torch.linspace(-3, 3, width).square() / 2).exp()
    bell = bell / bell.sum()
    return torch.outer(bell, bell)


def _of_length_one(gradient: Images) -> Images:
    lengths = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
    return gradient / lengths.clamp_min(torch.finfo(gradient.dtype).tiny)
