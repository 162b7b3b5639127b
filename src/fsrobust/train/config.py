"""How to optimise, what comes out of it, and whether a run directory holds the same run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fsrobust.attacks import describe_ball
from fsrobust.data import Source
from fsrobust.records import read_json
from fsrobust.seeding import check_seed
from fsrobust.train.objectives import Objective
from fsrobust.types import InputError

_LARGEST: Final = 1e30
"""The largest rate worth a try: optimisers multiply it, in float32, which ends at 3.4e38."""


class TrainingError(RuntimeError):
    """Training cannot go on; what was written before stays."""


@dataclass(frozen=True)
class TrainConfig:
    """How to optimise. Defaults are the paper's for CIFAR-10, but for the validation split.

    ``train_on``: "minus_validation" holds ``validation`` samples out of the training set, by seed, to choose
    the best checkpoint on; "all" trains on everything, as the paper did, and has no best checkpoint.
    ``milestones`` are those of the schedule "steps"; see ``learning_rate`` for the others. ``averaging`` is of weights,
    see ``Average``: "ema" by ``ema_decay``, a step, "swa" of the epochs beyond the share ``swa_start`` of the run.
    ``precision`` and ``compile`` are the fast engine's: precision "auto" multiplies in bf16 where the device can,
    "bf16" everywhere, even where that is slow; compile "auto" compiles (on a GPU, also captures the step as one
    graph) where the run is long enough to gain by it.
    For fine-tuning: in the first ``frozen_epochs`` only the plug-in learns; then its host network does as well, at
    ``host_lr`` times the learning rate.
    ``batch`` is that of a step, of all processes together. Each takes its share in ``accumulate`` pieces, one after the
    other, for the gradient of the whole; ``sync_bn`` lets batch norms see those of all processes at once.
    """

    epochs: int = 100
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["steps", "cosine", "one-cycle"] = "steps"
    milestones: tuple[float, ...] = (0.75, 0.9)
    averaging: Literal["none", "ema", "swa"] = "none"
    ema_decay: float = 0.999
    swa_start: float = 0.5
    augment: Literal["crop_flip", "none"] = "crop_flip"
    train_on: Literal["minus_validation", "all"] = "minus_validation"
    validation: int = 1000
    engine: Literal["fast", "reference"] = "fast"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    seed: int = 0
    frozen_epochs: int = 0
    host_lr: float = 1.0
    accumulate: int = 1
    sync_bn: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "validation", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"Expected train.{name} to be at least 1, but got {getattr(self, name)}")
        if not 0 < self.lr <= _LARGEST:
            raise InputError(
                f"Expected a finite train.lr above 0 and at most {_LARGEST:g}, but got {self.lr}"
            )
        for name in ("weight_decay", "frozen_epochs"):
            if not 0 <= getattr(self, name) <= _LARGEST:
                raise InputError(
                    f"Expected train.{name} to be at least 0 and at most {_LARGEST:g}, but got {getattr(self, name)}"
                )
        if not all(0 <= share <= 1 for share in self.milestones):
            raise InputError(f"Expected train.milestones as shares of the run, but got {self.milestones}")
        for name in ("momentum", "ema_decay", "swa_start"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Expected train.{name} in [0, 1), but got {getattr(self, name)}")
        check_seed("train.seed", self.seed)
        if not 0 < self.host_lr <= 1:
            raise InputError(f"Expected train.host_lr above 0 and at most 1, but got {self.host_lr}")


SHARING: Final = ("accumulate", "sync_bn")
"""Settings that say how the samples of a batch are shared out, as does the number of processes."""


@dataclass
class History:
    """A run's metrics, one row per epoch; ``stopped`` says why it ended before its last epoch, if it did."""

    rows: list[dict[str, Any]]
    best_epoch: int | None
    stopped: str | None = None


def read_begun(file: Path) -> dict[str, Any]:
    """Return the configuration that a run was begun with.

    Raises:
        InputError: the file is damaged; the message says how to go on without it.
    """
    try:
        return read_json(file)
    except InputError as error:
        raise InputError(
            f"{error}; if the settings given now are the run's own, delete it and resume"
        ) from error


def describe_run(
    objective: Objective, train: TrainConfig, data: Source, config: Mapping[str, object]
) -> dict[str, object]:
    """Return what config.json says of a run, of its objective and ball unless ``config`` says it in its own words."""
    ball = {"evaluation": describe_ball(objective.attack.ball)} if objective.attack else {}
    samples = {
        "name": data.name,
        "sha256": data.sha256,
        "n": len(data),
        "class_names": list(data.class_names),
    }
    return {"objective": repr(objective), **ball, **config, "train": asdict(train), "data": samples}


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> list[str]:
    """Refuse to resume with a configuration other than the run's own, but for how a batch is shared out.

    A setting newer than the run had its default, and a title is no more than a name. Data are their samples, whatever
    they are called: a sentence is returned for another name.

    Raises:
        InputError: another configuration; the message says in what.
    """
    remarks: list[str] = []
    if isinstance(before.get("train"), dict):
        before = {**before, "train": {**asdict(TrainConfig()), **before["train"]}}
    for part in sorted(set(now) - {"provenance", "title"}):
        theirs, ours = _plain(before.get(part)), _plain(now[part])
        if part == "evaluation" and theirs is None:  # of a run that did not say in which ball it is judged
            continue
        if part == "train" and isinstance(theirs, dict):
            theirs |= {name: ours[name] for name in SHARING if name in ours}
        if part == "data" and isinstance(theirs, dict) and theirs.get("name") != ours["name"]:
            remarks.append(
                f"the data were called {theirs.get('name')} when the run began, and are {ours['name']} now; they are "
                f"the same samples, so it goes on (evaluate it with --data {ours['name']})"
            )
            theirs["name"] = ours["name"]
        if part == "data" and isinstance(theirs, dict):
            theirs.setdefault("class_names", ours.get("class_names"))
        if theirs != ours:
            keys = (
                [k for k in ours if theirs.get(k) != ours[k]]
                if isinstance(ours, dict) and isinstance(theirs, dict)
                else [part]
            )
            raise InputError(
                f'"{out}" was begun with another configuration ({part}: {", ".join(map(str, keys))}); '
                "resume with the same one, or choose another --out"
            )
    return remarks


def _plain(value: object) -> Any:
    """Return a value as JSON would give it back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
