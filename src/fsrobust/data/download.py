"""Where the files of a named data set lie, and how they come from the network."""

import difflib
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fsrobust.data.archives import extract
from fsrobust.data.catalog import DATASETS, Archive, DatasetSpec
from fsrobust.data.readers import Split
from fsrobust.records import read_json, sync_folder, write_json
from fsrobust.types import InputError

_MARK: Final = ".whole"
"""Written last into a data set's folder: the sizes of its files once all of them were on disk."""


def expand(path: str) -> Path:
    """Return the path that a text names, a ``~`` in front being a home.

    Raises:
        InputError: nobody has that home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f'Expected a path, but got "{path}": there is no such home') from error


def lookup(name: str) -> DatasetSpec:
    """Return the row of a name.

    Raises:
        InputError: There is none; the message has the nearest name and the list.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    if not near and (path := expand(name)).exists():
        near = [f"folder:{name}" if path.is_dir() else f"npz:{name}"]
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
        folder = expand(elsewhere)
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
        f"let {source} name the folder {spec.layouts[0].folder} or its parent, "
        "or leave it out and the files are downloaded"
    )


def cache_folder() -> Path:
    """Return where downloads are kept: FSROBUST_CACHE, or the place the system has for caches."""
    chosen = os.environ.get("FSROBUST_CACHE")
    if chosen:
        return expand(chosen)
    import pooch

    return Path(pooch.os_cache("fsrobust"))


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Download a data set's official archive, check it, unpack it, and return the folder.

    What is there already is neither downloaded nor unpacked again; what a power cut tore is. Progress goes to stderr.

    Raises:
        InputError: The data set has no archive, the network or the cache folder failed, or what
            came has another checksum (then it is not kept).
    """
    spec = lookup(name)
    if not spec.archives:
        raise InputError(f"Expected a data set with an archive, but {name} needs no download")
    cache = cache_folder()
    folder = cache / name
    try:
        if _is_whole(spec, folder):
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{name}.lock"):
            if not _is_whole(spec, folder):
                if not _is_by_hand(spec, cache, folder):
                    for archive in spec.archives:
                        _bring(spec, archive, cache, folder, quiet=quiet)
                _mark_whole(spec, folder)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS) and _has_all(spec, folder):
            return folder  # somebody else's cache, to be read only
        raise InputError(
            f"Expected to keep {spec.title} in {cache}, but got {error.strerror or error}; "
            "let FSROBUST_CACHE name another folder"
        ) from error
    return folder


def _bring(spec: DatasetSpec, archive: Archive, cache: Path, folder: Path, *, quiet: bool) -> None:
    """Download one archive and unpack it into ``folder``, or put the file where its layout has it."""
    if archive.packed:
        file = _download(spec, archive, cache, quiet=quiet)
        for path in (file, cache):
            sync_folder(path)
        extract(file, folder)
        return
    place = folder / spec.layouts[0].folder
    place.mkdir(parents=True, exist_ok=True)
    _download(spec, archive, place, quiet=quiet)


def _sizes(spec: DatasetSpec, folder: Path) -> dict[str, int] | None:
    """Return the sizes of a data set's files, None if some are missing."""
    for layout in spec.layouts:
        files = [f"{layout.folder}/{file}" for file in layout.train + layout.test]
        if all((folder / file).is_file() for file in files):
            return {file: (folder / file).stat().st_size for file in files}
    return None


def _has_all(spec: DatasetSpec, folder: Path) -> bool:
    sizes = _sizes(spec, folder)
    return sizes is not None and all(sizes.values())


def _is_whole(spec: DatasetSpec, folder: Path) -> bool:
    """Return whether the files are those that were flushed to disk before the mark was written."""
    try:
        marked = read_json(folder / _MARK)
    except InputError:  # none, or torn
        return False
    return _has_all(spec, folder) and marked.get("sizes") == _sizes(spec, folder)


def _is_by_hand(spec: DatasetSpec, cache: Path, folder: Path) -> bool:
    """Return whether somebody else put the files there: the archive that they would be of is not here.

    What was unpacked here and torn has its archive beside it, flushed before it was opened.
    """
    fetched = any(not archive.packed or (cache / archive.file).exists() for archive in spec.archives)
    return _has_all(spec, folder) and not fetched


def _mark_whole(spec: DatasetSpec, folder: Path) -> None:
    """Flush all there is in a folder to disk, then note its sizes: what carries the mark outlives a power cut."""
    with ThreadPoolExecutor(32) as pool:  # one by one, a file system would wait for the disk 100,000 times
        for _ in pool.map(sync_folder, [*folder.rglob("*"), folder, folder.parent]):
            pass
    if _has_all(spec, folder):
        write_json(folder / _MARK, {"sizes": _sizes(spec, folder)}, sealed=True)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time download and unpack; the others wait and find the work done."""
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
