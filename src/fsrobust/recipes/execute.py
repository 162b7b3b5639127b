"""Carry out what the command line asks for: train a run, find and evaluate a target."""

import importlib
import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fsrobust.attacks import ATTACKS, SUITES, Ball, make_ball
from fsrobust.config import Run, parse_fraction
from fsrobust.data import Dataset, draw, load_dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Study, Subject
from fsrobust.evaluate.adaptive import ADAPTIVE, surrogates_of
from fsrobust.evaluate.engine import PILOTS
from fsrobust.evaluate.searching import choose_precision
from fsrobust.evaluate.store import device_of
from fsrobust.plugin import build, config_of
from fsrobust.records import read_json
from fsrobust.seeding import derive
from fsrobust.train import History, Reporter, fit, load
from fsrobust.types import InputError, unknown_name


def pick_device(name: str | None) -> torch.device:
    """Return a device by name; without one, the first GPU if there is any, else the CPU.

    Raises:
        InputError: a device that this machine or this build of torch does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # "meta" has no numbers
        return probe.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'Device "{name}" cannot be used here: {reason}') from error


def adapt(run: Run, data: Dataset) -> Run:
    """Return the run on another data set: its name, and a model of its channels and classes.

    No published number speaks of such a run.
    """
    model = replace(run.model, channels=data.channels, classes=data.classes)
    return replace(run, data=data.name, model=model, published=None)


def train_run(  # noqa: PLR0913 - a run, its data, where it goes, and how long
    run: Run,
    data: Dataset,
    *,
    out: Path,
    device: torch.device,
    resume: bool = False,
    time_limit: float | None = None,
    reporter: Reporter | None = None,
) -> History:
    """Train a run into its directory, or go on with it; the model starts from the run's seed.

    Raises:
        InputError: data of other channels or classes than the model's.
    """
    if (data.channels, data.classes) != (run.model.channels, run.model.classes):
        raise InputError(
            f"{data.name} has {data.channels} channels and {data.classes} classes, but the model has "
            f"{run.model.channels} and {run.model.classes}; leave model.channels and model.classes alone"
        )
    config = {key: value for key, value in run.describe().items() if key not in ("train", "data")}
    return fit(
        initial_model(run).to(device),
        data,
        objective=run.objective.make(),
        train=run.train,
        out=out,
        config=config,
        resume=resume,
        time_limit=time_limit,
        reporter=reporter,
    )


def initial_model(run: Run) -> nn.Module:
    """Return the run's network with its first weights: a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(run.train.seed, "weights"))
        return build(run.model)


@dataclass(frozen=True, eq=False)
class Target:
    """Somebody's model, with what is known of where it came from."""

    subject: Subject
    folder: Path | None
    data: str | None
    ball: Ball | None


def find_target(text: str, *, checkpoint: str = "last") -> Target:
    """Return the model that RUN, FILE or pkg.module:factory names, in eval mode.

    Raises:
        InputError: there is no such thing, or it yields no model.
    """
    path = Path(text)
    if path.is_dir():
        config = read_json(path / "config.json")
        ball = config.get("evaluation")
        return Target(
            Subject(load(path, checkpoint=checkpoint), source=path.name, checkpoint=checkpoint),
            folder=path,
            data=config["data"]["name"],
            ball=make_ball(ball["norm"], parse_fraction(ball["eps"])) if ball else None,
        )
    if path.is_file():
        return Target(Subject(load(path), source=path.name), None, None, None)
    if ":" not in text:
        raise InputError(
            f'Expected a run directory, a weights file or pkg.module:factory, but there is no "{text}"'
        )
    return Target(Subject(_call_factory(text), source=text), None, None, None)


def _call_factory(text: str) -> nn.Module:
    module_name, _, name = text.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the latter: no or a relative name
        raise InputError(f'Expected an importable pkg.module:factory, but got "{text}": {error}') from error
    if isinstance(factory, nn.Module):
        return factory.eval()
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise InputError(
            f'Expected "{text}" to be called without arguments, but it cannot: {error}'
        ) from error
    model = factory()
    if not isinstance(model, nn.Module):
        raise InputError(f'Expected "{text}" to return a torch module, but got {type(model).__name__}')
    return model.eval()


def plan_study(  # noqa: PLR0913 - what evaluate can be told
    target: Target,
    *,
    data: str | None = None,
    root: Path | None = None,
    norm: str | None = None,
    eps: str | None = None,
    limit: int | None = 1000,
    seed: int = 0,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    out: Path | None = None,
    device: torch.device | None = None,
) -> Study:
    """Return the study of a target: its own data and ball unless told otherwise, ``limit`` test samples.

    ``precision`` is the search's; "auto" is bf16 where the device is fast at it and the model bears it.

    Raises:
        InputError: what to evaluate on is not known, or does not fit the model.
    """
    name = data or target.data
    if name is None:
        raise InputError("Expected --data (cifar10, npz:FILE, folder:PATH …): this target does not say")
    test = load_dataset(name, "test", root=root)
    _check_fit(target.subject.model, test.channels, test.classes, name)
    known = target.ball or make_ball("linf", 8 / 255)
    ball = make_ball(norm or known.norm, parse_fraction(eps) if eps is not None else known.eps)
    chosen = draw(test, count=limit, seed=seed) if limit is not None else test
    folder = out or target.folder or Path("runs") / f"audit-{_slug(target.subject.source)}"
    subject = replace(target.subject, model=target.subject.model.to(device or torch.device("cpu")))
    pilots = chosen.select(torch.arange(min(PILOTS, len(chosen)))).to(device_of(subject.model))
    searching = choose_precision(subject.model, pixels(pilots.images), pilots.labels, precision)
    return Study(folder, subject, chosen, len(test), ball, seed, searching.precision, searching.why)


def _check_fit(model: nn.Module, channels: int, classes: int, name: str) -> None:
    config = config_of(model)
    if config is not None and (config.channels, config.classes) != (channels, classes):
        raise InputError(
            f"{name} has {channels} channels and {classes} classes, but the model has "
            f"{config.channels} and {config.classes}"
        )


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.") or "model"


def standard_attacks(model: nn.Module) -> list[str]:
    """Return what a model is judged by unless told otherwise: white box, AutoAttack, and whatever adapts to it."""
    return [*SUITES["whitebox"], "autoattack", *([ADAPTIVE] if surrogates_of(model) else [])]


def expand_attacks(text: str) -> list[str]:
    """Return attack names from "whitebox" or "fgsm,pgd20", each once, in order.

    "adaptive" is made for the model that has the plug-in, when it is known.

    >>> expand_attacks("whitebox,pgd10")
    ['fgsm', 'pgd20', 'pgd100', 'cw', 'pgd10']

    Raises:
        InputError: an unknown name; the nearest is named.
    """
    names: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word not in SUITES and word not in ATTACKS and word != ADAPTIVE:
            raise unknown_name("attack", word, [*SUITES, *ATTACKS, ADAPTIVE])
        names += SUITES.get(word, (word,))
    if not names:
        raise InputError('Expected attacks, such as "whitebox" or "fgsm,pgd20", but got none')
    return list(dict.fromkeys(names))
