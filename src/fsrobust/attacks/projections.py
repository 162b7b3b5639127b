"""The shortest way from an image to a plane that stays in [0, 1], for FAB (Croce and Hein, 2020a)."""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Pixels = Float[Tensor, "... D"]
"""Images as rows of D pixels, any number of them."""
PerRow = Float[Tensor, "..."]

ORDERS: Final[dict[str, float]] = {"linf": math.inf, "l2": 2.0}
"""The exponent p of a ball's norm."""
_SLOWEST: Final = 1e-12
"""Keeps corners finite; what is slower than this fraction of the fastest gains nothing in float32."""


def dual(order: float) -> float:
    """Return q with 1/p + 1/q = 1.

    >>> dual(math.inf), dual(2.0)
    (1.0, 2.0)
    """
    return 1 / (1 - 1 / order)


def lengths(rows: Pixels, order: float) -> PerRow:
    """Return the ℓ_p norm of each row."""
    norms: Tensor = torch.linalg.vector_norm(rows, ord=order, dim=-1)
    return norms


def to_plane(x: Pixels, w: Pixels, rise: PerRow, *, order: float) -> Pixels:
    """Return the shortest d in the ℓ_p norm with w·d = rise and x + d in [0, 1].

    Where the box does not reach the plane, d goes as far towards it as the box allows. One ``w`` may
    serve several rows of ``x``.

    All pixels set out at once, along sign(rise) · sign(w) and at speeds |w|^(q−1), as the free projection
    does; each stops at its side of the box. So w·d grows piecewise linearly, with a corner wherever a pixel
    stops, and the time at which it reaches ``rise`` follows from sorting the corners.

    >>> x, w = torch.tensor([0.5, 0.9]), torch.tensor([1.0, 1.0])
    >>> to_plane(x, w, torch.tensor(0.4), order=math.inf)
    tensor([0.3000, 0.1000])
    """
    # gradients of a confident model are near 1e-30; the plane is the same whatever the length of w
    length = w.abs().amax(-1).clamp_min(torch.finfo(w.dtype).tiny)
    w, wanted = w / length[..., None], rise.abs() / length
    heading = w.sign() * rise.sign()[..., None]
    room = torch.where(heading > 0, 1 - x, x) * heading.abs()
    speed = w.abs() ** (dual(order) - 1)
    time = _arrival(w.abs(), speed, room, wanted)
    reached = wanted <= (w.abs() * room).sum(-1)
    # a pixel without a weight has no room: fmin makes of its 0 · ∞ the 0 that it is
    return heading * torch.where(reached[..., None], torch.fmin(time[..., None] * speed, room), room)


def _arrival(weight: Pixels, speed: Pixels, room: Pixels, wanted: PerRow) -> PerRow:
    """Return the time t at which Σ weight · min(t · speed, room) is ``wanted``."""
    corners, ranks = (room / speed.clamp_min(_SLOWEST)).sort(-1)
    slopes = (weight * speed).expand_as(room).gather(-1, ranks)
    stops = (weight * room).gather(-1, ranks).cumsum(-1)
    # what still moves up to a corner, and what had stopped before it
    moving = slopes.flip(-1).cumsum(-1).flip(-1)
    stopped = F.pad(stops[..., :-1], (1, 0))
    heights, goal = stopped + corners * moving, wanted[..., None]
    at = torch.searchsorted(heights, goal).clamp_max(heights.shape[-1] - 1)
    return ((goal - stopped.gather(-1, at)) / moving.gather(-1, at)).clamp_min(0).squeeze(-1)
