"""Square: random search with squares, by scores alone (Andriushchenko et al., 2020)."""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import margin
from fsrobust.attacks.probe import Probe
from fsrobust.seeding import Noise
from fsrobust.types import Images, InputError, Labels, unknown_name

_HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which queries the share of pixels that a square covers is halved."""


Start = Callable[[Images, float, Noise], Images]
Move = Callable[[Images, Images, float, int, Noise], Images]


@dataclass(frozen=True)
class Square:
    """Random search: try a change in a square, keep it where the margin grows; squares shrink with time.

    In L∞ the search starts at vertical stripes of ± eps, and a square gives each channel of its pixels one sign.
    In L2 it starts at a grid of bumps, and a square moves the perturbation's mass from another square to its own.
    ``p_init`` is the share of the image that the first squares cover. ``queries`` counts squares; the start
    is asked about before the first of them, as in AutoAttack.
    """

    ball: Ball
    queries: int = 5000
    p_init: float = 0.8
    restart: int = 0
    family: ClassVar[str] = "square"

    def __post_init__(self) -> None:
        if self.ball.norm not in _MOVES:
            raise unknown_name("norm", self.ball.norm, _MOVES)
        if self.queries < 1 or self.restart < 0 or not 0 < self.p_init <= 1:
            raise InputError(f"Expected queries ≥ 1, restart ≥ 0, p_init in (0, 1], but got {self}")

    @property
    def cost(self) -> int:
        """One pass a query."""
        return self.queries

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the image of the widest margin."""
        start, move, side = _MOVES[self.ball.norm]
        noise, eps, sides = noise.fold(self.restart), self.ball.eps, (x.shape[2], x.shape[3])
        found, left = x.clone(), torch.arange(len(x), device=x.device)
        best = start(x, eps, noise.fold("start"))
        logits = probe.logits(best)
        widest = margin(logits, y)
        for query in range(self.queries):
            kept = ~probe.won(logits, y)
            if not bool(kept.all()):
                probe, noise = probe.select(kept), noise.select(kept)
                x, y, best, widest, left = x[kept], y[kept], best[kept], widest[kept], left[kept]
            if not len(x):
                break
            tried = move(x, best, eps, side(self.share(query), sides), noise.fold(query))
            logits = probe.logits(tried)
            margins = margin(logits, y)
            # whoever is fooled has a margin that no unfooled image has, so this keeps what fools
            wider = margins > widest
            best = torch.where(wider[:, None, None, None], tried, best)
            widest = torch.where(wider, margins, widest)
        found[left] = best
        return found

    def share(self, query: int) -> float:
        """Return the share of the image that the square of a query covers, before it is rounded to pixels.

        >>> from fsrobust.attacks.balls import Linf
        >>> [Square(Linf(0.1)).share(query) for query in (0, 10, 11, 4999)]
        [0.8, 0.8, 0.4, 0.00625]
        """
        return float(self.p_init / 2 ** bisect.bisect_left(_HALVINGS, query))


def _stripes(x: Images, eps: float, noise: Noise) -> Images:
    """Return x ± eps, one sign per column and channel."""
    sign = _signs(noise.uniform((x.shape[1], 1, x.shape[3])))
    return (x + eps * sign.to(x.dtype)).clamp(0, 1)


def _paint(x: Images, best: Images, eps: float, side: int, noise: Noise) -> Images:
    """Return ``best`` with a random square of x ± eps, one sign per channel."""
    draws = noise.uniform((2 + x.shape[1],))
    places, signs = _places(draws[:, :2], side, x), _signs(draws[:, 2:, None]).to(x.dtype)
    ends = (x.flatten(2).gather(2, places) + eps * signs).clamp(0, 1)
    return best.flatten(2).scatter(2, places, ends).view_as(x)


def _grid(x: Images, eps: float, noise: Noise) -> Images:
    """Return x plus a perturbation of length eps: five by five bumps, each upright or on its side, of any sign."""
    batch, channels, height, width = x.shape
    side = max(height // 5, 1)
    first = max((height - 5 * side) // 2, 0)
    down, across = ((length - first) // side for length in (height, width))
    turned = noise.fold("turn").uniform((1, down, 1, across, 1)) > 0.5
    signs = _signs(noise.fold("sign").uniform((channels, down, 1, across, 1)))
    upright, lying = _bumps(side, x.device).view(2, 1, side, 1, side)
    bumps = (signs * torch.where(turned, lying, upright)).to(x.dtype)
    delta = torch.zeros_like(x)
    tiles = delta[:, :, first : first + down * side, first : first + across * side]
    tiles.copy_(bumps.reshape(batch, channels, down * side, across * side))
    return _onto_sphere(x, delta, eps)


def _carry(x: Images, best: Images, eps: float, side: int, noise: Noise) -> Images:
    """Return ``best`` with what one square moved of each channel carried over to another.

    There it adds to what it finds a bump of any sign, and takes along what the length still lacks to eps.
    """
    channels = x.shape[1]
    draws = noise.uniform((5 + channels,)).to(x.dtype)
    into, out_of = _places(draws[:, :2], side, x), _places(draws[:, 2:4], side, x)
    turned, signs = (draws[:, 4] > 0.5).long(), _signs(draws[:, 5:, None])
    delta = (best - x).flatten(2)
    old = delta.gather(2, into)
    rest = delta.scatter(2, into, 0.0)
    mass = _energy(old) + _energy(rest.gather(2, out_of))
    lacking = (eps**2 - _energy(delta.flatten(1))).clamp_min(0)[:, None] / channels
    bump = _bumps(side, x.device).to(x.dtype)[turned][:, None]
    new = signs * bump + old / (_energy(old).sqrt() + _TINY)
    new = new / (_energy(new).sqrt() + _TINY) * (mass + lacking).sqrt()
    delta = rest.scatter(2, out_of, 0.0).scatter(2, into, new)
    return _onto_sphere(x, delta.view_as(x), eps)


_TINY: Final = 1e-12
"""Keeps directions of nothing at nothing."""


def _energy(v: Tensor) -> Tensor:
    """Return the sum of squares over the last dimension, which stays."""
    return v.square().sum(-1, keepdim=True)


def _onto_sphere(x: Images, delta: Images, eps: float) -> Images:
    """Return x + eps · delta/‖delta‖₂, clamped to [0, 1]."""
    length = _energy(delta.flatten(1)).sqrt()[..., None, None]
    return (x + delta / (length + _TINY) * eps).clamp(0, 1)


def _signs(uniform: Tensor) -> Tensor:
    """Return −1 or 1."""
    return torch.where(uniform < 0.5, -1.0, 1.0).to(uniform.dtype)


def _places(corner: Float[Tensor, "B 2"], side: int, x: Images) -> Int[Tensor, "B C P"]:
    """Return which of the H · W pixels a square covers, for every channel; ``corner`` is uniform in [0, 1).

    As in the authors' code the squares that touch the lower or the right side are left out, but for those
    that are as long as it.
    """
    _, channels, height, width = x.shape
    span = torch.arange(side, device=x.device)
    rows = (corner[:, :1] * (height - side)).long() + span
    columns = (corner[:, 1:] * (width - side)).long() + span
    places = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    return places[:, None].expand(-1, channels, -1)


@lru_cache(maxsize=32)
def _bumps(side: int, device: torch.device) -> Float[Tensor, "2 P"]:
    """Return a bump of length 1 upright and on its side: a pyramid over the upper half, minus one over the lower."""
    upper = side // 2
    bump = torch.cat([_pyramid(upper, side), -_pyramid(side - upper, side)])
    bump = bump / _energy(bump.flatten()).sqrt()
    return torch.stack([bump, bump.T]).flatten(1).float().to(device)


def _pyramid(height: int, width: int) -> Float[Tensor, "M N"]:
    """Return steps of 1, 1/4, 1/9, … one upon the other around the middle, of length 1 together, float64."""
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    steps = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** -2
    pyramid = steps.flip(0).cumsum(0).flip(0)[torch.maximum(down[:, None], across)]
    return pyramid / _energy(pyramid.flatten()).sqrt()


def _side(share: float, sides: tuple[int, int], smallest: int = 1) -> int:
    """Return the side of a square that covers a share of the image, in pixels."""
    return min(max(round(math.sqrt(share * sides[0] * sides[1])), smallest), *sides)


def _odd_side(share: float, sides: tuple[int, int]) -> int:
    """Return the same, 3 or more and odd unless the image is smaller."""
    return min(_side(share, sides, 3) | 1, *sides)


_MOVES: Final[dict[str, tuple[Start, Move, Callable[[float, tuple[int, int]], int]]]] = {
    "linf": (_stripes, _paint, _side),
    "l2": (_grid, _carry, _odd_side),
}
"""Where a search starts, what it tries, and on how large a square."""
