"""Residual networks that normalise before they convolve (He et al., 2016b; Zagoruyko and Komodakis, 2016)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.models.config import ModelConfig, scaled, whole_width
from fsrobust.models.stem import conv3x3, first_convolution, first_pool, normalisation
from fsrobust.types import Features, Images, Logits


class PreActBlock(nn.Module):
    """Norm, ReLU, 3×3, norm, ReLU, 3×3, beside the input itself; where the shape changes, beside 1×1.

    That 1×1 sees the input after the first norm and ReLU, which both ways then share.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, f: Features) -> Tensor:
        """Return the block's output: [B, channels_out, M/stride, N/stride]."""
        g = F.relu(self.bn1(f))
        beside: Tensor = f if self.shortcut is None else self.shortcut(g)
        output: Tensor = self.conv2(F.relu(self.bn2(self.conv1(g)))) + beside
        return output


class PreActResNet(nn.Module):
    """A stem, stages of pre-activation blocks, ``final`` (norm and ReLU), global average pooling, ``linear``."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        stem: int,
        stages: dict[str, int],
        blocks: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.normalize = normalisation(config)
        self.conv1 = first_convolution(config, stem)
        self.pool = first_pool(config)
        self.stages = list(stages)
        channels_in = stem
        for (name, channels), count, stride in zip(stages.items(), blocks, strides, strict=True):
            stage = nn.Sequential(PreActBlock(channels_in, channels, stride))
            stage.extend([PreActBlock(channels, channels, 1) for _ in range(count - 1)])
            self.add_module(name, stage)
            channels_in = channels
        self.final = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU())
        self.linear = nn.Linear(channels_in, config.classes)

    def forward(self, x: Images) -> Logits:
        """Return logits."""
        f = self.pool(self.conv1(self.normalize(x)))
        for name in self.stages:
            f = getattr(self, name)(f)
        logits: Logits = self.linear(self.final(f).mean(dim=(2, 3)))
        return logits


def preact_resnet18(config: ModelConfig) -> PreActResNet:
    """Return the pre-activation ResNet-18 of the CIFAR literature, with a last norm: 11,172,170 parameters."""
    width = whole_width(config)
    stages = {f"layer{k + 1}": width * 2**k for k in range(4)}
    return PreActResNet(config, stem=width, stages=stages, blocks=(2, 2, 2, 2), strides=(1, 2, 2, 2))


def _wide(config: ModelConfig, depth: int) -> PreActResNet:
    """Return a wide ResNet of 6n + 4 layers: three stages ``block1`` … of 16, 32 and 64 times the width."""
    stages = {f"block{k + 1}": scaled(config, 16 * 2**k) for k in range(3)}
    return PreActResNet(config, stem=16, stages=stages, blocks=((depth - 4) // 6,) * 3, strides=(1, 2, 2))


def wrn34_10(config: ModelConfig) -> PreActResNet:
    """Return WRN-34-10: 46,160,474 parameters for ten classes."""
    return _wide(config, 34)


def wrn28_10(config: ModelConfig) -> PreActResNet:
    """Return WRN-28-10: 36,479,194 parameters for ten classes."""
    return _wide(config, 28)


def initialise_wide(model: nn.Module) -> None:
    """Draw convolutions from N(0, 2/(k² · channels out)) and set biases of Linear layers to 0, as WRN's code does."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
