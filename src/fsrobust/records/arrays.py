"""Archives of arrays, and why some that others made are refused before numpy makes room for them."""

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fsrobust.records.documents import FORMAT, check_format
from fsrobust.records.files import is_damage, write_bytes
from fsrobust.types import InputError


def write_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays, compressed, with their format."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, format=np.array(FORMAT), **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


_ROOM: Final = 2**30
"""Bytes that any archive of arrays may unfold to; a larger one, to ``_FOLDED`` times its own size."""
_FOLDED: Final = 100
_DEFLATED: Final = 1100
"""By how much zip can shrink anything, and a little: a member that says more of itself does not tell the truth."""


def check_npz(file: BinaryIO) -> None:
    """Refuse an archive of arrays that would take memory it does not fill, before numpy makes room for them.

    Raises:
        InputError: it unfolds to too much, or promises more than it holds.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total, most = sum(member.file_size for member in members), max(_ROOM, _FOLDED * size)
        if total > most:
            raise InputError(
                f'Expected at most {most:,} bytes of arrays in "{file.name}", but got {total:,}; save them uncompressed'
            )
        for member in members:
            lies = member.file_size > _DEFLATED * (min(member.compress_size, size) + 1)
            if lies or _promised(archive, member) > member.file_size:
                raise InputError(
                    f'Expected all of the array {member.filename!r} in "{file.name}", but it says that it is larger '
                    "than what is there; replace the file"
                )
    file.seek(0)


def _promised(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the bytes that an array's header says follow it, 0 where it says none: numpy refuses that itself."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as content:
        start = content.read(np.lib.format.MAGIC_LEN)
        if not start.startswith(np.lib.format.MAGIC_PREFIX):
            return 0
        shape, _, dtype = readers[start[-2], start[-1]](content)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays that ``write_npz`` wrote; nothing is unpickled.

    Raises:
        InputError: no such file, or not readable as one of ours.
    """
    try:
        # opened here: numpy leaves a file that it cannot read open
        with path.open("rb") as file:
            check_npz(file)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        found = int(arrays.pop("format", np.array(0)))
    except FileNotFoundError as error:
        raise InputError(f'Expected a file "{path}", but there is none') from error
    except Exception as error:  # zip, zlib and numpy each have their own ways to say "damaged"
        if not is_damage(error):
            raise
        raise InputError(f'"{path}" is damaged: {error}') from error
    check_format(path, found or None)
    return arrays
