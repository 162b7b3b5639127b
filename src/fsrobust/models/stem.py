"""How a residual network begins: one 3×3 convolution for small images, 7×7 and a pool for large ones."""

from torch import nn

from fsrobust.models.config import ModelConfig
from fsrobust.models.normalize import Normalize


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3×3 convolution without bias that keeps the size (at stride 1)."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def first_convolution(config: ModelConfig, channels: int) -> nn.Conv2d:
    """Return the stem's convolution: a quarter of the size is left after it and ``first_pool`` for "imagenet"."""
    if config.stem == "imagenet":
        return nn.Conv2d(config.channels, channels, 7, stride=2, padding=3, bias=False)
    return conv3x3(config.channels, channels)


def first_pool(config: ModelConfig) -> nn.Module:
    """Return the stem's pool, nothing for "cifar"."""
    return nn.MaxPool2d(3, stride=2, padding=1) if config.stem == "imagenet" else nn.Identity()


def normalisation(config: ModelConfig) -> nn.Module:
    """Return the layer that normalises pixels, nothing unless the configuration says so."""
    return Normalize(*config.normalize) if config.normalize else nn.Identity()
