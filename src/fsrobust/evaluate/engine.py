"""Run attacks over a data set and keep what they found, one record per attack."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsrobust.attacks import Attack, Ball, Cascade, Search, search
from fsrobust.attacks.base import check_samples, drawing, draws_of
from fsrobust.attacks.probe import Probe, Query, ieee_fp32, under_attack
from fsrobust.attacks.view import View
from fsrobust.attacks.witness import predict
from fsrobust.evaluate.adaptive import Surrogates, find_attack
from fsrobust.evaluate.cascade import STANDING, Journal, Standing, Task, run_cascade
from fsrobust.evaluate.journal import Batches
from fsrobust.evaluate.outcome import Bits, Outcome
from fsrobust.evaluate.searching import (
    PILOTS,
    Say,
    batch_for,
    choose_batch,
    choose_precision,
    in_batches,
    pass_bytes,
    silent,
)
from fsrobust.evaluate.stopping import Stop, heed, never
from fsrobust.types import Ids, Images, InputError, Labels

Progress = Callable[[str, int, int], None]
"""Called with (attack, samples done, samples in all)."""
GALLERY = 12
"""How many samples an attack's pictures are kept of."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack on all samples: bits, what it cost (in samples), and images on the CPU.

    ``last`` holds the first few last iterates, ``images`` for every sample one that fooled it, else the last.

    ``path[t]`` is the share classified right at the t-th query of the search, the last iterate at its end; empty
    for a cascade, which says instead where it left each sample (``standing``).
    """

    attacked: Bits
    fooled_last: Bits
    fooled_any: Bits
    predicted: NDArray[np.int64]
    path: list[float]
    forwards: int
    backwards: int
    seconds: float
    last: NDArray[np.float32]
    images: Images
    standing: Standing | None = None


def evaluate(  # noqa: PLR0913 - the public entry: model, data, attacks, and what noise depends on
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: Ball,
    attacks: Sequence[str] = ("fgsm", "pgd20", "pgd100", "cw"),
    ids: Ids | None = None,
    seed: int = 0,
    batch: int | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    progress: Progress | None = None,
) -> Outcome:
    """Attack every sample with each of ``attacks`` and return the verdicts; nothing is written.

    Verdicts rest on IEEE float32 whatever ``precision`` the search has ("auto": bf16 where the device is fast
    at it and the model bears it); noise depends on (seed, id, attack) alone. Without ``batch`` as many samples
    are attacked at once as memory and speed suggest.

    Raises:
        InputError: what ``perturb`` refuses, or an unknown attack.
    """
    ids = torch.arange(len(x)) if ids is None else ids
    if len(x):
        check_samples(model, x, y, ids)
    chosen = {name: find_attack(name, ball, model) for name in attacks}
    draws = max((draws_of(attack) for attack in chosen.values()), default=1)
    natural = predict_all(model, x, batch=batch, draws=draws, seed=seed) == y.cpu().numpy()
    searching = choose_precision(model, x[:PILOTS], y[:PILOTS], precision)
    surrogates = Surrogates(model, x, y, precision)
    found = {
        name: run_attack(
            attack,
            model,
            x,
            y,
            ids=ids,
            seed=seed,
            batch=batch,
            view=searching.view,
            name=name,
            progress=progress,
            surrogates=surrogates,
        )
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


def predict_all(
    model: nn.Module, x: Images, *, batch: int | None = None, draws: int = 1, seed: int = 0
) -> NDArray[np.int64]:
    """Return the classes predicted for images, in IEEE float32: by the mean of so many ``draws`` of a random model."""
    if len(x) == 0:
        raise InputError("Expected at least one sample to evaluate, but got none")
    with under_attack(model), ieee_fp32():
        probe = Probe(model, draws=draws)
        size = batch or choose_batch(model, x)
        with drawing(seed, x.device):
            classes = [
                done for _, done in in_batches(lambda part: predict(probe, x[part].clone()), len(x), size)
            ]
    return _numpy(torch.cat(classes))


def run_attack(  # noqa: PLR0913 - as evaluate
    attack: Attack,
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
    surrogates: Mapping[str, Query] | None = None,
    journal: Path | None = None,
    stop: Stop = never,
) -> AttackResult:
    """Attack all samples in batches and return what was found, in the samples' order.

    ``view`` is what the attack queries instead of ``model``; the verdicts are the model's. A cascade may climb
    ``surrogates``. Progress is kept in ``journal``: killed, an attack goes on from there to the same result.

    Raises:
        Stopped: ``stop`` said so before a batch; the journal has all batches before it.
    """
    batch, ids = batch or choose_batch(model, x), ids.to(x.device)
    if isinstance(attack, Cascade):
        task = Task(model, x, y, ids, seed, batch, view, surrogates or {}, say or silent, attack.draws, stop)
        return _attack_in_stages(attack, task, name, progress, Journal(journal))

    def attack_part(part: slice) -> Search:
        return search(attack, model, x[part], y[part], ids=ids[part], seed=seed, view=view)

    size = batch_for(attack, batch, x.device, each=pass_bytes(model, x[:1]))
    return attack_in_batches(
        attack_part, len(x), size, name=name, progress=progress, say=say, journal=journal, stop=stop
    )


def attack_in_batches(  # noqa: PLR0913 - what to do, on how many, and who is told
    attack_part: Callable[[slice], Search],
    n: int,
    batch: int,
    *,
    name: str,
    progress: Progress | None,
    say: Say | None,
    journal: Path | None,
    stop: Stop,
) -> AttackResult:
    """Attack ``n`` samples in batches, or the rest of them where ``journal`` knows of a beginning."""
    batches = Batches.read(journal, n, say or silent)
    done, started = batches.done, time.perf_counter()

    def attack_rest(part: slice) -> Search:
        heed(stop, batches.write)
        found = attack_part(slice(done + part.start, done + part.stop))
        return replace(found, last=found.last.cpu(), witness=found.witness.cpu())  # they would fill a GPU

    for part, found in in_batches(attack_rest, n - done, batch, say):
        now = time.perf_counter()
        batches.add(found, now - started)
        started = now
        if progress is not None:
            progress(name, done + part.stop, n)
    whole = batches.joined()
    return AttackResult(
        attacked=np.ones(n, bool),
        fooled_last=_numpy(whole.fooled_last),
        fooled_any=_numpy(whole.fooled_any),
        predicted=_numpy(whole.predicted),
        path=[float((~fooled).float().mean()) for fooled in (*whole.path, whole.fooled_last)],
        forwards=whole.forwards,
        backwards=whole.backwards,
        seconds=batches.seconds,
        last=_numpy(whole.last[:GALLERY]).astype(np.float32),
        images=whole.witness,
    )


def _attack_in_stages(
    cascade: Cascade, task: Task, name: str, progress: Progress | None, journal: Journal
) -> AttackResult:
    """Run a cascade; the image that counts is the one that fooled, the clean one where none did."""
    n = len(task.x)
    classes = _classes(task)
    predicted = _predict(task, task.x)

    def tell(share: float) -> None:
        if progress is not None:
            progress(name, int(share * n), n)

    standing = run_cascade(
        cascade,
        task,
        predicted == task.y.cpu().numpy(),
        classes=classes,
        journal=journal,
        progress=tell,
    )
    fooled = standing.fooled_by != STANDING
    return AttackResult(
        attacked=np.ones(n, bool),
        fooled_last=fooled,
        fooled_any=fooled,
        predicted=_predict(task, standing.images.to(task.x)),
        path=[],
        forwards=sum(cost.forwards for cost in standing.costs) + task.draws * n,
        backwards=sum(cost.backwards for cost in standing.costs),
        seconds=sum(cost.seconds for cost in standing.costs),
        last=_numpy(standing.images[:GALLERY]).astype(np.float32),
        images=standing.images,
        standing=standing,
    )


def _predict(task: Task, x: Images) -> NDArray[np.int64]:
    return predict_all(task.model, x, batch=task.batch, draws=task.draws, seed=task.seed)


def _classes(task: Task) -> int:
    with under_attack(task.model):
        return Probe(task.model).logits(task.x[:1].clone()).shape[1]


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
