"""What torchrun starts in tests: several trainings in one job, since each start of Python and torch costs seconds.

``python -m tests.crew cases OUT COMMAND`` trains CASES, keeps what each process came to, and runs a command of ours.
``python -m tests.crew doomed COMMAND`` runs one in which process 1 is killed in its training pass SEVENTH.
``python -m tests.crew wrong COMMAND`` runs one in which every process fails at once.
``python -m tests.crew apart OUT COMMAND`` runs one with a working directory OUT/RANK for each process, as with disks
of their own.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fsrobust.train.objectives as objectives
from fsrobust.attacks import Linf
from fsrobust.cli import run as command
from fsrobust.plugin import Guarded
from fsrobust.train import AT, AWP, MART, TRADES, Natural, Objective, fit
from fsrobust.train.objectives import Loss
from tests.runs import Listener, at, digits, net, short

BALL = Linf(0.1)


@dataclass(frozen=True)
class Case:
    """A training: what it minimises, on which network, with which settings."""

    objective: Objective
    fsr: str | None = "paper"
    norms: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """Return the network in float64, without batch norms unless the case is about them.

        In float64 the order of sums moves a loss by 10⁻¹⁵ and no gradient's sign.
        """
        model = net(fsr=self.fsr).double()
        if not self.norms:
            for parent in list(model.modules()):
                for name, layer in parent.named_children():
                    if isinstance(layer, nn.BatchNorm2d):
                        setattr(parent, name, nn.GroupNorm(1, layer.num_features).double())
        inner = model.net if isinstance(model, Guarded) else model
        inner.register_forward_pre_hook(_widen)
        return model

    def train(self, out: Path | None = None, *, resume: bool = False, **changes: Any) -> "Result":
        """Train on digits."""
        model, listener = self.network(), Listener()
        history = fit(
            model,
            digits(90),
            objective=self.objective,
            train=short(**{**self.settings, **changes}),
            out=out,
            resume=resume,
            reporter=listener,
        )
        rows = [{k: v for k, v in row.items() if k.startswith("validation")} for row in history.rows]
        return Result(listener.losses, rows, model.state_dict(), history.stopped)


@dataclass(frozen=True)
class Result:
    """The loss of each step, as rank 0 is told it; validation of each epoch; the network's state; why it stopped."""

    losses: list[float]
    rows: list[dict[str, float]]
    state: dict[str, Tensor]
    stopped: str | None


def _widen(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].double(),)


CASES = {
    "at": Case(at(), settings={"augment": "crop_flip"}),
    "trades": Case(TRADES(BALL, steps=2, step_size=0.05)),
    "mart": Case(MART(BALL, steps=2, step_size=0.05, share_noise=True), settings={"accumulate": 2}),
    "awp": Case(AT(BALL, steps=2, step_size=0.05, awp=AWP(5e-3))),
    "norms": Case(
        at(), norms=True, settings={"frozen_epochs": 1, "averaging": "ema", "accumulate": 2, "host_lr": 0.5}
    ),
    "natural": Case(Natural(), fsr=None, settings={"train_on": "all"}),
}
"""Trainings that two processes and one do alike; but for "norms", where they see other batch statistics."""

FIRST = Case(Natural(), fsr=None, norms=True, settings={"train_on": "all", "epochs": 1, "batch": 90})
"""One step on all digits, with batch norms."""
SEVENTH = 7
"""The training pass in which process 1 meets its end; epochs have five."""


def struck(number: signal.Signals) -> Callable[..., Loss]:
    """Return a classification loss that sends process 1 a signal in its seventh pass."""
    count, plain = 0, objectives.classify

    def classify(*given: Any) -> Loss:
        nonlocal count
        count += 1
        if count == SEVENTH and os.environ["RANK"] == "1":
            os.kill(os.getpid(), number)
        return plain(*given)

    return classify


def wrong(*_given: Any, **_named: Any) -> Loss:
    """Fail as torch does, in all processes alike."""
    raise RuntimeError("a bug of all processes")


def main(what: str, *arguments: str) -> int:
    """Do what the command line says; return the exit code."""
    if what == "doomed":
        objectives.classify = struck(signal.SIGKILL)
        return command(list(arguments))
    if what == "wrong":
        objectives.classify = wrong
        return command(list(arguments))
    out, rank = Path(arguments[0]), os.environ["RANK"]
    if what == "apart":
        (out / rank).mkdir()
        os.chdir(out / rank)
        return command(list(arguments[1:]))
    results = {name: case.train() for name, case in CASES.items()}
    results["first"] = FIRST.train()
    plain, objectives.classify = objectives.classify, struck(signal.SIGTERM)
    results["stopped"] = CASES["at"].train(out / "stopped")
    objectives.classify = plain
    torch.save({name: vars(result) for name, result in results.items()}, out / f"{rank}.pt")
    return command(list(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
