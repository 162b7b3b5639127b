"""Unpack archives that came from elsewhere, so that they can do no harm."""

import errno
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from fsrobust.types import InputError

# what the standard library raises for bad bytes in an archive, OSErrors without a number apart
_DAMAGE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OverflowError,
    ValueError,
    RuntimeError,  # zipfile's word for an encrypted member, and NotImplementedError for an unknown method
)
# Decompressors raise bare OSErrors for bad bytes, EINVAL is an archive that points before its own beginning, and
# ENAMETOOLONG a member with a name that is none; with any other number it is the disk's trouble.
_NOT_THE_DISKS: Final = (None, errno.EINVAL, errno.ENAMETOOLONG)
_MAX_PADDING: Final = 2**24  # tar fills its last record, of 10 kB as a rule


@contextmanager
def reading(file: Path, expected: str) -> Iterator[None]:
    """Turn whatever a library raises over a file into an `InputError` that names the file.

    Raises:
        InputError: Anything went wrong inside the block.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # broken bytes make numpy, pickle and Pillow raise nearly anything
        got = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"Expected {expected} in {file}, but got {got}; replace the file") from error


def extract(
    archive: Path, destination: Path, *, max_bytes: int = 4 * 2**30, max_members: int = 200_000
) -> None:
    """Unpack a tar or zip file as the folder ``destination``, wholly or not at all.

    The files appear under a hidden sibling first; one rename puts them in place of whatever was
    there. What a killed call left is cleared by the next one. One process at a time.

    Raises:
        InputError: The archive is damaged, is larger than the limits, or holds anything but plain
            files and folders inside the destination.
        OSError: The disk is full or may not be written.
    """
    partial = destination.with_name(f".{destination.name}.partial")
    old = destination.with_name(f".{destination.name}.old")
    try:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir(parents=True)
        with _damage_named(archive):
            if zipfile.is_zipfile(archive):
                _unpack_zip(archive, partial, max_bytes, max_members)
            else:
                with tarfile.open(archive) as tar:
                    _unpack(tar, partial, max_bytes, max_members)
                    _check_end(tar)
        if destination.exists():
            destination.replace(old)
        partial.replace(destination)
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn what a broken archive makes the standard library raise into one sentence."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error} in {archive}; fetch the official archive again") from error
    except OSError as error:
        if error.errno not in _NOT_THE_DISKS:
            raise
        raise InputError(_damaged(archive, error)) from error
    except _DAMAGE as error:
        raise InputError(_damaged(archive, error)) from error


def _damaged(archive: Path, error: Exception) -> str:
    return f"Expected a whole archive, but got a damaged archive {archive} ({error}); fetch it again"


def _unpack(tar: tarfile.TarFile, folder: Path, max_bytes: int, max_members: int) -> None:
    """Write every member below ``folder``, with our own permissions, owner and times."""
    total = 0
    for count, member in enumerate(tar, start=1):
        total += member.size
        if count > max_members or total > max_bytes:
            raise InputError(
                f"Expected at most {max_members} members and {max_bytes} bytes, "
                f"but got {count} members and {total} bytes"
            )
        with _once(member.name):
            _write(tar, member, folder / _safe_name(member))


def _unpack_zip(archive: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    """Write every member below ``folder``; sizes are counted as they come out, not as the archive says."""
    with zipfile.ZipFile(archive) as file:
        if len(file.infolist()) > max_members:
            raise InputError(f"Expected at most {max_members} members, but got {len(file.infolist())}")
        left = max_bytes
        for member in file.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(f"Expected only files and folders, but got a link, {member.filename!r},")
            is_folder = member.filename.endswith("/")  # member.is_dir() falls over a member without a name
            path = folder / _inside(member.filename, is_file=not is_folder)
            with _once(member.filename):
                (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
                if is_folder:
                    continue
                with file.open(member) as source, path.open("xb") as target:
                    while block := source.read(2**20):
                        left -= len(block)
                        if left < 0:
                            raise InputError(f"Expected at most {max_bytes} bytes, but got more")
                        target.write(block)


@contextmanager
def _once(name: str) -> Iterator[None]:
    """Refuse a member whose path is taken, by a file or by a folder."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"Expected every path once, but got {name!r} again") from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None, "tarfile has a reader for every regular member"
    with source, path.open("xb") as target:
        shutil.copyfileobj(source, target)


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath:
    """Return the member's relative path, or refuse it.

    Python's own filters came with 3.11.4 and have had holes since, so nothing depends on them.
    """
    if not (member.isreg() or member.isdir()) or member.size < 0:
        kind = "a link" if member.issym() or member.islnk() else "a device or an unknown kind"
        raise InputError(f"Expected only files and folders, but got {kind}, {member.name!r},")
    return _inside(member.name, is_file=member.isreg())


def _inside(name: str, *, is_file: bool) -> PurePosixPath:
    path = PurePosixPath(name)
    foreign = any(letter in name for letter in "\\:\0")  # separators and drives elsewhere
    if path.is_absolute() or ".." in path.parts or foreign or (is_file and not path.parts):
        raise InputError(f"Expected paths inside the archive's folder, but got {name!r}")
    return path


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse an archive without its end mark or with a wrong checksum.

    tarfile takes a broken header after the first member for the end, and gzip compares its checksum
    only when somebody reads to the last byte.
    """
    assert tar.fileobj is not None, "an archive opened by name has a file"
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("a broken header")
    if tar.fileobj.tell() - tar.offset < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end mark")
    rest = 0
    while block := tar.fileobj.read(2**20):
        rest += len(block)
        if rest > _MAX_PADDING:
            raise InputError(f"Expected at most {_MAX_PADDING} bytes after the end mark, but got more")
