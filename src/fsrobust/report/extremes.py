"""The samples hardest and easiest to fool, as far as there are pictures of them on record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fsrobust.evaluate.kept import IMAGES, read_pictures
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.overlap import victims
from fsrobust.report.pictures import class_name, image_png
from fsrobust.report.tables import heading
from fsrobust.report.words import count, some
from fsrobust.types import InputError

SHOWN: Final = 8
"""Pictures of one kind."""


@dataclass(frozen=True)
class Portrait:
    """A fooled sample: ``image`` is None where only the attacked one was kept; ``wrong`` is of the one shown."""

    id: int
    image: str | None
    attacked: str
    attack: str
    label: str
    said: str
    wrong: bool


@dataclass(frozen=True)
class ExtremePart:
    """Samples of one kind; ``sentence`` says how many there are, and how many of them are shown and why."""

    title: str
    sentence: str
    portraits: Sequence[Portrait]


@dataclass(frozen=True, eq=False)
class _Album:
    """Attacked images by id, with the true class and the model's answer."""

    attacked: Mapping[int, NDArray[np.floating]]
    labels: Mapping[int, int]
    said: Mapping[int, int]


def extremes(one: Evaluation) -> list[ExtremePart]:
    """Return what one attack alone fooled, and what all of them did; nothing where there is but one attack."""
    fooled = victims(one.outcome)
    if len(fooled) < 2:
        return []
    times = np.sum(list(fooled.values()), axis=0)
    ids, right = one.outcome.ids, int(one.outcome.natural_correct.sum())
    alone = {name: ids[bits & (times == 1)].tolist() for name, bits in fooled.items()}
    everyone = ids[times == len(fooled)].tolist()
    names = (one.strongest, *one.outcome.attacks)
    pictured = next((name for name in names if name in one.galleries or name in one.kept), one.strongest)
    return [
        _part("Hardest to fool: one attack alone did", alone, right, one),
        _part(f"Easiest to fool: all {len(fooled)} attacks did", {pictured: everyone}, right, one),
    ]


def _part(title: str, wanted: Mapping[str, Sequence[int]], right: int, one: Evaluation) -> ExtremePart:
    portraits = [shot for name, ids in wanted.items() if ids for shot in _portraits(one, name, ids)]
    ids = sorted(sample for part in wanted.values() for sample in part)
    portraits = sorted(portraits, key=lambda shot: shot.id)[:SHOWN]
    return ExtremePart(title, _sentence(ids, right, len(portraits), one), portraits)


def _sentence(ids: Sequence[int], right: int, shown: int, one: Evaluation) -> str:
    start = f"{count(len(ids))} of the {count(right)} samples that are right without an attack"
    if not ids:
        return f"{start}."
    start += f" (ids {some(ids)})."
    if shown == len(ids):
        return start
    if shown == SHOWN:
        return f"{start} Shown: the first {SHOWN} with a picture on record."
    kept = max((len(gallery.ids) for gallery in one.galleries.values()), default=0)
    why = (
        f"an attack's record holds pictures of the first {kept} samples" if kept else "no pictures were kept"
    )
    return (
        f"{start} Pictures of {shown or 'none'} of them are on record: {why}, unless evaluate is told to keep all "
        "(--save-images)."
    )


def _portraits(one: Evaluation, name: str, ids: Sequence[int]) -> Iterator[Portrait]:
    """Yield the portraits that there are, of as many ids as can be shown."""
    album, names = _album(one, name), one.record["data"]["class_names"]
    clean = {
        int(sample): image / 255
        for gallery in one.galleries.values()
        for sample, image in zip(gallery.ids, gallery.images, strict=True)
    }
    for sample in [sample for sample in ids if sample in album.attacked][:SHOWN]:
        label, said = album.labels[sample], album.said[sample]
        yield Portrait(
            id=sample,
            image=image_png(clean[sample]) if sample in clean else None,
            attacked=image_png(album.attacked[sample]),
            attack=heading(name),
            label=class_name(names, label),
            said=class_name(names, said),
            wrong=said != label,
        )


def _album(one: Evaluation, name: str) -> _Album:
    """Return all images of an attack where they were kept and can be read, else its gallery's."""
    arrays: Mapping[str, NDArray[np.generic]] = {}
    if name in one.kept:
        try:
            arrays = read_pictures(one.kept[name].parent, one.records[name], IMAGES)
        except InputError:
            arrays = {}  # the gallery has some of them
    if arrays:
        ids, images = arrays["ids"], arrays["images"]
        labels, said = arrays["labels"], arrays["predicted"]
    elif name in one.galleries:
        gallery = one.galleries[name]
        ids, images, labels, said = gallery.ids, gallery.attacked, gallery.labels, gallery.predicted
    else:
        return _Album({}, {}, {})
    keys = [int(sample) for sample in ids]
    return _Album(
        dict(zip(keys, images, strict=True)),
        {key: int(label) for key, label in zip(keys, labels, strict=True)},
        {key: int(answer) for key, answer in zip(keys, said, strict=True)},
    )
