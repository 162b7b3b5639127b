"""The data sets that have a name: the table, where their files lie, how they come from the network.

A new data set is one row of `DATASETS` and one reader.
"""

import difflib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fsrobust.data.archives import extract
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
from fsrobust.types import InputError


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
    package brings along have no layouts and no archives.
    """

    title: str
    channels: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    read: Callable[[Sequence[Path], Split], Samples]
    archives: tuple[Archive, ...] = ()
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
        archives=(
            Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                file="cifar-10-binary.tar.gz",
            ),
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
        layouts=(
            Layout(folder="tiny-imagenet-200", train=("wnids.txt",), test=("val/val_annotations.txt",)),
        ),
    ),
}


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
        f"Expected a data set among {', '.join(DATASETS)}, synthetic:NAME, npz:FILE and folder:PATH, "
        f"but got {name!r}{hint}"
    )


def locate(name: str, split: Split, *, root: Path | None = None) -> list[Path]:
    """Return the files of a split from the first place that has them, which may be the network.

    Raises:
        InputError: ``root`` has none of them, some are missing, or they could not be downloaded.
    """
    spec = lookup(name)
    if root is not None:
        return _find(spec, root, split) or _refuse(spec, root, "--data-root")
    elsewhere = os.environ.get("FSROBUST_DATA")
    if elsewhere:
        folder = Path(elsewhere).expanduser()
        found = _find(spec, folder, split)
        if found or not folder.is_dir():  # a mistyped folder is no wish to download
            return found or _refuse(spec, folder, "FSROBUST_DATA")
    folder = fetch(name)
    return _find(spec, folder, split) or _refuse(spec, folder, "FSROBUST_CACHE")


def _find(spec: DatasetSpec, root: Path, split: Split) -> list[Path]:
    """Return a split's files in ``root`` or below its official name; [] where nothing is."""
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
    got = f"neither {layouts}" if root.is_dir() else "no such folder"
    raise InputError(
        f"Expected {spec.title} in {root}, but got {got}; "
        f"let {source} name the folder {spec.layouts[0].folder} or its parent"
    )


def cache_folder() -> Path:
    """Return where downloads are kept: FSROBUST_CACHE, or the place the system has for caches."""
    chosen = os.environ.get("FSROBUST_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("fsrobust"))


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Download a data set's official archive, check it, unpack it, and return the folder.

    What is there already is neither downloaded nor unpacked again. Progress goes to stderr.

    Raises:
        InputError: The data set has no archive, the network or the cache folder failed, or what
            came has another checksum (then it is not kept).
    """
    spec = lookup(name)
    if not spec.archives:
        raise InputError(f"Expected a data set with an archive, but {name} needs no download")
    cache = cache_folder()
    folder = cache / name
    if _is_whole(spec, folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{name}.lock"):
            if not _is_whole(spec, folder):
                for archive in spec.archives:
                    _bring(spec, archive, cache, folder, quiet=quiet)
    except OSError as error:
        raise InputError(
            f"Expected to keep {spec.title} in {cache}, but got {error.strerror or error}; "
            "let FSROBUST_CACHE name another folder"
        ) from error
    return folder


def _bring(spec: DatasetSpec, archive: Archive, cache: Path, folder: Path, *, quiet: bool) -> None:
    """Download one archive and unpack it into ``folder``, or put the file where its layout has it."""
    if archive.packed:
        extract(_download(spec, archive, cache, quiet=quiet), folder)
        return
    place = folder / spec.layouts[0].folder
    place.mkdir(parents=True, exist_ok=True)
    _download(spec, archive, place, quiet=quiet)


def _is_whole(spec: DatasetSpec, folder: Path) -> bool:
    return any(
        all((folder / layout.folder / file).is_file() for file in layout.train + layout.test)
        for layout in spec.layouts
    )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time download and unpack; the others wait and find the work done."""
    import fcntl  # not on Windows, where the rest of this file is still of use

    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system when the process ends, however
        yield


def _download(spec: DatasetSpec, archive: Archive, cache: Path, *, quiet: bool) -> Path:
    """Return the archive's path once its checksum is right."""
    import pooch
    from requests import RequestException

    by_hand = f"or unpack {archive.file} by other means and name its folder with --data-root or FSROBUST_DATA"
    try:
        with _progress(spec.title, quiet=quiet) as bar, _pooch_silent():
            file = pooch.retrieve(
                archive.url,
                known_hash=f"md5:{archive.md5}",
                fname=archive.file,
                path=cache,
                downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16),
            )
    except RequestException as error:
        answer = f"status {error.response.status_code}" if error.response is not None else ""
        raise InputError(
            f"Expected to download {archive.url}, but got {answer or type(error).__name__}; "
            f"try again, {by_hand}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"Expected {archive.url} to have md5 {archive.md5}, but got other bytes, "
            f"which were not kept; try again, {by_hand}"
        ) from error
    return Path(file)


class _Bar:
    """What pooch takes for a progress bar."""

    def __init__(self, show: Callable[[int, int], None]) -> None:
        self._show = show
        self._done = 0
        self.total = 0

    def update(self, count: int) -> None:
        self._done += count
        self._show(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Leave the closing to whoever opened, since pooch calls this only when all went well."""


@contextmanager
def _progress(title: str, *, quiet: bool) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as progress:
        task = progress.add_task(f"Downloading {title}", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield _Bar(show)


@contextmanager
def _pooch_silent() -> Iterator[None]:
    """Leave the talking to the bar; pooch's logger gets its level back."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
