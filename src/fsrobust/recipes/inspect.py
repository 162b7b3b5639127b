"""Carry out doctor and estimate for what the command line names."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fsrobust.attacks.probe import NOT_FINITE
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Checkup, Study, doctor
from fsrobust.evaluate.estimate import estimate_evaluation
from fsrobust.evaluate.store import device_of
from fsrobust.recipes.execute import check_shapes
from fsrobust.recipes.start import Start
from fsrobust.train.estimate import Estimate, estimate_training
from fsrobust.types import InputError


def examine(study: Study) -> Checkup:
    """Return what the doctor finds of a study's model on its samples."""
    model = study.subject.model
    data = study.data.to(device_of(model))
    return doctor(model, pixels(data.images), data.labels, classes=data.classes)


def warnings_of(study: Study, *, count: int = 64) -> list[str]:
    """Return what the doctor would change about a study's model before it is attacked, a sentence each.

    Raises:
        InputError: scores that are not finite, which the first attack would refuse, too, with its folder in hand.
    """
    few = replace(study, data=study.data.select(range(min(count, len(study.data)))))
    checkup = examine(few)
    if "finite scores" in checkup.failed:
        raise InputError(NOT_FINITE)
    return [f"doctor: {sign.explanation}; {sign.remedy}" for sign in checkup.signs if sign.status != "ok"]


def is_target(text: str) -> bool:
    """Return whether a text names something to evaluate, rather than a recipe."""
    return ":" in text or Path(text).exists()


def cost_of_run(begun: Start, device: torch.device) -> Estimate:
    """Return what training a run would cost, from what it starts with.

    Raises:
        InputError: data of other channels or classes than the model's.
    """
    run, data = begun.run, begun.data.resident()
    check_shapes(run, data)
    return estimate_training(begun.model.to(device), data, objective=run.objective.make(), train=run.train)


def cost_of_study(
    study: Study,
    attacks: Sequence[str],
    *,
    curve_samples: int = 0,
    diagnosis: bool = False,
    batch: int | None = None,
) -> Estimate:
    """Return what carrying out a study would cost if nothing of it were on record."""
    model = study.subject.model
    data = study.data.to(device_of(model))
    return estimate_evaluation(
        model,
        pixels(data.images),
        data.labels,
        ball=study.ball,
        attacks=attacks,
        curve_samples=curve_samples,
        diagnosis=diagnosis,
        batch=batch,
        precision=study.precision,
    )
