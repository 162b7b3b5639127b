"""Adversarial weight perturbation against the formula, written out here, in float64."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import Linf
from fsrobust.plugin import Guarded, recalibration_loss, separation_loss
from fsrobust.seeding import Noise
from fsrobust.train import AT, AWP, MART, TRADES, FastAT
from fsrobust.train.awp import gamma_in, perturbed
from fsrobust.train.step import Step, fast_step, reference_step
from fsrobust.types import InputError
from tests.helpers import fingerprint, images
from tests.runs import at, net, train

Y = torch.tensor([0, 1, 2, 3, 4, 5])
GAMMA, LR, DECAY = 5e-3, 0.1, 5e-4
Formula = Callable[[nn.Module, Tensor, Tensor], Tensor]


def fsr_losses(model: nn.Module, x_adv: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return logits and L_sep + L_rec of one pass."""
    if not isinstance(model, Guarded):
        return model(x_adv), 0.0
    parts = model.parts(x_adv)
    return parts.logits, separation_loss(parts, Y) + recalibration_loss(parts, Y)


def at_loss(model: nn.Module, x: Tensor, x_adv: Tensor) -> Tensor:
    """Return AT's loss."""
    del x
    z, extra = fsr_losses(model, x_adv)
    return F.cross_entropy(z, Y) + extra


def trades_loss(model: nn.Module, x: Tensor, x_adv: Tensor) -> Tensor:
    """Return TRADES' loss, the divergence by torch's own function."""
    clean = model(x)
    z, extra = fsr_losses(model, x_adv)
    divergence = F.kl_div(z.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
    return F.cross_entropy(clean, Y) + 6.0 * divergence + extra


def reference(model: nn.Module, loss: Formula, x: Tensor, x_adv: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights after one step of SGD with weight decay, and buffers: on copies, nothing put back."""
    here, there = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    weights: list[Tensor] = list(here.parameters())
    ascent = torch.autograd.grad(loss(here, x, x_adv), weights)
    with torch.no_grad():
        for moved, w, g in zip(there.parameters(), weights, ascent, strict=True):
            if w.ndim >= 2:
                moved.copy_(w + GAMMA * w.square().sum().sqrt() / g.square().sum().sqrt() * g)
    slopes = torch.autograd.grad(loss(there, x, x_adv), list(there.parameters()))
    after = [w.detach() - LR * (g + DECAY * w.detach()) for w, g in zip(weights, slopes, strict=True)]
    return after, list(here.buffers())


def sgd(model: nn.Module, lr: float = LR) -> torch.optim.SGD:
    """Return the optimiser of the reference."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=DECAY)


@pytest.mark.parametrize("fsr", [None, "paper"])
@pytest.mark.parametrize(("kind", "formula"), [(AT, at_loss), (TRADES, trades_loss)], ids=["at", "trades"])
def test_a_step_is_the_formula(kind: Any, formula: Formula, fsr: str | None) -> None:
    """Weights after a step are w − lr·(∇L(w + v) + decay·w), v = γ‖w‖·g/‖g‖ by layer; 10⁻⁹ in float64.

    Statistics are those of the one pass at w. The mask's noise is drawn by either pass, in this order.
    """
    model = net(fsr=fsr).double()
    x = images(6, channels=1).double()
    x_adv = (x + 0.1 * (images(6, channels=1, seed=2).double() - 0.5)).clamp(0, 1)
    torch.manual_seed(5)
    weights, buffers = reference(model, formula, x, x_adv)
    step = reference_step(model, kind(Linf(0.1)), sgd(model))
    step.gamma = GAMMA
    torch.manual_seed(5)
    step.learn(x, x_adv, Y)
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-9, atol=1e-11)
    for buffer, expected in zip(model.buffers(), buffers, strict=True):
        torch.testing.assert_close(buffer, expected, rtol=0, atol=0)


def one_step(gamma: float, lr: float, fsr: str | None = None) -> tuple[Step, float]:
    """Return a float32 step after it was taken once on fixed images, and its loss."""
    model = net(fsr=fsr)
    step = reference_step(model, at(), torch.optim.SGD(model.parameters(), lr=lr))
    step.gamma = gamma
    torch.manual_seed(5)
    loss = step.learn(images(6, channels=1), images(6, channels=1), Y)
    return step, float(loss.total.detach())


def test_weights_come_back_bit_for_bit() -> None:
    """At a rate of 0 the network is, weights and statistics, that of a step without perturbation."""
    (with_awp, higher), (plain, lower) = one_step(GAMMA, 0.0), one_step(0.0, 0.0)
    assert fingerprint(with_awp.model) == fingerprint(plain.model)
    assert higher > lower  # an ascent: the loss shown is that at the perturbed weights


def test_batch_norms_count_one_batch_a_step() -> None:
    """The second pass of a step leaves no trace in any batch norm."""
    step, _ = one_step(GAMMA, 0.1, fsr="paper")
    norms = [module for module in step.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 5
    assert {int(norm.num_batches_tracked or 0) for norm in norms} == {1}


def test_weights_come_back_after_an_error() -> None:
    """A bug inside leaves the weights as they were."""
    model = net()
    before = fingerprint(model)

    def fail() -> None:
        with perturbed(model, lambda: model.eval()(images(2, channels=1)).square().sum(), gamma=0.1):
            assert fingerprint(model) != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert fingerprint(model) == before


def test_biases_and_factors_of_norms_are_not_moved() -> None:
    """Only what has two dimensions or more and a gradient is: by γ‖w‖ in all, and a frozen layer not at all."""
    model = net().eval()
    first = next(p for p in model.parameters() if p.ndim > 1)
    first.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with perturbed(model, lambda: F.cross_entropy(model(images(6, channels=1)), Y), gamma=0.1):
        for name, p in model.named_parameters():
            moved = float((p.detach() - before[name]).norm() / before[name].norm().clamp_min(1e-9))
            expected = 0.1 if p.ndim > 1 and p is not first else 0.0
            assert moved == pytest.approx(expected, rel=1e-4), name  # float32 sums of a few thousand


def test_a_gradient_of_zero_moves_nothing() -> None:
    """A layer without influence stays where it is, instead of becoming NaN."""
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with perturbed(layer, lambda: 0 * layer.weight.sum(), gamma=0.1):
        assert torch.equal(layer.weight, before)


def test_it_begins_after_its_warm_up(tmp_path: Path) -> None:
    """One epoch of warm-up is an epoch of plain training, bit for bit; the second is not."""
    awp = AT(Linf(0.1), steps=2, step_size=0.05, awp=AWP(GAMMA, warmup=1))
    plain, found = train(tmp_path / "plain"), train(tmp_path / "awp", objective=awp)
    assert [gamma_in(awp, epoch) for epoch in (1, 2, 3)] == [0.0, GAMMA, GAMMA]
    assert found.lines[0] == plain.lines[0]
    assert found.lines[1]["loss"] != plain.lines[1]["loss"]
    assert fingerprint(found.model) != fingerprint(plain.model)


def test_an_objective_of_ones_own_has_none() -> None:
    """An objective that knows nothing of weight perturbation trains without."""
    assert gamma_in(object(), 1) == 0.0


@pytest.mark.parametrize("kind", [AT, FastAT, TRADES, MART])
def test_both_engines_perturb(kind: Any) -> None:
    """A step of the fast engine in float32 is that of the reference one, for every objective that has AWP."""
    totals = []
    for make in (reference_step, fast_step):
        model = net(fsr="paper")
        extra: dict[str, Any] = {"precision": "fp32"} if make is fast_step else {}
        step = make(model, kind(Linf(0.05), awp=AWP(GAMMA)), sgd(model, 0.01), **extra)
        step.gamma = gamma_in(step.objective, 1)
        assert step.gamma == GAMMA
        for number in range(2):
            torch.manual_seed(number)
            loss = step(images(6, channels=1), Y, Noise.of(torch.arange(6), 0, "b", number))
        totals.append(float(loss.total.detach()))
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


@pytest.mark.parametrize("values", [(-1e-3, 0), (float("nan"), 0), (5e-3, -1)])
def test_negative_values_are_refused(values: tuple[float, int]) -> None:
    """γ and the warm-up are at least 0."""
    with pytest.raises(InputError, match=r"objective\.awp"):
        AWP(*values)
