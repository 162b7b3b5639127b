"""The command line as a user meets it: what it prints, what it leaves, how it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fsrobust.cli import run
from fsrobust.plugin import attach, create_model
from fsrobust.records import locked
from fsrobust.types import InputError
from tests.images import make_folder

TINY = [
    *("--set", "train.epochs=1", "--set", "model.width=4", "--set", "train.batch=256"),
    *("--set", "objective.steps=1", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, trained through the command line."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert run(["train", "digits-at-fsr", *TINY, "--out", str(out)]) == 0
    return out


def _object(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Return the one JSON object on stdout; whatever else is there makes this fail."""
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    return value


def foreign() -> nn.Module:
    """A factory of a network that is not ours."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def no_module() -> int:
    """A factory of something else."""
    return 3


def wrong_layer() -> nn.Module:
    """A factory that attaches the plug-in where no layer is."""
    net = create_model("resnet_small", classes=10, channels=1, width=4)
    return attach(net, at="layer7", classes=10, example=torch.zeros(1, 1, 8, 8))


def flat_layer() -> nn.Module:
    """A factory that attaches the plug-in where no feature map is."""
    net = create_model("resnet_small", classes=10, channels=1, width=4)
    return attach(net, at="linear", classes=10, example=torch.zeros(1, 1, 8, 8))


def _tampered(trained: Path, tmp_path: Path) -> str:
    import shutil

    copy = tmp_path / "tampered"
    shutil.copytree(trained, copy)
    weights = next((copy / "checkpoints").glob("0*/weights.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    return str(copy)


def _empty_class(tmp_path: Path) -> str:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "own" / split / name).mkdir(parents=True)
    return f"folder:{tmp_path / 'own'}"


def _unreadable(tmp_path: Path) -> str:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "torn" / split / name).mkdir(parents=True)
            (tmp_path / "torn" / split / name / "one.png").write_bytes(b"\x89PNG torn")
    return f"folder:{tmp_path / 'torn'}"


def _colour(tmp_path: Path) -> str:
    x, y = np.zeros((20, 3, 8, 8), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "colour.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return f"npz:{tmp_path / 'colour.npz'}"


def _out_of_range(tmp_path: Path) -> str:
    x, y = np.full((20, 1, 8, 8), 1.5, np.float32), np.arange(20) % 10
    np.savez(tmp_path / "bright.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return f"npz:{tmp_path / 'bright.npz'}"


def _folder(tmp_path: Path, image: Image.Image | None = None, *, classes: int = 2) -> str:
    """Return a folder of sound images, but for one in the training split."""
    folder = make_folder(tmp_path / "own", classes=classes, train=12)
    if image is not None:
        image.save(folder / "train" / "class0" / "001.png")
    return f"folder:{folder}"


def _wide(width: int, height: int) -> Image.Image:
    """Return an image of these sizes of which nothing is seen, one bit a pixel."""
    return Image.new("1", (width, height))


FINE = ["train", "finetune-at-fsr", "--init"]
FOREIGN = [*FINE, "tests.foreign:resnet"]

BAD: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "recipe": (lambda _, __: ["train", "digits-ta"], 'did you mean "digits-at"'),
    "setting": (lambda _, __: ["train", "digits-at", "--set", "train.epoch=3"], "train.epochs"),
    "setting kind": (lambda _, __: ["train", "digits-at", "--set", "train.epochs=few"], "integer"),
    "setting form": (lambda _, __: ["train", "digits-at", "--set", "train.epochs"], "KEY=VALUE"),
    "eps, training": (lambda _, __: ["train", "digits-at", "--set", "objective.eps=8", *TINY], "8/255"),
    "layer": (lambda _, __: ["train", "digits-at", "--set", "model.fsr=layer9", *TINY], "layer3"),
    "engine": (lambda _, __: ["train", "digits-at", "--engine", "warp"], "fast"),
    "duration": (lambda _, __: ["train", "digits-at", "--time-limit", "soon"], "25m"),
    "data set": (lambda _, __: ["train", "digits-at", "--data", "cifar11"], "cifar10"),
    "data root": (lambda _, t: ["train", "cifar10-resnet18-at", "--data-root", str(t)], "data-root"),
    "device": (lambda _, __: ["train", "digits-at", "--device", "warp9"], "warp9"),
    "empty class": (lambda _, t: ["train", "digits-at", "--data", _empty_class(t)], "cat"),
    "unreadable image": (lambda _, t: ["train", "digits-at", "--data", _unreadable(t)], "one.png"),
    "pixels": (lambda _, t: ["train", "digits-at", "--data", _out_of_range(t)], "1.5"),
    "no folder": (lambda _, t: ["train", "digits-at", "--data", f"folder:{t / 'x'}"], "train/CLASS/"),
    "no array file": (lambda _, t: ["train", "digits-at", "--data", f"npz:{t / 'x.npz'}"], "no such file"),
    "one class": (lambda _, t: ["train", "digits-at", "--data", _folder(t, classes=1)], "two class folders"),
    "16 bits": (
        lambda _, t: ["train", "digits-at", "--data", _folder(t, Image.new("I;16", (8, 8)))],
        "8 bits a pixel",
    ),
    "huge image": (
        lambda _, t: ["train", "digits-at", "--data", _folder(t, _wide(20_000, 10_000))],
        "DecompressionBomb",
    ),
    "mixed sizes": (
        lambda _, t: ["train", "digits-at", "--data", _folder(t, _wide(9, 9))],
        "--image-size 64",
    ),
    "mixed sizes, disk": (
        lambda _, t: ["train", "digits-at", "--keep", "disk", "--data", _folder(t, _wide(9, 9))],
        "--image-size 64",
    ),
    "resized arrays": (lambda _, __: ["train", "digits-at", "--image-size", "8"], "leave out --image-size 8"),
    "resized arrays, evaluation": (
        lambda r, __: ["evaluate", str(r), "--image-size", "8"],
        "leave out --image-size 8",
    ),
    "image size": (
        lambda _, t: ["train", "digits-at", "--data", _folder(t), "--image-size", "0"],
        "at least 1 pixel",
    ),
    "keep": (lambda _, __: ["train", "digits-at", "--keep", "ram"], "auto, memory or disk"),
    "keep arrays": (lambda _, __: ["train", "digits-at", "--keep", "disk"], "leave out --keep disk"),
    "no init": (lambda _, __: ["train", "finetune-at-fsr", "--data", "digits"], "--init RUN"),
    "no data to tune on": (lambda r, _: [*FINE, str(r)], "--data folder:PATH"),
    "init": (lambda _, __: [*FINE, "nowhere", "--data", "digits"], "nowhere"),
    "init, no weights": (lambda _, t: [*FINE, str(t), "--data", "digits"], "config.json"),
    "init, module": (lambda _, __: [*FINE, "no.such:thing", "--data", "digits"], "no.such"),
    "init, classes": (lambda _, t: [*FOREIGN, "--data", _folder(t)], "logits of 2 classes"),
    "init, layer": (
        lambda _, t: [*FOREIGN, "--data", _folder(t, classes=3), "--attach", "x"],
        "layer2.0.bn1",
    ),
    "init, flat layer": (
        lambda _, t: [*FOREIGN, "--data", _folder(t, classes=3), "--attach", "fc"],
        "NCHW",
    ),
    "attach": (lambda _, __: ["train", "digits-at", "--attach", "layer9"], "layer3"),
    "attach twice": (
        lambda r, _: [*FINE, str(r), "--data", "digits", "--attach", "layer2"],
        "--attach layer2",
    ),
    "attach and fsr": (
        lambda _, __: ["train", "digits-at", "--attach", "layer2", "--set", "model.fsr=layer3"],
        "--set model.fsr and --attach",
    ),
    "init and width": (
        lambda r, _: ["train", "digits-at", "--init", str(r), "--set", "model.width=4"],
        "--set model.width and --init",
    ),
    "engine twice": (
        lambda _, __: ["train", "digits-at", "--engine", "fast", "--set", "train.engine=fast"],
        "--set train.engine and --engine",
    ),
    "nothing to freeze": (
        lambda _, __: ["train", "digits-at", *TINY, "--set", "train.frozen_epochs=1"],
        "train.frozen_epochs=0",
    ),
    "best of a file": (lambda _, __: ["evaluate", "tests.test_cli:foreign", "--checkpoint", "best"], "best"),
    "foreign classes": (
        lambda _, t: ["evaluate", "tests.foreign:resnet", "--data", _folder(t)],
        "logits of 2 classes",
    ),
    "run exists": (lambda r, _: ["train", "digits-at-fsr", *TINY, "--out", str(r)], "--resume"),
    "other run": (lambda r, _: ["train", "digits-at", *TINY, "--out", str(r), "--resume"], "another"),
    "channels": (lambda r, t: ["evaluate", str(r), "--data", _colour(t)], "3 channels"),
    "tampered": (lambda r, t: ["evaluate", _tampered(r, t)], "tampered"),
    "eps": (lambda r, _: ["evaluate", str(r), "--eps", "8"], "8/255"),
    "fraction": (lambda r, _: ["evaluate", str(r), "--eps", "8/0"], "8/0"),
    "norm": (lambda r, _: ["evaluate", str(r), "--norm", "l3"], "linf"),
    "attack": (lambda r, _: ["evaluate", str(r), "--attacks", "pdg20"], 'did you mean "pgd20"'),
    "no attack": (lambda r, _: ["evaluate", str(r), "--attacks", ","], "got none"),
    "checkpoint": (lambda r, _: ["evaluate", str(r), "--checkpoint", "newest"], "newest"),
    "limit": (lambda r, _: ["evaluate", str(r), "--limit", "0"], "--limit"),
    "target": (lambda _, __: ["evaluate", "nowhere"], "nowhere"),
    "module": (lambda _, __: ["evaluate", "no.such:thing", "--data", "digits"], "no.such"),
    "no module": (lambda _, __: ["evaluate", "tests.test_cli:no_module", "--data", "digits"], "int"),
    "no data": (lambda _, __: ["evaluate", "tests.test_cli:foreign"], "--data"),
    "no layer": (lambda _, __: ["evaluate", "tests.test_cli:wrong_layer", "--data", "digits"], "layer3"),
    "no map": (lambda _, __: ["evaluate", "tests.test_cli:flat_layer", "--data", "digits"], "NCHW"),
    "report of nothing": (lambda _, t: ["report", str(t)], "train or evaluate"),
    "no argument": (lambda _, __: ["train"], "recipe"),
    "no such option": (lambda _, __: ["train", "digits-at", "--warp"], "--warp"),
    "no such command": (lambda _, __: ["warp"], "warp"),
    "fetch": (lambda _, __: ["data", "fetch", "cifar11"], "cifar10"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_a_sentence(
    case: str,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, one line on stderr that names what was wrong, nothing on stdout, no traceback."""
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[case]
    assert run(arguments(trained, tmp_path)) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("fsrobust: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_run_in_use_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While another process holds a run directory, evaluate says so."""
    with locked(trained):
        assert run(["evaluate", str(trained)]) == 2
    assert "in use" in capsys.readouterr().err


def test_train_evaluate_report(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three commands in a row print what they found, as JSON one object; what is on record is not run."""
    evaluate = ["evaluate", str(trained), "--limit", "30", "--attacks", "fgsm,pgd20", "--curve-samples", "5"]
    assert run([*evaluate, "--json"]) == 0
    first = _object(capsys)
    assert first["n"] == 30
    assert set(first["accuracy"]) == {"natural", "fgsm", "pgd20"}  # type: ignore[call-overload]
    assert run([*evaluate, "--json"]) == 0
    assert _object(capsys) == first
    assert run(evaluate) == 0
    printed = capsys.readouterr()
    assert "PGD-20" in printed.out
    assert "already on record" in printed.err
    assert "30 of 360" in printed.err
    assert run(["report", str(trained), "--json"]) == 0
    page = Path(str(_object(capsys)["report"]))
    assert page == trained / "report.html"
    assert "PGD-20" in page.read_text(encoding="utf-8")


def test_best_and_foreign_targets(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best checkpoint, a bare weights file and a foreign factory are evaluated alike."""
    few = ["--limit", "10", "--attacks", "fgsm", "--curve-samples", "0", "--json", "--out"]
    assert run(["evaluate", str(trained), "--checkpoint", "best", *few, str(tmp_path / "a")]) == 0
    best = _object(capsys)
    weights = trained / "checkpoints" / (trained / "checkpoints" / "best").read_text().strip()
    file = [str(weights / "weights.safetensors"), "--data", "digits", "--eps", "0.15"]
    assert run(["evaluate", *file, *few, str(tmp_path / "b")]) == 0
    assert _object(capsys)["accuracy"] == best["accuracy"]
    foreign_target = ["tests.test_cli:foreign", "--data", "digits"]
    assert run(["evaluate", *foreign_target, *few, str(tmp_path / "c")]) == 0
    assert _object(capsys)["n"] == 10


def test_own_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe on one's own arrays takes their channels and classes, and no published number."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    own, out = f"npz:{tmp_path / 'own.npz'}", tmp_path / "run"
    assert run(["train", "digits-at", "--data", own, *TINY, "--out", str(out), "--json"]) == 0
    assert _object(capsys)["stopped"] is None
    config = json.loads((out / "config.json").read_text())
    assert (config["model"]["channels"], config["model"]["classes"]) == (3, 3)
    assert config["published"] is None


def test_a_time_limit_stops_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that is over at once exits 0 and names --resume; then the run goes on to its end."""
    train = ["train", "digits-at", *TINY, "--out", str(tmp_path / "run")]
    assert run([*train, "--time-limit", "0.001s"]) == 0
    assert "--resume" in capsys.readouterr().out
    assert run([*train, "--resume"]) == 0
    assert "Next: fsrobust evaluate" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["recipes"], ["data", "list"]])
def test_lists(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Lists name what there is, for people and as JSON."""
    assert run(command) == 0
    assert "digits" in capsys.readouterr().out
    assert run([*command, "--json"]) == 0
    assert "digits" in json.dumps(_object(capsys))


def test_debug_shows_where(tmp_path: Path) -> None:
    """With --debug the error itself comes through."""
    with pytest.raises(InputError):
        run(["report", str(tmp_path)], debug=True)
