"""What signs of masked gradients are read from: attacks and measurements, each made once, when first asked for."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, PGD, Attack, Ball, Cascade, Square, Stage, make_ball
from fsrobust.attacks.losses import cross_entropy
from fsrobust.attacks.probe import Probe, Query, ieee_fp32, under_attack
from fsrobust.attacks.view import View
from fsrobust.evaluate.curves import eps_attack
from fsrobust.evaluate.engine import Progress, predict_all, run_attack
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.searching import choose_batch, choose_precision, in_batches
from fsrobust.types import Ids, Images, Labels, Logits

QUERIES = 1000
"""Of the black-box search that must not beat gradients."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A model on samples that it classifies right when clean: only they can be fooled.

    Searches are in float32 on a folded copy where that proves to be the same network; verdicts are the model's.
    """

    model: nn.Module
    x: Images
    y: Labels
    ids: Ids
    ball: Ball
    seed: int = 0
    batch: int = 1
    view: View | None = None
    surrogates: Mapping[str, Query] = field(default_factory=dict)
    progress: Progress | None = None

    @classmethod
    def of(  # noqa: PLR0913 - as diagnose
        cls,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        ids: Ids,
        ball: Ball,
        seed: int = 0,
        batch: int | None = None,
        surrogates: Mapping[str, Query] | None = None,
        progress: Progress | None = None,
    ) -> "Evidence":
        """Return the evidence on what ``model`` classifies right of these samples."""
        batch = batch or choose_batch(model, x)
        right = torch.from_numpy(predict_all(model, x, batch=batch)).to(y.device) == y
        view = None
        if bool(right.any()):
            try:
                view = choose_precision(model, x[right][:32], y[right][:32], "fp32").view
            except Exception:  # a model without gradients: the signs will say so
                view = None
        kept = (x[right], y[right], ids[right])
        return cls(model, *kept, ball, seed, batch, view, surrogates or {}, progress)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    def _each(self, work: Callable[[Images, Labels], Tensor]) -> Any:
        """Return what ``work`` makes of every sample, as an array."""
        with under_attack(self.model), ieee_fp32():
            parts = [
                done.cpu()
                for _, done in in_batches(
                    lambda part: work(self.x[part].clone(), self.y[part]), len(self.x), self.batch
                )
            ]
        return torch.cat(parts).numpy()

    def _logits(self, x: Images) -> Logits:
        return Probe(self.model).logits(x)

    @functools.cached_property
    def logits(self) -> Any:
        """Logits [n, K] of the clean images."""
        return self._each(lambda x, _y: self._logits(x))

    @functools.cached_property
    def logits_again(self) -> Any:
        """The same, asked a second time."""
        return self._each(lambda x, _y: self._logits(x))

    @functools.cached_property
    def logits_alone(self) -> Any:
        """The same, one sample at a time."""
        return self._each(lambda x, _y: torch.cat([self._logits(one[None]) for one in x]))

    @functools.cached_property
    def gradient_sizes(self) -> Any:
        """Largest absolute entry of the cross-entropy's input gradient, of each sample."""

        def largest(x: Images, y: Labels) -> Tensor:
            probe = Probe(self.model, checked=False)
            return probe.gradient(x, lambda z: cross_entropy(z, y))[0].abs().flatten(1).amax(1)

        return self._each(largest)

    @functools.cached_property
    def gains(self) -> Any:
        """How much of the rise that the gradient promises a tenth of the ball's radius along it yields."""

        def gain(x: Images, y: Labels) -> Tensor:
            probe = Probe(self.model, checked=False)
            gradient, logits = probe.gradient(x, lambda z: cross_entropy(z, y))
            moved = self.ball.ascend(x, gradient, self.ball.eps / 10)
            promised = ((moved - x) * gradient).flatten(1).sum(1)
            risen = cross_entropy(probe.logits(moved), y) - cross_entropy(logits, y)
            # a rise below float32's rounding of the loss cannot be told from none
            return torch.where(promised > 1e-5, risen / promised.clamp_min(1e-5), 1.0)

        return self._each(gain)

    def fooled(self, attack: Attack, name: str) -> Bits:
        """Return which samples an attack fools."""
        result = run_attack(
            attack,
            self.model,
            self.x,
            self.y,
            ids=self.ids,
            seed=self.seed,
            batch=self.batch,
            view=self.view,
            name=name,
            progress=self.progress,
            surrogates=self.surrogates,
        )
        return result.fooled_any

    @functools.cached_property
    def one_step(self) -> Bits:
        """Who falls to one step of the whole radius."""
        return self.fooled(PGD(self.ball, steps=1, step_size=self.ball.eps), "diagnosis: one step")

    @functools.cached_property
    def many_steps(self) -> Bits:
        """Who falls to PGD-20."""
        return self.fooled(PGD(self.ball, steps=20, step_size=self.ball.eps / 10), "diagnosis: 20 steps")

    @functools.cached_property
    def twice_the_radius(self) -> Bits:
        """Who falls to PGD-20 in a ball twice as large."""
        largest = 1.0 if self.ball.norm == "linf" else 1000.0
        wide = make_ball(self.ball.norm, min(2 * self.ball.eps, largest))
        return self.fooled(PGD(wide, steps=20, step_size=wide.eps / 10), "diagnosis: twice the radius")

    @functools.cached_property
    def unbounded(self) -> Bits:
        """Who falls where every image can be reached."""
        reach = 1.0 if self.ball.norm == "linf" else float(np.sqrt(self.x[0].numel()))
        return self.fooled(eps_attack(make_ball(self.ball.norm, reach)), "diagnosis: unbounded")

    @functools.cached_property
    def white_box(self) -> Bits:
        """Who falls to PGD-20 or Auto-PGD, with either loss."""
        stages = (Stage("ce", APGD(self.ball)), Stage("dlr", APGD(self.ball, "dlr")))
        return self.many_steps | self.fooled(Cascade(self.ball, stages), "diagnosis: Auto-PGD")

    @functools.cached_property
    def longer(self) -> Bits:
        """Who falls to Auto-PGD of four times the length, from elsewhere."""
        stage = Stage("ce", APGD(self.ball, steps=400, restart=1))
        return self.fooled(Cascade(self.ball, (stage,)), "diagnosis: 400 steps")

    @functools.cached_property
    def black_box(self) -> Bits:
        """Who falls to random search, which asks for no gradient."""
        stage = Stage("square", Square(self.ball, queries=QUERIES))
        return self.fooled(Cascade(self.ball, (stage,)), "diagnosis: random search")

    @functools.cached_property
    def white_box_as_often(self) -> Bits:
        """Who falls to the model's own gradients with as many further starts as there are surrogates."""
        stages = tuple(
            Stage(f"{loss} {restart}", APGD(self.ball, loss, restart=restart))
            for restart in range(1, len(self.surrogates) + 1)
            for loss in ("ce", "dlr")
        )
        return self.white_box | self.fooled(Cascade(self.ball, stages), "diagnosis: restarts")

    @functools.cached_property
    def transferred(self) -> Bits | None:
        """Who falls to gradients of a surrogate, None where the model offers none."""
        if not self.surrogates:
            return None
        stages = tuple(
            Stage(f"{name}/{loss}", APGD(self.ball, loss), name)
            for name in self.surrogates
            for loss in ("ce", "dlr")
        )
        return self.fooled(Cascade(self.ball, stages), "diagnosis: surrogates")
