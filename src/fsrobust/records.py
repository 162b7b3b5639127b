"""What is written to disk: atomic, with its format, its digest and where it came from.

Every file is written beside its place, flushed, and renamed into it, so that a reader sees the old file or
the new one, whatever happens in between. Folders are flushed too: what was written outlives a power cut.
"""

import errno
import fcntl
import functools
import glob
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from fsrobust.types import InputError, NewerFormatError

FORMAT: Final = 1
"""Version of every file this package writes; readers refuse what is newer."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and clear away what killed processes left of it.

    A link is replaced and not followed: in a folder of a stranger it may lead to any file of ours.

    Raises:
        InputError: a device, a pipe or a socket is there.
    """
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.is_dir():  # a rename onto it would name the partial file, which nobody knows
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a rename would put a plain file in its place
        raise InputError(
            f'Expected a file or nothing at "{path}", but got a device or a pipe; choose another place'
        )
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a full disk names no file
        raise
    for folder in (path.parent, *(folder.parent for folder in new)):
        sync_folder(folder)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not _is_running(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk: without that a power cut may undo a rename that was done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as file systems say that have no such thing
            raise
    finally:
        os.close(descriptor)


def _is_running(pid: str) -> bool:
    """Return whether a process of this number is there, also where that cannot be told."""
    return not pid.isdecimal() or not Path("/proc/self").exists() or Path("/proc", pid).exists()


def write_json(path: Path, content: Mapping[str, object], *, sealed: bool = False) -> None:
    """Write a JSON object that carries its format and, if ``sealed``, the digest of the rest."""
    content = {"format": FORMAT, **content}
    seal = {"sha256": digest_of(content)} if sealed else {}
    text = json.dumps({**content, **seal}, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object that ``write_json`` wrote; its seal is checked if it has one.

    Raises:
        InputError: no such file, not JSON, of a format this version does not know, or not what was sealed.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f'Expected a file "{path}", but there is none') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'"{path}" is damaged: it is not JSON ({error})') from error
    if not isinstance(content, dict):
        raise InputError(f'"{path}" is damaged: it holds no JSON object')
    _check_format(path, content.get("format"))
    seal = content.pop("sha256", None)
    if seal is not None and seal != digest_of(content):
        raise InputError(f'"{path}" is damaged: it does not match its checksum')
    return content


_CONFIG: Final = {"data": ("name", "sha256"), "evaluation": ("norm", "eps"), "model": (), "train": ()}
"""Parts of a configuration that others read, and those of their values that are texts."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return a run's configuration, whose parts are objects and whose names are texts.

    Raises:
        InputError: as ``read_json``; or it is not shaped like one.
    """
    file = folder / "config.json"
    config = read_json(file)
    for name, texts in _CONFIG.items():
        part = config.get(name)
        if part is None:
            continue
        if not isinstance(part, dict) or not all(isinstance(part.get(key), str) for key in texts):
            raise InputError(f'"{file}" is damaged: "{name}" is not what a run writes there')
    return config


def write_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays, compressed, with their format."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, format=np.array(FORMAT), **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


_ROOM: Final = 2**30
"""Bytes that any archive of arrays may unfold to; a larger one, to ``_FOLDED`` times its own size."""
_FOLDED: Final = 100
_DEFLATED: Final = 1100
"""By how much zip can shrink anything, and a little: a member that says more of itself does not tell the truth."""


def check_npz(file: BinaryIO) -> None:
    """Refuse an archive of arrays that would take memory it does not fill, before numpy makes room for them.

    Raises:
        InputError: it unfolds to too much, or promises more than it holds.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total, most = sum(member.file_size for member in members), max(_ROOM, _FOLDED * size)
        if total > most:
            raise InputError(
                f'Expected at most {most:,} bytes of arrays in "{file.name}", but got {total:,}; save them uncompressed'
            )
        for member in members:
            lies = member.file_size > _DEFLATED * (min(member.compress_size, size) + 1)
            if lies or _promised(archive, member) > member.file_size:
                raise InputError(
                    f'Expected all of the array {member.filename!r} in "{file.name}", but it says that it is larger '
                    "than what is there; replace the file"
                )
    file.seek(0)


def _promised(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the bytes that an array's header says follow it, 0 where it says none: numpy refuses that itself."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as content:
        start = content.read(np.lib.format.MAGIC_LEN)
        if not start.startswith(np.lib.format.MAGIC_PREFIX):
            return 0
        shape, _, dtype = readers[start[-2], start[-1]](content)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize


_ELSEWHERE: Final = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
"""Reasons not to read a file that say nothing of what is in it."""


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays that ``write_npz`` wrote; nothing is unpickled.

    Raises:
        InputError: no such file, or not readable as one of ours.
    """
    try:
        # opened here: numpy leaves a file that it cannot read open
        with path.open("rb") as file:
            check_npz(file)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        found = int(arrays.pop("format", np.array(0)))
    except FileNotFoundError as error:
        raise InputError(f'Expected a file "{path}", but there is none') from error
    except Exception as error:  # zip, zlib and numpy each have their own ways to say "damaged"
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _ELSEWHERE:
            raise  # the file may be whole
        raise InputError(f'"{path}" is damaged: {error}') from error
    _check_format(path, found or None)
    return arrays


def _check_format(path: Path, found: object) -> None:
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        sentence = f'Expected "{path}" to be of format {FORMAT}, but got {found}'
        raise NewerFormatError(f"{sentence}: a newer fsrobust wrote it") if newer else InputError(sentence)


def digest(*contents: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    total = hashlib.sha256()
    for content in contents:
        total.update(content)
    return total.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


class Metrics:
    """A file of one JSON object per line, appended to as a run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, object]) -> None:
        """Add a line, with its format, and flush it to disk."""
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path.parent)

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines up to the first that is torn, as a kill leaves the last, or damaged.

        Raises:
            InputError: a line is of a format this version does not know.
        """
        if not self.path.exists():
            return []
        rows: list[dict[str, Any]] = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                break
            if any(isinstance(value, int) and abs(value) >= 2**63 for value in row.values()):
                break  # which no float can follow, and nothing counts so far
            found = row.pop("format", FORMAT)  # lines of old runs do not say it
            _check_format(self.path, found)
            rows.append(row)
        return rows

    def damage(self) -> str | None:
        """Return a sentence if the file goes on after its last row, as a kill or a damaged disk leaves it."""
        if not self.path.exists():
            return None
        rows, lines = len(self.rows()), len(self.path.read_bytes().splitlines())
        return f'"{self.path}" is torn or damaged from line {rows + 1} on' if lines > rows else None

    def truncate(self, epochs: int) -> None:
        """Keep the rows of the first so many epochs: those that a checkpoint knows of."""
        kept = [row for row in self.rows() if row["epoch"] <= epochs]
        write_bytes(self.path, "".join(map(_line, kept)).encode())


def _line(row: Mapping[str, object]) -> str:
    return json.dumps({"format": FORMAT, **row}) + "\n"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for this process; the kernel lets go when the process ends, however it ends.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    with _opened_lock(directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f'"{directory}" is in use by another process; wait for it or choose another --out'
            ) from error
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


_HELD: Final[set[TextIO]] = set()
"""Locks of this process. A forked child has copies of them, which would hold on to them after this process's death."""


def _let_go() -> None:
    """Close a forked child's copies, which unlocks nothing."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def _opened_lock(directory: Path) -> TextIO:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "lock").open("a")
    except OSError as error:
        raise InputError(
            f'Expected to write in "{directory}", but got: {error.strerror}; choose another --out'
        ) from error


def package_version() -> str:
    """Return this package's version."""
    try:
        return version("fsrobust")
    except PackageNotFoundError:  # run from a bare source tree
        return "unknown"


@functools.cache
def _git(*arguments: str) -> str | None:
    """Return what git says of the source tree this package runs from, None outside one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance(device: torch.device | str) -> dict[str, object]:
    """Return what a number depends on besides its configuration: code, versions, device, precision."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    ours = _git("ls-files", "--error-unmatch", __file__) is not None
    return {
        "fsrobust": package_version(),
        "commit": _git("rev-parse", "HEAD") if ours else None,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if ours else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else False,
    }
