"""The whole story in minutes: three networks, the same attacks, one report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from fsrobust.data import load_dataset
from fsrobust.evaluate import Outcome, carry_out
from fsrobust.evaluate.engine import Progress
from fsrobust.evaluate.study import carry_out_diagnosis
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import find_target, plan_study, train_run
from fsrobust.report import report
from fsrobust.settings import override
from fsrobust.train import Reporter

CHAPTERS: Final = {"standard": "digits-natural", "AT": "digits-at", "AT + FSR": "digits-at-fsr"}
ATTACKS: Final = ("fgsm", "pgd20", "pgd100", "cw", "autoattack")
SAMPLES: Final = 200
"""Test digits that are attacked: AutoAttack asks some 10,000 times about each that withstands it."""
DIAGNOSED: Final = 60
"""Digits on which signs of masked gradients are looked for."""
WHAT_IT_SHOWS: Final = (
    "What this shows: adversarial training turns a network that small perturbations defeat into one that "
    "mostly withstands them, and every piece of this package at work. What it cannot show: 8×8 digits are a "
    "toy; they say nothing about CIFAR-10, nor whether FSR helps there."
)


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demo leaves: an outcome per network, on the same samples, and the report."""

    outcomes: dict[str, Outcome]
    report: Path


def demo(
    out: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None],
    reporter: Reporter,
    progress: Progress | None = None,
) -> Demo:
    """Train and attack three small networks on the bundled digits, and write the report.

    A second call goes on from what the first one left; nothing is done twice.
    """
    data, outcomes = load_dataset("digits", "train"), {}
    for number, (title, name) in enumerate(CHAPTERS.items(), start=1):
        run = override(recipe(name), [f"train.seed={seed}"])
        folder = out / name
        say(f"{number}/3  {title}: training {run.train.epochs} epochs on {len(data)} digits …")
        train_run(run, data, out=folder, device=torch.device("cpu"), resume=True, reporter=reporter)
        study = plan_study(find_target(str(folder)), limit=SAMPLES, seed=seed)
        say(f"     attacking it on {len(study.data)} test digits, each grey may move by {study.ball.eps} …")
        outcomes[title] = carry_out(study, ATTACKS, curve_samples=100, progress=progress)
        few = replace(study, data=study.data.select(range(DIAGNOSED)))
        say(f"     {title}: {carry_out_diagnosis(few, progress=progress)['verdict']}")
    return Demo(outcomes, report([out / name for name in CHAPTERS.values()], out / "report.html"))
