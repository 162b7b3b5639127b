"""Carry out a study: each attack that has no record yet, then the curve and the pictures for the report."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fsrobust.attacks.probe import Query
from fsrobust.attacks.view import View
from fsrobust.data.batches import pixels
from fsrobust.evaluate.adaptive import Surrogates, find_attack
from fsrobust.evaluate.contents import accuracies, adversarial, gallery, rounded, verdicts
from fsrobust.evaluate.curves import eps_curve
from fsrobust.evaluate.diagnose import diagnose
from fsrobust.evaluate.engine import AttackResult, Progress, predict_all, run_attack
from fsrobust.evaluate.kept import GALLERY, IMAGES, RECORD, set_aside
from fsrobust.evaluate.masks import mask_pictures
from fsrobust.evaluate.naming import common_draws, description, label, lacks, record_folder, record_key, rival
from fsrobust.evaluate.notes import Notes
from fsrobust.evaluate.outcome import Outcome
from fsrobust.evaluate.reuse import curve_key, diagnosis_key, withdraw_stale
from fsrobust.evaluate.searching import PILOTS, Say, choose_precision, silent
from fsrobust.evaluate.shards import Shard, read_parts, remove_parts, write_part
from fsrobust.evaluate.stopping import Stop, never
from fsrobust.evaluate.store import Study, device_of, read_outcome, write_index
from fsrobust.evaluate.transfer import transfer_attack
from fsrobust.records import locked, read_json, read_npz, write_json, write_npz
from fsrobust.types import Images, InputError, Labels


def carry_out(  # noqa: PLR0913 - a study, and who is told
    study: Study,
    attacks: Sequence[str],
    *,
    curve_samples: int = 0,
    batch: int | None = None,
    images: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
    stop: Stop = never,
) -> Outcome:
    """Run what has no record yet, write a record for each, and return the outcome of ``attacks``.

    ``curve_samples`` > 0 adds accuracy against eps on the first so many samples; ``images`` keeps the attacked
    images. A study that was killed or stopped goes on within the attack that it was at.

    Raises:
        Stopped: ``stop`` said so, before a batch of an attack.
    """
    draws = common_draws(study, attacks)
    work = _Work(study, batch, progress, say, images=images, draws=draws, stop=stop)
    with locked(study.folder):
        set_aside(study.folder, work.say)
        keys = [*(record_key(study, name) for name in attacks), curve_key(study, curve_samples)]
        withdraw_stale(study, keys, work.clean, work.say)
        for name in attacks:
            work.attack(name)
        if curve_samples:
            work.curve(min(curve_samples, len(study.data)))
        if attacks:
            work.masks(attacks[-1])
        write_index(study.folder)  # a kill may have come between a record and its line
    records = [read_json(study.path(record_key(study, name)) / RECORD) for name in attacks]
    return read_outcome(study.folder, records)


def carry_out_diagnosis(
    study: Study,
    *,
    batch: int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    stop: Stop = never,
) -> dict[str, Any]:
    """Look for signs of masked gradients on the study's samples, keep a record, and return it.

    Raises:
        Stopped: as ``carry_out``.
    """
    work = _Work(study, batch, progress, say, stop=stop)
    with locked(study.folder):
        set_aside(study.folder, work.say)
        withdraw_stale(study, [diagnosis_key(study, len(study.data))], work.clean, work.say)
        return work.diagnose(len(study.data))


def carry_out_shard(  # noqa: PLR0913 - as ``carry_out``
    study: Study,
    attacks: Sequence[str],
    shard: Shard,
    *,
    batch: int | None = None,
    images: bool = False,
    say: Say | None = None,
    stop: Stop = never,
) -> None:
    """Run a shard of what has no record yet; ``carry_out`` makes records of the parts once all are there.

    Whoever starts the shards holds the folder; a shard writes files of its own alone.

    Raises:
        Stopped: as ``carry_out``.
    """
    work = _Work(study, batch, None, say, images=images, stop=stop)
    for name in attacks:
        work.part(name, shard)


class _Work:
    """A study under way: its data on the model's device, what is computed once, who is told, when to stop."""

    def __init__(  # noqa: PLR0913 - as ``carry_out``
        self,
        study: Study,
        batch: int | None,
        progress: Progress | None,
        say: Say | None,
        *,
        images: bool = False,
        draws: int = 1,
        stop: Stop = never,
    ) -> None:
        self.study, self.batch, self.progress, self.images = study, batch, progress, images
        self.draws, self.stop = draws, stop
        self.say = say or silent
        self.model = study.subject.model
        self.data = study.data.to(device_of(self.model))

    @functools.cached_property
    def view(self) -> View | None:
        """What attacks query in place of the model: made, and tried on pilots, only if something has to run."""
        return choose_precision(self.model, *self.pilots, self.study.precision).view

    @functools.cached_property
    def surrogates(self) -> Mapping[str, Query]:
        """What adaptive attacks climb in the model's place, likewise."""
        return Surrogates(self.model, *self.pilots, self.study.precision)

    @property
    def pilots(self) -> tuple[Images, Labels]:
        """The samples that copies are tried on."""
        return pixels(self.data.images[:PILOTS]), self.data.labels[:PILOTS]

    @functools.cached_property
    def natural(self) -> NDArray[np.int64]:
        """The classes predicted for clean images: once, whether an attack is to run or a record to be used again."""
        return self.predict(pixels(self.data.images))

    def predict(self, x: Images, seed: int | None = None) -> NDArray[np.int64]:
        """Return the classes predicted for images, by as many draws of a random model as the attacks take."""
        seed = self.study.seed if seed is None else seed
        return predict_all(self.model, x, batch=self.batch, draws=self.draws, seed=seed)

    def clean(self, seed: int) -> NDArray[np.int64]:
        """Return those predicted for clean images by the draws of a seed."""
        return self.natural if seed == self.study.seed else self.predict(pixels(self.data.images), seed)

    def run(self, name: str, shard: Shard) -> AttackResult:
        """Run an attack on a shard of the samples, or the rest of one that was killed."""
        rows = torch.from_numpy(shard.rows(len(self.data))).to(self.data.ids.device)
        data, other = self.data.select(rows), rival(self.study, name)
        attack, x = find_attack(name, self.study.ball, self.model), pixels(data.images)
        shared = {
            "ids": data.ids,
            "seed": self.study.seed,
            "batch": self.batch,
            "name": name,
            "progress": self.progress,
            "say": self.say,
            "journal": shard.file(record_folder(self.study, name), "progress"),
            "stop": self.stop,
        }
        if other is not None:
            return transfer_attack(attack, other.model, self.model, x, data.labels, **shared)  # type: ignore[arg-type]
        return run_attack(
            attack,
            self.model,
            x,
            data.labels,
            view=self.view,
            surrogates=self.surrogates,
            **shared,  # type: ignore[arg-type]
        )

    def lacks(self, name: str) -> bool:
        return lacks(self.study, name, images=self.images)

    def part(self, name: str, shard: Shard) -> None:
        """Leave a shard's part of an attack, unless it is there."""
        rows = shard.rows(len(self.data))
        if (
            self.lacks(name)
            and len(rows)
            and not shard.file(record_folder(self.study, name), "part").is_file()
        ):
            write_part(record_folder(self.study, name), shard, rows, self.run(name, shard))

    def attack(self, name: str) -> None:
        """Write the record of an attack, and its images if they are wanted, unless they are there."""
        if not self.lacks(name):
            remove_parts(record_folder(self.study, name))  # a kill may have come before
            self.say(f"{name}: already on record")
            return
        key, folder = record_key(self.study, name), record_folder(self.study, name)
        result = read_parts(folder, len(self.data)) or self.run(name, Shard(0, 1))
        if self.images:
            self._keep_images(result, folder)
        if not self.study.has(key):
            content = {"name": label(name, self.study), "attack": description(self.study, name)}
            what = (result, self.data, self.natural)
            arrays = {"samples": verdicts(*what), "gallery": gallery(*what)}
            self.study.write(key, "attack", {**content, **accuracies(*what)}, arrays)
        remove_parts(folder)

    def _keep_images(self, result: AttackResult, folder: Path) -> None:
        images = result.images.to(self.data.images.device)
        said, coarse = self.predict(images), rounded(images, self.data, self.study.ball, self.predict)
        labels = self.data.labels.cpu().numpy()
        self.say(
            f"images kept: {(said == labels).mean():.1%} right on them, {(~coarse.fooled(labels)).mean():.1%} after "
            "rounding to 8 bits within the ball"
        )
        write_npz(folder / IMAGES, **adversarial(result, self.data, said, coarse))

    def curve(self, n: int) -> None:
        """Write the record of accuracy against eps on the first ``n`` samples, unless there is one."""
        key = curve_key(self.study, n)
        if self.study.has(key):
            remove_parts(self.study.path(key))  # as above
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
            notes=self._notes(key),
        )
        write_json(self.study.path(key) / "curves.json", asdict(curve), sealed=True)
        self.study.write(key, "curve", {"name": "eps"}, {})
        remove_parts(self.study.path(key))

    def _notes(self, key: str) -> Notes:
        return Notes(self.study.path(key), self.stop, self.say)

    def diagnose(self, n: int) -> dict[str, Any]:
        """Write the record of the signs of masked gradients on the first ``n`` samples, unless there is one."""
        key = diagnosis_key(self.study, n)
        if self.study.has(key):
            remove_parts(self.study.path(key))  # as above
            self.say("signs of masked gradients: already on record")
            return read_json(self.study.path(key) / RECORD)
        data = self.data.select(torch.arange(n, device=self.data.ids.device))
        found = diagnose(
            self.model,
            pixels(data.images),
            data.labels,
            ids=data.ids,
            ball=self.study.ball,
            seed=self.study.seed,
            batch=self.batch,
            progress=self.progress,
            notes=self._notes(key),
        )
        self.study.write(key, "diagnosis", {"name": "signs", **found.summary()}, {})
        remove_parts(self.study.path(key))
        return read_json(self.study.path(key) / RECORD)

    def masks(self, name: str) -> None:
        """Keep pictures of the mask on the samples of an attack's gallery."""
        key = self.study.key("mask", {"attack": record_key(self.study, name)})
        if self.study.has(key):
            return
        try:
            kept = read_npz(record_folder(self.study, name) / GALLERY)
        except InputError as error:
            self.say(f"No pictures of the mask: {error}")
            return
        device = self.data.images.device
        x: Images = pixels(torch.from_numpy(kept["images"])).to(device)
        x_adv: Images = torch.from_numpy(kept["attacked"].astype(np.float32)).to(device)
        pictures = mask_pictures(self.model, x, x_adv)
        if pictures is not None:
            self.study.write(
                key, "mask", {"name": "mask", "attack": label(name, self.study)}, {"mask": pictures}
            )
