"""Open training data where they fit: in memory, or image by image from disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import torch

from fsrobust.data.datasets import Dataset, check_resizable, load_dataset
from fsrobust.data.download import expand
from fsrobust.data.memory import free_memory
from fsrobust.data.readers import Split
from fsrobust.data.streamed import Streamed, stream_folder
from fsrobust.types import InputError

Source: TypeAlias = Dataset | Streamed
"""Where training gets its samples: both know ``at``, ``stream``, ``select``, ``to``, ``resident``, ``sha256``."""

_SHARE: Final = 0.25
"""Largest share of free memory that images may take: the validation split is a copy, and training wants the rest."""


def open_dataset(  # noqa: PLR0913 - which data, and where they may stay
    name: str,
    split: Split,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    keep: str = "auto",
    device: torch.device | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Source:
    """Return a data set as `load_dataset` does, or a folder that is too large for that as files.

    ``keep`` "auto" leaves a folder on disk if its images would take more than a quarter of the memory that is
    free here or on ``device``, and says so; "memory" and "disk" decide it. All other data are in memory.

    Raises:
        InputError: as `load_dataset`; another word than these; data that cannot stay on disk.
    """
    if keep not in ("auto", "memory", "disk"):
        raise InputError(f'Expected --keep auto, memory or disk, but got "{keep}"')
    kind, _, path = name.partition(":")
    if kind != "folder" or not path:
        if keep == "disk":
            raise InputError(
                f"Expected folder:PATH as data to be kept on disk, but got {name}; leave out --keep disk"
            )
        return load_dataset(name, split, root=root, image_size=image_size)
    check_resizable(name, image_size)
    files = stream_folder(expand(path), split, name=name, image_size=image_size)
    if keep == "auto":
        devices = {torch.device("cpu"), device or torch.device("cpu")}
        free = min(free_memory(each) for each in devices)
        keep = "memory" if files.nbytes <= _SHARE * free else "disk"
        say(_choice(files, free, keep))
    return files if keep == "disk" else files.resident()


def _choice(files: Streamed, free: float, keep: str) -> str:
    height, width = files.image_size
    what = f"{len(files):,} images of {height}×{width} take {_gigabytes(files.nbytes)} of {_gigabytes(free)} free"
    if keep == "memory":
        return f"{what}: kept in memory"
    return (
        f"{what}: decoded from disk in every epoch, after one pass that checks them all "
        "(--keep memory loads them all the same)"
    )


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
