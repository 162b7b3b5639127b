"""Read images and labels from the files that people have: numpy files and folders of images.

Every reader returns `Samples` or raises an `InputError` that names the file; nothing is trusted.
"""

import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8

from fsrobust.data.archives import reading
from fsrobust.records import check_npz
from fsrobust.types import InputError

Split: TypeAlias = Literal["train", "test"]
Bytes: TypeAlias = UInt8[np.ndarray, "N C H W"]
Numbers: TypeAlias = Int64[np.ndarray, " N"]

_SPLITS: Final[tuple[Split, ...]] = ("train", "test")
_MAX_CLASSES: Final = 2**16  # a larger label is an identifier or an overflow, not a class
_FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP"}
_UNREAD_FORMATS: Final = (".tif", ".tiff", ".gif", ".jp2", ".avif", ".heic")
_NPZ_NAMES: Final = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))  # Keras' names, MedMNIST's names


@dataclass(frozen=True, eq=False)
class Samples:
    """One split as read: uint8 images, int64 labels and identities, names of the classes."""

    images: Bytes
    labels: Numbers
    ids: Numbers
    class_names: tuple[str, ...]


def whole_labels(where: str, y: np.ndarray, classes: int = _MAX_CLASSES) -> Numbers:
    """Return labels as int64 [N]; a column [N, 1] is taken for [N]."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.size == 0 or y.dtype.kind not in "iu":
        raise InputError(
            f"Expected one whole number per image as labels in {where}, "
            f"but got {y.dtype} of shape {y.shape}; number the classes from 0"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"Expected labels from 0 to {classes - 1} in {where}, "
            f"but got {low if low < 0 else high}; number the classes from 0"
        )
    return y.astype(np.int64)


# --- npz files ---


def read_npz(file: Path, split: Split) -> Samples:
    """Return a split of a numpy file with ``x_train y_train x_test y_test`` or MedMNIST's names.

    Images are uint8, or floats k/255, as [N, C, H, W], [N, H, W, C] or grey [N, H, W]. The optional
    ``class_names`` are text; without them there are as many classes as the largest label says.

    Raises:
        InputError: An array is missing, or is not what its name says.
    """
    with reading(file, "a numpy .npz file"):
        is_zip = zipfile.is_zipfile(file)
    if not is_zip:
        got = "something else" if file.is_file() else "no such file"
        raise InputError(f"Expected a numpy .npz file at {file}, but got {got}; use numpy.savez")
    with (
        reading(file, "numpy arrays without pickled objects"),
        file.open("rb") as stream,  # numpy would leave a broken file open
        _loaded(stream) as arrays,
    ):
        x, y = _npz_names(file, arrays.files)
        labels = {part: whole_labels(f"{file}:{y.format(part)}", arrays[y.format(part)]) for part in _SPLITS}
        classes = 1 + max(int(values.max()) for values in labels.values())
        names = arrays["class_names"] if "class_names" in arrays.files else np.arange(classes).astype(str)
        where = f"{file}:{x.format(split)}"
        images = _as_bytes(where, _as_nchw(where, arrays[x.format(split)]))
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < classes:
        raise InputError(
            f"Expected {classes} texts as class_names in {file}, but got {names.dtype} of shape {names.shape}"
        )
    if len(images) != len(labels[split]):
        raise InputError(
            f"Expected one label per image in {where}, "
            f"but got {len(images)} images and {len(labels[split])} labels"
        )
    return Samples(images, labels[split], np.arange(len(images)), tuple(map(str, names)))


def _loaded(stream: BinaryIO) -> np.lib.npyio.NpzFile:
    """Return the arrays of a file that is not made to unfold beyond all memory."""
    check_npz(stream)
    arrays: np.lib.npyio.NpzFile = np.load(stream, allow_pickle=False)
    return arrays


def _npz_names(file: Path, found: Sequence[str]) -> tuple[str, str]:
    for pair in _NPZ_NAMES:
        if {name.format(split) for name in pair for split in _SPLITS} <= set(found):
            return pair
    raise InputError(
        f"Expected arrays x_train, y_train, x_test and y_test in {file}, "
        f"but got {', '.join(sorted(found)) or 'none'}; rename or add them"
    )


def _as_nchw(where: str, x: np.ndarray) -> np.ndarray:
    """Return the images as [N, C, H, W]; C is the axis of length 1 or 3."""
    x = x[:, None] if x.ndim == 3 else x
    first, last = (x.ndim == 4 and x.shape[axis] in (1, 3) for axis in (1, -1))
    if first == last or x.size == 0:
        raise InputError(
            f"Expected images as N×C×H×W with 1 or 3 channels in {where}, "
            f"but got shape {x.shape}{', which can be read two ways' * first}; save them as NCHW"
        )
    return x if first else x.transpose(0, 3, 1, 2)


def _as_bytes(where: str, x: np.ndarray) -> Bytes:
    """Return uint8 images as they are, and floats k/255 as k."""
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if x.dtype.kind != "f":
        raise InputError(f"Expected uint8 images in {where}, but got {x.dtype}; convert them")
    images = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), 1024):  # in parts, for the float64 copies' sake
        part = x[start : start + 1024].astype(np.float64)
        low, high = part.min(), part.max()
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise InputError(
                f"Expected pixels in [0, 1] in {where}, "
                f"but got [{low:.4g}, {high:.4g}]; save uint8 images, or divide them by their range"
            )
        levels = np.rint(part * 255)
        if np.abs(part - levels / 255).max() > 1e-3:
            raise InputError(
                f"Expected pixels k/255 in {where}, but got values between; "
                "pixels are kept as 8 bits, so round them and save uint8"
            )
        images[start : start + 1024] = levels
    return images


# --- folders of images ---


def read_folder(folder: Path, split: Split, *, image_size: int | None = None) -> Samples:
    """Return the images ``folder/SPLIT/CLASS/*`` (PNG, JPEG, BMP, WebP) as RGB, grey ones too.

    Classes and files are sorted by name. With ``image_size``, the shorter side is resized to it
    (bicubic, antialiased) and the centre is cut out; without, all images must be square and equal.
    Pixels are taken as stored: an orientation noted in EXIF is not applied.

    Raises:
        InputError: A class folder is missing, empty or alone, or an image cannot be used.
    """
    found = list_folder(folder, split)
    return Samples(
        _stack(found.files, image_size), found.labels, np.arange(len(found.files)), found.class_names
    )


@dataclass(frozen=True, eq=False)
class FolderFiles:
    """The images of one split, not read yet: files in the order of classes and names, and their labels."""

    files: tuple[Path, ...]
    labels: Numbers
    class_names: tuple[str, ...]


def list_folder(folder: Path, split: Split) -> FolderFiles:
    """Return the images ``folder/SPLIT/CLASS/*``, classes and files sorted by name.

    Raises:
        InputError: A class folder is missing, empty or alone, or holds images of a format that is not read.
    """
    classes = _class_folders(folder)
    groups = {part: [_image_files(folder / part / name) for name in classes] for part in _SPLITS}
    files = tuple(file for group in groups[split] for file in group)
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in groups[split]])
    return FolderFiles(files, labels, tuple(classes))


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the classes, which both splits must have."""
    found: list[set[str]] = []
    for split in _SPLITS:
        if not (folder / split).is_dir():
            raise InputError(
                f"Expected a folder {folder / split} with one folder of images per class, "
                "but there is none; lay the images down as train/CLASS/ and test/CLASS/"
            )
        visible = (path for path in (folder / split).iterdir() if not path.name.startswith("."))
        found.append({path.name for path in visible if path.is_dir()})
        for name in found[-1]:
            if not _is_text(name):
                raise InputError(
                    f"Expected class folders named in UTF-8, but got {name!a} in {folder / split}"
                )
    for split, names in zip(_SPLITS, found, strict=True):
        for name in sorted(set.union(*found) - names):
            raise InputError(
                f"Expected the same classes in train and test, but got no folder {folder / split / name}"
            )
    if len(found[0]) < 2:
        raise InputError(
            f"Expected at least two class folders in {folder / 'train'}, "
            f"but got {', '.join(found[0]) or 'none'}"
        )
    return sorted(found[0])


def _is_text(name: str) -> bool:
    """Return whether a file's name can be written down: bytes that are no UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for file in files:
        if file.suffix.lower() in _UNREAD_FORMATS:  # left out in silence, they would be missed
            raise InputError(f"Expected PNG, JPEG, BMP or WebP images, but got {file}; convert it")
    images = [file for file in files if file.suffix.lower() in _FORMATS]
    if not images:
        raise InputError(f"Expected images in {folder}, but got none; add some or remove the class")
    return images


def _stack(files: Sequence[Path], image_size: int | None) -> Bytes:
    """Return the decoded files as one array."""
    first = decode_square(files[0], image_size, None)
    like = files[0], first.shape[1:]
    images = np.empty((len(files), *first.shape), np.uint8)
    for position, file in enumerate(files):
        images[position] = decode_square(file, image_size, like)
    return images


def decode_square(
    file: Path, image_size: int | None, like: tuple[Path, tuple[int, ...]] | None
) -> UInt8[np.ndarray, "3 H W"]:
    """Return one image, which must be square, and as large as that of another file, ``like``.

    Raises:
        InputError: It is not, or cannot be decoded.
    """
    pixels = decode(file, image_size)
    height, width, _ = pixels.shape
    first, size = like or (file, (height, width))
    if (height, width) != size or height != width:
        other = "" if first == file else f"{first} is {size[1]}×{size[0]} and "
        raise InputError(
            f"Expected square images of one size, but {other}{file} is {width}×{height}; "
            "resize them with, say, --image-size 64"
        )
    return pixels.transpose(2, 0, 1)


def decode(file: Path, image_size: int | None) -> UInt8[np.ndarray, "H W 3"]:
    """Return one image; only the decoders that are named may open it, and no huge one."""
    from PIL import Image

    with reading(file, "an image"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=tuple(set(_FORMATS.values()))) as image:
            if image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in image.tile):
                raise InputError(f"Expected 8 bits a channel, but {file} has more; convert it")
            # A palette may hold transparency, which Pillow drops in silence only by way of RGBA.
            rgb = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        if image_size is not None:
            size, centre = _cut(rgb.size, image_size)
            rgb = rgb.resize(size, Image.Resampling.BICUBIC).crop(centre)
        return np.asarray(rgb)


def _cut(size: tuple[int, int], side: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return the size whose shorter side is ``side``, and the box of the square at its centre."""
    width, height = (max(side, round(length * side / min(size))) for length in size)
    left, top = (width - side) // 2, (height - side) // 2
    return (width, height), (left, top, left + side, top + side)
