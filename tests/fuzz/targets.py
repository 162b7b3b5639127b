"""Everything that reads what others wrote, as functions of bytes: only the documented error may come out.

Hypothesis calls them in the tests (``test_fuzz.py``), atheris guided by coverage (``python -m tests.fuzz.guided``).
"""

import contextlib
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors
from scipy.io import savemat

from fsrobust.config import parse_fraction
from fsrobust.data.archives import extract
from fsrobust.data.official import read_cifar10, read_svhn
from fsrobust.data.readers import decode, read_npz
from fsrobust.evaluate.kept import read_record
from fsrobust.plugin.authors import load_authors
from fsrobust.progress import parse_duration
from fsrobust.recipes import recipe
from fsrobust.records import Metrics, read_config, read_json
from fsrobust.records import read_npz as read_arrays
from fsrobust.settings import override
from fsrobust.train import load
from fsrobust.train.checkpoint import find_checkpoint, load_state
from fsrobust.train.packing import find_packed
from fsrobust.types import InputError


@dataclass(frozen=True)
class Target:
    """A reader of bytes and some whole inputs to begin from."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


@contextlib.contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        yield file


def _reads(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """Return a reader of bytes: they are put in a file of that name."""

    def of_bytes(content: bytes) -> object:
        with _file(content, name) as file, contextlib.suppress(InputError):
            return read(file)
        return None

    return of_bytes


def _of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    def of_bytes(content: bytes) -> object:
        with contextlib.suppress(InputError):
            return read(content.decode(errors="replace"))
        return None

    return of_bytes


def _extract(file: Path) -> None:
    """Unpack, and see that nothing lies outside the folder or is a link, and that no more was written than allowed."""
    inside = file.parent / "inside"
    try:
        extract(file, inside, max_bytes=100_000, max_members=50)
    finally:
        assert {path.name for path in file.parent.iterdir()} <= {file.name, "inside"}
        found = list(inside.rglob("*"))
        assert not any(path.is_symlink() for path in found)
        assert sum(path.stat().st_size for path in found if path.is_file()) <= 100_000


def _metrics(file: Path) -> None:
    metrics = Metrics(file)
    rows = metrics.rows()
    assert all(isinstance(row["epoch"], int) for row in rows)
    assert (metrics.damage() is None) or metrics.path.read_bytes()
    metrics.truncate(2)
    assert len(metrics.rows()) <= len(rows)


def _setting(text: str) -> None:
    """Apply a setting; what comes of it can be written as JSON."""
    run = override(recipe("digits-at-fsr"), [text])
    json.dumps(run.describe(), allow_nan=False)


# --- whole inputs ---


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _tar(mode: str, *members: tuple[str, bytes, bytes]) -> bytes:
    """Return a tar of members: name, content, and a type of tarfile."""

    def write(buffer: io.BytesIO) -> None:
        with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
            for name, content, kind in members:
                member = tarfile.TarInfo(name)
                member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
                tar.addfile(member, io.BytesIO(content))

    return _bytes(write)


def _zip(*members: tuple[str, bytes]) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                file.writestr(name, content)

    return _bytes(write)


class Exploit:
    """What a pickle may do when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Ask the reader to raise what nobody expects."""
        return exec, ("raise SystemError('a stranger code was run')",)


_POINTERS: Final = b"\x80\x03}(C\x04dataK\x00C\x06labels](cnumpy\nndarray\n((K\x01tU\x01OC\x08AAAAAAAAtReu."
"""A batch whose labels are an array of objects over bytes, which numpy would follow as pointers."""
_IMAGES: Final = np.zeros((2, 3072), np.uint8)
_RECORD: Final = {
    "format": 1, "kind": "attack", "key": "k", "name": "fgsm", "weights_sha256": "a", "source": "x",
    "created": "2026-11-25T17:25:42.111+00:00", "ball": {"norm": "linf", "eps": "8/255"}, "checkpoint": None, "seed": 0,
    "model": "m", "data": {"name": "digits", "split": "test", "n": 1, "of": 2, "sha256": "b", "class_names": ["0"]},
    "provenance": {}, "accuracy": {"natural": 1.0, "paper": 0.5, "strict": 0.5}, "path": [0.5], "forwards": 2,
    "backwards": 1, "seconds": 0.1, "files": {"samples.npz": "0" * 64},
    "attack": {
        "type": "PGD", "ball": {"norm": "linf", "eps": "8/255"}, "loss": "ce", "steps": 1, "step_size": 0.1,
        "restarts": 1, "random_start": False,
    },
}  # fmt: skip
_FILE: Final = tarfile.REGTYPE


def _state(value: object) -> bytes:
    return _bytes(lambda buffer: torch.save(value, buffer))


def _image(form: str) -> bytes:
    return _bytes(lambda buffer: Image.new("RGB", (9, 8), (1, 2, 3)).save(buffer, form))


def _arrays(**arrays: Any) -> bytes:
    return _bytes(lambda buffer: np.savez_compressed(buffer, **arrays))


_OWN: Final = {"x_train": np.zeros((2, 1, 4, 4), np.uint8), "y_train": np.arange(2)}
_HEADER: Final = {"format": "1", "model": '{"name": "resnet_small", "classes": 10, "width": 4}'}

TARGETS: Final[dict[str, Target]] = {
    "cifar, binary": Target(_reads(lambda f: read_cifar10([f], "test"), "a.bin"), (bytes(2 * 3073),)),
    "cifar, pickled": Target(
        _reads(lambda f: read_cifar10([f], "test"), "test_batch"),
        (
            *(pickle.dumps({b"data": _IMAGES, b"labels": [0, 9]}, protocol) for protocol in (0, 2, 4)),
            pickle.dumps(Exploit()),
            pickle.dumps({b"data": Exploit(), b"labels": [1]}),
            _POINTERS,
        ),
    ),
    "matlab": Target(
        _reads(lambda f: read_svhn([f], "test"), "test_32x32.mat"),
        tuple(
            _bytes(lambda b, packed=packed: savemat(  # type: ignore[misc]
                b, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [10]])}, do_compression=packed))
            for packed in (False, True)
        ),
    ),
    "own arrays": Target(
        _reads(lambda f: read_npz(f, "train"), "own.npz"),
        (
            _arrays(**_OWN, x_test=_OWN["x_train"], y_test=_OWN["y_train"]),
            _arrays(**_OWN, x_test=np.array([Exploit()], object), y_test=_OWN["y_train"]),
        ),
    ),
    "archive": Target(
        _reads(_extract, "archive"),
        (
            _tar("w", ("a/b", b"content", _FILE), ("c", b"", tarfile.DIRTYPE)),
            _tar("w:gz", ("a", bytes(10), _FILE)),
            _tar("w", ("../outside", b"x", _FILE)),
            _tar("w", ("/outside", b"x", _FILE)),
            _tar("w", ("link", b"", tarfile.SYMTYPE), ("link/x", b"x", _FILE)),
            _tar("w:gz", ("bomb", bytes(300_000), _FILE)),
            _zip(("a/b", b"content"), ("c/", b"")),
            _zip(("../outside", b"x")),
            _zip(("bomb", bytes(300_000))),
        ),
    ),
    "image": Target(
        _reads(lambda f: decode(f, 8), "a.png"), tuple(map(_image, ("PNG", "JPEG", "BMP", "WEBP", "GIF")))
    ),
    "weights": Target(
        _reads(load, "weights.safetensors"),
        (
            to_safetensors({"w": torch.zeros(2)}, metadata=_HEADER),
            to_safetensors({"w": torch.zeros(2)}),
            _state({"w": torch.zeros(2)}),
        ),
    ),
    "state": Target(
        _reads(lambda f: load_state(f.parent), "state.pt"),
        (_state({"format": 1, "position": {"epoch": 1}}), _state({"format": 1, "x": Exploit()}), _state([1])),
    ),
    "strangers' checkpoint": Target(
        _reads(lambda f: load_authors(f, "resnet18", classes=10), "a.pth"),
        (
            _state({"conv1.weight": torch.zeros(4, 3, 3, 3), "linear.weight": torch.zeros(10, 32)}),
            _state({"net": {"module.conv1.weight": torch.zeros(0), "linear.weight": torch.zeros(1)}}),
            _state({"conv1.weight": 3, "linear.weight": None}),
            _state(Exploit()),
            _state({"state_dict": [torch.zeros(1)]}),
            _state(torch.nn.Linear(1, 1)),
        ),
    ),
    "pointer": Target(
        _reads(lambda f: find_checkpoint(f.parents[1]), "checkpoints/last"), (b"00000001\n", b"../../x")
    ),
    "packed index": Target(
        _reads(lambda f: find_packed(f.parent, "last"), "last.sha256"), (b"00ff  last-1-of-1.safetensors\n",)
    ),
    "record": Target(_reads(read_record, "k/record.json"), (json.dumps(_RECORD).encode(),)),
    "json": Target(_reads(read_json, "a.json"), (b'{"format": 1, "sha256": "0"}', b"[" * 5000)),
    "configuration": Target(
        _reads(lambda f: read_config(f.parent), "config.json"),
        (b'{"format": 1, "data": {"name": "digits", "sha256": "0"}, "model": {"name": "resnet18"}}',),
    ),
    "arrays": Target(
        _reads(read_arrays, "samples.npz"),
        (_arrays(format=np.array(1), ids=np.arange(9)), _arrays(format=np.array([1, 2])), b"\x93NUMPY\x01\x00"),
    ),
    "metrics": Target(
        _reads(_metrics, "metrics.jsonl"), (b'{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "loss": NaN}\n{"ep',)
    ),
    "setting": Target(
        _of_text(_setting),
        (
            b"train.epochs=3", b"train.lr=1e400", b"objective.eps=8/255", b"model.fsr=[\"layer3\"]",
            b"train.milestones=0.5,0.8", b"model.normalize=[[0.1],[1e999]]", b"objective.share_noise=true",
            b"model.width=1e3", b"objective.beta=-Infinity",
        ),
    ),
    "duration": Target(_of_text(parse_duration), (b"1h30m", b"1h30", b"90.5s", "٣m".encode())),
    "eps": Target(_of_text(parse_fraction), (b"8/255", b"1e-3", b"1e999999999", b"1/0", b"nan")),
}  # fmt: skip
