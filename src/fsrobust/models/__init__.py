"""Networks by name. A new backbone is one file and one row of MODELS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import nn

from fsrobust.models.config import ModelConfig as ModelConfig
from fsrobust.models.normalize import Normalize as Normalize
from fsrobust.models.preact import initialise_wide, preact_resnet18, wrn28_10, wrn34_10
from fsrobust.models.resnet import resnet18, resnet_small
from fsrobust.models.vgg import initialise_vgg, vgg16
from fsrobust.types import unknown_name


@dataclass(frozen=True)
class Architecture:
    """How a network is built, its usual width, and the layer where the paper puts the plug-in.

    ``initialise`` draws the first weights, the plug-in's with them; None leaves torch's own.
    """

    build: Callable[[ModelConfig], nn.Module]
    width: int
    fsr_at: str
    initialise: Callable[[nn.Module], None] | None = None


MODELS: Final[dict[str, Architecture]] = {
    "resnet18": Architecture(resnet18, width=64, fsr_at="layer4"),
    # by analogy with wrn: the paper has no pre-activation ResNet-18
    "preact_resnet18": Architecture(preact_resnet18, width=64, fsr_at="final"),
    "vgg16": Architecture(vgg16, width=1, fsr_at="block4", initialise=initialise_vgg),
    "wrn34_10": Architecture(wrn34_10, width=10, fsr_at="final", initialise=initialise_wide),
    "wrn28_10": Architecture(wrn28_10, width=10, fsr_at="final", initialise=initialise_wide),
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
