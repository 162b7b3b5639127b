"""Accuracy against eps: the curve that must fall, and end at 0 % where every image is reachable."""

import functools
from dataclasses import dataclass

import numpy as np
from torch import nn

from fsrobust.attacks import PGD, Ball, make_ball
from fsrobust.attacks.view import View
from fsrobust.evaluate.engine import Progress, predict_all, run_attack
from fsrobust.evaluate.notes import Notes
from fsrobust.types import Ids, Images, Labels

STEPS = 100


@dataclass(frozen=True)
class EpsCurve:
    """Shares classified right under PGD at each radius; ``eps[0]`` = 0 is natural accuracy."""

    eps: list[float]
    accuracy: list[float]
    n: int


def radii(ball: Ball) -> list[float]:
    """Return 0, a quarter and half of the ball's radius, then doublings of it until all is reachable.

    >>> from fsrobust.attacks import Linf
    >>> radii(Linf(0.25))
    [0.0, 0.0625, 0.125, 0.25, 0.5, 1.0]
    """
    largest = 1.0 if ball.norm == "linf" else 16 * ball.eps
    values, eps = [0.0, ball.eps / 4, ball.eps / 2], ball.eps
    while 0 < eps < largest:
        values.append(eps)
        eps *= 2
    return [*values, largest]


def eps_attack(ball: Ball) -> PGD:
    """Return PGD-100 that can cross its whole ball; far balls get a random start."""
    step_size = max(2.5 * ball.eps / STEPS, ball.eps / 10)
    far = ball.norm == "linf" and ball.eps > 16 / 255
    return PGD(ball, steps=STEPS, step_size=step_size, random_start=far)


def eps_curve(  # noqa: PLR0913 - as evaluate
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: Ball,
    ids: Ids,
    seed: int = 0,
    batch: int | None = None,
    view: View | None = None,
    progress: Progress | None = None,
    notes: Notes | None = None,
) -> EpsCurve:
    """Return strict accuracy at each of ``radii(ball)``.

    ``x`` should be a subset: the cost is 100 gradient steps per radius and sample. What is noted is not run again.

    Raises:
        Stopped: as ``run_attack``.
    """
    notes = notes or Notes()
    natural = predict_all(model, x, batch=batch) == y.cpu().numpy()
    eps, accuracy = radii(ball), [float(natural.mean())]
    for radius in eps[1:]:
        name = f"eps {radius:.3g}"
        attack = functools.partial(
            run_attack,
            eps_attack(make_ball(ball.norm, radius)),
            model,
            x,
            y,
            ids=ids,
            seed=seed,
            batch=batch,
            view=view,
            name=name,
            progress=progress,
        )
        accuracy.append(float(np.mean(natural & ~notes.fooled(name, ids, attack))))
    return EpsCurve(eps, accuracy, len(x))
