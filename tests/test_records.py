"""What is written is whole, checked when read, and says where it came from."""

import contextlib
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from fsrobust.records import (
    FORMAT,
    Metrics,
    arrays,
    digest,
    digest_of,
    files,
    locked,
    origin,
    package_version,
    provenance,
    read_json,
    read_npz,
    write_bytes,
    write_json,
    write_npz,
)
from fsrobust.train.packing import safetensors_bytes
from fsrobust.types import InputError

HOLD = """
import sys, time
from pathlib import Path
from fsrobust.records import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class BrokenError(OSError):
    """The disk says no."""


def refuse(*_arguments: object, **_options: object) -> None:
    """Fail as a full disk does."""
    raise BrokenError("no space left on device")


@pytest.mark.parametrize("at", ["replace", "fsync"])
@pytest.mark.parametrize("old", [b"the old content", None])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, old: bytes | None
) -> None:
    """Whether the flush or the rename fails, the old file is whole, or there is none, and nothing is left."""
    file = tmp_path / "deep" / "file.bin"
    if old is not None:
        write_bytes(file, old)
    with monkeypatch.context() as broken:
        broken.setattr(Path if at == "replace" else os, at, refuse)
        with pytest.raises(BrokenError):
            write_bytes(file, b"the new content")
    assert [path.read_bytes() for path in file.parent.iterdir()] == ([] if old is None else [old])


def test_a_reader_never_sees_a_file_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the rename the new content is complete under another name, the old one in place."""
    file, seen = tmp_path / "file.json", []
    write_bytes(file, b"old")
    rename = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append((self.read_bytes(), target.read_bytes(), self.parent == target.parent))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_bytes(file, b"new")
    assert seen == [(b"new", b"old", True)]
    assert file.read_bytes() == b"new"


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """What is neither a file nor a folder, also at the end of a link, is refused and stays what it is."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match=f'file or nothing at ".*{name}", but got a device or a pipe'):
            write_bytes(tmp_path / name, b"content")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    """A run of a stranger may hold links to any file of ours: that one stays what it was."""
    (tmp_path / "ours").write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "index.json").symlink_to("../ours")
    write_bytes(tmp_path / "run" / "index.json", b"{}")
    assert (tmp_path / "ours").read_bytes() == b"precious"
    assert (tmp_path / "run" / "index.json").read_bytes() == b"{}"


def test_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    """A partial file goes once its writer is gone and the file is written again; a living writer's stays."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = (tmp_path / f".a.json.{pid}.partial" for pid in (gone.pid, os.getppid()))
    other = tmp_path / f".b.json.{gone.pid}.partial"
    for file in (dead, alive, other):
        file.write_bytes(b"half")
    write_bytes(tmp_path / "a.json", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", alive.name, other.name}


def test_folders_are_flushed_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, then its folder and those that hold new folders: a power cut cannot undo what was done."""
    flushed: list[tuple[str, bool]] = []
    flush, file = os.fsync, tmp_path / "new" / "newer" / "file"

    def spy(descriptor: int) -> None:
        flushed.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), file.exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_bytes(file, b"content")
    (partial, before), *folders = flushed
    assert partial.endswith(".partial")
    assert not before
    assert folders == [(str(folder), True) for folder in (file.parent, file.parent.parent, tmp_path)]


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_flushed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    fails: bool,  # noqa: FBT001
) -> None:
    """A file system without such a thing is none of our business; a disk that fails is."""

    def refuse_folders(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with pytest.raises(OSError, match="error") if fails else contextlib.nullcontext():
        files.sync_folder(tmp_path)


def test_weights_are_the_same_bytes_every_time() -> None:
    """The library's own header has an order of chance; ours is sorted, and is read back by the library."""
    tensors, entries = {"b": torch.arange(3.0), "a": torch.ones(2, 5)}, {"model": "β", "x": "y"}
    assert len({to_safetensors(tensors, {"format": "1", **entries}) for _ in range(30)}) > 1
    (content,) = {safetensors_bytes(tensors, entries) for _ in range(30)}
    read = from_safetensors(content)
    assert read["b"].tolist() == [0, 1, 2]
    assert read["a"].shape == (2, 5)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert header == {"format": "1", "model": "β", "order": '["b", "a"]', "x": "y"}


def test_json_comes_back_with_its_format(tmp_path: Path) -> None:
    """What is read is what was written, and every file says its format first."""
    file = tmp_path / "a.json"
    write_json(file, {"name": "Gutmütig", "eps": "8/255", "rows": [1, 2.5, None]})
    assert read_json(file) == {"format": 1, "name": "Gutmütig", "eps": "8/255", "rows": [1, 2.5, None]}
    assert file.read_text(encoding="utf-8").startswith('{\n "format": 1,')


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    """NaN is not JSON: writing it fails, and leaves nothing behind."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"format": 1, "rows"', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"", "damaged"),
        (b'{"format": 2}', "format 1, but got 2"),
        (b'{"rows": []}', "format 1, but got None"),
        (b"[1]", "no JSON object"),
    ],
)
def test_a_json_file_that_is_not_ours_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    """Torn, empty, newer or foreign files are refused in a sentence that names the file."""
    file = tmp_path / "record.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as refused:
        read_json(file)
    assert str(file) in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Reading what is not there names it."""
    for read in (read_json, read_npz):
        with pytest.raises(InputError, match="there is none"):
            read(tmp_path / "no such file")


def test_arrays_come_back(tmp_path: Path) -> None:
    """Arrays keep dtype and bits; the format is not among them."""
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.arange(5),
        "fooled": np.array([True, False]),
        "x": np.array([0.1, np.nan], np.float32),
    }
    write_npz(tmp_path / "a.npz", **arrays)
    read = read_npz(tmp_path / "a.npz")
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


class Exploit:
    """What a pickle may do when opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Ask the reader to make a file."""
        return (os.mkdir, (os.environ["EXPLOITED"],))


def test_arrays_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object array, or a bare pickle, is refused without running the code in it."""
    trap = tmp_path / "exploited"
    monkeypatch.setenv("EXPLOITED", str(trap))
    np.savez(tmp_path / "a.npz", format=np.array(FORMAT), ids=np.array([Exploit()], dtype=object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Exploit()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(InputError, match="damaged"):
            read_npz(tmp_path / name)
    assert not trap.exists()
    pickle.loads((tmp_path / "b.npz").read_bytes())  # the trap does work
    assert trap.exists()


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    """A cut, flipped or empty archive, and one of another format, is refused; wherever it is cut."""
    file = tmp_path / "a.npz"
    write_npz(file, ids=np.arange(1000))
    whole = file.read_bytes()
    middle = len(whole) // 3
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for content in (b"", whole[:20], whole[:middle], whole[:-1], flipped):
        file.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            read_npz(file)
    np.savez(file, ids=np.arange(3))
    with pytest.raises(InputError, match="format"):
        read_npz(file)


def _header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """Return how an array begins that is said to have a shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_no_array_takes_more_memory_than_it_fills(tmp_path: Path) -> None:
    """A header that promises terabytes is refused before room is made for them, also where the zip agrees with it."""
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ids.npy", _header((10**13,)))
    with pytest.raises(InputError, match="says that it is larger than what is there"):
        read_npz(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ids.npy", _header((10**9,)))
    size = len(_header((10**9,)))  # which the zip, too, may say
    file.write_bytes(
        file.read_bytes().replace(size.to_bytes(4, "little"), (10**9 + size).to_bytes(4, "little"))
    )
    with pytest.raises(InputError, match="larger than what is there"):
        read_npz(file)
    (tmp_path / "b.npz").write_bytes(_header((10**13,)))  # no zip at all, which numpy would read as well
    with pytest.raises(InputError, match="not a zip file"):
        read_npz(tmp_path / "b.npz")


def test_an_archive_that_unfolds_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is a hundred times its size is refused, unless it is small; whatever fits is read."""
    write_npz(tmp_path / "a.npz", zeros=np.zeros(2**20, np.uint8))
    assert read_npz(tmp_path / "a.npz")["zeros"].size == 2**20
    monkeypatch.setattr(arrays, "_ROOM", 2**20)
    with pytest.raises(InputError, match="Expected at most 1,048,576 bytes of arrays"):
        read_npz(tmp_path / "a.npz")
    noise = np.random.default_rng(0).integers(0, 256, 2**21, dtype=np.uint8)
    write_npz(tmp_path / "b.npz", noise=noise)
    np.testing.assert_array_equal(read_npz(tmp_path / "b.npz")["noise"], noise)


def test_digests_are_those_of_sha256() -> None:
    """The digest is SHA-256 (its published test vector), however the bytes are cut."""
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"abc") == digest(b"a", memoryview(b"bc")) == abc


def test_the_digest_of_a_value_depends_on_the_value_alone() -> None:
    """The order of keys does not count, at any depth; every value does, and so does the order of a list."""
    value = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert digest_of(value) == digest_of({"b": {"d": None, "c": [1, 2]}, "a": 1})
    others = [
        {"a": 2, "b": {"c": [1, 2], "d": None}},
        {"a": 1, "b": {"c": [2, 1], "d": None}},
        {"a": 1, "b": {"c": [1, 2], "d": 0}},
        {"a": "1", "b": {"c": [1, 2], "d": None}},
    ]
    assert len({digest_of(other) for other in [value, *others]}) == 5


def test_metrics_pass_over_a_torn_line(tmp_path: Path) -> None:
    """A kill in the middle of a line costs that line only, and truncation clears it away."""
    metrics = Metrics(tmp_path / "metrics.jsonl")
    assert metrics.rows() == []
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    for row in rows:
        metrics.append(row)
    whole = metrics.path.read_bytes()
    metrics.path.write_bytes(whole + whole[:9])
    assert metrics.rows() == rows
    metrics.truncate(3)
    assert metrics.path.read_bytes() == whole
    metrics.truncate(1)
    metrics.append(rows[1])
    assert metrics.rows() == rows[:2]


@pytest.mark.parametrize("line", ['{"epoch": %s}', '{"epoch": 2, "loss": %s}'])
def test_metrics_end_at_a_number_beyond_all_others(tmp_path: Path, line: str) -> None:
    """A whole number that no float can hold is damage, like a torn line."""
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"epoch": 1, "loss": 0.5})
    with metrics.path.open("a") as file:
        file.write(line % ("9" * 400) + "\n")
    assert metrics.rows() == [{"epoch": 1, "loss": 0.5}]
    assert "damaged from line 2 on" in str(metrics.damage())


def test_metrics_carry_their_format(tmp_path: Path) -> None:
    """Each line says it; lines of before that was so are read; a newer one is refused."""
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"epoch": 1})
    assert metrics.path.read_text() == '{"format": 1, "epoch": 1}\n'
    metrics.path.write_text('{"epoch": 1}\n{"format": 2, "epoch": 2}\n')
    with pytest.raises(InputError, match="format 1, but got 2"):
        metrics.rows()
    metrics.path.write_text('{"epoch": 1}\n')
    assert metrics.rows() == [{"epoch": 1}]


def test_a_directory_has_one_holder(tmp_path: Path) -> None:
    """A second lock is refused while the first is held, and given once it is let go."""
    with locked(tmp_path / "run"), pytest.raises(InputError, match="in use"), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """Another process's lock holds until it is killed, even by SIGKILL; no stale lock is left."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    with locked(tmp_path):
        pass


def test_a_forked_child_holds_no_lock(tmp_path: Path) -> None:
    """A worker that outlives its parent's hold on a directory, for a moment or for ever, keeps nobody out."""
    running, says_so = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(says_so, b"x")
            signal.pause()
            os._exit(0)
        os.read(running, 1)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(running)
        os.close(says_so)


def test_provenance_says_what_a_number_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, versions, device and precision are recorded as plain JSON values."""
    found = provenance("cpu")
    wanted = {"fsrobust", "commit", "dirty", "python", "torch", "device", "threads", "tf32"}
    assert set(found) == wanted
    assert json.loads(json.dumps(found)) == found
    assert found["tf32"] is False
    assert found["fsrobust"] == package_version()
    monkeypatch.setattr(origin, "_git", lambda *_arguments: None)
    outside = provenance("cpu")
    assert (outside["commit"], outside["dirty"]) == (None, None)
