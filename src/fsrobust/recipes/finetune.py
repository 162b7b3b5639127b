"""Fine-tuning: a trained network, ours or anybody's, made robust on one's own data.

Both need --init and --data. Cost: epochs × images × 11 passes of the network, as for all AT with ten steps.
"""

from dataclasses import replace

from fsrobust.config import ObjectiveConfig, Run
from fsrobust.models import ModelConfig
from fsrobust.train import TrainConfig


def finetune_at() -> Run:
    """AT from trained weights (--init) on your data (--data). Expect some natural accuracy lost for robustness."""
    return Run(
        recipe="finetune-at",
        title="Fine-tuning, AT",
        data="",
        model=ModelConfig("resnet18", classes=10),
        objective=ObjectiveConfig("at"),
        train=TrainConfig(epochs=20, lr=0.02, milestones=(0.6, 0.85)),
    )


def finetune_at_fsr() -> Run:
    """AT with FSR attached (--attach LAYER) to trained weights. Expect about what finetune-at gives: compare them.

    The plug-in starts as the identity and learns alone for two epochs.
    """
    base = finetune_at()
    return replace(
        base,
        recipe="finetune-at-fsr",
        title="Fine-tuning, AT + FSR",
        model=replace(base.model, fsr=("layer4",), fsr_init="identity"),
        train=replace(base.train, frozen_epochs=2, host_lr=0.5),
    )
