"""Data sets: what one is, how to load one by name, and how to draw from one."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fsrobust.data.catalog import DATASETS as DATASETS
from fsrobust.data.catalog import DatasetSpec as DatasetSpec
from fsrobust.data.download import expand, locate, lookup
from fsrobust.data.readers import Samples, Split, read_folder, read_npz
from fsrobust.data.synthetic import synthesise
from fsrobust.seeding import Noise
from fsrobust.types import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split, all in memory, on one device.

    ``images`` are uint8 [N, C, H, W]; ``labels`` int64 [N]; ``ids`` int64 [N], each sample's
    identity (its position in the split as read), which all noise in evaluation depends on. ``name``
    is what `load_dataset` was asked for, ``split`` is "train", "test" or "validation".
    """

    name: str
    split: str
    images: UInt8[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    ids: Int[Tensor, " N"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        # Annotations are checked in our tests only, and users build data sets, too.
        images, labels, ids = self.images, self.labels, self.ids
        if (images.dtype, labels.dtype, ids.dtype, images.ndim) != (torch.uint8, *[torch.int64] * 2, 4):
            raise InputError(
                "Expected images as uint8 [N, C, H, W], labels and ids as int64 [N], "
                f"but got {images.dtype} {list(images.shape)}, {labels.dtype} and {ids.dtype}"
            )
        if not len(images) == len(labels) == len(ids) > 0:
            raise InputError(
                "Expected as many labels and ids as images, and at least one, "
                f"but got {len(images)}, {len(labels)} and {len(ids)}"
            )
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise InputError(
                f"Expected labels from 0 to {len(self.class_names) - 1}, "
                f"but got labels from {labels.min()} to {labels.max()}"
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
        """The fingerprint of shape, pixels and labels, in order, as hexadecimal digits."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()

    def select(self, indices: Int[Tensor, " M"] | Sequence[int], split: str | None = None) -> "Dataset":
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

    def at(self, indices: Int[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """Return the images at ``indices``, on the device."""
        return self.images[indices]

    def stream(self, order: Int[Tensor, "steps batch"]) -> Iterator[Int[Tensor, " batch"]]:
        """Yield the rows of ``order``: what stays on disk uses the time to decode ahead."""
        yield from order

    def resident(self) -> "Dataset":
        """Return itself: all images are in memory."""
        return self


def load_dataset(
    name: str, split: Split, *, root: str | os.PathLike[str] | None = None, image_size: int | None = None
) -> Dataset:
    """Return one split of a data set: a name of `DATASETS`, ``npz:FILE``, ``folder:PATH``, ``synthetic:NAME``.

    The last are made-up images of the shape and classes of a named set. Official files are looked for in
    ``root`` and, without it, in the folder that FSROBUST_DATA names, then among what was downloaded before;
    then they are downloaded. ``image_size`` resizes the images of a folder.

    >>> digits = load_dataset("digits", "test")
    >>> len(digits), digits.classes, digits.channels, digits.image_size
    (360, 10, 1, (8, 8))

    Raises:
        InputError: The name is unknown, or the files are missing, broken or something else.
    """
    if split not in ("train", "test"):
        raise InputError(f'Expected split "train" or "test", but got "{split}"')
    samples = _read(name, split, Path(root) if root is not None else None, image_size)
    return Dataset(
        name=name,
        split=split,
        images=torch.from_numpy(samples.images),
        labels=torch.from_numpy(samples.labels),
        ids=torch.from_numpy(samples.ids),
        class_names=samples.class_names,
    )


_LARGEST = 4096
"""Pixels a side that images may be resized to: one of them takes 50 MB."""


def _read(name: str, split: Split, root: Path | None, image_size: int | None) -> Samples:
    kind, _, path = name.partition(":")
    check_resizable(name, image_size)
    if kind == "folder" and path:
        return read_folder(expand(path), split, image_size=image_size)
    if kind == "npz" and path:
        return read_npz(expand(path), split)
    if kind == "synthetic" and path:
        like = lookup(path)
        return synthesise(like.channels, like.image_size, like.class_names, split)
    spec = lookup(name)
    return spec.read(locate(name, split, root=root) if spec.layouts else (), split)


def check_resizable(name: str, image_size: int | None) -> None:
    """Refuse an image size below 1, and one for data that are no folder of images."""
    if image_size is None:
        return
    if not name.startswith("folder:"):
        raise InputError(
            f"Expected folder:PATH as data to be resized to {image_size} pixels, "
            f"but got {name}; leave out --image-size {image_size}"
        )
    if not 1 <= image_size <= _LARGEST:
        raise InputError(f"Expected an image size of 1 to {_LARGEST} pixels, but got {image_size}")


@runtime_checkable
class Selectable(Protocol):
    """Samples of which some can be chosen."""

    @property
    def ids(self) -> Int[Tensor, " N"]:
        """The samples' identities."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def select(self: "S", indices: Tensor, split: str | None = None) -> "S":
        """Return the samples at ``indices``; ``split`` renames."""


S = TypeVar("S", bound=Selectable)


def hold_out(train: S, *, count: int, seed: int) -> tuple[S, S]:
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


def draw(data: S, *, count: int, seed: int) -> S:
    """Return ``count`` samples, or all if there are fewer, that the seed chooses, by ascending id.

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


def _shuffled(data: Selectable, seed: int, purpose: str) -> Tensor:
    """Return positions ordered by one random word per id: independent of the order they came in."""
    return Noise.of(data.ids, seed, purpose).words((1,))[:, 0].argsort(stable=True)


def _by_id(data: Selectable, positions: Tensor) -> Tensor:
    return positions[data.ids[positions].argsort(stable=True)]
