"""Accuracy on the validation split, by which the best checkpoint is chosen; never on test."""

import torch
from torch import Tensor

from fsrobust.attacks import PGD
from fsrobust.attacks.probe import Probe, under_attack
from fsrobust.data import Dataset
from fsrobust.data.batches import evaluation_batches, pixels
from fsrobust.seeding import Noise
from fsrobust.train.distributed import ALONE, Team
from fsrobust.train.objectives import Objective
from fsrobust.train.step import Step


def validate(step: Step, data: Dataset, *, batch: int, seed: int, team: Team = ALONE) -> dict[str, float]:
    """Return natural accuracy and, if the objective attacks, accuracy under its attack, as the engine sees it.

    An objective may name a stronger attack, ``check``, to be judged by: "robust" is then under that, and "one_step"
    under its own. The attack's noise is the same in every epoch, so that epochs are compared, not draws. Each process
    of a team takes its samples; all return the same.
    """
    attacks, count = _attacks(step.objective), len(data)
    if team.size > 1:
        data = data.select(range(team.rank, count, team.size))
    none = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    right: dict[str, list[Tensor]] = {name: [none] for name in ("natural", *attacks)}
    with under_attack(step.model):
        step.view.refresh()
        probe = Probe(step.view)
        for part in evaluation_batches(len(data), batch=batch):
            x, y = pixels(data.images[part]), data.labels[part]
            right["natural"].append((probe.logits(x).argmax(1) == y).sum())
            noise = Noise.of(data.ids[part], seed, "validation")
            for name, attack in attacks.items():
                x_adv = attack.run(Probe(step.view, checked=False), x, y, noise).detach()
                right[name].append((probe.logits(x_adv).argmax(1) == y).sum())
    return {f"validation_{name}": team.total(torch.stack(v).sum()) / count for name, v in right.items()}


def validation_batch(batch: int, *, processes: int, pieces: int) -> int:
    """Return how many samples a process validates at once: what it learns from at once, or 256 if those are more.

    Who learns in pieces is short of memory, and gets no more than a piece.

    >>> validation_batch(128, processes=1, pieces=1), validation_batch(1024, processes=2, pieces=8)
    (256, 64)
    """
    rows = batch // (processes * pieces)
    return max(rows, 256) if pieces == 1 else rows


def _attacks(objective: Objective) -> dict[str, PGD]:
    if objective.attack is None:
        return {}
    check = getattr(objective, "check", None)
    return {"robust": objective.attack} if check is None else {"robust": check, "one_step": objective.attack}
