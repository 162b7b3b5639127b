"""A frozen view answers as its model would in eval mode, whatever is folded, and follows it when refreshed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks.view import FrozenView
from fsrobust.plugin import create_model


def settle(model: nn.Module) -> nn.Module:
    """Return ``model`` in eval mode with statistics and factors that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def images(count: int = 4, channels: int = 3, side: int = 8) -> Tensor:
    """Return random images."""
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(2))


class Twice(nn.Module):
    """A convolution whose output goes two ways: past the norm as well as through it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        f = self.conv(x)
        logits: Tensor = (F.relu(self.norm(f)) + f).mean(dim=(2, 3))
        return logits


class Shared(nn.Module):
    """One norm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.norm(self.second(F.relu(self.norm(self.first(x))))).mean(dim=(2, 3))
        return logits


class Reader(nn.Module):
    """Code that looks into its norm, which must therefore stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.norm(self.conv(x)).mean(dim=(2, 3)) * self.norm.eps * 1e5
        return logits


def after(norm_first: bool = False) -> nn.Module:  # noqa: FBT001, FBT002 - one helper of one test
    """Return a plain chain, the norm behind or before its convolution."""
    conv, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(3 if norm_first else 5)
    return nn.Sequential(
        *((norm, conv) if norm_first else (conv, norm)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


CASES: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("resnet", lambda: create_model("resnet18", classes=10, width=4), 20),
    ("resnet with FSR", lambda: create_model("resnet18", classes=10, width=4, fsr=["layer3", "layer4"]), 28),
    ("norm after", after, 1),
    ("norm before", lambda: after(norm_first=True), 0),
    (
        "not affine",
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False), nn.Flatten()),
        1,
    ),
    (
        "no statistics",
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False)),
        0,
    ),
    ("used twice", Twice, 0),
    ("shared norm", Shared, 0),
    ("norm that is read", Reader, 0),
    ("no convolution", lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 0),
]


@pytest.mark.parametrize(("make", "folded"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_view_answers_as_its_model(make: Callable[[], nn.Module], folded: int) -> None:
    """Float32: the same logits and input gradients to a few roundings, and no more is folded than may be."""
    model = settle(make())
    view, x = FrozenView(model), images()
    both = []
    for ask in (model, view):
        leaf = x.clone().requires_grad_(True)
        logits = ask(leaf)
        (gradient,) = torch.autograd.grad(logits.pow(3).sum(), leaf)
        both.append((logits.detach(), gradient))
    for ours, theirs in zip(both[1], both[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    assert len(view.folded) == folded
    assert view.notes == []


def test_a_view_follows_its_model_when_refreshed_and_not_before() -> None:
    """Weights, statistics and foreign buffers that change are taken over by refresh alone."""
    model = settle(
        create_model("resnet18", classes=10, width=4, fsr="paper", normalize=((0.5,) * 3, (0.2,) * 3))
    )
    view, x = FrozenView(model), images()
    before = view(x)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.25)
    assert torch.equal(view(x), before)
    view.refresh()
    torch.testing.assert_close(view(x), model(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(view(x), before)


def test_a_view_leaves_its_model_alone() -> None:
    """The model's modes, gradients, names and bits are as before."""
    model = create_model("resnet18", classes=10, width=4, fsr="paper").train()
    bits = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules()]
    FrozenView(model, dtype=torch.bfloat16)(images())
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())
    assert [name for name, _ in model.named_modules()] == modules
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_view_in_bf16_keeps_the_mask_and_the_norms_in_float32() -> None:
    """Products are in bf16; what has no products keeps its type; logits come within bf16's 8 bits."""
    model = settle(create_model("resnet18", classes=10, width=4, fsr="paper"))
    view = FrozenView(model, dtype=torch.bfloat16)
    x = images()
    near, exact = view(x).float(), model(x)
    assert not torch.equal(near, exact)
    assert (near - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_network_that_cannot_be_copied_is_queried_itself() -> None:
    """The answer is the model's own, and the note says why."""

    class Loner(nn.Linear):
        def __deepcopy__(self, memo: object) -> "Loner":
            raise TypeError("one of a kind")

    model = nn.Sequential(nn.Flatten(), Loner(192, 4))
    view, x = FrozenView(model), images()
    torch.testing.assert_close(view(x), model(x))
    assert "one of a kind" in view.notes[0]


def test_weights_in_parametrisations_are_not_folded() -> None:
    """A weight that is computed has no place of its own; the view still follows it."""
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3)), nn.BatchNorm2d(5), nn.Flatten()
    )
    model = settle(net)
    view, x = FrozenView(model), images()
    torch.testing.assert_close(view(x), model(x), rtol=1e-4, atol=1e-4)
    assert view.folded == []


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_view_answers_as_an_eager_one() -> None:
    """The compiler changes speed and last bits only."""
    model = settle(create_model("resnet_small", classes=10, width=4, fsr="paper"))
    x = images()
    view = FrozenView(model, compiled=True)
    torch.testing.assert_close(view(x), model(x), rtol=1e-4, atol=1e-5)
    assert view.notes == []


def test_logits_of_a_low_precision_view_are_not_rounded() -> None:
    """The last layer is in float32: logits take more values than bf16 has between them, and follow a refresh."""
    model = settle(create_model("resnet_small", classes=10, channels=1, width=4))
    view, x = FrozenView(model, dtype=torch.bfloat16), torch.rand(64, 1, 8, 8)
    logits = view(x)
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9
    exact = model(x).detach()
    assert (logits - exact).norm() < 0.05 * exact.norm()
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        linear.bias.add_(1.0)
    view.refresh()
    assert torch.allclose(view(x), logits + 1, atol=1e-5)
