"""Networks whose truth is known in closed form, and shorthands that several tests share."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fsrobust.plugin import Guarded, create_model


def guarded(
    *, classes: int = 4, width: int = 4, channels: int = 3, fsr: str | Sequence[str] = "paper"
) -> Guarded:
    """Return a fresh ``resnet_small`` with the plug-in, in eval mode."""
    model = create_model("resnet_small", classes=classes, width=width, channels=channels, fsr=fsr).eval()
    assert isinstance(model, Guarded)
    return model


def warm_up(model: nn.Module, *, channels: int = 3, size: int = 8) -> nn.Module:
    """Give every BatchNorm statistics and an affine map that are not the initial ones; return the model."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.8, 1.2, generator=generator)
                module.bias.normal_(std=0.1, generator=generator)
    assert torch.isfinite(model(torch.rand(1, channels, size, size))).all()
    return model


class HalfSpace(nn.Module):
    """Two classes with a plane between them: logits are ∓ w·(x − ½)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 2]."""
        score = ((x - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([-score, score], dim=1)


def half_space(
    norm: str, distance: float, count: int = 6, *, smooth: bool = False
) -> tuple[HalfSpace, Tensor, Tensor]:
    """Return a plane, images at exactly ``distance`` from it in the norm, and their true labels.

    A linear score grows fastest along sign(w) at a rate of ‖w‖₁ per unit of L∞, and along w/‖w‖₂ at a rate of
    ‖w‖₂ per unit of L2. So the nearest adversarial point is known; the pixel range never interferes.
    The weights are white noise or, if ``smooth``, one number per channel.
    """
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(3, 1, 1, generator=generator) if smooth else torch.randn(3, 8, 8, generator=generator)
    w = w.expand(3, 8, 8).contiguous()
    steepest = w.sign() if norm == "linf" else w / w.norm()
    rate = (w * steepest).sum()
    model, y = HalfSpace(w), torch.arange(count) % 2
    x = 0.4 + 0.2 * torch.rand(count, 3, 8, 8, generator=generator)
    wanted = (2 * y - 1) * distance * rate
    score = ((x - 0.5) * w).flatten(1).sum(1)
    x = x + ((wanted - score) / rate)[:, None, None, None] * steepest
    assert x.min() > 0.2
    assert x.max() < 0.8
    return model, x, y


def images(count: int, channels: int = 3, size: int = 8, seed: int = 1) -> Tensor:
    """Return uniform images of a seed of their own."""
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def fingerprint(model: nn.Module) -> str:
    """Return a digest of every tensor of the state dict, name and bits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
