"""Residual networks for small images (He et al., 2016), with named stages."""

import torch
from torch import nn
from torch.nn import functional as F

from fsrobust.models.config import ModelConfig, whole_width
from fsrobust.models.stem import conv3x3, first_convolution, first_pool, normalisation
from fsrobust.types import Features, Images, Logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: the identity, or 1×1 where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut.extend(
                [
                    nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                    nn.BatchNorm2d(channels_out),
                ]
            )

    def forward(self, f: Features) -> torch.Tensor:
        """Return the block's output: [B, channels_out, M/stride, N/stride]."""
        g = F.relu(self.bn1(self.conv1(f)))
        return F.relu(self.bn2(self.conv2(g)) + self.shortcut(f))


class ResNet(nn.Module):
    """A stem, stages ``layer1`` … of basic blocks, global average pooling, ``linear``.

    Stage k has ``config.width``·2^(k−1) channels. The stem "cifar" is one 3×3 convolution; "imagenet" is
    a 7×7 convolution of stride 2 and a max-pool.
    """

    def __init__(self, config: ModelConfig, *, blocks: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        width = whole_width(config)
        self.normalize = normalisation(config)
        self.conv1 = first_convolution(config, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = first_pool(config)
        self.stages = [f"layer{k}" for k in range(1, len(blocks) + 1)]
        channels_in = width
        for k, (name, count, stride) in enumerate(zip(self.stages, blocks, strides, strict=True)):
            channels_out = width * 2**k
            stage = nn.Sequential(BasicBlock(channels_in, channels_out, stride))
            stage.extend([BasicBlock(channels_out, channels_out, 1) for _ in range(count - 1)])
            self.add_module(name, stage)
            channels_in = channels_out
        self.linear = nn.Linear(channels_in, config.classes)

    def forward(self, x: Images) -> Logits:
        """Return logits."""
        f = self.pool(F.relu(self.bn1(self.conv1(self.normalize(x)))))
        for name in self.stages:
            f = getattr(self, name)(f)
        logits: Logits = self.linear(f.mean(dim=(2, 3)))
        return logits


def resnet18(config: ModelConfig) -> ResNet:
    """Return the ResNet-18 of the CIFAR literature: 11,173,962 parameters for ten classes."""
    return ResNet(config, blocks=(2, 2, 2, 2), strides=(1, 2, 2, 2))


def resnet_small(config: ModelConfig) -> ResNet:
    """Return three stages of one block for images of 8 to 16 pixels; the last map is half the image.

    So an 8×8 image still has a 4×4 map, the size that the paper's plug-in sees, at ``layer3``.
    """
    return ResNet(config, blocks=(1, 1, 1), strides=(1, 2, 1))
