"""Default settings train as they always have: a whole run against a textbook's loop, to the bit."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.data import hold_out
from fsrobust.data.batches import crop_flip, pixels, training_batches
from fsrobust.plugin import Guarded, recalibration_loss, separation_loss
from fsrobust.seeding import Noise, derive
from fsrobust.train import TrainConfig, fit
from tests.helpers import fingerprint
from tests.runs import Listener, at, digits, net

EPOCHS, BATCH, EPS, STEP_SIZE = 4, 16, 0.1, 0.05


def attacked(model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """Return PGD-2's images from a uniform start, in eval mode."""
    model.eval()
    x_adv = (x + (2 * noise.fold(0).uniform(tuple(x.shape[1:])) - 1) * EPS).clamp(0, 1)
    for _ in range(2):
        leaf = x_adv.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        x_adv = (x + (leaf.detach() + STEP_SIZE * slope.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
    return x_adv


def textbook(model: nn.Module) -> list[float]:
    """Train by torch's SGD as the paper does, the rate dropping at epochs 3 and 4; return the losses."""
    data, _ = hold_out(digits(90), count=1000, seed=0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    losses: list[float] = []
    for epoch, lr in enumerate((0.02, 0.02, 0.02 * 0.1, 0.02 * 0.1**2), start=1):
        optimiser.param_groups[0]["lr"] = lr
        for indices in training_batches(len(data), batch=BATCH, seed=0, epoch=epoch):
            torch.manual_seed(derive(0, "step", len(losses)))
            y, noise = data.labels[indices], Noise.of(data.ids[indices], 0, "train", epoch)
            x = pixels(crop_flip(data.images[indices], noise.fold("augment"))).contiguous()
            x_adv = attacked(model, x, y, noise.fold("attack"))
            model.train()
            optimiser.zero_grad()
            if isinstance(model, Guarded):
                parts = model.parts(x_adv)
                loss = F.cross_entropy(parts.logits, y) + 1.0 * recalibration_loss(parts, y)
                loss = loss + 1.0 * separation_loss(parts, y)
            else:
                loss = F.cross_entropy(model(x_adv), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
    return losses


def test_twenty_default_steps_are_the_textbooks() -> None:
    """Schedule, averaging, smoothing, perturbation at their defaults change no bit of losses or weights."""
    for fsr in (None, "paper"):
        listener, model, plain = Listener(), net(fsr=fsr), net(fsr=fsr)
        settings: dict[str, Any] = {"epochs": EPOCHS, "batch": BATCH, "lr": 0.02, "engine": "reference"}
        fit(model, digits(90), objective=at(eps=EPS), train=TrainConfig(**settings), reporter=listener)
        losses = textbook(plain)
        assert len(losses) == 20
        assert listener.losses == losses
        assert fingerprint(model) == fingerprint(plain)
