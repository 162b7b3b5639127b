"""One checkpoint in one ball, as its records tell it: outcome, curve, pictures, diagnosis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsrobust.evaluate import Outcome, read_outcome
from fsrobust.evaluate.aligned import only
from fsrobust.evaluate.curves import EpsCurve
from fsrobust.evaluate.joined import by_column, precision_of
from fsrobust.evaluate.kept import GALLERY, IMAGES, read_pictures, read_samples
from fsrobust.records import read_json, read_npz
from fsrobust.report.tables import in_order
from fsrobust.types import InputError

Record = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Gallery:
    """The first samples of an attack: images uint8 and attacked float32, [n, C, H, W], with predictions."""

    images: NDArray[np.uint8]
    attacked: NDArray[np.float32]
    labels: NDArray[np.int64]
    natural_predicted: NDArray[np.int64]
    predicted: NDArray[np.int64]
    ids: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Masks:
    """The mask at ``position`` on an attack's gallery: means over channels [n, M, N], counts [2, bins]."""

    attack: str
    position: str
    natural: NDArray[np.float32]
    attacked: NDArray[np.float32]
    histogram: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One checkpoint in one ball on one set of samples: everything that was recorded of it.

    ``records`` holds every attack by its column, as the outcome does; those of which nothing but record.json can be
    read are left out. ``fooled_by`` int16 [N] says of a cascade which stage fooled whom, ``kept`` where an attack's
    images are if all of them were kept, ``diagnosis`` is the one that counts of this model in this ball.
    """

    records: Mapping[str, Record]
    outcome: Outcome
    curve: EpsCurve | None
    galleries: Mapping[str, Gallery]
    masks: Masks | None
    fooled_by: Mapping[str, NDArray[np.int16]]
    kept: Mapping[str, Path]
    diagnosis: Record | None

    @property
    def record(self) -> Record:
        """The newest attack record, for what all of them share."""
        return max(self.records.values(), key=lambda record: (record["created"], record["key"]))

    @property
    def checkpoint(self) -> str | None:
        """Which checkpoint of a run this is, "last" or "best"; None for a file or a factory."""
        checkpoint: str | None = self.record["checkpoint"]
        return checkpoint

    @property
    def norm(self) -> str:
        """The norm of the ball."""
        return str(self.record["ball"]["norm"])

    @property
    def eps(self) -> str:
        """The radius of the ball as the field writes it, "8/255"."""
        return str(self.record["ball"]["eps"])

    @property
    def has_plugin(self) -> bool:
        """Whether the model says that it has the FSR plug-in; foreign models say nothing."""
        model = self.record["model"]
        return isinstance(model, dict) and bool(model.get("fsr"))

    @property
    def paths(self) -> dict[str, list[float]]:
        """Per attack that climbs once from one start, the share right at each query of its search."""
        plain = {
            name: record
            for name, record in self.records.items()
            if record["attack"].get("type") == "PGD" and record["attack"].get("restarts") == 1
        }
        return {name: record["path"] for name, record in plain.items() if len(record["path"]) > 2}

    @property
    def strongest(self) -> str:
        """The attack that fooled the most samples; the longer one of equals."""
        fooled = {name: int(found.sum()) for name, found in self.outcome.fooled.items()}
        return max(fooled, key=lambda name: (fooled[name], self.records[name].get("backwards", 0)))


def read_evaluation(
    folder: Path, group: Sequence[Record], diagnosis: Record | None, remarks: list[str]
) -> Evaluation:
    """Return what a group of records, oldest first, is together; ``remarks`` gets a sentence on what is left out.

    Raises:
        InputError: no attack is left.
    """
    samples: dict[str, Mapping[str, NDArray[Any]]] = {}
    for record in (record for record in group if record["kind"] == "attack"):
        try:
            samples[record["key"]] = read_samples(folder / "eval" / record["key"])
        except InputError as error:
            remarks.append(f"An attack is left out: {error}")
    readable = [record for record in group if record["key"] in samples]
    columns = by_column(readable)
    names = in_order(columns)
    found = {name: samples[columns[name]["key"]] for name in names}
    files = {name: folder / "eval" / columns[name]["key"] / IMAGES for name in names}
    return Evaluation(
        records={name: columns[name] for name in names},
        outcome=only(read_outcome(folder, readable), names),
        curve=_curve(folder, group, remarks),
        galleries=_galleries(folder, columns, remarks),
        masks=_masks(folder, group, columns, remarks),
        fooled_by={name: arrays["fooled_by"] for name, arrays in found.items() if "fooled_by" in arrays},
        kept={name: file for name, file in files.items() if file.is_file()},
        diagnosis=diagnosis,
    )


def _galleries(folder: Path, columns: Mapping[str, Record], remarks: list[str]) -> dict[str, Gallery]:
    galleries: dict[str, Gallery] = {}
    for column, record in columns.items():
        try:
            pictures = read_pictures(folder / "eval" / record["key"], record, GALLERY)
            galleries[column] = Gallery(**{name: pictures[name] for name in Gallery.__annotations__})
        except InputError as error:
            remarks.append(f"A gallery is left out: {error}")
    return galleries


def _curve(folder: Path, group: Sequence[Record], remarks: list[str]) -> EpsCurve | None:
    """Return the newest curve that can be read."""
    for record in reversed([r for r in group if r["kind"] == "curve"]):
        try:
            values = read_json(folder / "eval" / record["key"] / "curves.json")
            return EpsCurve(values["eps"], values["accuracy"], values["n"])
        except (InputError, KeyError) as error:
            remarks.append(f"A curve is left out: {error}")
    return None


def _masks(
    folder: Path, group: Sequence[Record], columns: Mapping[str, Record], remarks: list[str]
) -> Masks | None:
    """Return the newest masks that can be read."""
    for record in reversed([r for r in group if r["kind"] == "mask"]):
        try:
            arrays = read_npz(folder / "eval" / record["key"] / "mask.npz")
            position = str(arrays.pop("position"))
            return Masks(_attacked_by(record, columns), position, **arrays)
        except (InputError, KeyError, TypeError) as error:
            remarks.append(f"Pictures of the mask are left out: {error}")
    return None


def _attacked_by(mask: Record, columns: Mapping[str, Record]) -> str:
    """Return the column of the attack whose images the mask was looked at on; where it is gone, one that is none."""
    name, precision = mask["attack"], precision_of(mask)
    same = [
        column
        for column, record in columns.items()
        if record["name"] == name and precision_of(record) == precision
    ]
    return same[-1] if same else f"{name} ({precision} search)"
