"""What torchrun starts in tests: several trainings in one job, since each start of Python and torch costs seconds.

``python -m tests.crew fits OUT`` trains CASES and keeps losses and weights of each process. ``python -m tests.crew
doomed N COMMAND`` runs a command of ours, in which process 1 is killed in its N-th training pass.
"""

import os
import signal
import sys
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

    def train(self, **changes: Any) -> tuple[list[float], dict[str, Tensor]]:
        """Return the loss of each step, and the state of the network after the last."""
        model, listener = self.network(), Listener()
        settings = short(**{**self.settings, **changes})
        history = fit(model, digits(70), objective=self.objective, train=settings, reporter=listener)
        rows = [row["validation_natural"] for row in history.rows if "validation_natural" in row]
        return [*listener.losses, *rows], model.state_dict()


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


def fits(out: Path) -> None:
    """Train all cases; each process keeps what it came to."""
    rank = int(os.environ["RANK"])
    for name, case in CASES.items():
        torch.save(case.train(), out / f"{name}-{rank}.pt")


def doomed(passes: int, arguments: list[str]) -> int:
    """Run a command in which process 1 does not survive its training pass of that number."""
    count, plain = 0, objectives.classify

    def classify(*given: Any) -> Loss:
        nonlocal count
        count += 1
        if count == passes and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*given)

    objectives.classify = classify
    return command(arguments)


if __name__ == "__main__":
    what, first, *rest = sys.argv[1:]
    if what == "fits":
        fits(Path(first))
        for line in rest:
            assert command(line.split()) == 0, line
    else:
        sys.exit(doomed(int(first), rest))
