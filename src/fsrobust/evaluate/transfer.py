"""Attack one network and ask another: what an attacker does who cannot see the model, only train one like it."""

import time

import numpy as np
import torch
from torch import nn

from fsrobust.attacks import Attack, Search, search
from fsrobust.attacks.probe import Probe, ieee_fp32, under_attack
from fsrobust.attacks.view import View
from fsrobust.attacks.witness import predict
from fsrobust.evaluate.engine import GALLERY, AttackResult, Progress
from fsrobust.evaluate.searching import Say, choose_batch, in_batches
from fsrobust.types import Flags, Ids, Images, Labels


def transfer_attack(  # noqa: PLR0913 - as run_attack, and the surrogate
    attack: Attack,
    surrogate: nn.Module,
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ids: Ids,
    seed: int = 0,
    batch: int | None = None,
    view: View | None = None,
    name: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
) -> AttackResult:
    """Attack ``surrogate`` on all samples, ask ``model`` about each attacked image once, return its verdicts.

    A true black box: the model sees nothing on the way, so a sample is fooled by its last image or not at all, and
    ``path`` has one entry. The image is what ``perturb`` returns for the surrogate: the last iterate or, where the
    attack stops once it has won, the image that won. ``search(..., surrogate=...)`` is the other thing: there the
    model judges every iterate.

    ``view`` is what the attack queries instead of the surrogate. The counts are the queries of both networks.

    Raises:
        InputError: what ``perturb`` refuses, of either network.
    """
    started = time.perf_counter()

    def attack_part(part: slice) -> tuple[Search, Labels]:
        found = search(attack, surrogate, x[part], y[part], ids=ids[part], seed=seed, view=view)
        with under_attack(model), ieee_fp32():
            return found, predict(Probe(model), found.last)

    size = batch or min(choose_batch(surrogate, x), choose_batch(model, x))
    found: list[tuple[Search, Labels]] = []
    for part, done in in_batches(attack_part, len(x), size, say):
        found.append(done)
        if progress is not None:
            progress(name, part.stop, len(x))
    predicted = torch.cat([classes for _, classes in found])
    fooled: Flags = predicted != y
    return AttackResult(
        attacked=np.ones(len(x), bool),
        fooled_last=fooled.cpu().numpy(),
        fooled_any=fooled.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        path=[float((~fooled).float().mean())],
        forwards=sum(searched.forwards for searched, _ in found) + len(x),
        backwards=sum(searched.backwards for searched, _ in found),
        seconds=time.perf_counter() - started,
        last=torch.cat([searched.last for searched, _ in found])[:GALLERY].float().cpu().numpy(),
        images=torch.cat([searched.last.cpu() for searched, _ in found]),
    )
