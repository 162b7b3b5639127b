"""Fast AT: its attack by hand, what validation judges by, and the guard against a planted collapse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import Linf, Probe
from fsrobust.data import load_dataset
from fsrobust.records import Metrics
from fsrobust.seeding import Noise
from fsrobust.train import FastAT, TrainingError, find_checkpoint, fit, load
from fsrobust.train.fast import has_collapsed
from tests.helpers import images
from tests.runs import Listener, digits, net, short, train

Y = torch.tensor([0, 1, 2, 3, 0, 2])


def test_the_attack_is_one_long_step_from_a_uniform_start(small_net: nn.Module) -> None:
    """A start x + u, u uniform in the ball, plus 1.25 eps along the gradient's sign, projected; to the bit."""
    model, x, eps = small_net.eval(), images(6), 8 / 255
    noise = Noise.of(torch.arange(6), 0, "t")
    found = FastAT(Linf(eps)).attack.run(Probe(model), x, Y, noise)
    start = (x + (2 * noise.fold(0).uniform((3, 8, 8)) - 1) * eps).clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), Y, reduction="sum"), start)
    moved = start.detach() + 1.25 * eps * gradient.sign()
    assert torch.equal(found, (x + (moved - x).clamp(-eps, eps)).clamp(0, 1))


def test_validation_judges_by_several_steps(tmp_path: Path) -> None:
    """The best checkpoint is chosen under PGD, which finds at least what one step finds, up to a sample or two."""
    run = train(tmp_path / "run", count=200, objective=FastAT(Linf(0.1)), epochs=4, lr=0.1)
    rows = run.history.rows
    assert all(row["validation_robust"] <= row["validation_one_step"] + 0.1 for row in rows)
    scores = [row["validation_robust"] for row in rows]
    assert run.history.best_epoch == scores.index(max(scores)) + 1


class Pretender(nn.Module):
    """A network that, once it ``hides``, answers the first gradient query of an attack with the gradient's negative.

    One step then makes images easier; several find their way, all but the first. That is what catastrophic
    overfitting comes to.
    """

    def __init__(self, honest_for: int) -> None:
        super().__init__()
        self.net, self.honest_for = net(width=8), honest_for
        self.learnt, self.asked = 0, False

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, honest ones always."""
        self.learnt += self.training
        first = x.requires_grad and not self.asked
        self.asked = x.requires_grad
        if first and not self.training and self.learnt > self.honest_for:
            x = 2 * x.detach() - x  # the same pixels; their gradient is turned round
        logits: Tensor = self.net(x)
        return logits


def pretend(out: Path, honest_for: int, **changes: Any) -> Listener:
    """Train a pretender on 400 digits, 22 steps an epoch."""
    listener = Listener()
    settings: dict[str, Any] = {"epochs": 4, "lr": 0.1, "milestones": (), **changes}
    fit(
        Pretender(honest_for),
        digits(400),
        objective=FastAT(Linf(0.15)),
        train=short(**settings),
        out=out,
        reporter=listener,
    )
    return listener


def test_a_planted_collapse_stops_the_run_and_keeps_what_was_good(tmp_path: Path) -> None:
    """Honest for two epochs, then not: the third stops the run, and neither it nor its weights are kept."""
    steps = 22
    with pytest.raises(TrainingError, match="collapsed in epoch 3") as caught:
        pretend(tmp_path / "run", 2 * steps)
    assert "objective.steps=2" in str(caught.value)
    assert "keeps the epoch before" in str(caught.value)
    assert find_checkpoint(tmp_path / "run").name == f"{2 * steps:08d}"
    assert int(find_checkpoint(tmp_path / "run", "best").name) <= 2 * steps
    assert [row["epoch"] for row in Metrics(tmp_path / "run" / "metrics.jsonl").rows()] == [1, 2]


def test_an_honest_run_is_not_stopped(tmp_path: Path) -> None:
    """The same network without the plant trains to its end, and gets somewhere."""
    listener = pretend(tmp_path / "run", 10**9)
    assert [row["epoch"] for row in listener.rows] == [1, 2, 3, 4]
    assert (
        listener.rows[-1]["validation_robust"] > 0.15
    )  # chance is 0.1; versions of torch end at 0.2 or above


def test_resumed_after_a_collapse_it_says_so_again(tmp_path: Path) -> None:
    """Nothing of the collapsed epoch was recorded, so going on comes to the same end."""
    run = tmp_path / "run"
    objective, settings = FastAT(Linf(0.1)), {"count": 90, "epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsrobust.train.fast.has_collapsed", lambda *_: True)
        for resume in (False, True):
            with pytest.raises(TrainingError, match="collapsed in epoch 1"):
                train(run, objective=objective, resume=resume, **settings)  # type: ignore[arg-type]
    finished = train(run, objective=objective, resume=True, **settings)  # type: ignore[arg-type]
    assert [row["epoch"] for row in finished.history.rows] == [1, 2]
    assert load(run) is not None


@pytest.mark.parametrize(
    ("one_step", "robust", "collapsed"),
    [
        (0.56, 0.46, False),  # a sound run of the method's authors
        (0.45, 0.24, False),
        (0.85, 0.0, True),
        (0.45, 0.21, True),
        (0.19, 0.0, False),  # too little to tell
        (0.40, 0.40, False),
    ],
)
def test_the_threshold(one_step: float, robust: float, collapsed: bool) -> None:  # noqa: FBT001
    """Below half and by 20 points."""
    assert has_collapsed(one_step, robust) == collapsed


@pytest.mark.slow
def test_one_step_training_does_collapse_and_is_stopped() -> None:
    """Not planted: on digits at an eps of 0.25 one step stops being enough; at 0.15 it is enough for six epochs."""
    data = load_dataset("digits", "train").select(range(600))

    def run(eps: float) -> None:
        settings = short(epochs=6, lr=0.1, milestones=(), validation=100)
        fit(net(width=16), data, objective=FastAT(Linf(eps)), train=settings)

    run(0.15)
    with pytest.raises(TrainingError, match="collapsed"):
        run(0.25)
