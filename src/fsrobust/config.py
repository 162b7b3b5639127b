"""A whole run as one frozen value, and the strings by which a command line changes it."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from fsrobust.attacks import Ball, make_ball
from fsrobust.evaluate.store import format_eps
from fsrobust.models import ModelConfig
from fsrobust.plugin.loss import Nonrobust
from fsrobust.train import AT, AWP, MART, TRADES, FastAT, FSRWeights, Natural, Objective, TrainConfig
from fsrobust.train.pairs import refuse_pairs
from fsrobust.types import InputError, unknown_name

_NUMBER: Final = re.compile(r"\s*[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?\s*")
"""What is worth computing: a Fraction of 1e999999999 takes all memory there is."""

_LARGEST: Final = 1e30
"""What a setting may be: products of it stay within float32, which ends at 3.4e38."""


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
    title: str
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


def override(run: Run, settings: Iterable[str]) -> Run:
    """Return the run with settings such as "train.epochs=30" or "objective.eps=4/255" applied in order.

    A run that is trained for another ball is evaluated in that ball, unless ``evaluation`` is set, too. One that
    differs from its recipe in what the published numbers depend on no longer shows them.

    >>> from fsrobust.recipes import RECIPES
    >>> override(RECIPES["digits-at"](), ["train.epochs=3"]).train.epochs
    3

    Raises:
        InputError: no such key (the nearest is named), or a value of the wrong kind.
    """
    before = run
    settings = list(settings)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f'Expected a setting as KEY=VALUE, but got "{setting}"')
        run = _replace(run, path.strip(), path.strip().split("."), text.strip())
    if settings:
        run = _follow(before, run, settings)
        run.evaluation.make()  # said now, not when the run is evaluated
    unchanged = (
        dataclasses.replace(run, train=dataclasses.replace(run.train, seed=before.train.seed)) == before
    )
    return run if unchanged else dataclasses.replace(run, published=None)


def _follow(before: Run, run: Run, settings: Iterable[str]) -> Run:
    """Evaluate in the ball that is trained for, where the recipe does and the settings name the latter alone."""
    named = {setting.partition("=")[0].strip() for setting in settings}
    trained, judged = before.objective, before.evaluation
    for part in ("norm", "eps"):
        meant = getattr(trained, part) == getattr(judged, part) and trained.name != "natural"
        if meant and f"objective.{part}" in named and f"evaluation.{part}" not in named:
            followed = {part: getattr(run.objective, part)}
            run = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, **followed))
    return run


def _replace(value: Any, path: str, keys: list[str], text: str) -> Any:
    key, rest = keys[0], keys[1:]
    hints = get_type_hints(type(value), include_extras=True)
    prefix = path.removesuffix(".".join(keys))
    fixed = ("recipe", "title", "published", "data", "image_size", "init") if not prefix else ()
    known = [name for name in hints if name not in fixed]
    if key not in known:
        raise unknown_name("setting", prefix + key, [prefix + name for name in known])
    inner = getattr(value, key)
    if dataclasses.is_dataclass(inner):
        if not rest:
            names = ", ".join(f"{path}.{field.name}" for field in dataclasses.fields(inner))
            raise InputError(f'"{path}" has parts; set one of {names}')
        return dataclasses.replace(value, **{key: _replace(inner, path, rest, text)})
    if rest:
        raise InputError(f'"{prefix}{key}" has no parts, but got "{path}"')
    try:
        parsed = TypeAdapter(hints[key]).validate_python(_literal(text, hints[key]))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f'"{path}={text}" is not usable: {reason}') from error
    changed = dataclasses.replace(value, **{key: parsed})  # which refuses with better words
    _check_finite(f"{path}={text}", parsed)
    return changed


def _check_finite(setting: str, parsed: Any) -> None:
    """Refuse numbers that no file can hold, or whose products no float32 can, at any depth."""
    for part in parsed if isinstance(parsed, tuple) else (parsed,):
        if isinstance(part, tuple):
            _check_finite(setting, part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise InputError(f'"{setting}" is not usable: Expected a finite number')
        elif isinstance(part, float) and abs(part) > _LARGEST:
            raise InputError(f'"{setting}" is not usable: Expected a number of at most {_LARGEST:g}')


def _literal(text: str, hint: Any) -> Any:
    """Return a setting's text as JSON where it is JSON, as a list where one is due, else as it stands."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = text
    if isinstance(parsed, bool) and hint is not bool:
        return text  # true is no number
    if parsed == "none":
        return None if type(None) in get_args(hint) else [] if get_origin(hint) is tuple else parsed
    if get_origin(hint) is tuple and not isinstance(parsed, list):
        return text.split(",")
    return parsed


def default_folder(run: Run) -> Path:
    """Return runs/RECIPE-sSEED, where a run goes unless told otherwise."""
    return Path("runs") / f"{run.recipe.replace('/', '-')}-s{run.train.seed}"
