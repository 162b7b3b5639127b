"""Read a run or audit directory into one frozen value; no model is loaded, nothing is run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fsrobust.attacks import ATTACKS
from fsrobust.evaluate import Outcome, read_outcome, read_records
from fsrobust.evaluate.curves import EpsCurve
from fsrobust.evaluate.kept import GALLERY, IMAGES, read_pictures, read_samples
from fsrobust.records import Metrics, read_config, read_json, read_npz
from fsrobust.report.weights import count_parameters
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

    ``records`` holds the newest record of each attack; those of which nothing but record.json can be read are
    left out. ``fooled_by`` int16 [N] says of a cascade which stage fooled whom, ``kept`` where an attack's images
    are if all of them were kept, ``diagnosis`` is the largest of these weights in this ball.
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


@dataclass(frozen=True, eq=False)
class RunResults:
    """A directory as found: ``config`` is None for an audit, ``evaluations`` empty for a run never attacked.

    ``remarks`` are sentences on what was passed over. ``parameters`` counts those of the last checkpoint.
    """

    folder: Path
    config: Record | None
    metrics: Sequence[Record]
    evaluations: Sequence[Evaluation]
    parameters: int | None
    remarks: Sequence[str]

    @property
    def title(self) -> str:
        """What the run calls itself, else what was evaluated, else the folder's name."""
        if self.config and self.config.get("title"):
            return str(self.config["title"])
        if self.evaluations and self.config is None:
            return str(self.evaluations[0].record["source"])
        return self.folder.resolve().name

    def published(self, evaluation: Evaluation) -> dict[str, float]:
        """Return published accuracies (%) by attack, {} where they are not of this data and ball."""
        config = self.config or {}
        meant = config.get("evaluation") or {}
        same_ball = (meant.get("norm"), meant.get("eps")) == (evaluation.norm, evaluation.eps)
        same_data = (config.get("data") or {}).get("name") == evaluation.record["data"]["name"]
        if not (config.get("published") and same_ball and same_data):
            return {}
        return dict(config["published"]["accuracy"])


def read_run(folder: Path | str) -> RunResults:
    """Return what a run or audit directory holds.

    Raises:
        InputError: it holds neither a run nor records, or a file that is damaged.
    """
    folder = Path(folder)
    damaged: list[str] = []
    records = list(read_records(folder, damaged.append))
    has_run = (folder / "config.json").is_file()
    if not has_run and not any(record["kind"] == "attack" for record in records):
        if damaged:
            raise InputError(f"{damaged[0]}; evaluate again")
        raise InputError(
            f'Expected a run directory or records of an evaluation in "{folder}", but there are neither; '
            "run train or evaluate first"
        )
    config = read_config(folder) if has_run else None
    metrics = Metrics(folder / "metrics.jsonl")
    evaluations, remarks = _evaluations(folder, records)
    return RunResults(
        folder=folder,
        config=config,
        metrics=metrics.rows(),
        evaluations=sorted(evaluations, key=lambda one: _order(one, config)),
        parameters=count_parameters(folder),
        remarks=[
            *(f"Epochs are left out: {why}" for why in (metrics.damage(),) if why),
            *(f"A record is left out: {why}" for why in damaged),
            *remarks,
        ],
    )


class _Place(NamedTuple):
    """What two evaluations must share for one to be able to replace the other."""

    checkpoint: str
    norm: str
    eps: str
    data: str
    split: str
    seed: int


def _place(record: Record) -> _Place:
    ball, data = record["ball"], record["data"]
    checkpoint = record["checkpoint"] or ""
    return _Place(checkpoint, ball["norm"], ball["eps"], data["name"], data["split"], record["seed"])


def _evaluations(folder: Path, records: Iterable[Record]) -> tuple[list[Evaluation], list[str]]:
    """Return the evaluations worth showing, and sentences on the others."""
    groups: dict[tuple[_Place, str, str], list[Record]] = {}
    diagnoses: list[Record] = []
    for record in records:
        if record["kind"] == "diagnosis":  # often on fewer samples: it joins whatever is of its weights
            diagnoses.append(record)
            continue
        samples = record["data"]["sha256"]
        groups.setdefault((_place(record), record["weights_sha256"], samples), []).append(record)
    found: list[Evaluation] = []
    remarks: list[str] = []
    for group in groups.values():
        try:
            found.append(_evaluation(folder, group, _diagnosis(group[0], diagnoses), remarks))
        except InputError as error:
            remarks.append(f"An evaluation is left out: {error}")
    shown = [one for one in found if not any(_replaces(other, one) for other in found)]
    if len(shown) < len(found):
        remarks.append(
            f"{len(found) - len(shown)} of {len(found)} evaluations are not shown: they are of earlier "
            "weights of the same checkpoint, or a larger one covers them."
        )
    return shown, remarks


def _order(evaluation: Evaluation, config: Record | None) -> tuple[object, ...]:
    """Return what to sort by: the last checkpoint in the run's own ball first."""
    order = {"last": 0, "": 1, "best": 2}.get(evaluation.checkpoint or "", 3)
    own = (config or {}).get("evaluation") or {}
    foreign = (own.get("norm"), own.get("eps")) != (evaluation.norm, evaluation.eps)
    return order, foreign, evaluation.norm, len(evaluation.eps), evaluation.eps, -evaluation.outcome.n


def _replaces(other: Evaluation, one: Evaluation) -> bool:
    """Return whether ``other`` makes ``one`` superfluous: of newer weights, or covering all of it."""
    new, old = other.record, one.record
    if other is one or _place(new) != _place(old):
        return False
    if new["weights_sha256"] != old["weights_sha256"]:
        return bool(new["created"] > old["created"])
    return set(other.records) >= set(one.records) and other.outcome.n > one.outcome.n


def _diagnosis(record: Record, diagnoses: Iterable[Record]) -> Record | None:
    """Return the diagnosis on most samples of what an attack's record is of, the newest of equals."""

    def subject(one: Record) -> tuple[object, ...]:
        return one["weights_sha256"], one["ball"], one["data"]["name"], one["data"]["split"]

    same = [one for one in diagnoses if subject(one) == subject(record)]
    return max(same, key=lambda one: (one["n"], one["created"], one["key"]), default=None)


def _evaluation(
    folder: Path, group: Sequence[Record], diagnosis: Record | None, remarks: list[str]
) -> Evaluation:
    known = {name: place for place, name in enumerate(ATTACKS)}
    attacks: dict[str, Record] = {}
    galleries: dict[str, Gallery] = {}
    fooled_by: dict[str, NDArray[np.int16]] = {}
    for record in (r for r in group if r["kind"] == "attack"):  # oldest first: the newest of a name stays
        place = folder / "eval" / record["key"]
        try:
            samples = read_samples(place)
        except InputError as error:
            remarks.append(f"An attack is left out: {error}")
            continue
        attacks[record["name"]] = record
        galleries.pop(record["name"], None)
        fooled_by.pop(record["name"], None)
        if "fooled_by" in samples:
            fooled_by[record["name"]] = samples["fooled_by"]
        try:
            pictures = read_pictures(place, record, GALLERY)
            galleries[record["name"]] = Gallery(**{name: pictures[name] for name in Gallery.__annotations__})
        except InputError as error:
            remarks.append(f"A gallery is left out: {error}")
    names = sorted(attacks, key=lambda name: known.get(name, len(known)))
    files = {name: folder / "eval" / attacks[name]["key"] / IMAGES for name in names}
    return Evaluation(
        records={name: attacks[name] for name in names},
        outcome=read_outcome(folder, [attacks[name] for name in names]),
        curve=_curve(folder, group, remarks),
        galleries=galleries,
        masks=_masks(folder, group, remarks),
        fooled_by=fooled_by,
        kept={name: file for name, file in files.items() if file.is_file()},
        diagnosis=diagnosis,
    )


def _curve(folder: Path, group: Sequence[Record], remarks: list[str]) -> EpsCurve | None:
    """Return the newest curve that can be read."""
    for record in reversed([r for r in group if r["kind"] == "curve"]):
        try:
            values = read_json(folder / "eval" / record["key"] / "curves.json")
            return EpsCurve(values["eps"], values["accuracy"], values["n"])
        except (InputError, KeyError) as error:
            remarks.append(f"A curve is left out: {error}")
    return None


def _masks(folder: Path, group: Sequence[Record], remarks: list[str]) -> Masks | None:
    """Return the newest masks that can be read."""
    for record in reversed([r for r in group if r["kind"] == "mask"]):
        try:
            arrays = read_npz(folder / "eval" / record["key"] / "mask.npz")
            position = str(arrays.pop("position"))
            return Masks(record["attack"], position, **arrays)
        except (InputError, KeyError, TypeError) as error:
            remarks.append(f"Pictures of the mask are left out: {error}")
    return None
