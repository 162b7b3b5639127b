"""TRADES and MART against their formulas, written out here, in float64: values, gradients, attacks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import Linf, Probe
from fsrobust.plugin import Guarded, create_model
from fsrobust.seeding import Noise
from fsrobust.train import MART, TRADES, FSRWeights
from fsrobust.train.step import fast_step, reference_step
from fsrobust.types import InputError
from tests.helpers import guarded, images, warm_up

Y = torch.tensor([0, 1, 2, 3, 0, 2])


def softmax(z: Tensor) -> Tensor:
    """Return probabilities, by the formula."""
    e = (z - z.max(1, keepdim=True).values).exp()
    return e / e.sum(1, keepdim=True)


def at(p: Tensor, y: Tensor) -> Tensor:
    """Return p[y] of each sample."""
    return p[torch.arange(len(y)), y]


def trades(z: Tensor, z_adv: Tensor, y: Tensor) -> Tensor:
    """Return −log p[y] + 6 Σ p log(p/q), mean over samples."""
    p, q = softmax(z), softmax(z_adv)
    return -at(p, y).log().mean() + 6.0 * (p * (p / q).log()).sum() / len(y)


def mart(z: Tensor, z_adv: Tensor, y: Tensor) -> Tensor:
    """Return −log q[y] − log(1.0001 − max_{k≠y} q[k]) + 5 Σ p log(p/q) (1 − p[y]), mean over samples."""
    p, q = softmax(z), softmax(z_adv)
    others = torch.stack([torch.cat([row[:k], row[k + 1 :]]) for row, k in zip(q, y.tolist(), strict=True)])
    boosted = -at(q, y).log() - (1.0001 - others.max(1).values).log()
    return (boosted + 5.0 * (p * (p / q).log()).sum(1) * (1 - at(p, y))).mean()


def extra(parts: Any, y: Tensor) -> Tensor:
    """Return L_sep + L_rec of one pass by their formulas."""
    z = parts.logits.detach().clone()
    z[torch.arange(len(y)), y] = -torch.inf
    wrong = z.argmax(1)
    total = torch.zeros((), dtype=z.dtype)
    for scores, target in ((parts.robust, y), (parts.nonrobust, wrong), (parts.recalibrated, y)):
        total = total - at(softmax(scores[0]), target).log().mean()
    return total


CASES = [(TRADES, trades), (MART, mart)]


@pytest.mark.parametrize("noisy", ["quiet", "noisy", "shared"])
@pytest.mark.parametrize("fsr", ["plain", "fsr"])
@pytest.mark.parametrize(("kind", "formula"), CASES, ids=["trades", "mart"])
def test_losses_and_gradients_are_their_formulas(kind: Any, formula: Any, fsr: str, noisy: str) -> None:
    """To 10⁻⁶ in float64, in eval mode without and in train mode with a fixed sample of the mask's noise."""
    torch.manual_seed(0)
    plain = create_model("resnet_small", classes=4, width=4)
    model = warm_up(guarded() if fsr == "fsr" else plain).double()
    model.train(noisy != "quiet")
    x, x_adv = images(6).double(), (images(6).double() + 0.1 * images(6, seed=2).double()).clamp(0, 1)
    weights = list(model.parameters())
    torch.manual_seed(1)
    ours = kind(fsr=FSRWeights(), share_noise=noisy == "shared").loss(model, x, x_adv, Y).total
    found = torch.autograd.grad(ours, weights, allow_unused=True)
    torch.manual_seed(1)
    z = model(x)
    if noisy == "shared":
        torch.manual_seed(1)
    if isinstance(model, Guarded):
        parts = model.parts(x_adv)
        expected = formula(z, parts.logits, Y) + extra(parts, Y)
    else:
        expected = formula(z, model(x_adv), Y)
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    for gradient, truth in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-6, atol=1e-9)


def test_noise_of_its_own_is_not_shared() -> None:
    """Clean and adversarial passes on the same images differ by the mask's noise, unless it is shared."""
    model = warm_up(guarded()).train()
    model.net.eval()  # type: ignore[union-attr]
    x = images(6)
    terms = {}
    for share in (False, True):
        torch.manual_seed(0)
        for module in model.fsr.modules():  # type: ignore[union-attr]
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        terms[share] = float(TRADES(share_noise=share).loss(model, x, x, Y).terms["robustness"])
    assert terms[True] == pytest.approx(0.0, abs=1e-6)
    assert terms[False] > 1e-5


@pytest.mark.parametrize("kind", [TRADES, MART])
def test_the_attack_is_the_loop_of_the_paper(kind: Any, small_net: nn.Module) -> None:
    """Start x + 0.001·N, ten sign steps on KL to the clean softmax (TRADES) or CE (MART), projected, clamped."""
    model, x = small_net.eval(), images(6)
    eps, alpha = 8 / 255, 2 / 255
    noise = Noise.of(torch.arange(6), 0, "t")
    found = kind(Linf(eps)).attack.run(Probe(model), x, Y, noise)
    p = softmax(model(x)).detach()
    start = x + 0.001 * noise.fold(0).normal((3, 8, 8))
    x_adv = (x + (start - x).clamp(-eps, eps)).clamp(0, 1)
    for _ in range(10):
        leaf = x_adv.clone().requires_grad_(True)
        z = model(leaf)
        objective = (
            F.kl_div(z.log_softmax(1), p, reduction="sum")
            if kind is TRADES
            else F.cross_entropy(z, Y, reduction="sum")
        )
        (gradient,) = torch.autograd.grad(objective, leaf)
        x_adv = (x + (x_adv + alpha * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    assert (found - x_adv).abs().lt(1e-6).float().mean() > 0.999  # signs of zero gradients may turn
    assert (found - x).abs().max() > 0.9 * eps


def test_the_clean_prediction_is_taken_once(small_net: nn.Module) -> None:
    """Ten steps cost ten gradient queries and one look at the clean images."""
    probe = Probe(small_net.eval())
    TRADES(Linf(8 / 255)).attack.run(probe, images(6), Y, Noise.of(torch.arange(6), 0))
    assert (probe.forwards, probe.backwards) == (6 * 11, 6 * 10)


@pytest.mark.parametrize("kind", [TRADES, MART])
def test_both_engines_train(kind: Any) -> None:
    """A step of the fast engine in float32 is that of the reference one, plug-in and all."""
    totals = []
    for make in (reference_step, fast_step):
        torch.manual_seed(0)
        model = warm_up(guarded())
        extra_arguments: dict[str, Any] = {"precision": "fp32"} if make is fast_step else {}
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        step = make(model, kind(Linf(0.05), steps=2, step_size=0.02), optimiser, **extra_arguments)
        for number in range(2):
            torch.manual_seed(number)
            loss = step(images(6), Y, Noise.of(torch.arange(6), 0, "b", number))
        totals.append(float(loss.total.detach()))
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


def test_an_ascent_from_the_image_itself_is_refused() -> None:
    """The divergence is smallest there: its gradient is zero, and PGD would stand still."""
    from fsrobust.attacks import PGD

    with pytest.raises(InputError, match="random start or a jitter"):
        PGD(Linf(0.1), steps=1, step_size=0.1, loss="kl")
    with pytest.raises(InputError, match="got both"):
        PGD(Linf(0.1), steps=1, step_size=0.1, jitter=0.1, random_start=True)
