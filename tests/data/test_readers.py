"""Batches and npz files come back byte for byte; every broken one is named in one sentence."""

import io
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fsrobust.data.official import read_cifar10
from fsrobust.data.readers import read_npz
from fsrobust.records import arrays as archives
from fsrobust.types import InputError

Arrays = dict[str, Any]


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# --- CIFAR-10, binary ---


@settings(max_examples=25, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_binary_batches_round_trip(data: st.DataObject, sizes: list[int]) -> None:
    """Whatever records are written, batch after batch, come back in order, pixel for pixel."""
    n = sum(sizes)
    images = data.draw(
        arrays(np.uint8, (n, 3, 32, 32), elements=st.integers(0, 255), fill=st.integers(0, 255))
    )
    labels = data.draw(arrays(np.uint8, n, elements=st.integers(0, 9)))
    records = np.concatenate([labels[:, None], images.reshape(n, -1)], axis=1)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"data_batch_{number}.bin" for number in range(len(sizes))]
        for file, part in zip(files, np.split(records, np.cumsum(sizes)[:-1]), strict=True):
            part.tofile(file)
        back = read_cifar10(files, "train")
    np.testing.assert_array_equal(back.images, images)
    np.testing.assert_array_equal(back.labels, labels)
    assert back.labels.dtype == np.int64
    assert back.ids.tolist() == list(range(n))
    assert back.class_names[3] == "cat"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole records of 3073 bytes .* got 0 bytes"),
        (bytes(3072), "whole records .* got 3072 bytes"),
        (bytes(2 * 3073 + 1), "whole records .* got 6147 bytes"),
        (bytes(3073) + b"\x0a" + bytes(3072), "labels from 0 to 9 .* got 10"),
    ],
    ids=["empty", "short", "long", "label"],
)
def test_broken_binary_batches_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    """Parts of records and labels above 9 are refused."""
    file = tmp_path / "test_batch.bin"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_cifar10([file], "test")
    assert str(file) in str(refusal.value)


def test_an_unreadable_batch_is_named(tmp_path: Path) -> None:
    """A file that is not there is an input error, too."""
    with pytest.raises(InputError, match="No such file"):
        read_cifar10([tmp_path / "test_batch.bin"], "test")


# --- CIFAR-10, pickled ---


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """Return a batch as Python 2 and the numpy of 2009 pickled it (protocol 2)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    content = images.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + number(0) + b"\x85"
    array += text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(len(images)) + number(3072) + b"\x86"
    array += b"(" + number(1) + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    label_list = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + label_list + b"u."


@pytest.mark.parametrize("protocol", [None, 2, 3, 4])
def test_pickled_batches_give_the_same_as_binary(tmp_path: Path, protocol: int | None) -> None:
    """One batch in both official layouts, pickled by Python 2 or 3: the same images and labels."""
    images, labels = pixels(4, 3072), [0, 9, 5, 5]
    np.concatenate([np.array(labels, np.uint8)[:, None], images], axis=1).tofile(
        tmp_path / "data_batch_1.bin"
    )
    batch = {b"batch_label": b"training batch 1 of 5", b"labels": labels, b"data": images}
    content = python2_batch(images, labels) if protocol is None else pickle.dumps(batch, protocol)
    (tmp_path / "data_batch_1").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickled = read_cifar10([tmp_path / "data_batch_1"], "train")
    binary = read_cifar10([tmp_path / "data_batch_1.bin"], "train")
    np.testing.assert_array_equal(pickled.images, images.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(pickled.images, binary.images)
    np.testing.assert_array_equal(pickled.labels, binary.labels)


class Exploit:
    """Unpickles as a call that writes a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.victim, "x")


def test_a_pickled_exploit_does_not_run(tmp_path: Path) -> None:
    """Code hidden beside good data is refused, and its side effect does not happen."""
    file, victim = tmp_path / "test_batch", tmp_path / "victim"
    batch = {b"data": pixels(1, 3072), b"labels": [1], b"batch_label": Exploit(victim)}
    file.write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(InputError, match=r"test_batch, but got UnpicklingError"):
        read_cifar10([file], "test")
    assert not victim.exists()


GOOD = {b"data": pixels(2, 3072), b"labels": [1, 2]}


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {b"data": GOOD[b"data"]},
        {b"labels": [1, 2]},
        {"data": GOOD[b"data"], "labels": [1, 2]},
        GOOD | {b"labels": [1]},
        GOOD | {b"labels": [1, 10]},
        GOOD | {b"labels": [1, -1]},
        GOOD | {b"labels": [1, 2.0]},
        GOOD | {b"labels": [1, [2]]},
        GOOD | {b"labels": None},
        GOOD | {b"data": [1, 2]},
        GOOD | {b"data": pixels(2, 3071)},
        GOOD | {b"data": pixels(2, 3072).astype(np.int16)},
        {b"data": pixels(0, 3072), b"labels": []},
    ],
)
def test_wrong_pickled_batches_are_named(tmp_path: Path, batch: object) -> None:
    """Missing keys, wrong types, shapes and labels are refused, never met later."""
    file = tmp_path / "test_batch"
    file.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(InputError, match="test_batch"):
        read_cifar10([file], "test")


def test_a_pickle_cut_anywhere_is_named(tmp_path: Path) -> None:
    """No prefix of a batch passes, and none escapes as another kind of error."""
    file = tmp_path / "test_batch"
    content = python2_batch(pixels(1, 3072), [3])
    for length in [*range(200), *range(200, len(content), 97), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match="test_batch"):
            read_cifar10([file], "test")


# --- npz files ---


def npz(**changes: np.ndarray | None) -> Arrays:
    """Return the arrays of a good file of 3-class colour images, changed; None leaves one out."""
    good: Arrays = {
        "x_train": pixels(6, 3, 5, 4),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": pixels(2, 3, 5, 4, seed=1),
        "y_test": np.array([1, 0]),
    }
    return {name: array for name, array in (good | changes).items() if array is not None}


def written(folder: Path, content: Arrays) -> Path:
    """Return the npz file of some arrays."""
    np.savez(folder / "own.npz", **content)
    return folder / "own.npz"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.transpose(0, 2, 3, 1),
        lambda x: x.astype(np.float64) / 255,
        lambda x: (x / 255).astype(np.float32).transpose(0, 2, 3, 1),
        lambda x: (x / 255).astype(np.float16),
    ],
    ids=["NCHW", "NHWC", "float64", "float32 NHWC", "float16"],
)
def test_npz_layouts_and_floats_agree(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Axes in either order, bytes or their 255th parts: the same bytes come back as NCHW."""
    content = npz()
    file = written(tmp_path, content | {name: change(content[name]) for name in ("x_train", "x_test")})
    for split in ("train", "test"):
        samples = read_npz(file, split)
        np.testing.assert_array_equal(samples.images, content[f"x_{split}"])
        np.testing.assert_array_equal(samples.labels, content[f"y_{split}"])
        assert samples.images.flags.c_contiguous
        assert samples.labels.dtype == samples.ids.dtype == np.int64
        assert samples.class_names == ("0", "1", "2")


def test_npz_grey_images_and_other_names(tmp_path: Path) -> None:
    """MedMNIST's names, its column of labels, N×H×W greys, and class names are understood."""
    grey = pixels(3, 8, 8)
    content = {
        "train_images": grey,
        "train_labels": np.array([[0], [1], [0]], np.uint8),
        "test_images": grey[:1],
        "test_labels": np.array([[1]], np.uint8),
        "class_names": np.array(["benign", "malignant"]),
    }
    samples = read_npz(written(tmp_path, content), "train")
    np.testing.assert_array_equal(samples.images, grey[:, None])
    assert samples.labels.tolist() == [0, 1, 0]
    assert samples.class_names == ("benign", "malignant")


def test_npz_classes_are_those_of_both_splits(tmp_path: Path) -> None:
    """A class that only the test split has counts in the training split, too."""
    samples = read_npz(written(tmp_path, npz(y_test=np.array([0, 4]))), "train")
    assert len(samples.class_names) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "Expected arrays x_train, y_train, x_test and y_test"),
        ({"x_train": pixels(6, 3, 5, 3)}, "two ways; save them as NCHW"),
        ({"x_train": pixels(6, 4, 5, 4)}, "1 or 3 channels"),
        ({"x_train": pixels(6, 60)}, "1 or 3 channels"),
        ({"x_train": pixels(0, 3, 5, 4), "y_train": np.zeros(0, int)}, "y_train"),
        ({"x_train": pixels(6, 3, 0, 4)}, "1 or 3 channels"),
        ({"x_train": pixels(5, 3, 5, 4)}, "5 images and 6 labels"),
        ({"x_train": pixels(6, 3, 5, 4).astype(int)}, "uint8 images .* int64"),
        ({"x_train": np.full((6, 3, 5, 4), np.nan)}, r"\[0, 1\] .* \[nan, nan\]"),
        ({"x_train": pixels(6, 3, 5, 4) / 1.0}, r"\[0, 1\] .*; save uint8"),
        ({"x_train": pixels(6, 3, 5, 4) / 255 - 0.5}, r"\[0, 1\]"),
        ({"x_train": np.full((6, 3, 5, 4), 0.5 / 255)}, "kept as 8 bits"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "got -1"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 2**16])}, "got 65536"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64)}, "got 18446744073709551615"),
        ({"y_train": np.array([0.0, 1, 2, 0, 1, 2])}, "one whole number per image"),
        ({"y_train": np.zeros((6, 2), int)}, "one whole number per image"),
        ({"y_train": np.array([0, 1, 2, 0, 1, "2"], object)}, "without pickled objects"),
        ({"class_names": np.array(["a", "b"])}, "Expected 3 texts"),
        ({"class_names": np.arange(3)}, "Expected 3 texts"),
    ],
)
def test_bad_npz_arrays_are_named(tmp_path: Path, changes: Arrays, message: str) -> None:
    """What cannot be images, labels or names is refused with the file's name."""
    file = written(tmp_path, npz(**changes))
    with pytest.raises(InputError, match=message) as refusal:
        read_npz(file, "train")
    assert "own.npz" in str(refusal.value)


def test_an_npz_exploit_does_not_run(tmp_path: Path) -> None:
    """An array of objects is refused unopened."""
    victim = tmp_path / "victim"
    file = written(tmp_path, npz(x_train=np.array([Exploit(victim)], object)))
    with pytest.raises(InputError, match="without pickled objects"):
        read_npz(file, "train")
    assert not victim.exists()


def test_what_is_no_npz_is_named(tmp_path: Path) -> None:
    """A missing file, another kind of file, a cut one and one with flipped bits are refused."""
    file = written(tmp_path, npz())
    content = file.read_bytes()
    middle = len(content) // 3
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    for broken in (b"", b"no zip", content[:-30], flipped):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"own\.npz"):
            read_npz(file, "train")
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "none.npz", "train")


def test_an_npz_takes_no_more_memory_than_it_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that promises terabytes, or a file that unfolds to a thousand times its size, is refused."""
    header, file = io.BytesIO(), tmp_path / "own.npz"
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**11, 1, 8, 8)}
    np.lib.format.write_array_header_1_0(header, shape)
    labels = np.arange(2)
    np.savez(file, y_train=labels, y_test=labels)
    with zipfile.ZipFile(file, "a") as archive:
        for name in ("x_train.npy", "x_test.npy"):
            archive.writestr(name, header.getvalue())
    with pytest.raises(InputError, match=r"all of the array 'x_train.npy' in \".*own.npz\""):
        read_npz(file, "train")
    monkeypatch.setattr(archives, "_ROOM", 2**20)
    zeros = np.zeros((2, 1, 1024, 1024), np.uint8)
    np.savez_compressed(file, x_train=zeros, x_test=zeros, y_train=labels, y_test=labels)
    with pytest.raises(InputError, match=r"at most 1,048,576 bytes of arrays in \".*own.npz\""):
        read_npz(file, "train")


@pytest.mark.parametrize("labels", [[[0]], [0.0], [True], "0", {0: 1}, [np.arange(1)], None])
def test_labels_in_a_pickle_are_whole_numbers(tmp_path: Path, labels: object) -> None:
    """Lists of lists are not unfolded: a small pickle may hold one list a thousand times a thousand times."""
    file = tmp_path / "test_batch"
    file.write_bytes(pickle.dumps({b"data": pixels(1, 3072), b"labels": labels}))
    with pytest.raises(InputError, match=r"list of whole numbers as labels in .*test_batch"):
        read_cifar10([file], "test")
