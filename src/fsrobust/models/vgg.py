"""VGG16 with batch norm (Simonyan and Zisserman, 2015), for images of 32 pixels and more."""

from typing import Final

from torch import nn

from fsrobust.models.config import ModelConfig, scaled
from fsrobust.models.stem import normalisation
from fsrobust.types import Images, InputError, Logits

_BLOCKS: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block."""


class VGG(nn.Module):
    """Blocks ``block1`` … ``block5`` of convolutions, a max-pool after each, pooling, three Linear layers.

    The pools are not part of the blocks: the plug-in after ``block4`` sees the map before its pool.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.stem != "cifar":
            raise InputError(
                f'Expected stem "cifar" for {config.name}, which has no other, but got "{config.stem}"'
            )
        self.normalize = normalisation(config)
        self.blocks = [f"block{k}" for k in range(1, len(_BLOCKS) + 1)]
        channels_in = config.channels
        for name, (channels, count) in zip(self.blocks, _BLOCKS, strict=True):
            block = nn.Sequential()
            for _ in range(count):
                channels_out = scaled(config, channels)
                block.extend(
                    [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out)]
                )
                block.append(nn.ReLU())
                channels_in = channels_out
            self.add_module(name, block)
        self.pool = nn.MaxPool2d(2)
        hidden = scaled(config, 512)
        self.classifier = nn.Sequential(
            nn.Linear(channels_in, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.classes),
        )

    def forward(self, x: Images) -> Logits:
        """Return logits."""
        f = self.normalize(x)
        for name in self.blocks:
            f = self.pool(getattr(self, name)(f))
        logits: Logits = self.classifier(f.mean(dim=(2, 3)))
        return logits


def vgg16(config: ModelConfig) -> VGG:
    """Return VGG16 with batch norm: 15,253,578 parameters for ten classes."""
    return VGG(config)


def initialise_vgg(model: nn.Module) -> None:
    """Draw convolutions as He et al. (2015) do by fan-out, Linear layers from N(0, 0.01²), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
