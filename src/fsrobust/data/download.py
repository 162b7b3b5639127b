"""Fetch official archives: one download, a checksum, one folder in the cache."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from fsrobust.data.archives import extract
from fsrobust.data.datasets import Archive, DatasetSpec, lookup
from fsrobust.types import InputError


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
    if spec.archive is None:
        raise InputError(f"Expected a data set with an archive, but {name} needs no download")
    cache = cache_folder()
    folder = cache / name
    if _is_whole(spec, folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{name}.lock"):
            if not _is_whole(spec, folder):
                extract(_download(spec, spec.archive, cache, quiet), folder)
    except OSError as error:
        raise InputError(
            f"Expected to keep {spec.title} in {cache}, but got {error.strerror or error}; "
            "let FSROBUST_CACHE name another folder"
        ) from error
    return folder


def _is_whole(spec: DatasetSpec, folder: Path) -> bool:
    return any(
        all((folder / layout.folder / file).is_file() for file in layout.train + layout.test)
        for layout in spec.layouts
    )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time download and unpack; the others wait and find the work done."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system when the process ends, however
        yield


def _download(spec: DatasetSpec, archive: Archive, cache: Path, quiet: bool) -> Path:
    """Return the archive's path once its checksum is right."""
    import pooch
    from requests import RequestException

    by_hand = (
        f"or unpack {archive.file} by other means and name its folder "
        "with --data-root or FSROBUST_DATA"
    )
    try:
        with _progress(spec.title, quiet) as bar, _pooch_silent():
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
            f"Expected {archive.file} with md5 {archive.md5}, but {archive.url} sent something else, "
            f"which was not kept; try again, {by_hand}"
        ) from error
    return Path(file)


class _Bar:
    """A rich progress bar behind the four names that pooch calls."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)
        self.total = 0

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()


@contextmanager
def _progress(title: str, quiet: bool) -> Iterator[_Bar]:
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, f"Downloading {title}")


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
