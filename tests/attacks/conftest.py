"""A network that an attack can neither always nor never fool, trained once per session."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import Linf
from fsrobust.data import load_dataset
from fsrobust.plugin import create_model
from fsrobust.train import AT, TrainConfig, fit

RADII = {"linf": 0.14, "l2": 1.2}
"""Where about half of the samples of `robust_net` can be fooled."""


@pytest.fixture(scope="session")
def robust_net() -> tuple[nn.Module, Tensor, Tensor]:
    """Return an adversarially trained network, frozen and in eval mode, 200 test images 3 × 8 × 8, and labels."""
    digits, test = (load_dataset("digits", split) for split in ("train", "test"))
    grey = digits.select(range(640))
    train = replace(grey, images=grey.images.repeat(1, 3, 1, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model("resnet_small", classes=10, width=8)
    fit(
        model,
        train,
        objective=AT(Linf(0.1), steps=2, step_size=0.06),
        train=TrainConfig(epochs=8, batch=64, augment="none", train_on="all", engine="reference"),
    )
    x = test.images[:200].repeat(1, 3, 1, 1).float() / 255
    return model.eval().requires_grad_(requires_grad=False), x, test.labels[:200]
