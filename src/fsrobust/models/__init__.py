"""Networks by name. A new backbone is one file and one row of MODELS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import nn

from fsrobust.models.config import ModelConfig as ModelConfig
from fsrobust.models.normalize import Normalize as Normalize
from fsrobust.models.resnet import resnet18, resnet_small
from fsrobust.types import unknown_name


@dataclass(frozen=True)
class Architecture:
    """How a network is built, its usual width, and the layer where the paper puts the plug-in."""

    build: Callable[[ModelConfig], nn.Module]
    width: int
    fsr_at: str


MODELS: Final[dict[str, Architecture]] = {
    "resnet18": Architecture(resnet18, width=64, fsr_at="layer4"),
    "resnet_small": Architecture(resnet_small, width=16, fsr_at="layer3"),
}


def architecture(name: str) -> Architecture:
    """Return a row of MODELS.

    Raises:
        InputError: no such model; the message names the nearest.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]
