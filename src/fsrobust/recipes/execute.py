"""Carry out what the command line asks for: train a run, find and evaluate a target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fsrobust.attacks import Ball, make_ball
from fsrobust.attacks.balls import BALLS, meant_in
from fsrobust.config import Run, parse_fraction
from fsrobust.data import Source, draw, open_dataset, portion
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Study, Subject
from fsrobust.evaluate.searching import PILOTS, choose_precision
from fsrobust.evaluate.store import device_of
from fsrobust.plugin import config_of
from fsrobust.recipes.networks import check_answers, find_network
from fsrobust.recipes.start import initial_model
from fsrobust.records import digest_of, read_config
from fsrobust.train import History, Reporter, fit
from fsrobust.train.distributed import environment_rank, own_device
from fsrobust.types import InputError


def pick_device(name: str | None) -> torch.device:
    """Return a device by name; without one, the first GPU if there is any, else the CPU.

    Raises:
        InputError: a device that this machine or this build of torch does not have.
    """
    return _probed(name, lambda device: device)


def _probed(name: str | None, own: Callable[[torch.device], torch.device]) -> torch.device:
    """Return ``own`` of the device of that name, once it has served: the probe lies where this process will work."""
    if name is None:
        return own(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        probe = torch.zeros(1, device=own(torch.device(name)))
        probe.cpu()  # "meta" has no numbers
        return probe.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'Device "{name}" cannot be used here: {reason}') from error


def training_device(name: str | None) -> torch.device:
    """Return where this process trains: as ``pick_device``, but of several that torchrun started each has its own GPU.

    Raises:
        InputError: a device that cannot be used, or fewer GPUs than processes.
    """
    return _probed(name, own_device)


def leads() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return environment_rank()[0] == 0


def train_run(  # noqa: PLR0913 - a run, its data, where it goes, and how long
    run: Run,
    data: Source,
    *,
    model: nn.Module | None = None,
    out: Path,
    device: torch.device,
    resume: bool = False,
    time_limit: float | None = None,
    reporter: Reporter | None = None,
) -> History:
    """Train a run into its directory, or go on with it; ``model`` has the first weights, else the run's seed does.

    Raises:
        InputError: data of other channels or classes than the model's.
    """
    check_shapes(run, data)
    config = {key: value for key, value in run.describe().items() if key not in ("train", "data")}
    return fit(
        (model or initial_model(run)).to(device),
        data,
        objective=run.objective.make(),
        train=run.train,
        out=out,
        config=config,
        resume=resume,
        time_limit=time_limit,
        reporter=reporter,
    )


def check_shapes(run: Run, data: Source) -> None:
    """Refuse data of other channels or classes than the model's."""
    if (data.channels, data.classes) == (run.model.channels, run.model.classes):
        return
    found = portion(data.name, classes=data.classes, train=None, test=None)
    if found is not None and run.model.classes == found.spec.classes != data.classes:
        raise InputError(
            f"Expected the {run.model.classes} classes of {data.name}, but only {data.classes} of them are there; let "
            f"--data-root name the whole data set, or give --data {data.name}: the model then has the "
            f"{data.classes} classes that are there, and no published number beside it"
        )
    raise InputError(
        f"{data.name} has {data.channels} channels and {data.classes} classes, but the model has "
        f"{run.model.channels} and {run.model.classes}; leave model.channels and model.classes alone"
    )


@dataclass(frozen=True, eq=False)
class Target:
    """Somebody's model, with what is known of where it came from."""

    subject: Subject
    folder: Path | None
    data: str | None
    ball: Ball | None
    image_size: int | None = None
    class_names: tuple[str, ...] = ()
    """What its classes were called in training, where that is known."""


def find_target(text: str, *, checkpoint: str = "last") -> Target:
    """Return the model that RUN, FILE or pkg.module:factory names, in eval mode.

    Raises:
        InputError: there is no such thing, or it yields no model.
    """
    path, network = Path(text), find_network(text, checkpoint=checkpoint)
    if path.is_dir():
        config = read_config(path)
        ball = config.get("evaluation")
        return Target(
            Subject(network.model, source=path.name, checkpoint=checkpoint),
            folder=path,
            data=(config.get("data") or {}).get("name"),
            ball=make_ball(ball["norm"], parse_fraction(ball["eps"])) if ball else None,
            image_size=config.get("image_size"),
            class_names=tuple((config.get("data") or {}).get("class_names", ())),
        )
    return Target(Subject(network.model, source=path.name if path.is_file() else text), None, None, None)


def plan_study(  # noqa: PLR0913 - what evaluate can be told
    target: Target,
    *,
    data: str | None = None,
    root: Path | None = None,
    image_size: int | None = None,
    norm: str | None = None,
    eps: str | None = None,
    limit: int | None = 1000,
    seed: int = 0,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    out: Path | None = None,
    device: torch.device | None = None,
    surrogate: str | None = None,
) -> Study:
    """Return the study of a target: its own data and ball unless told otherwise, ``limit`` test samples.

    ``precision`` is the search's; "auto" is bf16 where the device is fast at it and the model bears it. ``surrogate``
    is a target whose gradients attacks take instead of this one's.

    Raises:
        InputError: what to evaluate on is not known, or does not fit the model.
    """
    name = data or target.data
    if name is None:
        raise InputError("Expected --data (cifar10, npz:FILE, folder:PATH …): this target does not say")
    if image_size is None and name.startswith("folder:"):
        image_size = target.image_size
    # of a folder, only the samples drawn are decoded
    keep = "disk" if name.startswith("folder:") else "memory"
    test = open_dataset(name, "test", root=root, image_size=image_size, keep=keep)
    _check_fit(target.subject, test)
    _check_names(target, test)
    ball = _ball(target.ball or make_ball("linf", 8 / 255), norm, eps)
    chosen = (draw(test, count=limit, seed=seed) if limit is not None else test).resident()
    folder = out or target.folder or _audit_folder(target.subject)
    _check_is_no_other(folder, target)
    subject = replace(target.subject, model=target.subject.model.to(device or torch.device("cpu")))
    pilots = chosen.select(torch.arange(min(PILOTS, len(chosen)))).to(device_of(subject.model))
    searching = choose_precision(subject.model, pixels(pilots.images), pilots.labels, precision)
    rival = _rival(surrogate, test, device_of(subject.model)) if surrogate else None
    return Study(folder, subject, chosen, len(test), ball, seed, searching.precision, searching.why, rival)


def _ball(known: Ball, norm: str | None, eps: str | None) -> Ball:
    """Return the ball that is asked for; what is not said is as in the known one."""
    if norm in BALLS and norm != known.norm and eps is None:
        raise InputError(f"Expected --eps with --norm {norm}: {meant_in(known.norm, known.eps)}")
    return make_ball(norm or known.norm, parse_fraction(eps) if eps is not None else known.eps)


def _audit_folder(subject: Subject) -> Path:
    """Return where records of somebody's model go: files of one name and edited factories are kept apart."""
    return Path("runs") / f"audit-{_slug(subject.source)}-{digest_of(subject.identity)[:8]}"


def _check_is_no_other(folder: Path, target: Target) -> None:
    """Refuse another run's folder, whose report would show this model's records as its own."""
    own = target.folder is not None and folder.resolve() == target.folder.resolve()
    if not own and (folder / "config.json").is_file():
        raise InputError(
            f'Expected a folder for records of {target.subject.source}, but "{folder}" is another run; choose another '
            "--out"
        )


def _rival(text: str, test: Source, device: torch.device) -> Subject:
    """Return the network that ``--surrogate`` names."""
    found = find_target(text).subject
    _check_fit(found, test)
    return replace(found, model=found.model.to(device))


def _check_fit(subject: Subject, data: Source) -> None:
    config = config_of(subject.model)
    if config is not None and (config.channels, config.classes) != (data.channels, data.classes):
        raise InputError(
            f"{data.name} has {data.channels} channels and {data.classes} classes, but the model has "
            f"{config.channels} and {config.classes}"
        )
    shape = (data.channels, *data.image_size)
    check_answers(subject.model, shape, data.classes, who=subject.source, where=data.name)


def _check_names(target: Target, data: Source) -> None:
    """Refuse classes of other names, or in another order: an answer is a place in that order."""
    if not (_named(target.class_names) and _named(data.class_names)):
        return
    for place, (learnt, here) in enumerate(zip(target.class_names, data.class_names, strict=True)):
        if learnt != here:
            raise InputError(
                f'{target.subject.source} calls its class {place} "{learnt}", but {data.name} calls it "{here}"; '
                "give the classes the names that they were trained by"
            )


def _named(classes: Sequence[str]) -> bool:
    """Return whether classes have names other than their places."""
    return list(classes) != [str(place) for place in range(len(classes))]


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.") or "model"
