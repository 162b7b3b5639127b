"""Records read back: checked before use, set aside where they are damaged."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from fsrobust.evaluate.schema import (
    KINDS,
    OPTIONAL,
    RECORD_SCHEMA,
    are_images,
    are_masks,
    are_verdicts,
    follows,
    is_curve,
    is_gallery,
)
from fsrobust.records import digest_of_file, move_aside, read_json, read_npz
from fsrobust.types import InputError, NewerFormatError

RECORD: Final = "record.json"
"""Written last: with it, a record is complete."""
GALLERY: Final = "gallery.npz"
IMAGES: Final = "adversarial.npz"
PICTURES: Final = (GALLERY, IMAGES)
FILES: Final = ("samples.npz", *PICTURES, "curves.json", "mask.npz")
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
        _check(file.parent, record)
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


def _check(folder: Path, record: dict[str, Any]) -> None:
    """Refuse a record without the file that it is nothing without, or with another than was sealed.

    Records of before digests were noted are taken at their files' own word.
    """
    kind = record["kind"]
    if kind == "attack":
        _verdicts(folder, record)
    elif kind in _NEEDED:
        file = folder / _NEEDED[kind]
        if not (is_curve(read_json(file)) if kind == "curve" else are_masks(read_npz(file))):
            raise _foreign(file)
        _check_digest(file, record)


def _check_digest(file: Path, record: dict[str, Any]) -> None:
    sealed = record.get("files", {}).get(file.name)
    if sealed is not None and digest_of_file(file) != sealed:
        raise InputError(f'"{file}" is damaged: it is not the file that "{RECORD}" beside it was sealed with')


def set_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Move damaged records to eval/damaged/, so that they block nothing; say which, and why.

    Of a record that stands, damaged pictures go alone.

    Raises:
        InputError: a record of a newer format, which stays where it is.
    """
    damaged = folder / "eval" / "damaged"
    for file in sorted((folder / "eval").glob(f"*/{RECORD}")):
        try:
            record = read_record(file)
            _check(file.parent, record)
        except NewerFormatError:
            raise  # whole, and somebody's
        except InputError as error:
            place = move_aside(file.parent, damaged)
            say(f'{error}; its record is set aside as "{place}" and made again where it is wanted')
            continue
        for name in PICTURES:
            try:
                if file.with_name(name).is_file():
                    _check_pictures(file.with_name(name), record)
            except NewerFormatError:
                raise
            except InputError as error:
                place = move_aside(file.with_name(name), damaged / record["key"])
                say(f'{error}; it is set aside as "{place}", and its record stands without it')


def _check_pictures(file: Path, record: dict[str, Any]) -> None:
    """Refuse pictures that are damaged; of gigabytes of them no more than their digest is read."""
    if file.name == GALLERY:
        read_pictures(file.parent, record, GALLERY)
        return
    if not zipfile.is_zipfile(file):
        raise InputError(f'"{file}" is damaged: its end is missing')
    _check_digest(file, record)


def read_samples(record: Path) -> dict[str, NDArray[Any]]:
    """Return the verdicts in a record's folder, one per sample each.

    Raises:
        InputError: they are not there, damaged, not those that the record was sealed with, or not of its samples.
    """
    return _verdicts(record, read_record(record / RECORD))


def _verdicts(folder: Path, record: dict[str, Any]) -> dict[str, NDArray[Any]]:
    file = folder / _NEEDED["attack"]
    samples = read_npz(file)
    if not are_verdicts(samples, record["data"]["n"]):
        raise _foreign(file)
    _check_digest(file, record)
    return samples


def read_pictures(folder: Path, record: dict[str, Any], name: str) -> dict[str, NDArray[Any]]:
    """Return the images of the first samples (``GALLERY``) or of all (``IMAGES``) in a record's folder.

    A record stands without them. Of images kept after it was written it holds no digest.

    Raises:
        InputError: they are not there, damaged, or not those that the record was sealed with.
    """
    file = folder / name
    pictures, classes = read_npz(file), len(record["data"]["class_names"])
    if not (is_gallery(pictures, classes) if name == GALLERY else are_images(pictures, classes)):
        raise _foreign(file)
    _check_digest(file, record)
    return pictures
