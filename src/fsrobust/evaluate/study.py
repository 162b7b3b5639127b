"""Carry out a study: each attack that has no record yet, then the curve and the pictures for the report."""

import functools
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from fsrobust.attacks import Attack, make_attack
from fsrobust.attacks.view import FrozenView
from fsrobust.data.batches import pixels
from fsrobust.evaluate.curves import eps_curve
from fsrobust.evaluate.engine import GALLERY, AttackResult, Progress, Say, predict_all, run_attack
from fsrobust.evaluate.masks import mask_pictures
from fsrobust.evaluate.outcome import Outcome
from fsrobust.evaluate.store import Study, describe_attack, device_of, read_outcome, write_index
from fsrobust.records import locked, read_json, read_npz, write_json
from fsrobust.types import Images


def carry_out(
    study: Study,
    attacks: Sequence[str],
    *,
    curve_samples: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Outcome:
    """Run what has no record yet, write a record for each, and return the outcome of ``attacks``.

    ``curve_samples`` > 0 adds accuracy against eps on the first so many samples. A killed study goes on with
    the attack it was at.
    """
    work = _Work(study, batch, progress, say)
    with locked(study.folder):
        for name in attacks:
            work.attack(name)
        if curve_samples:
            work.curve(min(curve_samples, len(study.data)))
        if attacks:
            work.masks(attacks[-1])
        write_index(study.folder)  # a kill may have come between a record and its line
    records = [read_json(study.path(_key(study, name)) / "record.json") for name in attacks]
    return read_outcome(study.folder, records)


def _key(study: Study, name: str) -> str:
    return study.key("attack", {"name": name, **describe_attack(make_attack(name, study.ball))})


class _Work:
    """A study under way: its data on the model's device, what is computed once, who is told."""

    def __init__(self, study: Study, batch: int | None, progress: Progress | None, say: Say | None) -> None:
        self.study, self.batch, self.progress = study, batch, progress
        self.say = say or (lambda _text: None)
        self.model = study.subject.model
        self.data = study.data.to(device_of(self.model))
        self.view = FrozenView(self.model, dtype=torch.bfloat16) if study.precision == "bf16" else None

    @functools.cached_property
    def natural(self) -> NDArray[np.int64]:
        """The classes predicted for clean images: once, and only if some attack has to run."""
        return predict_all(self.model, pixels(self.data.images), batch=self.batch)

    def run(self, attack: Attack, name: str) -> AttackResult:
        """Run an attack on all samples."""
        return run_attack(
            attack,
            self.model,
            pixels(self.data.images),
            self.data.labels,
            ids=self.data.ids,
            seed=self.study.seed,
            batch=self.batch,
            view=self.view,
            name=name,
            progress=self.progress,
            say=self.say,
        )

    def attack(self, name: str) -> None:
        """Write the record of an attack, unless there is one."""
        key, attack = _key(self.study, name), make_attack(name, self.study.ball)
        if self.study.has(key):
            self.say(f"{name}: already on record")
            return
        result = self.run(attack, name)
        labels, ids = self.data.labels.cpu().numpy(), self.data.ids.cpu().numpy()
        correct = self.natural == labels
        bits = {
            "ids": ids,
            "attacked": result.attacked,
            "fooled_last": result.fooled_last,
            "fooled_any": result.fooled_any | ~correct,
            "natural_correct": correct,
            "predicted": result.predicted,
        }
        gallery = {
            "images": self.data.images[:GALLERY].cpu().numpy(),
            "attacked": result.gallery,
            "labels": labels[:GALLERY],
            "natural_predicted": self.natural[:GALLERY],
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
        self.study.write(key, "attack", content, {"samples": bits, "gallery": gallery})

    def curve(self, n: int) -> None:
        """Write the record of accuracy against eps on the first ``n`` samples, unless there is one."""
        key = self.study.key("curve", {"samples": n})
        if self.study.has(key):
            self.say("accuracy against eps: already on record")
            return
        data = self.data.select(torch.arange(n, device=self.data.ids.device))
        curve = eps_curve(
            self.model,
            pixels(data.images),
            data.labels,
            ball=self.study.ball,
            ids=data.ids,
            seed=self.study.seed,
            batch=self.batch,
            view=self.view,
            progress=self.progress,
        )
        write_json(self.study.path(key) / "curves.json", asdict(curve))
        self.study.write(key, "curve", {"name": "eps"}, {})

    def masks(self, name: str) -> None:
        """Keep pictures of the mask on the samples of an attack's gallery."""
        key = self.study.key("mask", {"attack": _key(self.study, name)})
        if self.study.has(key):
            return
        gallery = read_npz(self.study.path(_key(self.study, name)) / "gallery.npz")
        device = self.data.images.device
        x: Images = pixels(torch.from_numpy(gallery["images"])).to(device)
        x_adv: Images = torch.from_numpy(gallery["attacked"].astype(np.float32)).to(device)
        pictures = mask_pictures(self.model, x, x_adv)
        if pictures is not None:
            self.study.write(key, "mask", {"name": "mask", "attack": name}, {"mask": pictures})
