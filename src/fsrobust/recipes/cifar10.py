"""CIFAR-10 with ResNet-18: the rows of the paper's Table 1, of Tables S4 to S7 of its supplement, and our own.

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


def cifar10_resnet18_best() -> Run:
    """All that should lift robust accuracy: TRADES, AWP, EMA, FSR. Expected, not yet measured: PGD-20 about 55 %.

    Also natural about 81 % and AutoAttack about 50 %. TRADES with β = 6; weights perturbed by γ = 5e-3 after 10 epochs
    (Wu et al., 2020); a rate that falls along a cosine; labels smoothed by 0.1 in the clean cross-entropy; an
    average of the weights with a decay of 0.995, which outlasts the over-fitting of the last epochs. Judge it by
    AutoAttack: smoothing flatters the cross-entropy attacks. Cost: some 1.4 times AT + FSR.
    """
    base = cifar10_resnet18_at_fsr()
    return replace(
        base,
        recipe="cifar10-resnet18-best",
        title="CIFAR-10, ResNet-18, TRADES + AWP + EMA + FSR",
        objective=ObjectiveConfig("trades", label_smoothing=0.1, awp=5e-3, awp_warmup=10),
        train=TrainConfig(schedule="cosine", averaging="ema", ema_decay=0.995),
        published=None,
    )


def cifar10_resnet18_fast_at() -> Run:
    """One-step adversarial training, 30 epochs. Expected, not yet measured: natural 83 %, PGD-20 about 46 %.

    The rate rises to 0.2 and falls again (Wong et al., 2020). A collapse to robustness against its own step alone
    stops the run. Cost: some 6 % of AT's 100 epochs.
    """
    base = cifar10_resnet18_at()
    return replace(
        base,
        recipe="cifar10-resnet18-fast-at",
        title="CIFAR-10, ResNet-18, fast AT",
        objective=ObjectiveConfig("fast-at"),
        train=TrainConfig(epochs=30, lr=0.2, schedule="one-cycle"),
        published=None,
    )
