"""Records of evaluations: ``eval/KEY/`` per attack, never changed once written, found again by their key."""

import contextlib
import datetime
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fsrobust.attacks import Attack, Ball, Cascade, describe_ball, format_eps
from fsrobust.data import Dataset
from fsrobust.evaluate.identity import identify, subject_key
from fsrobust.evaluate.joined import by_column
from fsrobust.evaluate.kept import RECORD, digests, list_records, read_samples
from fsrobust.evaluate.outcome import Outcome
from fsrobust.evaluate.searching import Precision
from fsrobust.records import (
    FORMAT,
    digest,
    digest_of,
    provenance,
    write_json,
    write_npz,
)
from fsrobust.types import InputError


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated: a model, where it came from, and which checkpoint of it this is."""

    model: nn.Module
    source: str
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        self.identity  # noqa: B018 - before any pass: a network may count its calls in an attribute

    @functools.cached_property
    def identity(self) -> dict[str, object]:
        """What makes this model this model, as JSON values: what it was when it was handed over."""
        return identify(self.model)


@dataclass(frozen=True, eq=False)
class Study:
    """One model on one set of samples in one ball: what all its records share.

    ``precision`` is the search's; verdicts are in IEEE float32. With a ``surrogate``, attacks that need gradients take
    that network's and know nothing of the subject, which is asked about the attacked images alone.
    """

    folder: Path
    subject: Subject
    data: Dataset
    total: int
    ball: Ball
    seed: int = 0
    precision: Precision = "fp32"
    remark: str | None = None
    surrogate: Subject | None = None

    def announce(self) -> str:
        """Return what is about to be evaluated, in a sentence."""
        n, checkpoint = len(self.data), self.subject.checkpoint
        what = self.subject.source + (f" ({checkpoint} checkpoint)" if checkpoint else "")
        where = f"all {n}" if n == self.total else f"{n} of {self.total} (drawn by seed {self.seed})"
        remark = f"; {self.remark}" if self.remark else ""
        remark += f"; gradients from {self.surrogate.source}" if self.surrogate else ""
        return (
            f"Evaluating {what} on {where} {self.data.split} samples of {self.data.name}, "
            f"{self.ball.norm}, eps {format_eps(self.ball.eps)}, {self.precision} search, fp32 verdict{remark}"
        )

    def key(self, kind: str, what: object) -> str:
        """Return the name of a record: a digest of all that its numbers depend on."""
        return digest_of({**self._basis, "kind": kind, "what": what})[:20]

    @functools.cached_property
    def _basis(self) -> dict[str, object]:
        """What all keys are made of."""
        return {
            "format": FORMAT,
            **self.subject.identity,
            "ball": describe_ball(self.ball),
            "data": self.data.sha256,
            "ids": digest(self.data.ids.cpu().numpy().tobytes()),
            "precision": self.precision,
            "seed": self.seed,
        }

    def path(self, key: str) -> Path:
        """Return the folder of a record."""
        return self.folder / "eval" / key

    def has(self, key: str) -> bool:
        """Return whether a record is complete: its record.json is written last."""
        return (self.path(key) / RECORD).is_file()

    def write(
        self,
        key: str,
        kind: str,
        content: Mapping[str, object],
        arrays: Mapping[str, Mapping[str, NDArray[Any]]],
    ) -> None:
        """Write a record: its files first, record.json with their digests last, then the index."""
        folder = self.path(key)
        for name, values in arrays.items():
            write_npz(folder / f"{name}.npz", **values)
        record = {
            "kind": kind,
            "key": key,
            **content,
            "ball": describe_ball(self.ball),
            "source": self.subject.source,
            "checkpoint": self.subject.checkpoint,
            **self.subject.identity,
            "data": {
                "name": self.data.name,
                "split": self.data.split,
                "sha256": self.data.sha256,
                "n": len(self.data),
                "of": self.total,
                "class_names": list(self.data.class_names),
            },
            "image_shape": list(self.data.images.shape[1:]),
            "seed": self.seed,
            "precision": self.precision,
            "created": _after(self.folder, datetime.datetime.now(datetime.UTC)),
            "provenance": provenance(device_of(self.subject.model)),
            "files": digests(folder),
        }
        write_json(folder / RECORD, record, sealed=True)
        write_index(self.folder)


def _after(folder: Path, now: datetime.datetime) -> str:
    """Return the time in milliseconds, but after that of any record already there: a clock may be set back."""
    last = max((record["created"] for record in list_records(folder)), default="")
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        now = max(now, datetime.datetime.fromisoformat(last) + datetime.timedelta(milliseconds=1))
    return now.isoformat(timespec="milliseconds")


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are, the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def describe_attack(attack: Attack) -> dict[str, object]:
    """Return an attack's settings as plain values; a cascade's stages as a list of theirs."""
    ball = {"ball": describe_ball(attack.ball)}
    if isinstance(attack, Cascade):
        stages = [
            {"name": stage.name, "surrogate": stage.surrogate, **_settings(stage.attack)}
            for stage in attack.stages
        ]
        repeated = {"draws": attack.draws} if attack.draws > 1 else {}
        return {"type": "Cascade", **ball, **repeated, "stages": stages}
    return {**_settings(attack), **ball}


def _settings(attack: Attack) -> dict[str, object]:
    values = asdict(attack) if hasattr(attack, "__dataclass_fields__") else {}  # type: ignore[call-overload]
    return {"type": type(attack).__name__, **{k: v for k, v in values.items() if k != "ball"}}


def write_index(folder: Path) -> None:
    """Write eval/index.json, the list of records: rebuilt from them, so that it cannot disagree."""
    shown = ("key", "kind", "name", "checkpoint", "ball", "weights_sha256", "seed", "created")
    rows = [{k: r.get(k) for k in shown} | {"n": r["data"]["n"]} for r in list_records(folder)]
    write_json(folder / "eval" / "index.json", {"records": rows})


def read_outcome(folder: Path, records: list[dict[str, Any]]) -> Outcome:
    """Return the outcome that some attack records, oldest first, make together, without running anything.

    All of them count: what goes by one name has a column each, see ``by_column``.

    Raises:
        InputError: no records, or records of different samples or models.
    """
    if not records:
        raise InputError(f'Expected attack records in "{folder}", but there are none; run evaluate first')
    columns = by_column(records)
    samples = {column: read_samples(folder / "eval" / r["key"]) for column, r in columns.items()}
    first = next(iter(samples.values()))
    one_model = len({subject_key(record) for record in records}) == 1
    if not one_model or not all(np.array_equal(s["ids"], first["ids"]) for s in samples.values()):
        raise InputError(f'The records in "{folder}" are of different models or samples; choose some')
    surest = max(columns, key=lambda column: columns[column]["attack"].get("draws", 1))
    return Outcome(
        ids=first["ids"],
        natural_correct=samples[surest]["natural_correct"],
        attacked={name: s["attacked"] for name, s in samples.items()},
        fooled_last={name: s["fooled_last"] for name, s in samples.items()},
        fooled={name: s["fooled_any"] for name, s in samples.items()},
    )
