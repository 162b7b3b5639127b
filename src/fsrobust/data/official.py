"""Read the official files of data sets: CIFAR-10 and CIFAR-100, SVHN, Tiny ImageNet; and the bundled digits.

Every reader returns `Samples` or raises an `InputError` that names the file; nothing is trusted.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from fsrobust.data.archives import reading
from fsrobust.data.matlab import read_matlab
from fsrobust.data.pickles import unpickle
from fsrobust.data.readers import Bytes, Numbers, Samples, Split, decode, whole_labels
from fsrobust.types import InputError

DIGITS_CLASSES: Final = tuple("0123456789")
CIFAR10_CLASSES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
CIFAR100_CLASSES: Final = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew",
    "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
    "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout",
    "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"
)  # fmt: skip
_TINY_SIDE: Final = 64


def read_digits(_files: Sequence[Path], split: Split) -> Samples:
    """Return scikit-learn's 8 × 8 digits, greys 0…16 stretched to 0…255; every fifth is test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    ids = np.arange(len(digits.target))
    ids = ids[(ids % 5 == 0) == (split == "test")]
    images = np.rint(digits.images[ids, None] * (255 / 16)).astype(np.uint8)
    return Samples(images, digits.target[ids].astype(np.int64), ids, DIGITS_CLASSES)


# --- CIFAR ---


def read_cifar10(files: Sequence[Path], _split: Split) -> Samples:
    """Return the records of CIFAR-10's batches, binary (``.bin``) or pickled, in order.

    A batch may hold any number of whole records.

    Raises:
        InputError: A file cannot be read, holds part of a record, or a label above 9.
    """
    return _read_cifar(files, _Cifar("CIFAR-10", header=1, key=b"labels", class_names=CIFAR10_CLASSES))


def read_cifar100(files: Sequence[Path], _split: Split) -> Samples:
    """Return the records of CIFAR-100, binary or pickled, with their fine labels.

    Raises:
        InputError: A file cannot be read, holds part of a record, or a label above 99.
    """
    return _read_cifar(files, _Cifar("CIFAR-100", header=2, key=b"fine_labels", class_names=CIFAR100_CLASSES))


class _Cifar:
    """How one of the two is stored: ``header`` bytes before the pixels, the last being the label."""

    def __init__(self, title: str, *, header: int, key: bytes, class_names: tuple[str, ...]) -> None:
        self.title, self.header, self.key, self.class_names = title, header, key, class_names


def _read_cifar(files: Sequence[Path], kind: _Cifar) -> Samples:
    batches = [_binary_batch(f, kind) if f.suffix == ".bin" else _pickled_batch(f, kind) for f in files]
    images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    return Samples(images, labels, np.arange(len(labels)), kind.class_names)


def _binary_batch(file: Path, kind: _Cifar) -> tuple[np.ndarray, Numbers]:
    """Return pixels uint8 [n, 3072] and labels [n]: a record is its label bytes, then three planes."""
    with reading(file, f"a {kind.title} batch"):
        content = file.read_bytes()
    size = kind.header + 3072
    if not content or len(content) % size:
        raise InputError(
            f"Expected whole records of {size} bytes in {file}, but got {len(content)} bytes; replace the file"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = whole_labels(str(file), records[:, kind.header - 1], len(kind.class_names))
    return records[:, kind.header :], labels


def _pickled_batch(file: Path, kind: _Cifar) -> tuple[np.ndarray, Numbers]:
    """Return pixels uint8 [n, 3072] and labels [n] of a batch pickled by Python 2 or 3."""
    with reading(file, f"a pickled {kind.title} batch"):
        batch = unpickle(file.read_bytes())
        images = batch[b"data"]
        labels = whole_labels(str(file), _numbers(file, batch[kind.key]), len(kind.class_names))
    expected = (len(labels), 3072)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != expected:
        got = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise InputError(
            f"Expected data of type uint8 and shape {expected} in {file}, "
            f"but got {got.strip()}; replace the file"
        )
    return images, labels


def _numbers(file: Path, labels: object) -> np.ndarray:
    """Return a list of whole numbers as an array, and an array as it is.

    numpy would also unfold lists of lists, and a small pickle may hold one list a thousand times a thousand times.
    """
    if isinstance(labels, np.ndarray):
        return labels
    if not isinstance(labels, list | tuple) or not all(type(label) is int for label in labels):
        raise InputError(
            f"Expected a list of whole numbers as labels in {file}, but got others; replace the file"
        )
    return np.asarray(labels)


# --- SVHN ---


def read_svhn(files: Sequence[Path], _split: Split) -> Samples:
    """Return the cropped digits of SVHN's MATLAB file; what it calls class 10 is the digit 0.

    Raises:
        InputError: The file is no MATLAB file of version 5, or does not hold what the official one does.
    """
    (file,) = files
    with reading(file, "a MATLAB file with the arrays X and y"):
        content = read_matlab(file, {"X", "y"})
        x, y = content["X"], content["y"]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3):
        raise InputError(
            f"Expected X as uint8 [32, 32, 3, N] in {file}, but got {x.dtype} {list(x.shape)}; replace the file"
        )
    labels = whole_labels(f"{file}:y", y, 11) % 10
    if len(labels) != x.shape[3]:
        raise InputError(
            f"Expected one label per image in {file}, but got {x.shape[3]} images and {len(labels)} labels"
        )
    images = np.ascontiguousarray(x.transpose(3, 2, 0, 1))
    return Samples(images, labels, np.arange(len(labels)), DIGITS_CLASSES)


# --- Tiny ImageNet ---


def read_tiny_imagenet(files: Sequence[Path], split: Split) -> Samples:
    """Return Tiny ImageNet's training images, or its validation images as the test split (test has no labels).

    Classes are the folders of ``train`` in sorted order, named as words.txt names them; if only some of the 200
    are there, the test split holds those only. Grey images become RGB. 100,000 images are 1.2 GB in memory.

    Raises:
        InputError: An image cannot be used, or the annotations do not fit the images.
    """
    root = files[0].parent if split == "train" else files[0].parents[1]
    classes = sorted(path.name for path in (root / "train").glob("n*") if path.is_dir())
    if len(classes) < 2:
        raise InputError(f"Expected a folder per class in {root / 'train'}, but got {len(classes)}")
    names = _tiny_names(root / "words.txt", classes)
    if split == "train":
        found = [(k, image) for k, c in enumerate(classes) for image in _jpegs(root / "train" / c / "images")]
    else:
        found = _tiny_validation(files[0], {c: k for k, c in enumerate(classes)})
    labels = np.array([label for label, _ in found], dtype=np.int64)
    return Samples(_decode_all([image for _, image in found]), labels, np.arange(len(found)), names)


def _tiny_names(file: Path, classes: list[str]) -> tuple[str, ...]:
    """Return a name for each class: the first of those in words.txt, else its own number."""
    words: dict[str, str] = {}
    if file.is_file():
        with reading(file, "lines of a class and its names"):
            lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines()]
        words = {line[0]: line[1].split(",")[0].strip() for line in lines if len(line) == 2}
    return tuple(words.get(c, c) for c in classes)


def _jpegs(folder: Path) -> list[Path]:
    images = sorted(folder.glob("*.JPEG"), key=lambda path: (len(path.name), path.name))
    if not images:
        raise InputError(f"Expected JPEG images in {folder}, but got none; unpack the whole archive")
    return images


def _tiny_validation(file: Path, classes: dict[str, int]) -> list[tuple[int, Path]]:
    """Return (label, image) for each line of val_annotations.txt whose class is there."""
    with reading(file, "lines of an image, its class and a box"):
        rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        pairs = [(row[1], file.parent / "images" / row[0]) for row in rows]
    for _, image in pairs:
        if image.parent != file.parent / "images" or not image.is_file():
            raise InputError(f"Expected the image {image}, which {file} names, but there is none")
    found = [(classes[c], image) for c, image in pairs if c in classes]
    if not found:
        raise InputError(f"Expected images of the classes in train, but {file} names none of them")
    return found


def _decode_all(files: Sequence[Path]) -> Bytes:
    """Return all images as one array; decoding leaves Python's lock, so threads share the work."""
    images = np.empty((len(files), 3, _TINY_SIDE, _TINY_SIDE), np.uint8)

    def fill(position: int) -> None:
        pixels = decode(files[position], None)
        if pixels.shape[:2] != (_TINY_SIDE, _TINY_SIDE):
            height, width = pixels.shape[:2]
            raise InputError(f"Expected 64×64 pixels in {files[position]}, but got {width}×{height}")
        images[position] = pixels.transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(files)), chunksize=64):
            pass
    return images
