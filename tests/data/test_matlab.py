"""MATLAB files: what scipy writes is what is read, and nothing broken does more than raise ValueError."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from fsrobust.data.matlab import read_matlab

ARRAYS: dict[str, NDArray[Any]] = {
    "X": np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5),
    "y": np.array([[1.0], [10.0], [0.5]]),
    "small": np.array([[7]], np.int16),
    "wide": np.array([[-(2**40), 2**40]], np.int64),
    "single": np.array([[0.25]], np.float32),
    "none": np.zeros((0, 3), np.uint8),
}


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_are_scipys(tmp_path: Path, *, packed: bool) -> None:
    """Values, shapes and the order of axes survive, compressed or not, beside what is no array of numbers."""
    file = tmp_path / "a.mat"
    savemat(file, {**ARRAYS, "text": "abc", "cell": np.array([1, "a"], object)}, do_compression=packed)
    read = read_matlab(file, set(ARRAYS))
    assert set(read) == set(ARRAYS)
    for name, expected in ARRAYS.items():
        assert np.array_equal(read[name], expected), name
    with pytest.raises(ValueError, match="no numeric array text"):
        read_matlab(file, {"X", "text"})


@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_file_is_a_value_error(tmp_path: Path, *, packed: bool) -> None:
    """A thousand files with bytes changed, cut away or put in: scipy's own reader ends the process on some of them."""
    file = tmp_path / "a.mat"
    savemat(file, ARRAYS, do_compression=packed)
    whole, draw = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(1_000):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8))):
            at = draw.randrange(128, len(content))
            match draw.randrange(3):
                case 0:
                    content[at] = draw.randrange(256)
                case 1:
                    content[at : at + draw.randrange(1, 9)] = b""
                case 2:
                    content[at:at] = draw.randbytes(draw.randrange(1, 9))
        file.write_bytes(content)
        try:
            read_matlab(file, {"X", "y"})
        except ValueError:
            refused += 1
    assert refused > 300
