"""Read numeric arrays of a MATLAB file of version 5.

SVHN's files need no more than this. scipy's reader, which knows the whole format, ends the process on some broken
files; here whatever is not as it should be is a ValueError.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADER: Final = 128
_ENDING: Final = b"\x00\x01IM"
"""How the header ends: version 1.0, little-endian."""
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS: Final = {
    **dict(enumerate(("i1", "u1", "<i2", "<u2", "<i4", "<u4", "<f4"), start=1)),
    9: "<f8",
    12: "<i8",
    13: "<u8",
}
"""Dtypes by the kind of an element."""
_COMPLEX: Final = 0x800
_CLASSES: Final = range(6, 16)
"""Classes of arrays that are numbers: from double to uint64."""
_LARGEST: Final = 1 << 31
"""Bytes that a compressed element may unfold to: SVHN's largest file has 1.6 GB."""


def read_matlab(file: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of these names, in the dtype that they are stored in.

    Raises:
        ValueError: not such a file, broken, or without one of the arrays.
        OSError: the file cannot be read.
    """
    content = memoryview(file.read_bytes())
    if len(content) < _HEADER or bytes(content[_HEADER - 4 : _HEADER]) != _ENDING:
        raise ValueError("no MATLAB file of version 5")
    found: dict[str, NDArray[Any]] = {}
    for kind, data in _elements(content[_HEADER:]):
        matrix = _unfold(data) if kind == _COMPRESSED else data if kind == _MATRIX else None
        if matrix is not None:
            found |= _array(matrix, names)
    missing = sorted(set(names) - set(found))
    if missing:
        raise ValueError(f"no numeric array {', '.join(missing)}")
    return found


def _elements(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and bytes of each element: after a tag of eight bytes, or within it where they are four at most."""
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise ValueError("a tag is cut short")
        kind, size = struct.unpack_from("<II", content, at)
        if kind >> 16:
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError("a short element is longer than four bytes")
        else:
            start = at + 8
            padding = 0 if kind == _COMPRESSED else -size % 8
            end = start + size + padding
        if start + size > len(content):
            raise ValueError("an element is cut short")
        yield kind, content[start : start + size]
        at = end


def _unfold(data: memoryview) -> memoryview:
    """Return the matrix in a compressed element."""
    inflating = zlib.decompressobj()
    try:
        whole = inflating.decompress(data, _LARGEST)
    except zlib.error as error:
        raise ValueError(f"a compressed element is broken: {error}") from error
    if not inflating.eof:
        raise ValueError("a compressed element is cut short, or unfolds without end")
    for kind, matrix in _elements(memoryview(whole)):
        if kind == _MATRIX:
            return matrix
    raise ValueError("a compressed element without an array")


def _array(matrix: memoryview, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the array by its name, nothing if it is none that is wanted or no array of numbers."""
    parts = _elements(matrix)
    try:
        flags, shape, name = (_numbers(*next(parts), kind) for kind in (_UINT32, _INT32, _INT8))
        called = name.tobytes().decode("ascii")
        flag = int(flags[0])
        if called not in names or flag & 0xFF not in _CLASSES or flag & _COMPLEX:
            return {}
        values = _numbers(*next(parts), None)
    except (StopIteration, IndexError) as error:
        raise ValueError("an array is cut short") from error
    if (shape < 0).any() or math.prod(shape.tolist()) != len(values):
        raise ValueError(f"{len(values)} numbers for an array of shape {shape.tolist()}")
    return {called: values.reshape(shape.tolist(), order="F")}


def _numbers(kind: int, data: memoryview, expected: int | None) -> NDArray[Any]:
    if kind not in _NUMBERS or expected not in (None, kind):
        raise ValueError(f"an element of kind {kind} where {expected or 'numbers'} should be")
    return np.frombuffer(data, _NUMBERS[kind])
