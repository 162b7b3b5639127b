"""Run attacks over a data set and keep what they found, one record per attack."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsrobust.attacks import Attack, Ball, Search, make_attack, search
from fsrobust.attacks.base import predict
from fsrobust.attacks.probe import Probe, ieee_fp32, under_attack
from fsrobust.data.batches import evaluation_batches
from fsrobust.evaluate.outcome import Bits, Outcome
from fsrobust.types import Ids, Images, InputError, Labels

Progress = Callable[[str, int, int], None]
"""Called with (attack, samples done, samples in all)."""

GALLERY = 12
"""How many samples an attack's pictures are kept of."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack on all samples: bits, what it cost (in samples), and pictures of the first few.

    ``path[t]`` is the share classified right at the t-th query of the search, the last iterate at its end.
    """

    attacked: Bits
    fooled_last: Bits
    fooled_any: Bits
    predicted: NDArray[np.int64]
    path: list[float]
    forwards: int
    backwards: int
    seconds: float
    gallery: NDArray[np.float32]


def evaluate(  # noqa: PLR0913 - the public entry: model, data, attacks, and what noise depends on
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: Ball,
    attacks: Sequence[str] = ("fgsm", "pgd20", "pgd100", "cw"),
    ids: Ids | None = None,
    seed: int = 0,
    batch: int = 250,
    progress: Progress | None = None,
) -> Outcome:
    """Attack every sample with each of ``attacks`` and return the verdicts; nothing is written.

    Verdicts rest on IEEE float32 whatever the search used; noise depends on (seed, id, attack) alone.

    Raises:
        InputError: what ``perturb`` refuses, or an unknown attack.
    """
    chosen = {name: make_attack(name, ball) for name in attacks}
    ids = torch.arange(len(x)) if ids is None else ids
    natural = predict_all(model, x, batch=batch) == y.cpu().numpy()
    found = {
        name: run_attack(attack, model, x, y, ids=ids, seed=seed, batch=batch, name=name, progress=progress)
        for name, attack in chosen.items()
    }
    return Outcome(
        ids=ids.cpu().numpy(),
        natural_correct=natural,
        attacked={name: result.attacked for name, result in found.items()},
        fooled_last={name: result.fooled_last for name, result in found.items()},
        # a sample that is wrong when clean counts as fooled, random start or not
        fooled={name: result.fooled_any | ~natural for name, result in found.items()},
    )


def predict_all(model: nn.Module, x: Images, *, batch: int = 250) -> NDArray[np.int64]:
    """Return the classes predicted for clean images, in IEEE float32."""
    if len(x) == 0:
        raise InputError("Expected at least one sample to evaluate, but got none")
    with under_attack(model), ieee_fp32():
        probe = Probe(model)
        classes = [predict(probe, x[part].clone()) for part in evaluation_batches(len(x), batch=batch)]
    return _numpy(torch.cat(classes))


def run_attack(  # noqa: PLR0913 - as evaluate
    attack: Attack,
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ids: Ids,
    seed: int = 0,
    batch: int = 250,
    name: str = "",
    progress: Progress | None = None,
) -> AttackResult:
    """Attack all samples in batches and return what was found, in the samples' order."""
    started = time.perf_counter()
    found: list[Search] = []
    for part in evaluation_batches(len(x), batch=batch):
        done = search(attack, model, x[part], y[part], ids=ids[part], seed=seed)
        found.append(done)
        if progress is not None:
            progress(name, part.stop, len(x))
    fooled_last = _numpy(_join(s.fooled_last for s in found))
    path = [_numpy(_join(steps)) for steps in zip(*(s.path for s in found), strict=True)]
    return AttackResult(
        attacked=np.ones(len(x), bool),
        fooled_last=fooled_last,
        fooled_any=_numpy(_join(s.fooled_any for s in found)),
        predicted=_numpy(_join(s.predicted for s in found)),
        path=[float((~fooled).mean()) for fooled in (*path, fooled_last)],
        forwards=sum(s.forwards for s in found),
        backwards=sum(s.backwards for s in found),
        seconds=time.perf_counter() - started,
        gallery=_numpy(_join(s.last for s in found)[:GALLERY]).astype(np.float32),
    )


def _join(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
