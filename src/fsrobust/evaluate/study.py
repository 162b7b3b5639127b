"""Carry out a study: each attack that has no record yet, then the curve and the pictures for the report."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from fsrobust.attacks import make_attack
from fsrobust.data.batches import pixels
from fsrobust.evaluate.curves import eps_curve
from fsrobust.evaluate.engine import GALLERY, Progress, predict_all, run_attack
from fsrobust.evaluate.masks import mask_pictures
from fsrobust.evaluate.outcome import Outcome
from fsrobust.evaluate.store import Study, describe_attack, device_of, read_outcome, write_index
from fsrobust.records import locked, read_json, read_npz, write_json
from fsrobust.types import Images

Say = Callable[[str], None]


def carry_out(
    study: Study,
    attacks: Sequence[str],
    *,
    curve_samples: int = 0,
    batch: int = 250,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Outcome:
    """Run what has no record yet, write a record for each, and return the outcome of ``attacks``.

    ``curve_samples`` > 0 adds accuracy against eps on the first so many samples. A killed study goes on with
    the attack it was at.
    """
    natural = functools.cache(lambda: _predict(study, batch))  # once, and only if some attack has to run
    with locked(study.folder):
        for name in attacks:
            if study.has(_key(study, name)):
                if say is not None:
                    say(f"{name}: already on record")
            else:
                _attack(study, name, natural(), batch, progress)
        if curve_samples:
            _curve(study, min(curve_samples, len(study.data)), batch, progress, say)
        if attacks:
            _masks(study, attacks[-1])
        write_index(study.folder)  # a kill may have come between a record and its line
    records = [read_json(study.path(_key(study, name)) / "record.json") for name in attacks]
    return read_outcome(study.folder, records)


def _key(study: Study, name: str) -> str:
    return study.key("attack", {"name": name, **describe_attack(make_attack(name, study.ball))})


def _predict(study: Study, batch: int) -> NDArray[np.int64]:
    data = study.data.to(device_of(study.subject.model))
    return predict_all(study.subject.model, pixels(data.images), batch=batch)


def _attack(
    study: Study, name: str, natural: NDArray[np.int64], batch: int, progress: Progress | None
) -> None:
    key, attack = _key(study, name), make_attack(name, study.ball)
    model, data = study.subject.model, study.data.to(device_of(study.subject.model))
    x, y = pixels(data.images), data.labels
    result = run_attack(
        attack, model, x, y, ids=data.ids, seed=study.seed, batch=batch, name=name, progress=progress
    )
    labels, ids = y.cpu().numpy(), data.ids.cpu().numpy()
    correct = natural == labels
    bits = {
        "ids": ids,
        "attacked": result.attacked,
        "fooled_last": result.fooled_last,
        "fooled_any": result.fooled_any | ~correct,
        "natural_correct": correct,
        "predicted": result.predicted,
    }
    gallery = {
        "images": data.images[:GALLERY].cpu().numpy(),
        "attacked": result.gallery,
        "labels": labels[:GALLERY],
        "natural_predicted": natural[:GALLERY],
        "predicted": result.predicted[:GALLERY],
        "ids": ids[:GALLERY],
    }
    content = {
        "name": name,
        "attack": describe_attack(attack),
        "accuracy": {
            "natural": float(correct.mean()),
            "paper": float((~result.fooled_last).mean()),
            "strict": float((correct & ~result.fooled_any).mean()),
        },
        "path": result.path,
        "forwards": result.forwards,
        "backwards": result.backwards,
        "seconds": result.seconds,
    }
    study.write(key, "attack", content, {"samples": bits, "gallery": gallery})


def _curve(study: Study, n: int, batch: int, progress: Progress | None, say: Say | None) -> None:
    key = study.key("curve", {"samples": n})
    if study.has(key):
        if say is not None:
            say("accuracy against eps: already on record")
        return
    model, data = study.subject.model, study.data.select(torch.arange(n)).to(device_of(study.subject.model))
    x, y = pixels(data.images), data.labels
    curve = eps_curve(
        model, x, y, ball=study.ball, ids=data.ids, seed=study.seed, batch=batch, progress=progress
    )
    write_json(study.path(key) / "curves.json", asdict(curve))
    study.write(key, "curve", {"name": "eps"}, {})


def _masks(study: Study, name: str) -> None:
    """Keep pictures of the mask on the samples of an attack's gallery."""
    key = study.key("mask", {"attack": _key(study, name)})
    if study.has(key):
        return
    gallery = read_npz(study.path(_key(study, name)) / "gallery.npz")
    device = device_of(study.subject.model)
    x: Images = pixels(torch.from_numpy(gallery["images"])).to(device)
    x_adv: Images = torch.from_numpy(gallery["attacked"].astype(np.float32)).to(device)
    pictures = mask_pictures(study.subject.model, x, x_adv)
    if pictures is not None:
        study.write(key, "mask", {"name": "mask", "attack": name}, {"mask": pictures})
