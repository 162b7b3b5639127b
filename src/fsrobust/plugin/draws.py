"""A batch in parts: on its rows, a part's mask sees the noise that the mask of the whole batch would have seen."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from fsrobust.plugin.mask import logistic_like
from fsrobust.plugin.module import insertion_points
from fsrobust.seeding import forked
from fsrobust.types import Features


@dataclass(frozen=True)
class BatchShare:
    """Rows ``first`` and following of a batch of ``whole`` samples, the noise of which ``seed`` gives."""

    seed: int
    first: int
    whole: int

    def later(self, rows: int) -> "BatchShare":
        """Return what begins so many rows later."""
        return replace(self, first=self.first + rows)


class _Rows:
    """Draws for the whole batch, as torch's default generator would after ``seed``, and hands out a share of it."""

    def __init__(self, share: BatchShare, device: torch.device) -> None:
        self.share = share
        self.generator = torch.Generator(device).manual_seed(share.seed)

    def __call__(self, robustness: Features) -> Features:
        whole = robustness.detach()[:1].expand(self.share.whole, -1, -1, -1)
        noise = logistic_like(whole, generator=self.generator)
        return noise[self.share.first : self.share.first + len(robustness)]


@contextmanager
def drawing_share(model: nn.Module, share: BatchShare | None) -> Iterator[None]:
    """Give the masks of ``model`` the noise of a share while inside; None leaves it to torch's default generator."""
    points = insertion_points(model)
    if share is None or not points:
        yield
        return
    before = [point.draw for point in points]
    # one for all: they draw in turn, as from the default one
    rows = _Rows(share, next(model.parameters()).device)
    for point in points:
        point.draw = rows
    try:
        yield
    finally:
        for point, draw in zip(points, before, strict=True):
            point.draw = draw


@contextmanager
def drawn_again(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let what is drawn inside be drawn again after: masks, dropout, whatever asks torch's default generator."""
    generators = {p.draw.generator for p in insertion_points(model) if isinstance(p.draw, _Rows)}
    states = [(generator, generator.get_state()) for generator in generators]
    with ExitStack() as stack:
        stack.enter_context(forked(device))
        for generator, state in states:
            stack.callback(generator.set_state, state)
        yield
