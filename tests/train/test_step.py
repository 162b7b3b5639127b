"""One step: the reference is the plain loop to the bit; the fast one finds and learns the same."""

import subprocess
import sys
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks.view import FrozenView, multiplies_bf16
from fsrobust.data.batches import pixels
from fsrobust.plugin import Guarded, create_model, recalibration_loss, separation_loss
from fsrobust.seeding import Noise
from fsrobust.train import Natural
from fsrobust.train.step import Step, fast_step, make_step, memory_order
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import at, digits, net

BATCH, EPS, STEP_SIZE = 16, 0.1, 0.05


def batch(number: int = 0) -> tuple[Tensor, Tensor, Noise]:
    """Return a batch of digits with its noise."""
    part = slice(number * BATCH, (number + 1) * BATCH)
    data = digits(90)
    return pixels(data.images[part]), data.labels[part], Noise.of(data.ids[part], 0, "test", number)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.SGD:
    """Return the paper's optimiser at a rate for a small network."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def trained(fsr: str | None) -> nn.Module:
    """Return a network after a few natural steps: gradients of an untrained one are nearly ties."""
    model = net(fsr=fsr)
    step = make_step("reference", model, Natural(), sgd(model))
    for number in range(15):
        torch.manual_seed(number)
        step(*batch(number % 5))
    return model


class PlainLoop:
    """Adversarial training as a textbook writes it, on its own: no Step, no PGD, no optimiser of torch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.momentum = [torch.zeros_like(p) for p in model.parameters()]

    def attack(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Return PGD-2's images: eval mode, uniform start, sign steps, projected, clamped."""
        self.model.eval()
        u = noise.fold(0).uniform(tuple(x.shape[1:]))
        x_adv = (x + (2 * u - 1) * EPS).clamp(0, 1)
        for _ in range(2):
            x_adv = x_adv.detach().requires_grad_(True)
            loss = F.cross_entropy(self.model(x_adv), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            moved = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
        return x_adv

    def step(self, x: Tensor, y: Tensor, noise: Noise, lr: float) -> float:
        """Take one step of SGD with momentum 0.9 and weight decay 5e-4; return the loss."""
        x_adv = self.attack(x, y, noise)
        self.model.train()
        if isinstance(self.model, Guarded):
            parts = self.model.parts(x_adv)
            loss = F.cross_entropy(parts.logits, y) + separation_loss(parts, y) + recalibration_loss(parts, y)
        else:
            loss = F.cross_entropy(self.model(x_adv), y)
        weights = list(self.model.parameters())
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for p, gradient, velocity in zip(weights, gradients, self.momentum, strict=True):
                velocity.mul_(0.9).add_(gradient + 5e-4 * p)
                p.sub_(lr * velocity)
        return float(loss.detach())


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_the_reference_step_is_the_plain_loop(fsr: str | None) -> None:
    """Five steps of momentum SGD: the same losses, weights and statistics as a hand-written loop.

    The attacks' images are equal to the bit; weights to a few roundings, as torch fuses multiply and add.
    """
    model, plain_model = net(fsr=fsr), net(fsr=fsr)
    objective, plain = at(steps=2, eps=EPS), PlainLoop(plain_model)
    step = make_step("reference", model, objective, sgd(model))
    for number in range(5):
        x, y, noise = batch(number)
        if number == 0:
            assert torch.equal(step.attack(x, y, noise), plain.attack(x, y, noise))
        torch.manual_seed(number)
        loss = step(x, y, noise)
        torch.manual_seed(number)
        assert loss.total.item() == pytest.approx(plain.step(x, y, noise, lr=0.05), rel=1e-5)
    for (name, ours), theirs in zip(
        model.state_dict().items(), plain_model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_the_reference_step_is_torchs_loop_to_the_bit(fsr: str | None) -> None:
    """With torch's own SGD in the hand-written loop, five steps give the same bits everywhere."""
    model, plain_model = net(fsr=fsr), net(fsr=fsr)
    step = make_step("reference", model, at(steps=2, eps=EPS), sgd(model))
    plain, optimiser = PlainLoop(plain_model), sgd(plain_model)
    for number in range(5):
        x, y, noise = batch(number)
        torch.manual_seed(number)
        step(x, y, noise)
        x_adv = plain.attack(x, y, noise)
        torch.manual_seed(number)
        plain_model.train()
        optimiser.zero_grad()
        if isinstance(plain_model, Guarded):
            parts = plain_model.parts(x_adv)
            extra = separation_loss(parts, y), recalibration_loss(parts, y)
            loss = F.cross_entropy(parts.logits, y) + 1.0 * extra[0] + 1.0 * extra[1]
        else:
            loss = F.cross_entropy(plain_model(x_adv), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert fingerprint(model) == fingerprint(plain_model)
    assert fingerprint(model) != fingerprint(net(fsr=fsr))


TWENTY_STEPS = 1e-3


@pytest.fixture(autouse=True)
def _channels_last_though_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these narrow networks be channels-last, as wide ones are: maps of 8 × 8 are safe."""
    monkeypatch.setattr("fsrobust.train.step._NARROW", 0)


def both(fsr: str | None, precision: Literal["auto", "fp32"] = "auto") -> tuple[Step, Step]:
    """Return a reference and a fast step on two copies of one trained network."""
    models = trained(fsr), trained(fsr)
    assert fingerprint(models[0]) == fingerprint(models[1])
    objective = at(steps=4, eps=EPS)
    reference = make_step("reference", models[0], objective, sgd(models[0]))
    return reference, fast_step(models[1], objective, sgd(models[1]), precision=precision)


def weights(step: Step) -> Tensor:
    """Return a copy of all weights as one vector."""
    return torch.cat([p.detach().flatten() for p in step.model.parameters()])


def momenta(step: Step) -> Tensor:
    """Return the optimiser's momenta as one vector."""
    return torch.cat([step.optimiser.state[p]["momentum_buffer"].flatten() for p in step.model.parameters()])


def gradients(step: Step, x_adv: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the loss on these images under one and the same mask noise, as one vector."""
    torch.manual_seed(0)
    step.model.train()
    step.optimiser.zero_grad()
    x_adv = x_adv.contiguous(memory_format=step.layout)
    step.loss(x_adv, x_adv, y).total.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in step.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_fast_finds_the_reference_images_in_float32(fsr: str | None) -> None:
    """Folded norms and memory order turn signs of gradients near zero only: 1 pixel of 1,000 is allowed."""
    reference, fast = both(fsr, precision="fp32")
    x, y, noise = batch()
    found = reference.attack(x, y, noise)
    assert (found == fast.attack(x, y, noise)).float().mean() >= 0.999
    assert not torch.equal(found, x)
    assert isinstance(fast.view, FrozenView)
    assert len(fast.view.folded) == (13 if fsr else 9)


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_fast_gradients_are_as_exact_as_the_reference_ones(fsr: str | None) -> None:
    """On the same images the float32 gradients agree to 10⁻⁵ of their norm without the plug-in.

    With it 1/τ = 10 and the mask's slope enlarge every rounding before it, in either engine: neither is further
    from float64 than three times the other, or both are within 10⁻⁵ of it, where which is nearer is chance.
    """
    reference, fast = both(fsr, precision="fp32")
    exact, _ = both(fsr, precision="fp32")
    exact.model.double()
    x, y, noise = batch()
    x_adv = reference.attack(x, y, noise)
    slow, quick, truth = (
        gradients(step, x_adv.to(next(step.model.parameters()).dtype), y) for step in (reference, fast, exact)
    )
    if fsr is None:
        assert (slow - quick).norm() < 1e-5 * slow.norm()
    errors = [float((g.double() - truth).norm() / truth.norm()) for g in (slow, quick)]
    assert max(errors) < max(3 * min(errors), 1e-5)
    assert max(errors) < 1e-3


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_twenty_steps_on_equal_images_leave_equal_optimisers(fsr: str | None) -> None:
    """After 20 steps on the reference's images, without the plug-in: 0.1 % of the weights' move, 1 % of momenta.

    With it every rounding grows tenfold at each mask, so there the measure is the reference engine itself
    from weights that are one rounding off: the fast one, which rounds
    otherwise in every sum of every step, may be ten times as far. A wrong momentum, decay or
    statistic would be as far as the weights have moved.
    """
    reference, fast = both(fsr, precision="fp32")
    nudged, _ = both(fsr)
    with torch.no_grad():
        for p in nudged.model.parameters():
            p.mul_(1 + 2**-23)
    start = weights(reference)
    for step in (reference, fast, nudged) if fsr else ():
        step.optimiser.param_groups[0]["lr"] = 0.005  # at 0.05 the plug-in's training is chaotic
    for number in range(20):
        x, y, noise = batch(number % 5)
        x_adv = reference.attack(x, y, noise)
        for step in (reference, fast, nudged):
            torch.manual_seed(number)
            step.learn(x, x_adv.contiguous(memory_format=step.layout), y)
    for of in (weights, momenta):
        apart, nudge = ((of(step) - of(reference)).norm() for step in (fast, nudged))
        moved = (weights(reference) - start).norm() if of is weights else momenta(reference).norm()
        share = 1e-3 if of is weights else 1e-2  # a momentum is a mean of gradients, which differ by more
        assert apart < (share * moved if fsr is None else 10 * nudge)
        assert apart < 0.5 * moved


def test_fast_keeps_its_weights_in_float32_and_channels_last() -> None:
    """Master weights stay float32, statistics too; convolutions are channels-last; the loss is float32."""
    _, fast = both("paper")
    loss = fast(*batch())
    assert loss.total.dtype == loss.logits.dtype == torch.float32
    assert {value.dtype for value in fast.model.state_dict().values()} == {torch.float32, torch.int64}
    wide = [m.weight for m in fast.model.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)


@pytest.mark.skipif(not multiplies_bf16(torch.device("cpu")), reason="this CPU has no bf16 products")
@pytest.mark.parametrize("fsr", [None, "paper"])
def test_fast_in_bf16_sees_nearly_the_same_logits(fsr: str | None) -> None:
    """bf16 keeps 8 bits: through some ten layers logits agree to 5 % of their spread, and most verdicts."""
    reference, fast = both(fsr)
    x, _, _ = batch()
    for step in (reference, fast):
        step.model.eval()
    with torch.no_grad():
        exact, near = reference.view(x), fast.view(x).float()
    assert not torch.equal(exact, near)
    assert (exact - near).abs().mean() < 0.05 * exact.std()
    assert (exact.argmax(1) == near.argmax(1)).float().mean() > 0.9


def test_an_unknown_engine_is_refused() -> None:
    """The message names the nearest engine."""
    model = net()
    with pytest.raises(InputError, match='did you mean "fast"'):
        make_step("faster", model, at(), sgd(model))


def test_narrow_networks_are_trained_in_nchw_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strided 1×1 convolution of fewer than 16 channels decides; without one any width is channels-last."""
    monkeypatch.setattr("fsrobust.train.step._NARROW", 16)
    strided = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1, stride=2))
    assert memory_order(strided) is torch.contiguous_format
    assert memory_order(nn.Sequential(nn.Conv2d(16, 32, 1, stride=2))) is torch.channels_last
    assert memory_order(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1))) is torch.channels_last


@pytest.mark.slow
def test_a_narrow_network_trains_on_large_maps() -> None:
    """One fast step of a ResNet of width 4 on images of 64 × 64, where channels-last order would end the process."""
    code = """
import torch
from fsrobust import AT, Linf, create_model
from fsrobust.seeding import Noise
from fsrobust.train.step import fast_step
torch.manual_seed(0)
model = create_model("resnet18", classes=10, width=4)
step = fast_step(model, AT(Linf(8 / 255), steps=1), torch.optim.SGD(model.parameters(), lr=0.1), precision="fp32")
for _ in range(3):
    step(torch.rand(64, 3, 64, 64), torch.arange(64) % 10, Noise.of(torch.arange(64), 0))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("unchecked")
def test_a_second_compiled_attack_asks_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of networks one after the other, the second with one plug-in more: compiled code does not tell hooks apart."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend="eager", **options))
    x = torch.rand(4, 1, 8, 8)
    for at_layers in (["layer2"], ["layer2", "layer3"]):
        model = create_model("resnet_small", classes=10, channels=1, width=4, fsr=at_layers).eval()
        step = fast_step(model, at(), torch.optim.SGD(model.parameters(), lr=0.1), compiled=True)
        with torch.no_grad():
            torch.testing.assert_close(step.view(x), model(x), rtol=1e-5, atol=1e-5)
        assert step.notes == []
