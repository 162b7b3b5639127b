"""A whole run as one frozen value."""

import dataclasses
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator

from fsrobust.attacks import Ball, format_eps, make_ball
from fsrobust.models import ModelConfig
from fsrobust.plugin.loss import Nonrobust
from fsrobust.train import AT, AWP, MART, TRADES, FastAT, FSRWeights, Natural, Objective, TrainConfig
from fsrobust.train.pairs import refuse_pairs
from fsrobust.types import InputError

_NUMBER: Final = re.compile(r"\s*[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?\s*")
"""What is worth computing: a Fraction of 1e999999999 takes all memory there is."""


def parse_fraction(value: str | float) -> float:
    """Return a number written as "8/255", "0.5/255", "0.03" or already a number.

    >>> parse_fraction("8/255") == 8 / 255
    True

    Raises:
        InputError: anything else.
    """
    try:
        if not isinstance(value, str):
            return float(value)
        parts = value.split("/")
        if len(parts) > 2 or not all(map(_NUMBER.fullmatch, parts)):
            raise ValueError("not a number, or two fractions at once")
        above, *below = map(Fraction, parts)
        return float(above / below[0] if below else above)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f'Expected a number such as 8/255 or 0.03, but got "{value}"') from error


Radius = Annotated[float, BeforeValidator(parse_fraction)]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """What to minimise, its training attack, and FSR's weights λ.

    ``beta`` is TRADES' β, ``mart_weight`` is MART's λ; ``nonrobust`` is what f⁻ is trained towards. "fast-at" takes one
    step of 1.25 · eps, whatever ``step_size``. ``awp`` is γ of the weights' perturbation, 0 for none, after
    ``awp_warmup`` epochs without.
    """

    name: Literal["natural", "at", "fast-at", "trades", "mart"] = "at"
    norm: Norm = "linf"
    eps: Radius = 8 / 255
    steps: int = 10
    step_size: Radius = 2 / 255
    lambda_sep: float = 1.0
    lambda_rec: float = 1.0
    nonrobust: Nonrobust = "mispredicted"
    beta: float = 6.0
    mart_weight: float = 5.0
    share_noise: bool = False
    label_smoothing: float = 0.0
    awp: float = 0.0
    awp_warmup: int = 0

    def make(self) -> Objective:
        """Return the objective.

        Raises:
            InputError: a value that makes no sense, or two that cannot go together.
        """
        refuse_pairs({f"objective.{name}": value for name, value in vars(self).items()})
        weights = FSRWeights(self.lambda_sep, self.lambda_rec, self.nonrobust)
        smoothing, awp = self.label_smoothing, AWP(self.awp, self.awp_warmup)
        if self.name == "natural":
            return Natural(weights, label_smoothing=smoothing)
        ball, steps, size = make_ball(self.norm, self.eps), self.steps, self.step_size
        if self.name == "at":
            return AT(ball, steps, size, weights, smoothing, awp)
        if self.name == "fast-at":
            return FastAT(ball, weights, smoothing, awp)
        if self.name == "trades":
            return TRADES(ball, steps, size, self.beta, weights, self.share_noise, smoothing, awp)
        return MART(ball, steps, size, self.mart_weight, weights, self.share_noise, smoothing, awp)

    def resolved(self) -> "ObjectiveConfig":
        """Return the configuration with the steps that are taken, where the objective has its own."""
        made = self.make()
        if not isinstance(made, FastAT):
            return self
        return dataclasses.replace(self, steps=made.attack.steps, step_size=made.attack.step_size)


@dataclass(frozen=True)
class EvaluationConfig:
    """The ball in which a run is evaluated unless one asks for another."""

    norm: Norm = "linf"
    eps: Radius = 8 / 255

    def make(self) -> Ball:
        """Return the ball."""
        return make_ball(self.norm, self.eps)


@dataclass(frozen=True)
class Published:
    """Published accuracies (%) of the same row, by attack, and where they stand."""

    source: str
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Init:
    """Where the first weights came from: as given, their fingerprint, and C, H, W of the images then."""

    source: str
    sha256: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Everything that determines a run but the machine it runs on.

    ``data`` is "" in a recipe for one's own data. Where ``init`` came from a factory, ``model.name`` is that
    factory. ``image_size`` is what images of a folder are resized to.
    """

    recipe: str
    title: str = field(compare=False)
    data: str
    model: ModelConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    published: Published | None = field(default=None, compare=False)
    image_size: int | None = None
    init: Init | None = None

    def describe(self) -> dict[str, Any]:
        """Return the run as plain values for config.json; radii as the field writes them."""
        values = dataclasses.asdict(dataclasses.replace(self, objective=self.objective.resolved()))
        if ":" in self.model.name:  # a factory's network has no such settings
            values["model"] = {
                k: v for k, v in values["model"].items() if k not in ("width", "stem", "normalize")
            }
        for part in ("objective", "evaluation"):
            for name in ("eps", "step_size"):
                if name in values[part]:
                    values[part][name] = format_eps(values[part][name])
        return values


def default_folder(run: Run) -> Path:
    """Return runs/RECIPE-sSEED, where a run goes unless told otherwise."""
    return Path("runs") / f"{run.recipe.replace('/', '-')}-s{run.train.seed}"
