"""Settings that cannot go together, as a table: each pair with its reason."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from fsrobust.models import ModelConfig
from fsrobust.train.awp import AWP
from fsrobust.train.config import TrainConfig
from fsrobust.train.distributed import environment_rank
from fsrobust.train.fast import FastAT
from fsrobust.train.objectives import AT, MART, TRADES, FSRWeights, Natural, Objective
from fsrobust.types import InputError

OBJECTIVES: Final[dict[str, type[Natural | AT | FastAT | TRADES | MART]]] = {
    "natural": Natural,
    "at": AT,
    "fast-at": FastAT,
    "trades": TRADES,
    "mart": MART,
}
_DEFAULT: Final = TrainConfig()


@dataclass(frozen=True)
class Pair:
    """Two settings, when their values ``clash``, and why."""

    first: str
    second: str
    clash: Callable[[Any, Any], bool]
    reason: str


def _idle(objectives: Collection[str], setting: str, default: object, what: str) -> Pair:
    """Return the pair of a setting that only some objectives have with any other."""
    return Pair(
        "objective.name",
        setting,
        lambda name, value: name not in objectives and value != default,  # a default is what nobody has set
        f"only {' and '.join(f'objective.name={name}' for name in objectives)} has {what}",
    )


def _of_the_plug_in(setting: str, default: object) -> Pair:
    """Return the pair of a setting of the plug-in with a model that has none."""
    return Pair(
        "model.fsr",
        setting,
        lambda layers, value: not layers and value != default,
        "it is the plug-in's, and the model has none",
    )


PAIRS: Final = (
    _idle(("trades",), "objective.beta", TRADES.beta, "a β"),
    _idle(("mart",), "objective.mart_weight", MART.weight, "that weight"),
    _idle(("trades", "mart"), "objective.share_noise", False, "two passes to share noise"),
    _of_the_plug_in("objective.lambda_sep", FSRWeights.separation),
    _of_the_plug_in("objective.lambda_rec", FSRWeights.recalibration),
    _of_the_plug_in("objective.nonrobust", FSRWeights.nonrobust),
    *(_of_the_plug_in(f"model.{name}", getattr(ModelConfig, name)) for name in ("tau", "mask", "separation")),
    Pair(
        "objective.name",
        "objective.awp",
        lambda name, awp: name == "natural" and awp > 0,
        "weights are perturbed against adversarial images, of which natural training has none",
    ),
    Pair(
        "objective.awp",
        "objective.awp_warmup",
        lambda awp, warmup: awp == 0 and warmup > 0,
        "a warm-up of nothing; objective.awp=5e-3 is usual",
    ),
    Pair(
        "objective.awp_warmup",
        "train.epochs",
        lambda warmup, epochs: warmup >= epochs,
        "weights would never be perturbed",
    ),
    Pair(
        "objective.name",
        "objective.steps",
        lambda name, steps: name == "fast-at" and steps not in (1, AT.steps),
        "fast-at takes one step; with more it is objective.name=at",
    ),
    Pair(
        "objective.name",
        "train.train_on",
        lambda name, train_on: name == "fast-at" and train_on == "all",
        "without a validation split nobody would notice that one-step training has collapsed",
    ),
    Pair(
        "train.averaging",
        "train.ema_decay",
        lambda averaging, decay: averaging != "ema" and decay != _DEFAULT.ema_decay,
        "a decay is that of train.averaging=ema, and one run has one average",
    ),
    Pair(
        "train.averaging",
        "train.swa_start",
        lambda averaging, start: averaging != "swa" and start != _DEFAULT.swa_start,
        "a start is that of train.averaging=swa, and one run has one average",
    ),
    Pair(
        "train.schedule",
        "train.milestones",
        lambda schedule, milestones: schedule != "steps" and milestones != _DEFAULT.milestones,
        "only train.schedule=steps has milestones",
    ),
    Pair(
        "objective.awp",
        "train.accumulate",
        lambda awp, pieces: awp > 0 and pieces > 1,
        "weights are perturbed along the gradient of the whole batch, which pieces do not have in time",
    ),
    Pair(
        "train.sync_bn",
        "processes",
        lambda synced, processes: synced and processes == 1,
        "there is nobody to share statistics with; start the run with torchrun",
    ),
    Pair(
        "train.sync_bn",
        "device",
        lambda synced, device: synced and device != "cuda",
        "torch's synchronised batch norms are for GPUs alone",
    ),
)


def refuse_pairs(settings: Mapping[str, object]) -> None:
    """Refuse settings of which two cannot go together; rows whose settings are not all given are passed over.

    Raises:
        InputError: the first such pair; the message names both and the reason.
    """
    for pair in PAIRS:
        if pair.first in settings and pair.second in settings:
            first, second = settings[pair.first], settings[pair.second]
            if pair.clash(first, second):
                raise InputError(
                    f"Expected settings that go together, but got {pair.first}={first} and "
                    f"{pair.second}={second}: {pair.reason}"
                )


def circumstances(device: torch.device) -> dict[str, object]:
    """Return what is no setting, but goes with some settings only: the kind of device, how many processes."""
    return {"device": device.type, "processes": environment_rank()[1]}


def settings_of(objective: Objective, train: TrainConfig) -> dict[str, object]:
    """Return settings by the names that a command line gives them, as far as the values say."""
    settings: dict[str, object] = {f"train.{name}": value for name, value in asdict(train).items()}
    for name, kind in OBJECTIVES.items():
        if isinstance(objective, kind):
            settings["objective.name"] = name
    awp = getattr(objective, "awp", None)
    if isinstance(awp, AWP):
        settings |= {"objective.awp": awp.gamma, "objective.awp_warmup": awp.warmup}
    return settings
