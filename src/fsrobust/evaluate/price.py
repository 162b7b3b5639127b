"""What attacks cost on a model: short ones by their queries, long ones by a few steps on whom they spend most."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, FAB, Attack, Ball, Cascade, NAttack, Square, perturb, search
from fsrobust.attacks.base import draws_of
from fsrobust.attacks.probe import Query, as_input, under_attack
from fsrobust.attacks.view import View
from fsrobust.evaluate.adaptive import Surrogates
from fsrobust.evaluate.engine import evaluate, predict_all
from fsrobust.evaluate.searching import PILOTS, batch_for, choose_precision, pass_bytes
from fsrobust.train.estimate import ENOUGH, mean_seconds
from fsrobust.types import Flags, Images, Labels

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

    >>> from fsrobust.attacks import Linf, make_attack
    >>> count_queries(make_attack("pgd20", Linf(0.1)), torch.full((1, 1, 4, 4), 0.5), classes=3)
    Queries(forwards=0, gradients=20)
    """
    fort = _Fort(classes, x[0].numel())
    perturb(attack, fort, x.cpu(), torch.zeros(1, dtype=torch.int64))
    return Queries(fort.forwards - 1, fort.gradients)  # one forward pass looks whether the labels fit


def lets_go(attack: Attack) -> bool:
    """Return whether an attack leaves samples alone once they are fooled: it spends itself on those that stand."""
    return isinstance(attack, Cascade | APGD | FAB | Square | NAttack)


def expected_share(attack: Attack, standing: float) -> float:
    """Return the share of its full cost that an attack takes where it leaves a share ``standing`` of the samples.

    Of a cascade those who fall see one stage, and all of it where a random model has to be asked for several draws.

    >>> from fsrobust.attacks import Linf, make_attack
    >>> expected_share(make_attack("pgd20", Linf(0.1)), 0.5), expected_share(make_attack("square", Linf(0.1)), 0.5)
    (1.0, 0.55)
    """
    if not lets_go(attack):
        return 1.0
    fallen = _QUICKLY
    if isinstance(attack, Cascade):
        fallen = (_QUICKLY if attack.draws == 1 else 1.0) / len(attack.stages)
    return standing + (1 - standing) * fallen


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


@dataclass(frozen=True, eq=False)
class Price:
    """Seconds per sample: of a verdict, of scores and of a gradient in a search; whom a short attack left standing."""

    verdict: float
    scores: float
    gradient: float
    classes: int
    right: float
    stands: Flags
    view: View | None

    @property
    def standing(self) -> float:
        """The share of samples that the short attack left."""
        return float(self.stands.float().mean())

    def of(self, queries: Queries) -> float:
        """Return the seconds per sample of an attack."""
        search = queries.forwards * self.scores + queries.gradients * self.gradient
        return search + _VERDICTS * self.verdict

    def share_of(self, name: str) -> float:
        """Return the share of all samples that a search of the diagnosis is made for."""
        everyone = {"one step", "20 steps", "unbounded"}
        if name == "twice the radius":
            return self.right - self.standing
        return self.right if name in everyone else self.standing


def price_of(model: nn.Module, x: Images, y: Labels, ball: Ball, precision: Precision) -> Price:
    """Time verdicts, scores and gradients on one batch, each warmed up."""
    n, device = len(x), x.device

    def natural() -> object:
        return predict_all(model, x, batch=n)

    natural()
    verdict = mean_seconds(natural, device, share=0.1) / n
    seconds, right, stands = _climb(model, x, y, ball, precision)
    gradient = (seconds / n - _VERDICTS * verdict) / _GRADIENTS
    view = choose_precision(model, x[:PILOTS], y[:PILOTS], precision).view
    with under_attack(model), torch.no_grad():
        classes = int(model(as_input(model, x[:1])).shape[1])
        if view is not None:
            view(x.clone())
        scores = verdict if view is None else mean_seconds(lambda: view(x.clone()), device, share=0.1) / n
    return Price(verdict, scores, max(gradient, verdict), classes, right, stands, view)


def _climb(
    model: nn.Module, x: Images, y: Labels, ball: Ball, precision: Precision
) -> tuple[float, float, Flags]:
    """Return the mean seconds of the second calibrating attack on the batch, how much is right, and whom it leaves."""
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
    stands = torch.from_numpy(outcome.correct(_CALIBRATING[1], strict=True)).to(x.device)
    return seconds / (len(ends) // 2), outcome.accuracy("natural"), stands


@dataclass(eq=False)
class Trials:
    """A few steps of attacks that let fooled samples go, on those that stand: queries and what comes between them."""

    model: nn.Module
    x: Images
    y: Labels
    price: Price
    precision: Precision
    _timed: dict[tuple[Attack, int, str | None, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # where nobody stands hardly anything is paid
        rows = self.price.stands if bool(self.price.stands.any()) else torch.ones_like(self.price.stands)
        self.x, self.y = self.x[rows], self.y[rows]
        self.each = pass_bytes(self.model, self.x[:1])
        self.surrogates: Mapping[str, Query] = Surrogates(self.model, self.x, self.y, self.precision)

    def seconds(self, attack: Attack) -> float:
        """Return the seconds that a sample takes which withstands an attack."""
        draws = draws_of(attack)
        return sum(
            self._whole(one, surrogate, draws) for one, surrogate in _stages(attack, self.price.classes)
        )

    def _whole(self, attack: Attack, surrogate: str | None, draws: int) -> float:
        """Return the seconds per sample of one stage: what every start costs, and so much for each further step."""
        # as many at once as the attack itself takes
        count = batch_for(attack, len(self.x), self.x.device, each=self.each, draws=draws)
        one, few = (_shortened(attack, few=few) for few in (False, True))
        first, later = (self._seconds(short, count, surrogate, draws) for short in (one, few))
        slope = max(0.0, later - first) / max(1, few.cost - one.cost)
        return first + slope * (attack.cost - one.cost)

    def _seconds(self, short: Attack, count: int, surrogate: str | None, draws: int) -> float:
        """Return the seconds per sample of a shortened attack, timed once."""
        key = (short, count, surrogate, draws)
        if key not in self._timed:
            x, y, ids = self.x[:count], self.y[:count], torch.arange(count, device=self.x.device)
            asked = self.surrogates[surrogate] if surrogate else None

            def work() -> object:
                return search(
                    short, self.model, x, y, ids=ids, view=self.price.view, surrogate=asked, draws=draws
                )

            work()
            self._timed[key] = mean_seconds(work, x.device, share=0.1, looks=1) / count
        return self._timed[key]


def _stages(attack: Attack, classes: int) -> Iterator[tuple[Attack, str | None]]:
    if not isinstance(attack, Cascade):
        yield attack, None
        return
    for stage in attack.applicable(classes):
        yield stage.attack, stage.surrogate


def _shortened(attack: Attack, *, few: bool) -> Attack:
    """Return the first step of an attack, or the first ``few``; every target and restart begins alike."""
    match attack:
        case APGD():
            steps = min(attack.steps, 11 if few else 1)
            return replace(attack, steps=steps, restart=0, target=attack.target and 1)
        case FAB():
            steps = min(attack.steps, 6 if few else 1)
            return replace(attack, steps=steps, restart=0, target=attack.target and 1)
        case Square():
            return replace(attack, queries=min(attack.queries, 51 if few else 1), restart=0)
        case NAttack():
            return replace(attack, steps=min(attack.steps, 2 if few else 1))
        case _:
            return attack
