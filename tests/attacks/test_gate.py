"""The gate: what it restores, what it refuses, what it decides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import PGD, Linf, Probe, make_attack, perturb, search
from fsrobust.attacks.probe import ieee_fp32, under_attack
from fsrobust.seeding import Noise
from fsrobust.types import InputError

ATTACK = PGD(Linf(0.1), steps=3, step_size=0.05)


def _batch(n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 4


def test_the_model_is_as_before(small_net: nn.Module) -> None:
    """Modes of each module, requires_grad of each parameter, gradients and statistics survive an attack."""
    x, y = _batch()
    small_net.train()
    small_net.get_submodule("layer2").eval()
    frozen = small_net.get_parameter("linear.bias").requires_grad_(False)
    small_net.get_parameter("linear.weight").grad = torch.ones_like(small_net.get_parameter("linear.weight"))
    modes = [module.training for module in small_net.modules()]
    state = {name: value.clone() for name, value in small_net.state_dict().items()}
    perturb(ATTACK, small_net, x, y)
    assert [module.training for module in small_net.modules()] == modes
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in small_net.parameters() if p is not frozen)
    assert all(torch.equal(state[name], value) for name, value in small_net.state_dict().items())
    gradients = {name: p.grad for name, p in small_net.named_parameters() if p.grad is not None}
    assert list(gradients) == ["linear.weight"]
    assert torch.equal(gradients["linear.weight"], torch.ones_like(gradients["linear.weight"]))


def test_a_failing_model_is_restored_too() -> None:
    """An exception inside the model leaves it in the mode it was in."""

    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            del x
            raise ArithmeticError

    model = Broken(2, 2).train()
    with pytest.raises(ArithmeticError):
        perturb(ATTACK, model, *_batch())
    assert model.training
    assert model.weight.requires_grad


def test_the_attack_sees_the_model_in_eval_mode(small_net: nn.Module) -> None:
    """Whatever mode the model is in, every query is made in eval mode with frozen parameters."""
    seen: list[tuple[bool, bool]] = []
    weight = small_net.get_parameter("linear.weight")
    small_net.register_forward_pre_hook(lambda m, _: seen.append((m.training, weight.requires_grad)))
    perturb(ATTACK, small_net.train(), *_batch())
    assert set(seen) == {(False, False)}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context: Callable[[], torch.no_grad], small_net: nn.Module) -> None:
    """Inside no_grad or inference_mode the result is what it is outside, even for inference tensors."""
    x, y = _batch()
    outside = perturb(ATTACK, small_net, x, y)
    with context():
        assert torch.equal(perturb(ATTACK, small_net, x + 0.0, y + 0), outside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x * 2, y), r"pixels in \[0, 1\]"),
        (lambda x, y: (x - 0.5, y), r"pixels in \[0, 1\]"),
        (lambda x, y: (x.index_fill(0, torch.tensor([1]), torch.nan), y), r"pixels in \[0, 1\]"),
        (lambda x, y: ((x * 255).long(), y), "float images"),
        (lambda x, y: (x[0], y), "float images"),
        (lambda x, y: (x[:0], y[:0]), "float images"),
        (lambda x, y: (x, y[:2]), "one label and id per image"),
        (lambda x, y: (x, y + 1), r"labels in \[0, 4\)"),
        (lambda x, y: (x, y - 1), r"labels in \[0, 4\)"),
        (lambda x, y: (x, y.int()), "int64 labels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_batches_are_refused(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str, small_net: nn.Module
) -> None:
    """Each kind of bad batch ends in one sentence that says what was expected."""
    with pytest.raises(InputError, match=message):
        perturb(ATTACK, small_net, *change(*_batch()))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda z: (z, z), "logits of shape .* but got tuple"),
        (lambda z: z[:, :, None], "logits of shape"),
        (lambda z: z.sum(0, keepdim=True), "logits of shape"),
        (lambda z: z.detach(), "by gradient"),
        (lambda z: z.round(), None),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_outputs_are_refused(
    output: Callable[[Tensor], object], message: str | None, small_net: nn.Module
) -> None:
    """An output that is no [B, K] logits with a gradient is refused; zero gradients are not."""

    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> object:
            return output(small_net(x))

    if message is None:
        perturb(ATTACK, Wrapped(), *_batch())
        return
    with pytest.raises(InputError, match=message):
        perturb(ATTACK, Wrapped(), *_batch())


def test_no_verdict_rests_on_nan() -> None:
    """Logits that are not finite are refused where a verdict is asked for."""

    class NotANumber(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :4] * torch.nan

    x, y = _batch()
    with pytest.raises(InputError, match="finite"):
        search(make_attack("fgsm", Linf(0.0)), NotANumber(), x, y, ids=torch.arange(4))


@dataclass(frozen=True)
class _Runaway:
    """An attack that breaks its promise."""

    ball: Linf
    shift: float
    family: ClassVar[str] = "runaway"
    cost: ClassVar[int] = 1

    def run(self, probe: Probe, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Return images that left the ball, or the range."""
        del probe, y, noise
        return x + self.shift


@pytest.mark.parametrize(("shift", "message"), [(0.2, "left its ball"), (0.09, "left the pixel range")])
def test_an_attack_that_cheats_is_caught(shift: float, message: str, small_net: nn.Module) -> None:
    """Results outside the ball or outside [0, 1] never leave the gate."""
    x, y = _batch()
    with pytest.raises(RuntimeError, match=message):
        perturb(_Runaway(Linf(0.1), shift), small_net, x * 0 + 0.95, y)


def test_search_says_what_perturb_does(small_net: nn.Module) -> None:
    """Verdicts are the model's own on the images; any ⊇ last; the witness fools where some iterate did."""
    x, y = _batch(32)
    attack = PGD(Linf(0.1), steps=6, step_size=0.09, random_start=True)  # long steps: iterates come and go
    found = search(attack, small_net, x, y, ids=torch.arange(32))
    assert torch.equal(found.last, perturb(attack, small_net, x, y))
    assert torch.equal(found.fooled_last, small_net(found.last).argmax(1) != y)
    assert torch.equal(found.fooled_any, found.fooled_last | (small_net(found.witness).argmax(1) != y))
    seen = torch.stack(found.path).any(0)
    assert torch.equal(found.fooled_any, seen | found.fooled_last)
    assert attack.ball.distance(found.witness, x).max() <= 0.1 + 1e-6
    assert len(found.path) == 6


def test_queries_are_counted_in_samples(small_net: nn.Module) -> None:
    """Six steps on 32 samples are 6·32 gradients; the verdict adds two forward passes."""
    x, y = _batch(32)
    found = search(PGD(Linf(0.1), 6, 0.02), small_net, x, y, ids=torch.arange(32))
    assert found.backwards == 6 * 32
    assert found.forwards == (6 + 2) * 32


def test_restarts_only_help() -> None:
    """What one run fooled stays fooled with three, and each restart has noise of its own."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    x, _ = _batch(64)
    y = model(x).argmax(1)
    ids = torch.arange(64)
    one = PGD(Linf(0.02), steps=1, step_size=0.01, random_start=True)
    three = PGD(Linf(0.02), steps=1, step_size=0.01, random_start=True, restarts=3)
    single = search(one, model, x, y, ids=ids).fooled_last
    several = search(three, model, x, y, ids=ids).fooled_last
    assert (several | ~single).all()
    assert several.sum() > single.sum()


def test_precision_flags_come_back() -> None:
    """IEEE float32 holds inside only: a surrounding autocast is off in it and on again after."""
    with torch.autocast("cpu", torch.bfloat16):
        with ieee_fp32():
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


def test_nested_attacks_restore_step_by_step(small_net: nn.Module) -> None:
    """An attack inside an attack leaves the outer one's frozen eval mode in place."""
    small_net.train()
    with under_attack(small_net):
        perturb(ATTACK, small_net, *_batch())
        assert not small_net.training
        assert not any(p.requires_grad for p in small_net.parameters())
    assert small_net.training


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["square", "nattack"])
def test_nobody_hides_behind_nan(name: str) -> None:
    """No margin is wider than NaN: a network that gives it where it is unsure would withstand any random search."""

    class Shy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1)[:, :4]
            best = z.topk(2).values
            return torch.where((best[:, :1] - best[:, 1:]) < 0.15, torch.nan, z)

    x = torch.zeros(6, 1, 2, 2)
    x[:, 0, 0, 0] = 0.3
    with pytest.raises(InputError, match="NaN"):
        perturb(make_attack(name, Linf(0.1)), Shy(), x, torch.zeros(6, dtype=torch.long))
