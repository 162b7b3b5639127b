"""Small jobs that write files and can go on where they were killed: a training, an evaluation, a row of a table."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fsrobust.attacks import APGD, ATTACKS, FAB, Ball, Cascade, Linf, Square, Stage
from fsrobust.cli import run
from fsrobust.evaluate import Study, Subject, carry_out, curves, evidence, journal
from fsrobust.evaluate.study import carry_out_diagnosis
from tests.runs import at, digits, learnt, train

BALL: Final = Linf(0.1)


def training(folder: Path) -> None:
    """Train with the plug-in, augmentation and a validation split, or go on."""
    train(
        folder,
        fsr="paper",
        count=80,
        objective=at(),
        resume=(folder / "config.json").exists(),
        epochs=4,
        augment="crop_flip",
    )


def small_autoattack(ball: Ball) -> Cascade:
    """Return AutoAttack's four kinds of stage with budgets of a test."""
    return Cascade(
        ball,
        (
            Stage("apgd-ce", APGD(ball, steps=6)),
            Stage("apgd-t 1", APGD(ball, "dlr", steps=6, target=1)),
            Stage("fab-t 1", FAB(ball, steps=4, target=1)),
            Stage("square", Square(ball, queries=30)),
        ),
    )


def study(folder: Path, *, fsr: str | None = "paper", count: int = 8) -> Study:
    """Return a study of a network that is right on most digits, on some of them."""
    return Study(folder, Subject(learnt(fsr), "a network", "last"), digits(count, "test"), 360, BALL)


def evaluation(folder: Path) -> None:
    """Evaluate and diagnose, in batches of four and with a note of progress after each, or go on."""
    ATTACKS["autoattack"] = small_autoattack  # in this process, which does nothing else
    journal._PAUSE, curves.STEPS, evidence.QUERIES = -1.0, 4, 20  # type: ignore[misc]
    attacks = ["fgsm", "pgd20", "cw", "autoattack"]
    carry_out(study(folder), attacks, curve_samples=4, batch=4, images=True)
    # without the plug-in, which would mean six surrogates
    carry_out_diagnosis(study(folder, fsr=None, count=4), batch=4)


def reproduction(folder: Path) -> None:
    """Make a row of a table at smoke scale by the command line, or go on."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):  # noqa: PTH123
        command = ["reproduce", "S5", "--rows", "at", "--scale", "smoke", "--device", "cpu"]
        assert run([*command, "--out", str(folder)]) == 0


JOBS: Final[dict[str, Callable[[Path], None]]] = {
    "training": training,
    "evaluation": evaluation,
    "reproduction": reproduction,
}
