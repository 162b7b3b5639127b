"""Read pickles that came from elsewhere, so that they can do no harm: arrays of numbers, containers, nothing else."""

import io
import math
import pickle
import pickletools
import re
from typing import Any, Final

import numpy as np


def unpickle(content: bytes) -> Any:
    """Return the arrays of numbers and the containers that a pickle of Python 2 or 3 holds.

    Arrays are read on their own or as values of a dictionary, as data sets hold them; deeper ones stay what no
    reader takes for numbers. Python 2's texts come back as bytes. The caller names the file when this raises, as a
    broken pickle may raise nearly any exception.

    >>> unpickle(pickle.dumps({"labels": [6, 9]}))
    {'labels': [6, 9]}

    Raises:
        pickle.UnpicklingError: The pickle asks for anything else; none of it is imported or run.
    """
    _check_memo(content)
    loaded = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    if isinstance(loaded, dict):
        return {name: _finished(value) for name, value in loaded.items()}
    return _finished(loaded)


def _check_memo(content: bytes) -> None:
    """Refuse a pickle that numbers what it remembers beyond its own length: Python would make room for as many."""
    try:
        for code, argument, _place in pickletools.genops(content):
            if code.name in ("PUT", "LONG_BINPUT") and argument is not None and argument > len(content):
                raise pickle.UnpicklingError(f"a thing to remember, numbered {argument}")
    except ValueError as error:  # not passed over: what this reader cannot read, another might
        raise pickle.UnpicklingError(str(error)) from error


def _finished(value: Any) -> Any:
    return value.array() if isinstance(value, _Array) else value


# --- stand-ins: what a pickle meets in numpy's place ---
#
# numpy's own constructors trust whoever calls them: numpy.ndarray((1,), "O", eight bytes) follows the eight bytes as
# a pointer. So a pickle never gets hold of them, but of objects that only note what numpy itself writes. They are no
# classes and have no attributes that can be set, since a pickle may set any (__array_interface__ is a pointer too).

_NUMBERS: Final = re.compile(r"b1|[iu][1248]|f[248]")


class _Ndarray:
    """The name numpy.ndarray, which nothing is done with."""

    __slots__ = ()


class _Reconstruct:
    """The call that begins each array: an empty one of bytes, which gets its state later."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> "_Array":
        if not isinstance(kind, _Ndarray) or shape != (0,) or code not in (b"b", "b"):
            raise pickle.UnpicklingError("an array that numpy did not write")
        return _Array()


class _Dtype:
    """The call that begins each type of numbers; what else it is given says how to align and to copy."""

    __slots__ = ()

    def __call__(self, code: object, *_how: object) -> "_Numbers":
        text = _text(code)
        if not _NUMBERS.fullmatch(text):
            raise pickle.UnpicklingError(f"an array of {text[:20]!r}, which is no type of numbers")
        return _Numbers(text)


class _Encode:
    """Python 3's way to write bytes for Python 2: as a text of as many letters."""

    __slots__ = ()

    def __call__(self, text: str, encoding: object) -> bytes:
        if encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("bytes in an unknown encoding")
        return text.encode("latin1")


class _Numbers:
    """A type of numbers, and the order of their bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *parts = state
        if parts[:3] != [None, None, None]:  # numbers have no parts, names or fields
            raise pickle.UnpicklingError("an array of records")
        if (text := _text(order)) not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError("an array of numbers in an unknown order of bytes")
        self.order = text

    def dtype(self) -> np.dtype[Any]:
        """Return it as numpy's own."""
        return np.dtype(self.order + self.code)


class _Array:
    """An array as noted: nothing is believed of its shape until its bytes are counted."""

    __slots__ = ("_values",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, numbers, by_columns, content = state
        if not isinstance(numbers, _Numbers) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of no numbers")
        dtype = numbers.dtype()
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not whole or math.prod(shape) * dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array whose shape is not that of its {len(content)} bytes")
        self._values = np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")

    def array(self) -> np.ndarray:
        """Return the array, which is not to be written to.

        Raises:
            pickle.UnpicklingError: It never got its bytes.
        """
        if not hasattr(self, "_values"):
            raise pickle.UnpicklingError("an array without its bytes")
        return self._values


def _text(value: object) -> str:
    """Return a text, which is bytes in a pickle of Python 2."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError("an array whose type has no name")


_ALLOWED: Final[dict[tuple[str, str], object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): _Ndarray(),
    ("numpy", "dtype"): _Dtype(),
    ("_codecs", "encode"): _Encode(),
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows how numpy writes arrays of numbers, and imports nothing."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"a call of {module}.{name}")
        return _ALLOWED[module, name]
