"""Records read back: checked before use, set aside where they are damaged."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from fsrobust.records import read_json, read_npz
from fsrobust.types import InputError, NewerFormatError

RECORD: Final = "record.json"
"""Written last: with it, a record is complete."""
_TEXTS: Final = {"kind", "key", "name", "weights_sha256", "created", "source"}
_VERDICTS: Final = {"ids", "attacked", "fooled_last", "fooled_any", "natural_correct"}
_NEEDED: Final = {"attack": "samples.npz", "curve": "curves.json", "mask": "mask.npz"}
"""What a record of each kind is nothing without; pictures are not among it."""


def read_records(folder: Path, damaged: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a folder, oldest first; ``damaged`` is told why one is passed over.

    Raises:
        InputError: a record is damaged, and nobody is to be told.
    """
    records = []
    for file in (folder / "eval").glob(f"*/{RECORD}"):
        try:
            records.append(read_record(file))
        except InputError as error:
            if damaged is None:
                raise
            damaged(str(error))
    yield from sorted(records, key=lambda record: (record["created"], record["key"]))


def read_record(file: Path) -> dict[str, Any]:
    """Return a record, which has what all records have.

    Raises:
        InputError: it is not there, damaged, or lacks any of it.
    """
    record = read_json(file)
    parts = {"ball": ("norm", "eps"), "data": ("name", "split", "n", "of", "sha256")}
    whole = {name for name, value in record.items() if isinstance(value, str)} >= _TEXTS and all(
        isinstance(record.get(part), dict) and set(names) <= set(record[part])
        for part, names in parts.items()
    )
    if not whole or not {"checkpoint", "seed", "model"} <= set(record) or record["key"] != file.parent.name:
        raise InputError(f'"{file}" is damaged: it is not what an evaluation writes')
    return record


def set_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Move damaged records to eval/damaged/, so that they block nothing; say which, and why.

    Raises:
        InputError: a record of a newer format, which stays where it is.
    """
    for file in sorted((folder / "eval").glob(f"*/{RECORD}")):
        try:
            needed = _NEEDED.get(read_record(file)["kind"])
            if needed is not None:
                (read_json if needed.endswith("json") else read_npz)(file.parent / needed)
        except NewerFormatError:
            raise  # whole, and somebody's
        except InputError as error:
            place = _unused(folder / "eval" / "damaged", file.parent.name)
            place.parent.mkdir(exist_ok=True)
            file.parent.replace(place)
            say(f'{error}; its record is set aside as "{place}" and made again where it is wanted')


def _unused(folder: Path, name: str) -> Path:
    numbers = itertools.count(1)
    return next(place for k in numbers if not (place := folder / f"{name}-{k}").exists())


def read_samples(record: Path) -> dict[str, NDArray[Any]]:
    """Return the verdicts in a record's folder, one per sample each.

    Raises:
        InputError: they are not there, damaged, or not of one length.
    """
    file = record / "samples.npz"
    samples = read_npz(file)
    if not set(samples) >= _VERDICTS or len({samples[name].shape for name in _VERDICTS}) > 1:
        raise InputError(f'"{file}" is damaged: it is not what an evaluation writes')
    return samples
