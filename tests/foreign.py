"""Somebody's own network, as a factory makes it: a residual net with the stem that ImageNet's have."""

import torch
from torch import Tensor, nn

CLASSES = 3


class Block(nn.Module):
    """Two convolutions around a shortcut, with activations in place, as such code usually has them."""

    def __init__(self, inward: int, outward: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inward, outward, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outward)
        self.conv2 = nn.Conv2d(outward, outward, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outward)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(
            nn.Conv2d(inward, outward, 1, stride, bias=False), nn.BatchNorm2d(outward)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the next map."""
        y: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        mapped: Tensor = self.relu(y + self.downsample(x))
        return mapped


class Net(nn.Module):
    """7 × 7 stem, pool, two stages, head."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))
        return logits


def resnet() -> nn.Module:
    """A network of three classes, its weights drawn at random: the caller's seed decides."""
    return Net(CLASSES)


def imagenet() -> nn.Module:
    """The same with the head it came with."""
    return Net(1000)
