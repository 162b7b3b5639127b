"""What signs of masked gradients are read from: attacks and measurements, each made once, when first asked for."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, PGD, Attack, Ball, Cascade, Square, Stage, make_ball
from fsrobust.attacks.losses import cross_entropy, margin
from fsrobust.attacks.probe import Probe, Query, ieee_fp32, under_attack
from fsrobust.attacks.view import View
from fsrobust.evaluate.adaptive import Surrogates
from fsrobust.evaluate.engine import Progress, predict_all, run_attack
from fsrobust.evaluate.notes import Notes
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.searching import PILOTS, choose_batch, choose_precision, in_batches
from fsrobust.seeding import Noise
from fsrobust.types import Ids, Images, Labels, Logits

QUERIES: Final = 1000
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
    notes: Notes = field(default_factory=Notes)

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
        notes: Notes | None = None,
    ) -> "Evidence":
        """Return the evidence on what ``model`` classifies right; without ``surrogates`` it is asked for its own."""
        batch = batch or choose_batch(model, x)
        right = torch.from_numpy(predict_all(model, x, batch=batch)).to(y.device) == y
        with torch.inference_mode(mode=False):  # what is indexed outside can enter autograd
            x, y, ids = x[right].clone(), y[right].clone(), ids[right].clone()
        view = None
        if len(x):
            try:
                view = choose_precision(model, x[:PILOTS], y[:PILOTS], "fp32").view
            except Exception:  # a model without gradients: the signs will say so
                view = None
        given = Surrogates(model, x, y) if surrogates is None else surrogates
        return cls(model, x, y, ids, ball, seed, batch, view, given, progress, notes or Notes())

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
        """How much of the rise that the margin's gradient promises a tenth of the ball's radius along it yields.

        Of the margin, since cross-entropy is flat where a model is sure. NaN where the rise would be below float32's
        rounding of the logits: there it cannot be told.
        """

        def gain(x: Images, y: Labels) -> Tensor:
            probe = Probe(self.model, checked=False)
            gradient, logits = probe.gradient(x, lambda z: margin(z, y))
            moved = self.ball.ascend(x, gradient, self.ball.eps / 10)
            promised = ((moved - x) * gradient).flatten(1).sum(1)
            risen = margin(probe.logits(moved), y) - margin(logits, y)
            told = promised > 1e-5 * logits.abs().amax(1)
            return torch.where(told, risen / promised, torch.nan)

        return self._each(gain)

    @functools.cached_property
    def _searches(self) -> Mapping[str, Attack]:
        return searches(self.ball, self.x, tuple(self.surrogates))

    def _fallen(self, name: str, *, among: Bits | None = None) -> Bits:
        """Return which samples one of the searches fools: ``among`` some, where the others' fate tells nothing."""
        return self._fallen_to(
            self._searches[name], name, np.ones(len(self), bool) if among is None else among
        )

    def _fallen_to(self, attack: Attack, name: str, asked: Bits) -> Bits:
        """Return which of the samples an attack fools.

        Noise belongs to a sample, so whoever else is attacked changes no verdict, unless the model looks at the batch.
        """
        fallen: Bits = np.zeros(len(self), bool)
        if not asked.any():
            return fallen
        rows = self._rows(asked)
        search = functools.partial(
            run_attack,
            attack,
            self.model,
            self.x[rows],
            self.y[rows],
            ids=self.ids[rows],
            seed=self.seed,
            batch=self.batch,
            view=self.view,
            name=f"diagnosis: {name}",
            progress=self.progress,
            surrogates=self.surrogates,
        )
        fallen[asked] = self.notes.fooled(name, self.ids[rows], search)
        return fallen

    def _rows(self, asked: Bits) -> Tensor:
        return torch.from_numpy(np.flatnonzero(asked)).to(self.x.device)

    def _drowned(self, ball: Ball, asked: Bits) -> Bits:
        """Return which of the samples the model gets wrong on the ball's surface in a random direction."""
        rows = self._rows(asked)
        x, noise = self.x[rows], Noise.of(self.ids[rows], self.seed, "noise", str(ball.eps))
        direction = noise.normal(tuple(x.shape[1:])).to(x.dtype)
        moved = ball.project(ball.ascend(x, direction, ball.eps), x)
        drowned: Bits = np.zeros(len(self), bool)
        drowned[asked] = predict_all(self.model, moved, batch=self.batch) != self.y[rows].cpu().numpy()
        return drowned

    @functools.cached_property
    def one_step(self) -> Bits:
        """Who falls to one step of the whole radius."""
        return self._fallen("one step")

    @functools.cached_property
    def many_steps(self) -> Bits:
        """Who falls to PGD-20."""
        return self._fallen("20 steps")

    @functools.cached_property
    def twice_the_radius(self) -> Bits:
        """Who falls to PGD-20, and to it in a ball twice as large."""
        return self._fallen("twice the radius", among=self.many_steps)

    @functools.cached_property
    def unbounded(self) -> Bits:
        """Who falls where every image can be reached."""
        return self._fallen("unbounded")

    @functools.cached_property
    def outdone_by_noise(self) -> Bits:
        """Who, in balls that grow, falls to noise no later than to PGD-10 from the clean image."""
        outdone, undecided = np.zeros(len(self), bool), np.ones(len(self), bool)
        for attack in growing(self.ball, self.x):
            if not undecided.any():
                break
            fallen = self._fallen_to(attack, f"radius {attack.ball.eps:.3g}", undecided)
            drowned = self._drowned(attack.ball, undecided)
            outdone |= drowned
            undecided &= ~(fallen | drowned)
        return outdone

    @functools.cached_property
    def white_box(self) -> Bits:
        """Who falls to PGD-20 or Auto-PGD, with either loss."""
        return self.many_steps | self._fallen("Auto-PGD", among=~self.many_steps)

    @functools.cached_property
    def longer(self) -> Bits:
        """Who withstands the white box, and falls to Auto-PGD of four times the length from elsewhere."""
        return self._fallen("400 steps", among=~self.white_box)

    @functools.cached_property
    def black_box(self) -> Bits:
        """Who withstands the white box, and falls to random search, which asks for no gradient."""
        return self._fallen("random search", among=~self.white_box)

    @functools.cached_property
    def only_transferred(self) -> Bits | None:
        """Who falls to a surrogate's gradients, but not to the model's own with as many starts.

        None where the model offers no surrogate.
        """
        if not self.surrogates:
            return None
        transferred = self._fallen("surrogates", among=~self.white_box)
        return transferred & ~self._fallen("restarts", among=transferred)


_LARGEST: Final = {"linf": 1.0, "l2": 1000.0}
"""The largest balls that there are."""


def everywhere(ball: Ball, x: Images) -> Ball:
    """Return the ball of that norm in which every image can be reached."""
    reach = 1.0 if ball.norm == "linf" else float(np.sqrt(x[0].numel()))
    return make_ball(ball.norm, min(reach, _LARGEST[ball.norm]))


def growing(ball: Ball, x: Images) -> list[PGD]:
    """Return PGD-10 in balls of an eighth of the radius, of its doublings, and where everything can be reached.

    >>> [attack.ball.eps for attack in growing(make_ball("linf", 0.4), torch.zeros(1, 1, 2, 2))]
    [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    """
    last = everywhere(ball, x).eps
    radii, eps = list[float](), ball.eps / 8
    while 0 < eps < last:
        radii.append(eps)
        eps *= 2
    return [PGD(make_ball(ball.norm, radius), steps=10, step_size=radius / 4) for radius in [*radii, last]]


def searches(ball: Ball, x: Images, surrogates: Sequence[str] = ()) -> dict[str, Attack]:
    """Return the attacks that evidence rests on, by name: the last two where there are ``surrogates``."""
    twice = make_ball(ball.norm, min(2 * ball.eps, _LARGEST[ball.norm]))
    whole = everywhere(ball, x)
    found: dict[str, Attack] = {
        "one step": PGD(ball, steps=1, step_size=ball.eps),
        "20 steps": PGD(ball, steps=20, step_size=ball.eps / 10),
        "twice the radius": PGD(twice, steps=20, step_size=twice.eps / 10),
        # from the clean image: a random start so far away fools many, and shows nothing of gradients
        "unbounded": PGD(whole, steps=100, step_size=whole.eps / 10),
        "Auto-PGD": Cascade(ball, (Stage("ce", APGD(ball)), Stage("dlr", APGD(ball, "dlr")))),
        "400 steps": Cascade(ball, (Stage("ce", APGD(ball, steps=400, restart=1)),)),
        "random search": Cascade(ball, (Stage("square", Square(ball, queries=QUERIES)),)),
    }
    losses = ("ce", "dlr")
    through = [Stage(f"{name}/{loss}", APGD(ball, loss), name) for name in surrogates for loss in losses]
    again = [
        Stage(f"{loss} {restart}", APGD(ball, loss, restart=restart))
        for restart in range(1, len(surrogates) + 1)
        for loss in losses
    ]
    if surrogates:
        found |= {"surrogates": Cascade(ball, tuple(through)), "restarts": Cascade(ball, tuple(again))}
    return found
