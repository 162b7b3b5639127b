"""The sets an attack may search: balls of radius eps around an image, cut to pixels in [0, 1]."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fsrobust.seeding import Noise
from fsrobust.types import Images, InputError, PerSample, unknown_name

StepSize: TypeAlias = float | Float[Tensor, "B 1 1 1"]
"""One for all samples, or one for each; in the ball's norm."""


@runtime_checkable
class Ball(Protocol):
    """What an attack asks of a ball; ``eps`` is in units of pixels in [0, 1]."""

    norm: ClassVar[str]

    @property
    def eps(self) -> float:
        """The radius."""

    def ascend(self, x_adv: Images, gradient: Images, step_size: StepSize) -> Images:
        """Return the point ``step_size`` (in the ball's norm) along the steepest ascent."""

    def project(self, x_adv: Images, x: Images) -> Images:
        """Return the nearest point in the ball around ``x``, then clamped to [0, 1]."""

    def sample(self, x: Images, noise: Noise) -> Images:
        """Return a uniform draw from the ball around ``x``, then clamped to [0, 1]."""

    def sample_surface(self, x: Images, noise: Noise) -> Images:
        """Return a draw at distance ``eps`` from ``x``, then clamped to [0, 1]: where Auto-PGD starts."""

    def distance(self, x_adv: Images, x: Images) -> PerSample:
        """Return the distance in the ball's norm, float32."""


def _check_radius(norm: str, eps: float, largest: float) -> None:
    if not 0 <= eps <= largest:
        raise InputError(
            f"Expected eps in [0, {largest:g}] for {norm}, but got {eps:g}; pixels are in [0, 1], write 8/255"
        )


_AT_ONCE: Final = 2**22
"""Numbers that are summed in float64 at once, since torch copies them for that: 32 MiB, whatever the batch."""


def euclidean(v: Images) -> PerSample:
    """Return the Euclidean norm of each sample, of its own type but summed in float64.

    In float32 that of a megapixel would be off in the fifth digit, and an image on its ball's surface seem outside.
    """
    parts = torch.split(v, max(1, _AT_ONCE // max(1, v[:1].numel())))
    norms = [torch.linalg.vector_norm(part, dim=(1, 2, 3), dtype=torch.float64) for part in parts]
    return torch.cat(norms).to(v.dtype)


def _norms(v: Images) -> Tensor:
    """Return the same as [B, 1, 1, 1], never 0."""
    return euclidean(v)[:, None, None, None].clamp_min(torch.finfo(v.dtype).tiny)


@dataclass(frozen=True)
class Linf:
    """Every pixel may move by ``eps`` at most.

    >>> Linf(0.1).project(torch.tensor([[[[0.95]]]]), torch.tensor([[[[0.5]]]]))
    tensor([[[[0.6000]]]])
    """

    eps: float
    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        _check_radius(self.norm, self.eps, 1.0)

    def ascend(self, x_adv: Images, gradient: Images, step_size: StepSize) -> Images:
        """Return x_adv + step_size · sign(gradient)."""
        return x_adv + step_size * gradient.sign()

    def project(self, x_adv: Images, x: Images) -> Images:
        """Return x plus the perturbation clipped to ± eps, then clamped to [0, 1].

        The order of float32 roundings is that of the reference implementations of PGD: signs of near-zero
        gradients, hence whole trajectories, depend on it.
        """
        return (x + (x_adv - x).clamp(-self.eps, self.eps)).clamp(0, 1)

    def sample(self, x: Images, noise: Noise) -> Images:
        """Return x + U(−eps, eps), clamped to [0, 1]."""
        u = noise.uniform(tuple(x.shape[1:])).to(x.dtype)
        return (x + (2 * u - 1) * self.eps).clamp(0, 1)

    def sample_surface(self, x: Images, noise: Noise) -> Images:
        """Return x + eps · u / ‖u‖∞ with u uniform in the cube, clamped to [0, 1]."""
        u = 2 * noise.uniform(tuple(x.shape[1:])).to(x.dtype) - 1
        return (x + self.eps * u / u.abs().amax(dim=(1, 2, 3), keepdim=True)).clamp(0, 1)

    def distance(self, x_adv: Images, x: Images) -> PerSample:
        """Return ‖x_adv − x‖∞ of each sample."""
        return (x_adv - x).abs().flatten(1).amax(1).float()


@dataclass(frozen=True)
class L2:
    """An image may move by a Euclidean distance of ``eps`` at most.

    >>> L2(1.0).project(torch.tensor([[[[0.9]], [[0.0]]]]), torch.zeros(1, 2, 1, 1)).flatten().tolist()
    [0.8999999761581421, 0.0]
    """

    eps: float
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        _check_radius(self.norm, self.eps, 1000.0)

    def ascend(self, x_adv: Images, gradient: Images, step_size: StepSize) -> Images:
        """Return x_adv + step_size · gradient / ‖gradient‖₂."""
        # a confident model's gradients are near 1e-30: their squares would vanish, so scale them first
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        direction = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
        return x_adv + step_size * direction / _norms(direction)

    def project(self, x_adv: Images, x: Images) -> Images:
        """Return x + δ · min(1, eps/‖δ‖₂), clamped to [0, 1]."""
        delta = x_adv - x
        return (x + delta * (self.eps / _norms(delta)).clamp(max=1)).clamp(0, 1)

    def sample(self, x: Images, noise: Noise) -> Images:
        """Return x plus a uniform direction at a radius of eps · U^(1/d), clamped to [0, 1]."""
        shape = tuple(x.shape[1:])
        direction = noise.fold("direction").normal(shape)
        u = noise.fold("radius").uniform((1, 1, 1))
        delta = direction / _norms(direction) * (self.eps * u ** (1 / math.prod(shape)))
        return (x + delta.to(x.dtype)).clamp(0, 1)

    def sample_surface(self, x: Images, noise: Noise) -> Images:
        """Return x + eps · a uniform direction, clamped to [0, 1]."""
        direction = noise.normal(tuple(x.shape[1:]))
        return (x + (self.eps * direction / _norms(direction)).to(x.dtype)).clamp(0, 1)

    def distance(self, x_adv: Images, x: Images) -> PerSample:
        """Return ‖x_adv − x‖₂ of each sample."""
        return euclidean(x_adv - x).float()


BALLS: Final[dict[str, type[Linf] | type[L2]]] = {"linf": Linf, "l2": L2}


def make_ball(norm: str, eps: float) -> Ball:
    """Return a ball by the name of its norm.

    Raises:
        InputError: an unknown norm, or an eps that makes no sense in it.
    """
    if norm not in BALLS:
        raise unknown_name("norm", norm, BALLS)
    return BALLS[norm](eps)


def describe_ball(ball: Ball) -> dict[str, object]:
    """Return a ball as plain values; eps is written as the field writes it.

    >>> describe_ball(Linf(8 / 255))
    {'norm': 'linf', 'eps': '8/255'}
    """
    return {"norm": ball.norm, "eps": format_eps(ball.eps)}


def meant_in(norm: str, eps: float) -> str:
    """Return why a radius is not taken over into another norm.

    >>> meant_in("linf", 8 / 255)
    'a radius of 8/255 is meant in linf, and says nothing in another norm'
    """
    return f"a radius of {format_eps(eps)} is meant in {norm}, and says nothing in another norm"


def format_eps(eps: float) -> str:
    """Return "8/255" for 8/255, and a plain number for what is no multiple of 0.1/255.

    >>> format_eps(0.8 / 255), format_eps(0.15)
    ('0.8/255', '0.15')
    """
    steps = eps * 255
    if abs(steps * 10 - round(steps * 10)) < 1e-6 and round(eps, 4) != eps:
        return f"{round(steps, 1):g}/255"
    return f"{eps:.6g}"
