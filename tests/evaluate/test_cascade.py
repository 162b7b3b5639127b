"""Cascades over a data set: survivors only, whatever the batches; killed anywhere, the same result."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, PGD, Cascade, Linf, Stage, make_attack, perturb
from fsrobust.attacks.witness import in_ball
from fsrobust.evaluate import evaluate
from fsrobust.evaluate.cascade import STANDING, Journal, Standing, Task, run_cascade
from fsrobust.evaluate.engine import predict_all
from fsrobust.types import InputError
from tests.evaluate.test_engine import natural_net, samples
from tests.evaluate.test_journal import always_due

BALL = Linf(0.06)


def stages() -> Cascade:
    """Return a weak, a better and a targeted stage."""
    return Cascade(
        BALL,
        (
            Stage("fgsm", PGD(BALL, steps=1, step_size=BALL.eps)),
            Stage("apgd-ce", APGD(BALL, steps=8)),
            Stage("apgd-t 1", APGD(BALL, "dlr", steps=8, target=1), classes=2),
            Stage("apgd-t 12", APGD(BALL, "dlr", steps=8, target=12), classes=13),
        ),
    )


def run(
    file: Path | None = None, *, batch: int = 16, order: Sequence[int] | None = None
) -> tuple[Standing, Tensor, Tensor]:
    """Run the cascade on 40 digits and return where it left them, with images and labels."""
    model, (x, y) = natural_net(), samples()
    chosen = torch.arange(len(x)) if order is None else torch.tensor(order)
    task = Task(model, x[chosen], y[chosen], chosen, seed=0, batch=batch)
    natural = predict_all(model, task.x) == task.y.numpy()
    standing = run_cascade(
        stages(), task, natural, classes=10, journal=Journal(file), progress=lambda _share: None
    )
    return standing, task.x, task.y


def test_each_stage_attacks_what_stood_before_it() -> None:
    """Counts add up; every sample has one verdict; its image is in the ball and does what the verdict says."""
    standing, x, y = run()
    left = int((standing.fooled_by != 0).sum())
    assert [cost.name for cost in standing.costs] == ["fgsm", "apgd-ce", "apgd-t 1"]
    for number, cost in enumerate(standing.costs, start=1):
        assert cost.attacked == left
        assert cost.fooled == int((standing.fooled_by == number).sum())
        assert cost.forwards > 0
        left -= cost.fooled
    assert left == int((standing.fooled_by == STANDING).sum())
    assert 0 < left < 40
    assert sum(cost.fooled > 0 for cost in standing.costs) >= 2
    wrong = predict_all(natural_net(), standing.images) != y.numpy()
    assert np.array_equal(wrong, standing.fooled_by != STANDING)
    assert in_ball(BALL, standing.images, x).all()


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_batches_do_not_matter(batch: int) -> None:
    """The same samples fall, but for one that float32 sums of another batch shape may tip."""
    whole, _, _ = run()
    parts, _, _ = run(batch=batch)
    assert ((whole.fooled_by == STANDING) != (parts.fooled_by == STANDING)).sum() <= 1


def test_order_does_not_matter() -> None:
    """Reversed with their ids, the verdicts are reversed."""
    forth, _, _ = run()
    back, _, _ = run(order=list(range(39, -1, -1)))
    assert ((forth.fooled_by == STANDING) != (back.fooled_by == STANDING)[::-1]).sum() <= 1


class _KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("survived", range(6))
def test_killed_after_any_batch_it_ends_where_it_would_have(
    survived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts, images and counts are, bit for bit, those of the undisturbed cascade; nothing is done twice."""
    expected, _, _ = run()
    calls: list[int] = []
    part = Task.part

    def dying(task: Task, stage: Stage, rows: Tensor) -> object:
        if len(calls) == survived:
            raise _KilledError
        calls.append(len(rows))
        return part(task, stage, rows)

    always_due(monkeypatch)
    monkeypatch.setattr(Task, "part", dying)
    with pytest.raises(_KilledError):
        run(tmp_path / "progress.npz")
    monkeypatch.setattr(Task, "part", part)
    resumed, _, _ = run(tmp_path / "progress.npz")
    assert np.array_equal(resumed.fooled_by, expected.fooled_by)
    assert torch.equal(resumed.images, expected.images)
    for ours, theirs in zip(resumed.costs, expected.costs, strict=True):
        assert (ours.name, ours.attacked, ours.fooled) == (theirs.name, theirs.attacked, theirs.fooled)
        assert (ours.forwards, ours.backwards) == (theirs.forwards, theirs.backwards)


def test_a_surrogate_that_is_not_there_is_missed_at_once() -> None:
    """Before anything runs; and ``perturb``, which has none to give, refuses such a cascade."""
    model, (x, y) = natural_net(), samples(4)
    wanting = Cascade(BALL, (Stage("joint/apgd-ce", APGD(BALL), "joint"),))
    task = Task(model, x, y, torch.arange(4), seed=0, batch=4)
    with pytest.raises(InputError, match="joint"):
        run_cascade(
            wanting,
            task,
            np.ones(4, bool),
            classes=10,
            journal=Journal(None),
            progress=lambda _share: None,
        )
    with pytest.raises(InputError, match="joint"):
        perturb(wanting, model, x, y)


class _Shifted(nn.Module):
    """A network whose gradients point nowhere useful; its surrogate's do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, by pixels rounded to 8 bits: their gradient is 0."""
        logits: Tensor = self.net(x + ((x * 255).round() / 255 - x).detach() - (x - x.detach()))
        return logits


def test_a_surrogate_leads_but_the_model_decides() -> None:
    """Climbing the plain network fools the rounding one, on images that the rounding one misclassifies."""
    inner, (x, y) = natural_net(), samples()
    model = _Shifted(inner).eval()
    ball = Linf(0.15)
    led = Cascade(ball, (Stage("inner/apgd-ce", APGD(ball, steps=20), "inner"),))
    natural = predict_all(model, x) == y.numpy()
    task = Task(model, x, y, torch.arange(len(x)), seed=0, batch=16, surrogates={"inner": inner})
    standing = run_cascade(
        led, task, natural, classes=10, journal=Journal(None), progress=lambda _share: None
    )
    direct = evaluate(model, x, y, ball=ball, attacks=["apgd-ce"])
    assert (standing.fooled_by == STANDING).mean() < direct.strict("apgd-ce") - 0.2
    assert np.array_equal(predict_all(model, standing.images) != y.numpy(), standing.fooled_by != STANDING)


@pytest.mark.slow
def test_evaluate_and_perturb_agree_on_autoattack() -> None:
    """The images that ``perturb`` returns fool whom the evaluation says are fooled, but for one at a tipping point."""
    model, (x, y) = natural_net(), samples(16)
    outcome = evaluate(model, x, y, ball=BALL, attacks=["autoattack"])
    with torch.no_grad():
        fooled = model(perturb(make_attack("autoattack", BALL), model, x, y)).argmax(1) != y
    assert (outcome.fooled["autoattack"] != fooled.numpy()).sum() <= 1
    assert outcome.accuracy("autoattack") == outcome.strict("autoattack")
