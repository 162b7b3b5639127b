"""Accuracy on the validation split, by which the best checkpoint is chosen; never on test."""

import torch

from fsrobust.attacks.probe import Probe, under_attack
from fsrobust.data import Dataset
from fsrobust.data.batches import evaluation_batches, pixels
from fsrobust.seeding import Noise
from fsrobust.train.step import Step


def validate(step: Step, data: Dataset, *, batch: int, seed: int) -> dict[str, float]:
    """Return natural accuracy and, if the objective attacks, accuracy under its attack, as the engine sees it.

    The attack's noise is the same in every epoch, so that epochs are compared, not draws.
    """
    attacked = step.objective.attack is not None
    natural, robust = [], []
    with under_attack(step.model):
        step.view.refresh()
        probe = Probe(step.view)
        for part in evaluation_batches(len(data), batch=batch):
            x, y = pixels(data.images[part]), data.labels[part]
            natural.append((probe.logits(x).argmax(1) == y).sum())
            if attacked:
                x_adv = step.attack(x, y, Noise.of(data.ids[part], seed, "validation"))
                robust.append((probe.logits(x_adv).argmax(1) == y).sum())
    row = {"validation_natural": float(torch.stack(natural).sum()) / len(data)}
    if attacked:
        row["validation_robust"] = float(torch.stack(robust).sum()) / len(data)
    return row
