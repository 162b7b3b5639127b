"""What an evaluation will cost: queries counted on a stand-in, each timed on the model itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, FAB, SUITES, Attack, Ball, Cascade, NAttack, Square, perturb
from fsrobust.attacks.probe import under_attack
from fsrobust.data import Dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate.adaptive import find_attack
from fsrobust.evaluate.curves import eps_attack, radii
from fsrobust.evaluate.engine import PILOTS, evaluate, predict_all
from fsrobust.evaluate.searching import choose_batch, choose_precision
from fsrobust.train import Objective, TrainConfig
from fsrobust.train.estimate import ENOUGH, Estimate, estimate_training, mean_seconds
from fsrobust.train.telemetry import peak_memory
from fsrobust.types import Images, InputError, Labels

_CALIBRATING: Final = ("fgsm", "pgd10")
"""The first warms up; the second asks for ten gradients, and for nothing else.

Whom the second does not fool, hardly any attack fools: they pay for everything.
"""
_GRADIENTS: Final = 10
_QUICKLY: Final = 0.1
"""Share of its cost that an attack takes for a sample which it fools: most fall within its first steps."""
_VERDICTS: Final = 2
"""Forward passes after a search: on the last image, and on the one that fooled."""

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Queries:
    """How often an attack asks about a sample that withstands it: for scores alone, and for gradients."""

    forwards: int
    gradients: int


def count_queries(attack: Attack, x: Images, *, classes: int) -> Queries:
    """Return an attack's queries per sample, counted on a network that it cannot fool; ``x`` [1, C, H, W].

    For an attack that leaves fooled samples alone this is the most that a sample can cost.

    >>> from fsrobust.attacks import Linf, make_attack
    >>> count_queries(make_attack("pgd20", Linf(0.1)), torch.full((1, 1, 4, 4), 0.5), classes=3)
    Queries(forwards=0, gradients=20)
    """
    if isinstance(
        attack, Cascade
    ):  # stage by stage: a stand-in has no surrogates, and the judge is asked as often
        each = [
            (stage, count_queries(stage.attack, x, classes=classes)) for stage in attack.applicable(classes)
        ]
        judged = sum(q.forwards + q.gradients for stage, q in each if stage.surrogate)
        forwards, gradients = sum(q.forwards for _, q in each) + judged, sum(q.gradients for _, q in each)
        return Queries(attack.draws * forwards, attack.draws * gradients)
    fort = _Fort(classes, x[0].numel())
    perturb(attack, fort, x.cpu(), torch.zeros(1, dtype=torch.int64))
    return Queries(fort.forwards - 1, fort.gradients)  # one forward pass looks whether the labels fit


def expected_share(attack: Attack, standing: float) -> float:
    """Return the share of its full cost that an attack takes where it leaves a share ``standing`` of the samples.

    An attack that lets fooled samples go spends itself on those that stand; of a cascade the others see one stage, and
    all of it where a random model has to be asked for several draws.

    >>> from fsrobust.attacks import Linf, make_attack
    >>> expected_share(make_attack("pgd20", Linf(0.1)), 0.5), expected_share(make_attack("square", Linf(0.1)), 0.5)
    (1.0, 0.55)
    """
    if isinstance(attack, Cascade):
        fallen = _QUICKLY if attack.draws == 1 else 1.0
        return standing + (1 - standing) * fallen / len(attack.stages)
    if isinstance(attack, APGD | FAB | Square | NAttack):
        return standing + (1 - standing) * _QUICKLY
    return 1.0


class _Fort(nn.Module):
    """Class 0 whatever the pixels, by a margin that no pixels make up; every score has a gradient."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        angles = torch.arange(pixels * classes, dtype=torch.float32).view(pixels, classes)
        self.weight = angles.cos() / pixels
        self.margin = 10 * (torch.arange(classes) == 0).float()
        self.forwards, self.gradients = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return scores and count the query."""
        wanted = torch.is_grad_enabled() and x.requires_grad
        self.gradients += wanted
        self.forwards += not wanted
        return x.flatten(1) @ self.weight.to(x.dtype) + self.margin.to(x.dtype)


def estimate_evaluation(  # noqa: PLR0913 - as evaluate
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: Ball,
    attacks: Sequence[str] = SUITES["whitebox"],
    curve_samples: int = 0,
    batch: int | None = None,
    precision: Precision = "fp32",
) -> Estimate:
    """Return what ``evaluate`` on these images would cost, where model and images are.

    Scores and gradients are timed on a batch of the real size. How many of it a short attack leaves standing says what
    attacks that let fooled samples go will cost.

    Raises:
        InputError: what ``evaluate`` refuses.
    """
    chosen = {name: find_attack(name, ball, model) for name in attacks}
    size = min(batch or choose_batch(model, x), len(x))
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
    price = _price(model, x[:size], y[:size], ball, precision)
    classes, n = price.classes, len(x)
    shares = {name: expected_share(attack, price.standing) for name, attack in chosen.items()}
    left, late = max(1, round(price.standing * size)), price
    if left < size and min(shares.values(), default=1.0) < 1:  # who is left costs more each, being fewer
        late = _price(model, x[:left], y[:left], ball, precision)
    parts = {"natural": n * price.verdict}
    for name, attack in chosen.items():
        asked = count_queries(attack, x[:1], classes=classes)
        parts[name] = n * shares[name] * (late if shares[name] < 1 else price).of(asked)
    if curve_samples:
        few = min(curve_samples, n)
        if few < size:  # fewer at once cost more each
            price = _price(model, x[:few], y[:few], ball, precision)
        each = price.of(count_queries(eps_attack(ball), x[:1], classes=classes))
        parts["curve"] = few * (len(radii(ball)) - 1) * each
    return Estimate(str(x.device), parts, peak_memory(x.device))


@dataclass(frozen=True)
class _Price:
    """Seconds per sample: of a verdict, of scores and of a gradient in a search; the share that an attack left."""

    verdict: float
    scores: float
    gradient: float
    classes: int
    standing: float

    def of(self, queries: Queries) -> float:
        """Return the seconds per sample of an attack."""
        search = queries.forwards * self.scores + queries.gradients * self.gradient
        return search + _VERDICTS * self.verdict


def _price(model: nn.Module, x: Images, y: Labels, ball: Ball, precision: Precision) -> _Price:
    """Time verdicts, scores and gradients on one batch, each warmed up."""
    n, device = len(x), x.device

    def natural() -> object:
        return predict_all(model, x, batch=n)

    natural()
    verdict = mean_seconds(natural, device, share=0.1) / n
    seconds, standing = _climb(model, x, y, ball, precision)
    gradient = (seconds / n - _VERDICTS * verdict) / _GRADIENTS
    view = choose_precision(model, x[:PILOTS], y[:PILOTS], precision).view
    with under_attack(model), torch.no_grad():
        classes = int(model(x[:1].clone()).shape[1])
        if view is not None:
            view(x)
        scores = verdict if view is None else mean_seconds(lambda: view(x), device, share=0.1) / n
    return _Price(verdict, scores, max(gradient, verdict), classes, standing)


def _climb(model: nn.Module, x: Images, y: Labels, ball: Ball, precision: Precision) -> tuple[float, float]:
    """Return the mean seconds that the second of the calibrating attacks takes on the batch, and whom it leaves."""
    seconds, ends = 0.0, list[float]()
    while seconds < ENOUGH / 2:
        outcome = evaluate(
            model,
            x,
            y,
            ball=ball,
            attacks=_CALIBRATING,
            batch=len(x),
            precision=precision,
            progress=lambda _name, _done, _total: ends.append(time.perf_counter()),
        )
        seconds += ends[-1] - ends[-2]
    return seconds / (len(ends) // 2), outcome.strict(_CALIBRATING[1])


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
