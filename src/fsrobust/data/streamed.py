"""A folder of images that stays on disk: decoded in each epoch by workers, ahead of the batch that needs them."""

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from fsrobust.data.datasets import Dataset
from fsrobust.data.readers import FolderFiles, Split, decode_square, list_folder
from fsrobust.processes import end_with_parent
from fsrobust.types import InputError

_CHUNK: Final = 64
"""Images decoded at once where no batch says how many."""


def default_workers() -> int:
    """Return how many processes decode: one for each core of this process, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Streamed:
    """Labelled images of one split of a folder, as files; labels and ids are in memory, on one device.

    Sample for sample it is the `Dataset` that ``resident`` returns: same order, same ids, same pixels, same
    fingerprint. ``workers`` processes decode ahead; 0 decodes when asked.
    """

    name: str
    split: str
    files: tuple[str, ...]
    side: int | None
    image_size: tuple[int, int]
    labels: Int[Tensor, " N"]
    ids: Int[Tensor, " N"]
    class_names: tuple[str, ...]
    workers: int = field(default_factory=default_workers)
    _ahead: list[Tensor] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.files)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """3: images of a folder become colour."""
        return 3

    @property
    def nbytes(self) -> int:
        """The bytes that all images take in memory."""
        return len(self) * 3 * self.image_size[0] * self.image_size[1]

    @cached_property
    def sha256(self) -> str:
        """The fingerprint that the same samples have in memory: one pass, which also sees every image once.

        Raises:
            InputError: an image cannot be used; it is named.
        """
        digest = hashlib.sha256(repr((len(self), 3, *self.image_size)).encode())
        for images in self._decoded(_chunks(len(self))):
            digest.update(images.data)
        digest.update(self.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()

    def select(self, indices: Int[Tensor, " M"] | Sequence[int], split: str | None = None) -> "Streamed":
        """Return the samples at ``indices``, in that order, with their ids; ``split`` renames."""
        kept = torch.as_tensor(indices, device=self.ids.device)
        return replace(
            self,
            split=split or self.split,
            files=tuple(self.files[i] for i in kept.tolist()),
            labels=self.labels[kept],
            ids=self.ids[kept],
            _ahead=[],
        )

    def to(self, device: torch.device | str) -> "Streamed":
        """Return the data set whose labels, ids and batches are on ``device``."""
        return replace(self, labels=self.labels.to(device), ids=self.ids.to(device), _ahead=[])

    def resident(self) -> Dataset:
        """Return the same samples in memory, decoded once."""
        images = np.empty((len(self), 3, *self.image_size), np.uint8)
        reader = self._reader()

        def fill(position: int) -> None:
            images[position] = reader.image(position)

        with ThreadPoolExecutor(default_workers()) as pool:  # decoding leaves Python's lock
            for _ in pool.map(fill, range(len(self))):
                pass
        device = self.ids.device
        return Dataset(
            self.name,
            self.split,
            torch.from_numpy(images).to(device),
            self.labels,
            self.ids,
            self.class_names,
        )

    def stream(self, order: Int[Tensor, "steps batch"]) -> Iterator[Int[Tensor, " batch"]]:
        """Yield the rows of ``order``; while a row is out, ``at`` has its images at hand."""
        for indices, images in zip(order, self._decoded(order.tolist()), strict=True):
            self._ahead[:] = indices, torch.from_numpy(images).to(self.ids.device)
            yield indices
        self._ahead.clear()

    def at(self, indices: Int[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """Return images on the device: those that ``stream`` brought, or decoded now."""
        if self._ahead and self._ahead[0] is indices:
            return self._ahead[1]
        return torch.from_numpy(self._reader().images(indices.tolist())).to(self.ids.device)

    def _reader(self) -> "_Reader":
        return _Reader(self.files, self.side, self.image_size)

    def _decoded(self, rows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """Yield the images of each row, decoded by the workers in the meantime."""
        loader: DataLoader[Any] = DataLoader(
            self._reader(),
            batch_size=None,
            sampler=rows,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # or the loader would draw from the default one
        )
        for images in loader:
            if isinstance(images, InputError):
                raise images
            yield images


def stream_folder(folder: Path, split: Split, *, name: str, image_size: int | None = None) -> Streamed:
    """Return ``folder/SPLIT/CLASS/*`` as files; only the first image is read, for its size.

    Raises:
        InputError: as `read_folder`; of images other than the first, when they are read.
    """
    found: FolderFiles = list_folder(folder, split)
    _, height, width = decode_square(found.files[0], image_size, None).shape
    return Streamed(
        name=name,
        split=split,
        files=tuple(map(str, found.files)),
        side=image_size,
        image_size=(height, width),
        labels=torch.from_numpy(found.labels),
        ids=torch.arange(len(found.files)),
        class_names=found.class_names,
    )


class _Reader(torch.utils.data.Dataset[Any]):
    """What a worker has: the files, and how to decode a row of them.

    Arrays go through a pipe, not shared memory, of which containers have little. An error goes with them as a
    value, so that its sentence comes without the worker's traceback.
    """

    def __init__(self, files: Sequence[str], side: int | None, size: tuple[int, int]) -> None:
        self.files, self.side, self.size = files, side, size

    def image(self, position: int) -> np.ndarray:
        """Return one image [3, H, W]."""
        file = Path(self.files[position])
        return decode_square(file, self.side, (Path(self.files[0]), self.size))

    def images(self, row: Sequence[int]) -> np.ndarray:
        """Return the images of a row [B, 3, H, W]."""
        images = np.empty((len(row), 3, *self.size), np.uint8)  # NCHW in memory, too, as data in memory are
        for place, position in enumerate(row):
            images[place] = self.image(position)
        return images

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: Sequence[int]) -> np.ndarray | InputError:
        try:
            return self.images(row)
        except InputError as error:
            return error


def _as_it_is(images: Any) -> Any:
    return images


def _leave_signals(_worker: int) -> None:
    """Let the process that trains decide when to stop: it checkpoints first, and then ends its workers.

    Killed, it cannot: they end with it, or they would hold its run directory for ever.
    """
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _chunks(count: int) -> list[list[int]]:
    return [list(range(start, min(start + _CHUNK, count))) for start in range(0, count, _CHUNK)]
