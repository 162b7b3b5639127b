"""Data sets: what one is, the table of those with a name, and how to draw from one.

A new data set is one row of `DATASETS` and one reader.
"""

import difflib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fsrobust.data.readers import (
    CIFAR10_CLASSES,
    DIGITS_CLASSES,
    Samples,
    Split,
    read_cifar10,
    read_digits,
    read_folder,
    read_npz,
)
from fsrobust.seeding import Noise
from fsrobust.types import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split, all in memory, on one device.

    ``images`` are uint8 [N, C, H, W]; ``labels`` int64 [N]; ``ids`` int64 [N], each sample's identity
    (its position in the split as read), which all noise in evaluation depends on. ``name`` is what
    `load_dataset` was asked for, ``split`` is "train", "test" or "validation".
    """

    name: str
    split: str
    images: UInt8[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    ids: Int[Tensor, " N"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.ids) > 0:
            raise InputError(
                "Expected as many labels and ids as images, and at least one, "
                f"but got {len(self.images)}, {len(self.labels)} and {len(self.ids)}"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    @property
    def classes(self) -> int:
        """The number of classes, of which some may have no sample here."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the shape, the pixels and the labels, in order, as hexadecimal digits."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()

    def select(
        self, indices: Int[Tensor, " M"] | Sequence[int], split: str | None = None
    ) -> "Dataset":
        """Return the samples at ``indices``, in that order, with their ids; ``split`` renames.

        >>> load_dataset("digits", "test").select([2, 0]).ids.tolist()
        [10, 0]
        """
        kept = torch.as_tensor(indices, device=self.images.device)
        return replace(
            self,
            split=split or self.split,
            images=self.images[kept],
            labels=self.labels[kept],
            ids=self.ids[kept],
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data set with its tensors on ``device``."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            ids=self.ids.to(device),
        )


@dataclass(frozen=True)
class Archive:
    """An official archive: where it is, its publisher's checksum, and its name on disk."""

    url: str
    md5: str
    file: str


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
    package brings along have no layouts and no archive.
    """

    title: str
    channels: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    read: Callable[[Sequence[Path], Split], Samples]
    archive: Archive | None = None
    layouts: tuple[Layout, ...] = ()

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
        archive=Archive(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            file="cifar-10-binary.tar.gz",
        ),
        layouts=(
            Layout(
                folder="cifar-10-batches-bin",
                train=tuple(f"{name}.bin" for name in _BATCHES),
                test=("test_batch.bin",),
            ),
            Layout(folder="cifar-10-batches-py", train=_BATCHES, test=("test_batch",)),
        ),
    ),
}


def load_dataset(
    name: str, split: Split, *, root: Path | None = None, image_size: int | None = None
) -> Dataset:
    """Return one split of a data set: a name of `DATASETS`, ``npz:FILE`` or ``folder:PATH``.

    Official files are looked for in ``root`` and, without it, in the folder that FSROBUST_DATA names,
    then among what was downloaded before; then they are downloaded. ``image_size`` resizes the
    images of a folder.

    >>> digits = load_dataset("digits", "test")
    >>> len(digits), digits.classes, digits.channels, digits.image_size
    (360, 10, 1, (8, 8))

    Raises:
        InputError: The name is unknown, or the files are missing, broken or not what they should be.
    """
    if split not in ("train", "test"):
        raise InputError(f'Expected split "train" or "test", but got "{split}"')
    samples = _read(name, split, root, image_size)
    return Dataset(
        name=name,
        split=split,
        images=torch.from_numpy(samples.images),
        labels=torch.from_numpy(samples.labels),
        ids=torch.from_numpy(samples.ids),
        class_names=samples.class_names,
    )


def _read(name: str, split: Split, root: Path | None, image_size: int | None) -> Samples:
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        if image_size is not None and image_size < 1:
            raise InputError(f"Expected an image size of at least 1 pixel, but got {image_size}")
        return read_folder(Path(path).expanduser(), split, image_size=image_size)
    if image_size is not None:
        raise InputError(
            f"Expected folder:PATH as data to be resized to {image_size} pixels, "
            f"but got {name}; leave the image size out"
        )
    if kind == "npz" and path:
        return read_npz(Path(path).expanduser(), split)
    spec = lookup(name)
    return spec.read(_official_files(name, spec, split, root) if spec.layouts else (), split)


def lookup(name: str) -> DatasetSpec:
    """Return the row of a name.

    Raises:
        InputError: There is none; the message has the nearest name and the list.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    if not near and Path(name).expanduser().exists():
        near = [f"folder:{name}" if Path(name).expanduser().is_dir() else f"npz:{name}"]
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(
        f"Expected a data set among {', '.join(DATASETS)}, npz:FILE and folder:PATH, "
        f"but got {name!r}{hint}"
    )


def _official_files(name: str, spec: DatasetSpec, split: Split, root: Path | None) -> list[Path]:
    """Return the files of a split from the first place that has them, which may be the network."""
    if root is not None:
        return find(spec, root, split) or _refuse(spec, root, "--data-root")
    elsewhere = os.environ.get("FSROBUST_DATA")
    if elsewhere:
        folder = Path(elsewhere).expanduser()
        found = find(spec, folder, split)
        if found or not folder.is_dir():  # a mistyped folder is no wish to download
            return found or _refuse(spec, folder, "FSROBUST_DATA")
    from fsrobust.data.download import fetch  # imported here, as it looks its row up in this file

    folder = fetch(name)
    return find(spec, folder, split) or _refuse(spec, folder, "FSROBUST_CACHE")


def find(spec: DatasetSpec, root: Path, split: Split) -> list[Path]:
    """Return the files of a split in ``root``, or in its subfolder with the official name.

    The list is empty where nothing of the data set is there.

    Raises:
        InputError: Some of the files are there and some are not.
    """
    missing: list[Path] = []
    for layout in spec.layouts:
        for folder in (root / layout.folder, root):
            if any((folder / file).is_file() for file in layout.train + layout.test):
                files = [folder / file for file in layout.files(split)]
                lacking = [file for file in files if not file.is_file()]
                if not lacking:
                    return files
                missing += lacking
    if missing:
        raise InputError(
            f"Expected {missing[0].name} in {missing[0].parent}, but it is missing; "
            f"unpack the whole {spec.title} archive there"
        )
    return []


def _refuse(spec: DatasetSpec, root: Path, source: str) -> list[Path]:
    layouts = " nor ".join(f"{row.folder}/ ({row.test[0]}, …)" for row in spec.layouts)
    raise InputError(
        f"Expected {spec.title} in {root}{'' if root.is_dir() else ', which is no folder'}, but got "
        f"neither {layouts}; let {source} name such a folder or its parent"
    )


def hold_out(train: Dataset, *, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split a training set into the rest and a validation set, both in ascending order of ids.

    The choice is a pure function of the seed and the ids; at most a tenth is held out.

    >>> rest, validation = hold_out(load_dataset("digits", "train"), count=1000, seed=0)
    >>> len(rest), len(validation), validation.split
    (1294, 143, 'validation')

    Raises:
        InputError: Nothing would be held out.
    """
    kept = min(count, len(train) // 10)
    if kept < 1:
        raise InputError(
            "Expected at least 10 training samples and a count of at least 1 to hold out, "
            f"but got {len(train)} samples and a count of {count}"
        )
    order = _shuffled(train, seed, "hold out")
    return (
        train.select(_by_id(train, order[kept:])),
        train.select(_by_id(train, order[:kept]), "validation"),
    )


def draw(data: Dataset, *, count: int, seed: int) -> Dataset:
    """Return ``count`` samples that the seed chooses, in ascending order of ids; all, if there are fewer.

    >>> draw(load_dataset("digits", "test"), count=3, seed=0).ids.tolist()
    [...]

    Raises:
        InputError: The count is below 1.
    """
    if count < 1:
        raise InputError(f"Expected to draw at least 1 sample, but got a count of {count}")
    if count >= len(data):
        return data
    return data.select(_by_id(data, _shuffled(data, seed, "draw")[:count]))


def _shuffled(data: Dataset, seed: int, purpose: str) -> Tensor:
    """Return positions ordered by one random word per id: independent of the order they came in."""
    return Noise.of(data.ids, seed, purpose).words((1,))[:, 0].argsort(stable=True)


def _by_id(data: Dataset, positions: Tensor) -> Tensor:
    return positions[data.ids[positions].argsort(stable=True)]
