"""What an evaluation will cost, before it is carried out."""

from collections.abc import Sequence

import torch
from torch import nn

from fsrobust.attacks import SUITES, Attack, Ball
from fsrobust.data import Dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate.adaptive import find_attack
from fsrobust.evaluate.curves import eps_attack, radii
from fsrobust.evaluate.evidence import growing, searches
from fsrobust.evaluate.price import Precision, Price, Trials, count_queries, expected_share, lets_go, price_of
from fsrobust.evaluate.searching import choose_batch
from fsrobust.train import Objective, TrainConfig
from fsrobust.train.estimate import Estimate, estimate_training
from fsrobust.train.telemetry import peak_memory
from fsrobust.types import Images, InputError, Labels


def estimate_evaluation(  # noqa: PLR0913 - as evaluate
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: Ball,
    attacks: Sequence[str] = SUITES["whitebox"],
    curve_samples: int = 0,
    diagnosis: bool = False,
    batch: int | None = None,
    precision: Precision = "fp32",
) -> Estimate:
    """Return what ``evaluate`` on these images would cost, and ``diagnose``, where model and images are.

    Scores and gradients are timed on a batch of the real size. How many of it a short attack leaves standing says what
    attacks that let fooled samples go will cost: a few steps of those are timed on the ones that stand.

    Raises:
        InputError: what ``evaluate`` refuses.
    """
    chosen = {name: find_attack(name, ball, model) for name in attacks}
    size, n = min(batch or choose_batch(model, x), len(x)), len(x)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
    market = _Market(model, x[:size], y[:size], ball, precision)
    price = market.price
    parts = {"natural": n * price.verdict}
    for name, attack in chosen.items():
        parts[name] = n * expected_share(attack, price.standing) * market.seconds(attack)
    if curve_samples:
        few = min(curve_samples, n)
        # fewer at once cost more each
        curve = price_of(model, x[:few], y[:few], ball, precision) if few < size else price
        each = curve.of(count_queries(eps_attack(ball), x[:1], classes=price.classes))
        parts["curve"] = few * (len(radii(ball)) - 1) * each
    if diagnosis:
        # signs are looked for in float32 always
        exact = market if precision == "fp32" else _Market(model, x[:size], y[:size], ball, "fp32")
        asked = searches(ball, x[:1], tuple(exact.trials.surrogates))
        asked.pop("restarts", None)  # of those that a surrogate alone has fooled: next to nobody
        shares = {name: exact.price.share_of(name) for name in asked}
        seconds = sum(shares[name] * exact.seconds(attack) for name, attack in asked.items())
        # in the balls that grow, everybody as far as the radius, hardly anybody beyond it
        seconds += exact.price.right * sum(
            exact.seconds(attack) for attack in growing(ball, x[:1]) if attack.ball.eps <= ball.eps
        )
        parts["diagnosis"] = n * seconds
    return Estimate(str(x.device), parts, peak_memory(x.device))


class _Market:
    """What attacks cost on one batch of a model's, in one precision."""

    def __init__(self, model: nn.Module, x: Images, y: Labels, ball: Ball, precision: Precision) -> None:
        self.example = x[:1]
        self.price: Price = price_of(model, x, y, ball, precision)
        self.trials = Trials(model, x, y, self.price, precision)

    def seconds(self, attack: Attack) -> float:
        """Return what a sample that withstands an attack costs."""
        if lets_go(attack):
            return self.trials.seconds(attack)
        return self.price.of(count_queries(attack, self.example, classes=self.price.classes))


def estimate(  # noqa: PLR0913 - the public entry: what fit or evaluate would be given
    model: nn.Module,
    data: Dataset,
    *,
    objective: Objective | None = None,
    train: TrainConfig | None = None,
    ball: Ball | None = None,
    attacks: Sequence[str] = SUITES["whitebox"],
    batch: int | None = None,
    precision: Precision = "fp32",
) -> Estimate:
    """Return what work on all of ``data`` would cost on the model's device, from seconds of it.

    With ``objective``: of ``fit(model, data, objective=…, train=…)``, per part, per epoch and in all. With
    ``ball``: of ``evaluate`` with these attacks. The model stays as it is.

    Raises:
        InputError: both or neither, or what ``fit`` and ``evaluate`` refuse.
    """
    if (objective is None) == (ball is None):
        raise InputError("Expected an objective to train with, or a ball to evaluate in: one of the two")
    if objective is not None:
        return estimate_training(model, data, objective=objective, train=train)
    assert ball is not None
    here = data.to(next((p.device for p in model.parameters()), torch.device("cpu")))
    return estimate_evaluation(
        model, pixels(here.images), here.labels, ball=ball, attacks=attacks, batch=batch, precision=precision
    )
