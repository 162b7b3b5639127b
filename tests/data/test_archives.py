"""Archives and pickles are taken whole or refused, and never reach outside or run anything."""

import gzip
import io
import pickle
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fsrobust.data.archives import extract
from fsrobust.data.pickles import unpickle
from fsrobust.types import InputError

FILES = {"set/a.bin": bytes(range(256)) * 9, "set/deep/b.txt": b"two", "set/empty": b""}


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 0) -> tarfile.TarInfo:
    """Return a header."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def write_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    """Write files, then bare headers, as a tar file compressed as its name says."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info in extra:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """The same of a zip file, whatever its name."""
    extract(write_zip(tmp_path / "files", FILES, "set/hollow/"), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert (tmp_path / "out/set/hollow").is_dir()


@pytest.mark.parametrize("name", ["files.tar", "files.tar.gz"])
def test_every_file_comes_out_as_it_went_in(tmp_path: Path, name: str) -> None:
    """Contents, names, folders and empty files survive, and nothing else is left beside them."""
    archive = write_tar(tmp_path / name, FILES, member("set/hollow", tarfile.DIRTYPE))
    extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert (tmp_path / "out/set/hollow").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


def write_zip(path: Path, files: dict[str, bytes], *extra: str, link: bool = False) -> Path:
    """Write files, then empty members of these names, as a zip file; the latter as links if asked for."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # it warns of names that are there twice
        for name, content in files.items():
            file.writestr(name, content)
        for name in extra:
            info = zipfile.ZipInfo(name or "x")
            info.filename = name
            info.external_attr = (stat.S_IFLNK if link else stat.S_IFREG) << 16
            file.writestr(info, b"/etc")
    return path


NAMES = {
    "climbs": "../escaped",
    "climbs from within": "set/../../escaped",
    "absolute": "/tmp/escaped",
    "other separators": "..\\escaped",
    "drive": "C:escaped",
    "no name": ".",
    "a name too long": "x" * 300,
    "twice": "set/a.bin",
    "file as folder": "set/a.bin/inner",
    "folder as file": "set/deep",
}
HOSTILE = {
    **{what: member(name) for what, name in NAMES.items()},
    "symbolic link": member("set/link", tarfile.SYMTYPE, link="/etc"),
    "hard link": member("set/link", tarfile.LNKTYPE, link="set/a.bin"),
    "pipe": member("set/pipe", tarfile.FIFOTYPE),
    "character device": member("set/device", tarfile.CHRTYPE),
    "block device": member("set/device", tarfile.BLKTYPE),
}


@pytest.mark.parametrize("info", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_members_are_refused_and_nothing_is_left(tmp_path: Path, info: tarfile.TarInfo) -> None:
    """One bad member refuses the whole archive, names it, and leaves no file anywhere."""
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = write_tar(inside / "files.tar", FILES, info)
    with pytest.raises(InputError, match=r"Expected .*, but got .*files\.tar"):
        extract(archive, inside / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "files.tar"]


@pytest.mark.parametrize("name", [*NAMES.values(), "", "//"])
@pytest.mark.parametrize("link", [False, True])
def test_hostile_zips_are_refused_and_nothing_is_left(tmp_path: Path, name: str, *, link: bool) -> None:
    """The same of a zip file, which may also hold a member without any name."""
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = write_zip(inside / "files.zip", FILES, name, link=link)
    with pytest.raises(InputError, match=r"Expected .*, but got .*files\.zip"):
        extract(archive, inside / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "files.zip"]


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("limit", [{"max_bytes": 2306}, {"max_members": 2}])
def test_limits_hold(tmp_path: Path, limit: dict[str, int], write: Callable[..., Path]) -> None:
    """One byte or one member over the limit is refused; at the limit the archive is taken."""
    archive = write(tmp_path / "files.tar.gz", FILES)
    with pytest.raises(InputError, match="Expected at most"):
        extract(archive, tmp_path / "out", **limit)
    assert not (tmp_path / "out").exists()
    extract(archive, tmp_path / "out", **{name: value + 1 for name, value in limit.items()})
    assert tree(tmp_path / "out") == FILES


def test_endless_zeros_after_the_end_are_refused(tmp_path: Path) -> None:
    """A compressed tail cannot keep the check of the checksum busy beyond the limit."""
    plain = write_tar(tmp_path / "files.tar", FILES).read_bytes()
    archive = tmp_path / "files.tar.gz"
    archive.write_bytes(gzip.compress(plain + bytes(2**25)))
    with pytest.raises(InputError, match="after the end mark"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("name", ["files.tar", "files.tar.gz"])
def test_an_archive_cut_anywhere_is_damaged(tmp_path: Path, name: str) -> None:
    """No prefix of an archive passes, not even one that ends between two members."""
    content = write_tar(tmp_path / name, FILES).read_bytes()
    # a plain tar is padded after its end mark: the padding is nobody's loss
    end = len(content) if name.endswith("gz") else len(content.rstrip(b"\0")) // 512 * 512 + 512
    for length in (0, 1, *range(3, end, 37), *range(512, end, 512), end - 1):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged archive"):
            extract(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_no_changed_byte_changes_what_comes_out(tmp_path: Path) -> None:
    """Flip bits in every third byte of a gz: either it is refused, or the contents are the true ones."""
    archive = write_tar(tmp_path / "files.tar.gz", FILES)
    content = archive.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        archive.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            extract(archive, tmp_path / "out")
        except InputError:
            refused += 1
        else:
            assert tree(tmp_path / "out") == FILES
    assert refused > 0.9 * len(content) / 3


def test_a_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    """Python's tarfile stops silently at a bad header after the first; we must not."""
    archive = write_tar(tmp_path / "files.tar", FILES)
    content = bytearray(archive.read_bytes())
    content[content.index(b"set/deep/b.txt")] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match="damaged archive"):
        extract(archive, tmp_path / "out")


def test_success_replaces_and_failure_keeps(tmp_path: Path) -> None:
    """What lay at the destination stays until a whole archive has been unpacked."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "before").write_text("x")
    (tmp_path / "bad.tar").write_bytes(b"not a tar file")
    with pytest.raises(InputError):
        extract(tmp_path / "bad.tar", out)
    assert tree(out) == {"before": b"x"}
    extract(write_tar(tmp_path / "files.tar", FILES), out)
    assert tree(out) == FILES


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from fsrobust.data import archives
copy = shutil.copyfileobj
def copy_and_die(source, target):
    copy(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfileobj = copy_and_die
archives.extract(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_extraction_leaves_nothing_half_done(tmp_path: Path) -> None:
    """SIGKILL after the first file: no destination; the next call clears up and succeeds."""
    archive = write_tar(tmp_path / "files.tar", FILES)
    done = subprocess.run([sys.executable, "-c", KILLED, archive, tmp_path / "out"], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_archive_is_the_disks_error(tmp_path: Path) -> None:
    """Trouble with the disk is not called damage."""
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "none.tar", tmp_path / "out")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_and_containers_are_unpickled(protocol: int) -> None:
    """Arrays of numbers inside Python's own containers come back equal, in every older protocol."""
    value = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [3, 9], b"text": "ü"}
    back = unpickle(pickle.dumps(value, protocol=protocol))
    np.testing.assert_array_equal(back.pop(b"data"), value.pop(b"data"))
    assert back == value


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "<u8", ">f4", "<f8"])
def test_every_kind_of_numbers_is_unpickled(protocol: int, dtype: str) -> None:
    """Whatever their bytes' order, in rows or in columns, of any number of axes, alone or in a dictionary."""
    for shape in ((), (5,), (2, 3), (2, 1, 4)):
        for order in ("C", "F"):
            array = np.asarray(np.arange(np.prod(shape)).reshape(shape) % 2, dtype, order=order)
            for back in (
                unpickle(pickle.dumps(array, protocol)),
                unpickle(pickle.dumps({"x": array}, protocol))["x"],
            ):
                assert (back.dtype, back.shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(back, array)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def test_an_exploit_does_not_run(tmp_path: Path) -> None:
    """A pickle that would write a file is refused before it does; the same pickle does write it."""
    victim = tmp_path / "written"
    exploit = pickle.dumps({b"data": Call(Path.write_text, victim, "x")})
    with pytest.raises(pickle.UnpicklingError):
        unpickle(exploit)
    assert not victim.exists()
    pickle.loads(exploit)
    assert victim.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(eval),
        pickle.dumps(np.load),
        b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",  # a dotted name walks from object to object
        b"\x80\x02cnumpy\ndtype\nN}U\x01xK\x01s\x86b.",  # sets an attribute on an allowed object
        b"\x80\x02U\x01xQ.",  # a persistent object
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # remembers None as its 2,147,483,647th thing: 32 GB
        b"Np2147483647\n.",
        b"",
        b"garbage",
    ],
    ids=[
        "eval",
        "numpy.load",
        "dotted",
        "attribute",
        "persistent",
        "memo",
        "memo of texts",
        "empty",
        "garbage",
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    """Neither functions, nor tricks of the format, nor rubbish get through."""
    with pytest.raises((pickle.UnpicklingError, TypeError, EOFError)):
        unpickle(content)


def _built(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    """Return a pickle of an array as numpy writes it, of any type, shape and bytes."""
    state = b"(K\x01" + shape + b"cnumpy\ndtype\n(U" + bytes([len(dtype)]) + dtype + b"K\x00K\x01tR"
    state += (
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(content)]) + content
    )
    return b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR" + state + b"tb."


_NDARRAY = b"\x80\x03cnumpy\nndarray\n"
MEMORY: dict[str, bytes] = {
    "pointers in a buffer": _NDARRAY + b"((K\x01tU\x01OC\x08AAAAAAAAtR.",
    "nobody's memory": _NDARRAY + b"((M\xff\xfftU\x02u1tR.",
    "objects": _built(b"O", b"(K\x01t", b"A" * 8),
    "texts": _built(b"U2", b"(K\x01t", b"A" * 8),
    "fields": _built(b"u1,O", b"(K\x01t", b"A" * 9),
    "more than its bytes": _built(b"u1", b"(J\xff\xff\xff\x7ft", b"A"),
    "fewer than its bytes": _built(b"u1", b"(K\x01t", b"AA"),
    "negative": _built(b"u1", b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", b"A"),
    "a list for a shape": _built(b"u1", b"](K\x01e", b"A"),
    "no state": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR.",
    "an attribute of ndarray": _NDARRAY + b"N}U\x13__array_interface__K\x01s\x86b.",
    "another encoding": b"\x80\x02c_codecs\nencode\n(U\x01xU\x04zlibtR.",
}


READ_EACH = """
import pickle, sys
from fsrobust.data.pickles import unpickle
for name, content in pickle.load(sys.stdin.buffer).items():
    print(name, flush=True)
    try:
        unpickle(content)[0]
    except (pickle.UnpicklingError, AttributeError, ValueError, TypeError):
        print("refused", flush=True)
"""


def test_no_pickle_gets_at_memory() -> None:
    """Each stands for a way to make numpy trust bytes of a stranger; where one is believed, the process ends."""
    done = subprocess.run(
        [sys.executable, "-c", READ_EACH], input=pickle.dumps(MEMORY), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.decode().splitlines() == [line for name in MEMORY for line in (name, "refused")]


def test_what_numpy_writes_is_as_the_hostile_ones_are_built() -> None:
    """The same bytes, with a type and a shape that fit, are an array."""
    np.testing.assert_array_equal(unpickle(_built(b"u1", b"(K\x02t", b"AB")), [65, 66])
    np.testing.assert_array_equal(unpickle(_built(b"i2", b"(K\x01t", b"\1\0")), [1])


def test_an_array_elsewhere_stays_an_object_without_numbers() -> None:
    """Within a list an array is no array, has no attribute that could be set, and numpy sees nothing in it."""
    (inner,) = unpickle(pickle.dumps([np.arange(3)]))
    assert np.asarray([inner]).dtype == object
    with pytest.raises(AttributeError):
        inner.__array_interface__ = {}
