"""Records read back: checked before use, set aside where they are damaged."""

import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from fsrobust.evaluate.schema import (
    KINDS,
    OPTIONAL,
    RECORD_SCHEMA,
    are_masks,
    are_verdicts,
    follows,
    is_curve,
    is_gallery,
)
from fsrobust.records import digest_of_file, read_json, read_npz
from fsrobust.types import InputError, NewerFormatError

RECORD: Final = "record.json"
"""Written last: with it, a record is complete."""
IMAGES: Final = "adversarial.npz"
FILES: Final = ("samples.npz", "gallery.npz", IMAGES, "curves.json", "mask.npz")
"""What may lie beside it; their digests are sealed in it."""
_NEEDED: Final = {"attack": "samples.npz", "curve": "curves.json", "mask": "mask.npz"}
"""What a record of each kind is nothing without; pictures are not among it."""


def read_records(folder: Path, damaged: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a folder, oldest first; ``damaged`` is told why one is passed over.

    Raises:
        InputError: a record or a file that is part of it is damaged, and nobody is to be told.
    """

    def read(file: Path) -> dict[str, Any]:
        record = read_record(file)
        _check_files(file.parent, record)
        return record

    yield from _in_order(folder, read, damaged)


def list_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a folder, oldest first, by what is in record.json alone."""
    yield from _in_order(folder, read_record, lambda _why: None)


def _in_order(
    folder: Path, read: Callable[[Path], dict[str, Any]], damaged: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    records = []
    for file in (folder / "eval").glob(f"*/{RECORD}"):
        try:
            records.append(read(file))
        except InputError as error:
            if damaged is None:
                raise
            damaged(str(error))
    return sorted(records, key=lambda record: (record["created"], record["key"]))


def read_record(file: Path) -> dict[str, Any]:
    """Return a record, which has what all records of its kind have.

    Raises:
        InputError: it is not there, damaged, or lacks any of it.
    """
    record = read_json(file)
    optional = {name: check for name, check in OPTIONAL.items() if name in record}
    whole = follows(record, {**RECORD_SCHEMA, **optional}) and follows(record, KINDS.get(record["kind"], {}))
    if not whole or record["key"] != file.parent.name:
        raise _foreign(file)
    return record


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file of a record that is there, to be sealed in it."""
    return {name: digest_of_file(folder / name) for name in FILES if (folder / name).is_file()}


def _foreign(file: Path) -> InputError:
    return InputError(f'"{file}" is damaged: it is not what an evaluation writes')


def _check_files(folder: Path, record: dict[str, Any]) -> None:
    """Refuse a record whose files are not those that were sealed, or not what its kind needs.

    Records of before digests were noted are taken at their files' own word, and pictures need not be there.
    """
    for name in record.get("files", {}):
        if (folder / name).is_file():
            _check_digest(folder / name, record)
    kind = record["kind"]
    if kind == "attack":
        _verdicts(folder, record)
        _check_gallery(folder / "gallery.npz", len(record["data"]["class_names"]))
    elif kind in _NEEDED:
        file = folder / _NEEDED[kind]
        if not (is_curve(read_json(file)) if kind == "curve" else are_masks(read_npz(file))):
            raise _foreign(file)


def _check_digest(file: Path, record: dict[str, Any]) -> None:
    if digest_of_file(file) != record.get("files", {}).get(file.name):
        raise InputError(f'"{file}" is damaged: it is not the file that "{RECORD}" beside it was sealed with')


def _check_gallery(file: Path, classes: int) -> None:
    """Refuse pictures that are something else; whoever shows them says that there are none, or that they are torn."""
    try:
        gallery = read_npz(file)
    except InputError:
        return
    if not is_gallery(gallery, classes):
        raise _foreign(file)


def set_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Move damaged records to eval/damaged/, so that they block nothing; say which, and why.

    Raises:
        InputError: a record of a newer format, which stays where it is.
    """
    for file in sorted((folder / "eval").glob(f"*/{RECORD}")):
        try:
            _check_files(file.parent, read_record(file))
        except NewerFormatError:
            raise  # whole, and somebody's
        except InputError as error:
            place = _move_aside(folder, file.parent)
            say(f'{error}; its record is set aside as "{place}" and made again where it is wanted')
            continue
        images = file.with_name(IMAGES)
        if images.is_file() and not zipfile.is_zipfile(images):  # of images kept later no digest is on record
            place = _move_aside(folder, images)
            say(f'"{images}" is damaged; it is set aside as "{place}" and made again where it is wanted')


def _move_aside(folder: Path, what: Path) -> Path:
    """Move a record's folder, or a file in one, to the first free name in eval/damaged/ and return it."""
    key = what.name if what.is_dir() else what.parent.name
    numbers = (folder / "eval" / "damaged" / f"{key}-{k}" for k in itertools.count(1))
    place = next(place for place in numbers if not place.exists())
    (place.parent if what.is_dir() else place).mkdir(parents=True, exist_ok=True)
    place = place if what.is_dir() else place / what.name
    what.replace(place)
    return place


def read_samples(record: Path) -> dict[str, NDArray[Any]]:
    """Return the verdicts in a record's folder, one per sample each.

    Raises:
        InputError: they are not there, damaged, not those that the record was sealed with, or not of its samples.
    """
    sealed = read_record(record / RECORD)
    samples, file = _verdicts(record, sealed), record / _NEEDED["attack"]
    if file.name in sealed.get("files", {}):
        _check_digest(file, sealed)
    return samples


def _verdicts(folder: Path, record: dict[str, Any]) -> dict[str, NDArray[Any]]:
    file = folder / _NEEDED["attack"]
    samples = read_npz(file)
    if not are_verdicts(samples, record["data"]["n"]):
        raise _foreign(file)
    return samples
