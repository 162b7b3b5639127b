"""N-Attack: search for a distribution of adversarial images by scores alone (Li et al., ICML 2019)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import margin
from fsrobust.attacks.probe import Probe
from fsrobust.seeding import Noise
from fsrobust.types import Images, InputError, Labels

_GROUP: Final = 20
"""Draws asked about at once: forward alone, they need about the memory of one forward and backward pass."""
_HALF_LEVEL: Final = 1 / 510
"""Pixels of 0 and 1 lie at ∓∞ behind the tanh; half a grey level inside, they can be moved."""


@dataclass(frozen=True)
class NAttack:
    """Natural evolution strategies on the mean of a Gaussian behind a tanh, of which images are drawn.

    An image is ½(1 + tanh(μ + σ·ε)), projected to the ball, ε ~ N(0, 1) per pixel; μ begins where that is x. Each
    of ``steps`` asks for the margin of ``population`` draws, standardises it over them to A, and moves μ by
    step_size/(population·σ) · Σ A·ε (σ is ``sigma``). Per step a sample costs population + 1 queries and no
    gradient: the one more shows its best draw, and a sample that this fools is left.
    """

    ball: Ball
    steps: int = 500
    step_size: float = 0.02
    population: int = 300
    sigma: float = 0.1
    family: ClassVar[str] = "nattack"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.population < 2 or not self.step_size >= 0 or not self.sigma > 0:
            raise InputError(
                f"Expected steps ≥ 1, a population of two or more, step_size ≥ 0 and sigma > 0, but got {self}"
            )

    @property
    def cost(self) -> int:
        """One pass for each of the population, and one for their mean."""
        return self.steps * (self.population + 1)

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return each sample's best draw of the last step it was searched in."""
        adversarial = x.clone()
        left = torch.arange(len(x), device=x.device)
        mean = torch.atanh(2 * x.clamp(_HALF_LEVEL, 1 - _HALF_LEVEL) - 1)
        for step in range(self.steps):
            margins, best = self._draw(probe, x, y, mean, noise.fold(step))
            adversarial[left] = best
            on = ~probe.won(probe.logits(best), y)
            if not bool(on.any()):
                break
            left, mean, x, y = left[on], mean[on], x[on], y[on]
            probe, noise = probe.select(on), noise.select(on)
            mean = mean + self.step_size / self.sigma * self._ascent(margins[on], x, noise.fold(step))
        return adversarial

    def _draws(self, x: Images, noise: Noise) -> Iterator[Float[Tensor, "B G C H W"]]:
        """Yield the same ε on every call, some members of the population at a time."""
        for first in range(0, self.population, _GROUP):
            members = min(_GROUP, self.population - first)
            yield noise.fold(first).normal((members, *x.shape[1:])).to(x.dtype)

    def _draw(
        self, probe: Probe, x: Images, y: Labels, mean: Images, noise: Noise
    ) -> tuple[Float[Tensor, "B P"], Images]:
        """Return the margins of the population, and the image of the widest."""
        unseen = replace(probe, watch=None)  # a watch knows one image per sample
        margins, best = [], x
        widest = torch.full_like(y, -torch.inf, dtype=x.dtype)
        for draws in self._draws(x, noise):
            members = draws.shape[1]
            images = (torch.tanh(mean[:, None] + self.sigma * draws) + 1) / 2
            images = self.ball.project(images.flatten(0, 1), x.repeat_interleave(members, 0))
            found = margin(unseen.logits(images), y.repeat_interleave(members)).view(-1, members)
            margins.append(found)
            by, which = found.max(1)
            chosen = images.view_as(draws)[torch.arange(len(x), device=x.device), which]
            best = torch.where((by > widest)[:, None, None, None], chosen, best)
            widest = torch.maximum(by.to(x.dtype), widest)
        return torch.cat(margins, 1), best

    def _ascent(self, margins: Float[Tensor, "B P"], x: Images, noise: Noise) -> Images:
        """Return the mean of A·ε over the population."""
        spread = margins.std(1, correction=0, keepdim=True).clamp_min(torch.finfo(margins.dtype).tiny)
        weights = ((margins - margins.mean(1, keepdim=True)) / spread).to(x.dtype)
        total = torch.zeros_like(x)
        for weight, draws in zip(torch.split(weights, _GROUP, dim=1), self._draws(x, noise), strict=True):
            total = total + torch.einsum("bg,bgchw->bchw", weight, draws)
        return total / self.population
