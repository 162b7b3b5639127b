"""What a search has shown so far: for each sample the image that fooled by the widest margin, if any did."""

import math
from dataclasses import dataclass, field
from typing import Final

import torch

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import margin
from fsrobust.attacks.probe import NOT_FINITE, Probe, Rows
from fsrobust.types import Flags, Images, InputError, Labels, Logits, PerSample

SLACK: Final = 1e-6
"""A few float32 roundings at pixel scale: what an image may be outside its ball by."""
_ROUNDING: Final = 2.0**-25
"""What float32 moves a pixel in [0, 1] by, at most, when it is stored."""


@dataclass(eq=False)
class Witness:
    """Watches a search of ``x``, ``y`` in ``ball``; only images in the ball and in [0, 1] count.

    Kept is the image of the widest margin, not the first: where the search is in low precision, it is the one to
    stand in float32. ``verdict`` is the model in IEEE float32 where the search asks something else; a search
    that wants to know whether it is over is told so only of images that fool it. ``patient``, it is told of none: the
    margin of a random model is a mean of few draws, and a search that ended where it first crosses zero would leave
    images that the next draws, or another network, see through.
    """

    ball: Ball
    x: Images
    y: Labels
    verdict: Probe | None = None
    patient: bool = False
    images: Images = field(init=False)
    widest: PerSample = field(init=False)
    settled: Flags = field(init=False)
    path: list[Flags] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = self.x.clone()
        self.widest = torch.full(self.y.shape, -torch.inf, device=self.y.device)
        self.settled = torch.zeros_like(self.y, dtype=torch.bool)

    @property
    def found(self) -> Flags:
        """Which samples were fooled by any query."""
        return self.widest > -torch.inf

    def __call__(self, rows: Rows | None, x: Images, logits: Logits) -> None:
        """Take a query: of some rows, the others having been settled before, or of all."""
        mine = slice(None) if rows is None else rows
        fooled = logits.argmax(1) != self.y[mine]
        seen = self.settled.clone()
        seen[mine] = fooled
        self.path.append(seen)
        if bool(fooled.any()):  # most queries of a long search fool nobody
            self._keep(mine, fooled, x, logits)

    def _keep(self, mine: Rows | slice, fooled: Flags, x: Images, logits: Logits) -> None:
        """Keep the images that fool by a wider margin than those before them."""
        allowed = in_ball(self.ball, x, self.x[mine]) & in_range(x)
        by = torch.where(fooled & allowed, margin(logits, self.y[mine]).float(), -torch.inf)
        # a tie that argmax decides against y fools by a margin of 0; NaN is no margin
        better = by > self.widest[mine]
        self.images[mine] = torch.where(better[:, None, None, None], x, self.images[mine])
        self.widest[mine] = torch.where(better, by, self.widest[mine])

    def won(self, rows: Rows | None) -> Flags:
        """Return which rows' search is over; where the search is not the verdict, the verdict is asked first."""
        mine = torch.arange(len(self.y), device=self.y.device) if rows is None else rows
        if self.patient:
            return self.settled[mine]
        claimed = mine[self.found[mine] & ~self.settled[mine]]
        if len(claimed) and self.verdict is not None:
            stands = predict(self.verdict, self.images[claimed]) != self.y[claimed]
            self.widest[claimed[~stands]] = -torch.inf  # no verdict: other images may take its place
            claimed = claimed[stands]
        self.settled[claimed] = True
        return self.settled[mine]

    def taken(self, last: Images) -> Images:
        """Return the last iterates, but the image that fooled where the search was over by it."""
        return torch.where(self.settled[:, None, None, None], self.images, last)


def in_ball(ball: Ball, x_adv: Images, x: Images) -> Flags:
    """Return which images are in the ball around ``x``, float32's roundings aside.

    Those of a flat image may all go one way: along its diagonal, which in L2 is as long as the root of the pixels.
    """
    diagonal = math.sqrt(x[:1].numel()) if ball.norm == "l2" else 1.0
    return ball.distance(x_adv, x) <= ball.eps * (1 + SLACK) + SLACK + _ROUNDING * diagonal


def in_range(x: Images) -> Flags:
    """Return which images are in [0, 1]."""
    return (x.flatten(1).amin(1) >= 0) & (x.flatten(1).amax(1) <= 1)


def predict(probe: Probe, x: Images) -> Labels:
    """Return the predicted classes.

    Raises:
        InputError: logits that are not finite: no verdict can rest on them.
    """
    logits = probe.logits(x)
    if not torch.isfinite(logits).all():
        raise InputError(NOT_FINITE)
    return logits.argmax(1)
