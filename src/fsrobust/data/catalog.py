"""The data sets that have a name: a table of what is known of each before it is read.

A new data set is one row of `DATASETS` and one reader.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fsrobust.data.official import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    DIGITS_CLASSES,
    read_cifar10,
    read_cifar100,
    read_digits,
    read_svhn,
    read_tiny_imagenet,
)
from fsrobust.data.readers import Samples, Split


@dataclass(frozen=True)
class Archive:
    """An official archive: where it is, its publisher's checksum, and its name on disk.

    ``packed`` is False for a file that is used as it comes.
    """

    url: str
    md5: str
    file: str
    packed: bool = True


@dataclass(frozen=True)
class Layout:
    """A folder as the official archive leaves it, with the files of either split."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    def files(self, split: Split) -> tuple[str, ...]:
        """Return the names of a split's files."""
        return self.train if split == "train" else self.test


@dataclass(frozen=True)
class DatasetSpec:
    """A row of `DATASETS`: what is known of a data set before it is read.

    ``read`` takes a split's files, as one of ``layouts`` names them, and the split. Data that some
    package brings along have no layouts and no archives. ``samples`` are the official counts of the training and
    the test split, which may be had in part only.
    """

    title: str
    channels: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    read: Callable[[Sequence[Path], Split], Samples]
    archives: tuple[Archive, ...] = ()
    layouts: tuple[Layout, ...] = ()
    samples: tuple[int, int] | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


_BATCHES: Final = tuple(f"data_batch_{number}" for number in range(1, 6))

DATASETS: Final[dict[str, DatasetSpec]] = {
    "digits": DatasetSpec(
        title="Digits (bundled with scikit-learn)",
        channels=1,
        image_size=(8, 8),
        class_names=DIGITS_CLASSES,
        read=read_digits,
    ),
    "cifar10": DatasetSpec(
        title="CIFAR-10",
        channels=3,
        image_size=(32, 32),
        class_names=CIFAR10_CLASSES,
        read=read_cifar10,
        archives=(
            Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                file="cifar-10-binary.tar.gz",
            ),
        ),
        samples=(50_000, 10_000),
        layouts=(
            Layout(
                folder="cifar-10-batches-bin",
                train=tuple(f"{name}.bin" for name in _BATCHES),
                test=("test_batch.bin",),
            ),
            Layout(folder="cifar-10-batches-py", train=_BATCHES, test=("test_batch",)),
        ),
    ),
    "cifar100": DatasetSpec(
        title="CIFAR-100, fine labels",
        channels=3,
        image_size=(32, 32),
        class_names=CIFAR100_CLASSES,
        read=read_cifar100,
        archives=(
            Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                md5="03b5dce01913d631647c71ecec9e9cb8",
                file="cifar-100-binary.tar.gz",
            ),
        ),
        samples=(50_000, 10_000),
        layouts=(
            Layout(folder="cifar-100-binary", train=("train.bin",), test=("test.bin",)),
            Layout(folder="cifar-100-python", train=("train",), test=("test",)),
        ),
    ),
    "svhn": DatasetSpec(
        title="SVHN, cropped digits, without the extra split",
        channels=3,
        image_size=(32, 32),
        class_names=DIGITS_CLASSES,
        read=read_svhn,
        archives=(
            Archive(
                url="http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                md5="e26dedcc434d2e4c54c9b2d4a06d8373",
                file="train_32x32.mat",
                packed=False,
            ),
            Archive(
                url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                md5="eb5a983be6a315427106f1b164d9cef3",
                file="test_32x32.mat",
                packed=False,
            ),
        ),
        samples=(73_257, 26_032),
        layouts=(Layout(folder="svhn", train=("train_32x32.mat",), test=("test_32x32.mat",)),),
    ),
    "tiny-imagenet": DatasetSpec(
        title="Tiny ImageNet, its validation images as test",
        channels=3,
        image_size=(64, 64),
        class_names=tuple(f"class {k}" for k in range(200)),  # words.txt knows better once it is there
        read=read_tiny_imagenet,
        archives=(
            Archive(
                url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5="90528d7ca1a48142e341f4ef8d21d0de",
                file="tiny-imagenet-200.zip",
            ),
        ),
        samples=(100_000, 10_000),
        layouts=(
            Layout(folder="tiny-imagenet-200", train=("wnids.txt",), test=("val/val_annotations.txt",)),
        ),
    ),
}
