"""Run directories with known verdicts, by the real writers, in no time: nothing is trained or attacked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fsrobust.attacks import Ball, Linf, describe_ball, make_attack
from fsrobust.data import Dataset
from fsrobust.evaluate import Diagnosis, Sign, Study, Subject
from fsrobust.evaluate.cascade import STANDING, StageCost, Standing
from fsrobust.evaluate.identity import identify, subject_key
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.searching import Precision
from fsrobust.evaluate.store import describe_attack
from fsrobust.records import Metrics, read_json, write_json, write_npz
from tests.runs import net

PUBLISHED = {"natural": 80.0, "fgsm": 60.0, "pgd20": 50.0, "pgd100": 50.0, "cw": 50.0, "ensemble": 40.0}


def bits(text: str) -> NDArray[np.bool_]:
    """Return "0110" as truth values."""
    return np.array([character == "1" for character in text])


@dataclass(frozen=True)
class Fake:
    """An evaluation to write: who is right when clean, whom each attack fooled at its end and on its way."""

    natural: str = "11111111" * 2 + "1110"
    fooled_last: Mapping[str, str] = field(
        default_factory=lambda: {
            "fgsm": "1" * 5 + "0" * 15,
            "pgd20": "1" * 9 + "0" * 11,
            "pgd100": "1" * 10 + "0" * 10,
            "cw": "0" * 2 + "1" * 9 + "0" * 9,
        }
    )
    fooled_any: Mapping[str, str] = field(default_factory=lambda: {"pgd100": "1" * 12 + "0" * 8})
    attacked: Mapping[str, str] = field(default_factory=dict)
    ball: Ball = field(default_factory=lambda: Linf(8 / 255))
    data: str = "cifar10"
    of: int = 10_000
    channels: int = 3
    checkpoint: str | None = "last"
    weights: int = 0
    seed: int = 0
    created: str = "2026-01-02T03:04:05+00:00"
    class_names: Sequence[str] = tuple(f"class {letter}" for letter in "abcdefghij")
    parts: Sequence[str] = ("gallery", "curve")
    fsr: str | None = None
    cascades: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Per cascade, whom each of its stages fooled."""
    signs: Sequence[Sign] = ()
    """What a diagnosis found; it is on record if there are any."""
    rounded: bool = False
    """Whether the same weights run behind a rounding, which makes another model of them."""
    precision: Precision = "fp32"
    rival: int | None = None
    """Whose gradients attacks took, by the seed of its weights; its folder's name is always the same."""
    kept: Sequence[str] = ()
    """Attacks of which all images are kept."""


def write_fake(folder: Path, fake: Fake, source: str | None = None) -> Study:
    """Write the records of an evaluation, and return their study."""
    n = len(fake.natural)
    generator = torch.Generator().manual_seed(fake.seed + 1)
    images = torch.randint(0, 256, (n, fake.channels, 8, 8), dtype=torch.uint8, generator=generator)
    labels, names = torch.arange(n) % len(fake.class_names), tuple(fake.class_names)
    data = Dataset(fake.data, "test", images, labels, torch.arange(n) * 2, names)
    model = net(seed=fake.weights, fsr=fake.fsr)
    if fake.rounded:
        model.register_forward_pre_hook(lambda _module, args: (args[0].round(),))
    subject = Subject(model, source or folder.name, fake.checkpoint)
    study = Study(folder, subject, data, fake.of, fake.ball, fake.seed, fake.precision)
    for name in fake.fooled_last:
        _write_attack(study, fake, name)
    for name, stages in fake.cascades.items():
        _write_cascade(study, fake, name, stages)
    if fake.signs:
        right = int(bits(fake.natural).sum())
        found = Diagnosis(tuple(fake.signs), right).summary()
        study.write(study.key("diagnosis", {"samples": n}), "diagnosis", {"name": "signs", **found}, {})
    if "curve" in fake.parts:
        key = study.key("curve", {"samples": n})
        curve = {"eps": [0.0, fake.ball.eps, 1.0], "accuracy": [0.9, 0.5, 0.0], "n": n}
        write_json(study.path(key) / "curves.json", curve)
        study.write(key, "curve", {"name": "eps"}, {})
    if "mask" in fake.parts:
        _write_mask(study, next(iter(fake.fooled_last)))
    for record in (folder / "eval").glob("*/record.json"):
        content = read_json(record)
        if subject_key(content) == subject_key(subject.identity):
            write_json(record, content | {"created": fake.created})
    return study


def _write_attack(study: Study, fake: Fake, name: str) -> None:
    attack = make_attack(name, study.ball)
    natural, last = bits(fake.natural), bits(fake.fooled_last[name])
    fooled = bits(fake.fooled_any[name]) if name in fake.fooled_any else last
    samples = _samples(study, natural, last, fooled | ~natural)
    samples["attacked"] = bits(fake.attacked.get(name, "1" * len(natural)))
    steps = int(describe_attack(attack)["steps"])  # type: ignore[call-overload]
    content = {
        "attack": describe_attack(attack),
        "path": [float(natural.mean()), *[float(1 - last.mean())] * steps],
        "backwards": steps * len(natural),
    }
    _write(study, fake, name, content, samples)


def _write_cascade(study: Study, fake: Fake, name: str, stages: Mapping[str, str]) -> None:
    """Write a cascade whose k-th stage took 10 passes a sample and k seconds."""
    natural = bits(fake.natural)
    standing = Standing(np.where(natural, STANDING, 0).astype(np.int16), study.data.images / 255)
    for number, (stage, text) in enumerate(stages.items(), start=1):
        left, fell = int((standing.fooled_by == STANDING).sum()), bits(text)
        standing.fooled_by[fell & (standing.fooled_by == STANDING)] = number
        fooled = int((standing.fooled_by == number).sum())
        standing.costs.append(StageCost(stage, left, fooled, 6 * left, 4 * left, float(number)))
    fooled = standing.fooled_by != STANDING
    samples = _samples(study, natural, fooled, fooled) | {"fooled_by": standing.fooled_by}
    described = [{"name": stage, "surrogate": stage.partition("/")[0]} for stage in stages]
    content = {
        "attack": {"type": "Cascade", "ball": describe_ball(study.ball), "stages": described},
        "path": [],
        "backwards": sum(cost.backwards for cost in standing.costs),
        "stages": [asdict(cost) for cost in standing.costs],
    }
    _write(study, fake, name, content, samples)


def _samples(study: Study, natural: Bits, last: Bits, fooled: Bits) -> dict[str, NDArray[Any]]:
    labels = study.data.labels.numpy()
    return {
        "ids": study.data.ids.numpy(),
        "attacked": np.ones(len(labels), bool),
        "fooled_last": last,
        "fooled_any": fooled,
        "natural_correct": natural,
        "predicted": np.where(last, (labels + 1) % len(study.data.class_names), labels),
    }


def _write(
    study: Study, fake: Fake, name: str, content: Mapping[str, Any], samples: dict[str, NDArray[Any]]
) -> None:
    """Write a record with its gallery, the first four samples, and all images if they are to be kept."""
    labels, images = study.data.labels.numpy(), study.data.images.numpy()
    attacked = np.clip(images / 255 + study.ball.eps, 0, 1).astype(np.float32)
    gallery: dict[str, NDArray[Any]] = {
        "images": images[:4],
        "attacked": attacked[:4],
        "labels": labels[:4],
        "natural_predicted": labels[:4],
        "predicted": samples["predicted"][:4],
        "ids": study.data.ids[:4].numpy(),
    }
    costs = {
        "accuracy": {
            "natural": float(samples["natural_correct"].mean()),
            "paper": float(1 - samples["fooled_last"].mean()),
            "strict": float(1 - samples["fooled_any"].mean()),
        },
        "forwards": content["backwards"] + len(labels),
        "seconds": 1.0,
    }
    what: dict[str, object] = {"name": name}
    if fake.rival is not None:
        origin = {"source": "net", **identify(net(seed=fake.rival))}
        name, content = (
            f"{name} from net",
            {**content, "attack": {**content["attack"], "gradients_of": origin}},
        )
        what["rival"] = origin
    key = study.key("attack", what)
    if name in fake.kept:
        about = {"ids": samples["ids"], "labels": labels, "predicted": samples["predicted"]}
        write_npz(study.path(key) / "adversarial.npz", images=attacked, **about)
    arrays = {"samples": samples} | ({"gallery": gallery} if "gallery" in fake.parts else {})
    study.write(key, "attack", {"name": name, **costs, **content}, arrays)


def _write_mask(study: Study, attack: str) -> None:
    values = np.linspace(0.2, 0.8, 4 * 2 * 2, dtype=np.float32).reshape(4, 2, 2)
    counts = np.arange(100, dtype=np.int64).reshape(2, 50)
    arrays: dict[str, NDArray[Any]] = {
        "natural": values,
        "attacked": values[::-1],
        "histogram": counts,
        "position": np.array("layer3"),
    }
    study.write(study.key("mask", attack), "mask", {"name": "mask", "attack": attack}, {"mask": arrays})


def write_config(folder: Path, *, title: str = "CIFAR-10, AT", epochs: int = 0, **changes: Any) -> None:
    """Write what training leaves: config.json, and the metrics of some epochs."""
    config = {
        "recipe": "cifar10-at",
        "title": title,
        "model": {"name": "resnet_small", "classes": 10, "channels": 3, "width": 4, "fsr": []},
        "objective": {"name": "at", "norm": "linf", "eps": "8/255", "steps": 10, "step_size": "2/255"},
        "evaluation": {"norm": "linf", "eps": "8/255"},
        "published": {"source": "Table S5, row AT", "accuracy": PUBLISHED},
        "train": {
            "epochs": epochs,
            "batch": 128,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "train_on": "minus_validation",
            "validation": 1000,
            "seed": 0,
        },
        "data": {"name": "cifar10", "sha256": "0" * 64, "n": 49_000},
        "provenance": {
            "fsrobust": "0.1.0",
            "commit": "a" * 40,
            "dirty": False,
            "torch": "2",
            "device": "CPU",
        },
    }
    write_json(folder / "config.json", config | changes)
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "lr": 0.1 if epoch < epochs else 0.01, "loss": 2 / epoch, "seconds": 60.0}
        accuracies = {"train_accuracy": 0.1 * epoch, "validation_natural": 0.2 * epoch}
        Metrics(folder / "metrics.jsonl").append(row | accuracies)


def write_run(folder: Path, fake: Fake | None = None, **config: Any) -> Path:
    """Write a run and its evaluation, and return its directory."""
    write_config(folder, **config)
    write_fake(folder, fake or Fake())
    return folder


__all__ = ["PUBLISHED", "Fake", "bits", "replace", "write_config", "write_fake", "write_run"]
