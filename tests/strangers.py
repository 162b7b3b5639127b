"""What strangers hand in: factories that are none, and files that are not what they should be."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from fsrobust.plugin import attach, create_model
from fsrobust.records import read_json, write_json
from tests.images import make_folder

# --- factories ---

not_callable = 3


def linear() -> nn.Module:
    """A sound one."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def no_module() -> int:
    """A factory of something else."""
    return 3


def needs_argument(depth: int) -> nn.Module:
    """A factory that has to be told something."""
    return nn.Identity(depth)


def raises() -> nn.Module:
    """A factory that fails, in two lines."""
    raise RuntimeError("weights of the network\nwere not found")


def leaves() -> nn.Module:
    """A factory that ends the process."""
    sys.exit(0)


def wrong_layer() -> nn.Module:
    """A factory that attaches the plug-in where no layer is."""
    net = create_model("resnet_small", classes=10, channels=1, width=4)
    return attach(net, at="layer7", classes=10, example=torch.zeros(1, 1, 8, 8))


def flat_layer() -> nn.Module:
    """A factory that attaches the plug-in where no feature map is."""
    net = create_model("resnet_small", classes=10, channels=1, width=4)
    return attach(net, at="linear", classes=10, example=torch.zeros(1, 1, 8, 8))


class Fails(nn.Module):
    """A network that runs on nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Raise."""
        raise KeyError(f"a shape of {x.ndim} axes")


class Several(nn.Module):
    """A network that gives more than logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, twice."""
        logits = x.flatten(1)[:, :10]
        return logits, logits


class NotANumber(nn.Module):
    """A network that gives no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return NaN for logits."""
        logits: Tensor = self.head(x.flatten(1)) * torch.nan
        return logits


# --- arrays ---

_X, _Y = np.zeros((20, 1, 8, 8), np.uint8), np.arange(20) % 10
ARRAYS: Final[dict[str, dict[str, Any]]] = {
    "objects": {"x_train": _X.astype(object)},
    "label-objects": {"y_train": _Y.astype(object)},
    "16-bit": {"x_train": _X.astype(np.uint16)},
    "complex": {"x_train": _X.astype(complex)},
    "bright": {"x_train": np.full((20, 1, 8, 8), 1.5, np.float32)},
    "nan": {"x_train": np.full((20, 1, 8, 8), np.nan, np.float32)},
    "between": {"x_train": np.full((20, 1, 8, 8), 0.5, np.float32)},
    "flat": {"x_train": _X.reshape(20, 64)},
    "two-ways": {"x_train": _X.reshape(20, 1, 64, 1)},
    "no-pixels": {"x_train": _X[:, :, :0]},
    "float-labels": {"y_train": _Y.astype(float)},
    "few-labels": {"y_train": _Y[:3]},
    "negative-labels": {"y_train": -_Y},
    "huge-labels": {"y_train": _Y.astype(np.uint64) + 2**63},
    "number-names": {"class_names": np.arange(10)},
    "few-names": {"class_names": np.array(["cat"])},
    "colour": {name: np.zeros((20, 3, 8, 8), np.uint8) for name in ("x_train", "x_test")},
}


def _npz(name: str, tmp: Path) -> str:
    arrays = {"x_train": _X, "y_train": _Y, "x_test": _X, "y_test": _Y, **ARRAYS[name]}
    np.savez(tmp / "a.npz", **arrays)
    return f"npz:{tmp / 'a.npz'}"


# --- folders ---


def _blank(mode: str, width: int = 8, height: int = 8) -> Callable[[Path], object]:
    return lambda folder: Image.new(mode, (width, height)).save(folder / "train" / "class0" / "001.png")


def _bytes(content: bytes, name: str = "001.png") -> Callable[[Path], object]:
    return lambda folder: (folder / "train" / "class0" / name).write_bytes(content)


def _nested(folder: Path) -> None:
    inner = folder / "train" / "class0" / "inner"
    inner.mkdir()
    for image in (folder / "train" / "class0").glob("*.png"):
        image.rename(inner / image.name)


def _empty(folder: Path) -> None:
    for image in (folder / "test" / "class1").iterdir():
        image.unlink()


def _one_class(folder: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "class1")


FOLDERS: Final[dict[str, Callable[[Path], object]]] = {
    "one-class": _one_class,
    "empty-class": _empty,
    "nested": _nested,
    "lonely-class": lambda folder: shutil.rmtree(folder / "test" / "class1"),
    "no-test": lambda folder: shutil.rmtree(folder / "test"),
    "depth-16": _blank("I;16"),
    "oblong": _blank("RGB", 8, 9),
    "huge": _blank("1", 20_000, 10_000),
    "text": _bytes(b"no image"),
    "torn": _bytes(b"\x89PNG\r\n\x1a\n torn"),
    "nothing": _bytes(b""),
    "tiff": _bytes(b"II*\x00", "one.tif"),
    "folder-as-image": lambda folder: (folder / "train" / "class0" / "zz.png").mkdir(),
    "dangling": lambda folder: (folder / "train" / "class0" / "zz.png").symlink_to(folder / "nowhere"),
    "sound": lambda _folder: None,
}


def _folder(name: str, tmp: Path) -> str:
    folder = make_folder(tmp / "own", classes=2, train=12)
    FOLDERS[name](folder)
    return f"folder:{folder}"


# --- runs and weights ---


def _flip(file: Path, *, at: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 0x10
    file.write_bytes(bytes(content))


def _config(**changes: Any) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        file = run / "config.json"
        write_json(file, {**read_json(file), **changes})

    return change


RUNS: Final[dict[str, Callable[[Path], object]]] = {
    "tampered": lambda run: _flip(next(run.glob("checkpoints/0*/weights.safetensors")), at=0.99),
    "no-config": lambda run: (run / "config.json").unlink(),
    "config-torn": lambda run: (run / "config.json").write_text('{"format": 1, "mod'),
    "config-binary": lambda run: (run / "config.json").write_bytes(b"\xff\xfe"),
    "config-list": lambda run: (run / "config.json").write_text("[1]"),
    "config-deep": lambda run: (run / "config.json").write_text("[" * 100_000),
    "config-newer": _config(format=2),
    "config-data": _config(data=["digits"]),
    "config-eps": _config(evaluation={"norm": "linf", "eps": None}),
    "config-norm": _config(evaluation={"norm": "l7", "eps": "8/255"}),
    "last-torn": lambda run: (run / "checkpoints" / "last").write_text("0000"),
    "last-up": lambda run: (run / "checkpoints" / "last").write_text("../../../etc"),
    "no-checkpoints": lambda run: shutil.rmtree(run / "checkpoints"),
    "records-torn": lambda run: [file.write_text("{") for file in run.glob("eval/*/record.json")],
}


def _run(name: str, tmp: Path, run: Path) -> str:
    copy = tmp / "run"
    shutil.copytree(run, copy)
    RUNS[name](copy)
    return str(copy)


HEADERS: Final[dict[str, dict[str, str] | None]] = {
    "nameless": None,
    "newer": {"format": "2", "model": '{"name": "resnet18", "classes": 10}'},
    "unknown": {"format": "1", "model": '{"name": "resnet81", "classes": 10}'},
    "endless": {"format": "1", "model": '{"name": "resnet18", "classes": 10, "width": 9999}'},
    "unfitting": {"format": "1", "model": '{"name": "resnet_small", "classes": 10, "width": 16}'},
}


def _weights(name: str, tmp: Path) -> str:
    save_file({"weight": torch.zeros(2)}, tmp / "a.safetensors", metadata=HEADERS[name])
    return str(tmp / "a.safetensors")


def _file(_name: str, tmp: Path) -> str:
    (tmp / "file").write_text("some text")
    return str(tmp / "file")


def _module(name: str, tmp: Path) -> str:
    code = {
        "syntax": "def f(:",
        "import": "import no_such_module",
        "raise": "1 / 0",
        "exit": "raise SystemExit(0)",
    }
    (tmp / f"stranger_{name}.py").write_text(code[name])
    return f"stranger_{name}:f"


def made(word: str, tmp: Path, run: Path) -> str:
    """Return a word of a command line; of one such as ``@npz/nan`` what it names, which is made first."""
    if not word.startswith("@"):
        return word.format(tmp=tmp, run=run)
    kind, _, name = word[1:].partition("/")
    if kind == "run":
        return _run(name, tmp, run)
    makers = {"npz": _npz, "folder": _folder, "weights": _weights, "file": _file, "module": _module}
    return makers[kind](name, tmp)
