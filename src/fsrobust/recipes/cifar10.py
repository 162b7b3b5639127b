"""CIFAR-10 with ResNet-18: the rows of the paper's Table 1, and of Tables S4 to S7 of its supplement.

Cost: 100 epochs × 49,920 images × 11 passes. One AT epoch is 1.28 PFLOP, with FSR 1.32 PFLOP.
"""

from dataclasses import replace

from fsrobust.config import ObjectiveConfig, Published, Run
from fsrobust.models import ModelConfig
from fsrobust.train import TrainConfig

_COLUMNS = ("natural", "fgsm", "pgd20", "pgd100", "cw", "ensemble")


def cifar10_resnet18_at() -> Run:
    """PGD adversarial training. Expect (supplement, Table S5): natural 85.02, PGD-20 48.22, ensemble 45.51.

    That row looks like a late, over-fitted checkpoint: expect the best checkpoint to be above it.
    """
    return Run(
        recipe="cifar10-resnet18-at",
        title="CIFAR-10, ResNet-18, AT",
        data="cifar10",
        model=ModelConfig("resnet18", classes=10, width=64),
        objective=ObjectiveConfig("at"),
        train=TrainConfig(),
        published=Published(
            "supplement, Table S5, row AT",
            dict(zip(_COLUMNS, (85.02, 56.21, 48.22, 46.37, 47.38, 45.51), strict=True)),
        ),
    )


def cifar10_resnet18_at_fsr() -> Run:
    """AT with FSR after layer4. Expect (Table S4, Block4): natural 81.46, PGD-20 52.47, ensemble 48.34."""
    base = cifar10_resnet18_at()
    return replace(
        base,
        recipe="cifar10-resnet18-at-fsr",
        title="CIFAR-10, ResNet-18, AT + FSR",
        model=replace(base.model, fsr=("layer4",)),
        published=Published(
            "supplement, Table S4, row Block4",
            dict(zip(_COLUMNS, (81.46, 58.07, 52.47, 51.02, 49.44, 48.34), strict=True)),
        ),
    )


def cifar10_resnet18_natural() -> Run:
    """Natural training, as the undefended reference. Expect about 95 % natural and 0 % under PGD-20."""
    base = cifar10_resnet18_at()
    return replace(
        base,
        recipe="cifar10-resnet18-natural",
        title="CIFAR-10, ResNet-18, natural training",
        objective=ObjectiveConfig("natural"),
        published=None,
    )
