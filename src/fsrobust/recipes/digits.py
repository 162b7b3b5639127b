"""Scikit-learn's 8×8 digits: minutes on a laptop, for the demo and for tests. Nothing here is published."""

from dataclasses import replace

from fsrobust.config import EvaluationConfig, ObjectiveConfig, Run
from fsrobust.models import ModelConfig
from fsrobust.train import TrainConfig

EPS = 0.15
"""A digit is still legible when each of its 64 greys has moved by 0.15."""


def digits_natural() -> Run:
    """Natural training. Expect 99 % natural and about 10 % under PGD-20."""
    return Run(
        recipe="digits-natural",
        title="Digits, natural training",
        data="digits",
        model=ModelConfig("resnet_small", classes=10, channels=1, width=16),
        objective=ObjectiveConfig("natural"),
        train=TrainConfig(epochs=15, batch=64, augment="none", engine="reference"),
        evaluation=EvaluationConfig("linf", EPS),
    )


def digits_at() -> Run:
    """PGD adversarial training. Expect 99 % natural and about 85 % under PGD-20."""
    return replace(
        digits_natural(),
        recipe="digits-at",
        title="Digits, AT",
        objective=ObjectiveConfig("at", eps=EPS, step_size=EPS / 4),
    )


def digits_at_fsr() -> Run:
    """AT with FSR after the last stage. Expect 99 % natural and about 82 % under PGD-20, a little below AT."""
    base = digits_at()
    return replace(
        base,
        recipe="digits-at-fsr",
        title="Digits, AT + FSR",
        model=replace(base.model, fsr=("layer3",)),
    )
