"""Networks that are nn.Modules, and yet not what most code expects of one: of 8 × 8 digits, never trained."""

from typing import Any

import torch
from torch import Tensor, nn


def body() -> nn.Sequential:
    """Return a small network."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


class Around(nn.Module):
    """A network around another one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = body()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.net(x)
        return logits


class Extra(Around):
    """Its state has something that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        """Return it."""
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        """Leave it."""


class InPlace(Around):
    """It normalises in place, as if nobody else had the images."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of what it makes of the images."""
        x -= 0.5
        x *= 2.0
        return super().forward(x)


def extra() -> nn.Module:
    """A state with a dictionary in it."""
    return Extra()


def in_place() -> nn.Module:
    """Images that are written to."""
    return InPlace()


def double() -> nn.Module:
    """Weights in float64."""
    return Around().double()


def half() -> nn.Module:
    """Weights in bfloat16, which nothing can be judged in."""
    return Around().bfloat16()


def unset() -> nn.Module:
    """A hook that closes over a variable which was never set."""
    net = Around()

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        return output if len(output) else later

    if not net.training:
        later = None
    net.register_forward_hook(hook)
    return net


def scripted() -> nn.Module:
    """TorchScript, in which no hook can be set."""
    made: nn.Module = torch.jit.script(body())
    return made


def frozen() -> nn.Module:
    """TorchScript without parameters or a mode."""
    made: nn.Module = torch.jit.freeze(scripted().eval())
    return made


def inside() -> nn.Module:
    """TorchScript within a plain module."""
    net = Around()
    net.add_module("net", torch.jit.script(net.net))
    return net


def quantised() -> nn.Module:
    """Products in int8, through which there is no gradient; its state holds a dtype."""
    made: nn.Module = torch.ao.quantization.quantize_dynamic(body(), {nn.Linear})  # type: ignore[no-untyped-call]
    return made
