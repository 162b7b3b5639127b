"""The commands compare, doctor and estimate as a user meets them."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from fsrobust.attacks import Linf
from fsrobust.cli import run
from fsrobust.evaluate.checks import CHECKS
from fsrobust.train import estimate as estimating
from tests.report.builder import Fake, write_run
from tests.runs import learnt


def _object(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Return the one JSON object on stdout; whatever else is there makes this fail."""
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    return value


def test_compare_prints_a_table_or_an_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: both names, a table and a sentence; with --json one object; several seeds by commas."""
    runs = [str(write_run(tmp_path / f"r{k}", Fake(weights=k))) for k in range(4)]
    assert run(["compare", runs[0], runs[1]]) == 0
    printed = capsys.readouterr().out
    assert "PGD-20" in printed
    assert "No difference is shown" in printed
    assert run(["compare", runs[0], runs[1], "--json"]) == 0
    found = _object(capsys)
    assert (found["seeds"], found["n"]) == (1, 20)
    assert run(["compare", ",".join(runs[:2]), ",".join(runs[2:]), "--json"]) == 0
    assert _object(capsys)["seeds"] == 2


def healthy() -> nn.Module:
    """A factory of a network that has learnt the digits a little."""
    return learnt()


def softmaxed() -> nn.Module:
    """A factory of the same, with a softmax at its end."""
    return nn.Sequential(learnt(), nn.Softmax(1))


def test_doctor_prints_signs(capsys: pytest.CaptureFixture[str]) -> None:
    """A healthy network exits 0 with a line per check; a softmax exits 1 and is named; --json is one object."""
    few = ["--data", "digits", "--limit", "80"]
    assert run(["doctor", "tests.test_inspect:healthy", *few]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS)
    assert all(line.startswith("ok") for line in lines)
    assert run(["doctor", "tests.test_inspect:softmaxed", *few, "--json"]) == 1
    found = _object(capsys)
    assert found["status"] == "fail"
    signs = {sign["name"]: sign["status"] for sign in found["signs"]}  # type: ignore[attr-defined]
    assert signs["logits"] == "fail"


def test_estimate_prints_seconds_and_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe's cost per epoch and in all, a target's per attack, for people and as one object."""
    monkeypatch.setattr(estimating, "ENOUGH", 0.0)
    recipe = ["estimate", "digits-at", "--set", "train.epochs=2", "--set", "model.width=4"]
    assert run(recipe) == 0
    printed = capsys.readouterr().out
    for part in (
        "steps",
        "validation",
        "checkpoints",
        "per epoch",
        "(2 epochs)",
        "in all",
        "peak memory",
        "MiB",
    ):
        assert part in printed
    assert run([*recipe, "--json"]) == 0
    assert _object(capsys)["epochs"] == 2
    target = [
        "estimate",
        "tests.test_inspect:healthy",
        "--data",
        "digits",
        "--limit",
        "20",
        "--attacks",
        "fgsm",
    ]
    assert run([*target, "--curve-samples", "5", "--precision", "fp32", "--json"]) == 0
    found = _object(capsys)
    assert list(found["parts"]) == ["natural", "fgsm", "curve"]  # type: ignore[call-overload]
    assert found["peak_memory_bytes"] > 2**20  # type: ignore[operator]


def test_estimate_of_ones_own_network_and_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning is priced as it would be trained: with --init, --attach and --image-size; doctor resizes, too."""
    monkeypatch.setattr(estimating, "ENOUGH", 0.0)
    data = ["--data", f"folder:{photos(tmp_path)}", "--image-size", "8"]
    own = ["estimate", "finetune-at-fsr", "--init", "tests.test_inspect:coloured", "--attach", "0"]
    settings = ["--set", "train.epochs=1", "--set", "train.batch=4", "--set", "objective.steps=1"]
    assert run([*own, *data, *settings, "--json"]) == 0
    assert _object(capsys)["epochs"] == 1
    assert run(["doctor", "tests.test_inspect:coloured", *data, "--json"]) in (0, 1)
    assert _object(capsys)["signs"]


def photos(folder: Path) -> Path:
    """Write a folder of small images of two sizes, two classes."""
    for split, name, number in itertools.product(("train", "test"), ("a", "b"), range(8)):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        size = (10 + number % 2, 12)
        Image.new("RGB", size, (number * 20, 80, 200)).save(folder / split / name / f"{number}.png")
    return folder


def coloured() -> nn.Module:
    """A factory of an untrained network for small photos of two classes."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "estimate recipe": (lambda _: ["estimate", "digits-ta"], 'did you mean "digits-at"'),
    "estimate setting": (lambda _: ["estimate", "digits-at", "--set", "train.epoch=3"], "train.epochs"),
    "estimate factory": (lambda _: ["estimate", "no.such:thing", "--data", "digits"], "no.such"),
    "estimate attack": (
        lambda _: ["estimate", "tests.test_inspect:healthy", "--data", "digits", "--attacks", "fgms"],
        'did you mean "fgsm"',
    ),
    "estimate option of a target": (
        lambda _: ["estimate", "digits-at", "--limit", "9"],
        "--limit says nothing",
    ),
    "estimate option of a recipe": (
        lambda _: ["estimate", "tests.test_inspect:healthy", "--data", "digits", "--set", "train.epochs=3"],
        "--set says nothing",
    ),
    "doctor no target": (lambda _: ["doctor", "nowhere"], "nowhere"),
    "doctor no data": (lambda _: ["doctor", "tests.test_inspect:healthy"], "--data"),
    "doctor limit": (lambda _: ["doctor", "tests.test_inspect:healthy", "--limit", "0"], "--limit"),
    "doctor data": (lambda _: ["doctor", "tests.test_inspect:healthy", "--data", "digit"], "digits"),
    "compare nothing": (lambda t: ["compare", str(t), str(t)], "train or evaluate"),
    "compare one": (lambda t: ["compare", str(t)], "'b'"),
    "compare no side": (lambda t: ["compare", ",", str(_run(t))], "got 0 and 1"),
    "compare checkpoint": (lambda t: ["compare", *[str(_run(t))] * 2, "--checkpoint", "best"], "best"),
    "compare balls": (lambda t: ["compare", str(_run(t)), str(_run(t, eps=0.1))], "same ball"),
    "compare seeds": (lambda t: ["compare", f"{_run(t)},{_run(t, weights=1)}", str(_run(t))], "got 2 and 1"),
    "compare twice": (lambda t: ["compare", *[f"{_run(t)},{_run(t)}"] * 2], "same weights"),
}


def _run(tmp_path: Path, *, eps: float = 8 / 255, weights: int = 0) -> Path:
    return write_run(tmp_path / f"run-{eps:.3f}-{weights}", Fake(ball=Linf(eps), weights=weights))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_a_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, one line on stderr that names what was wrong, nothing on stdout, no traceback."""
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[case]
    assert run(arguments(tmp_path)) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("fsrobust: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in printed.err
    assert printed.out == ""


def _in_a_process(*arguments: str) -> str:
    """Return what a command prints in a process of its own."""
    command = [sys.executable, "-m", "fsrobust", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_run_holds_the_memory_that_was_predicted(tmp_path: Path) -> None:
    """Within 30 % of what a training process reports, where the batch and not Python is most of it."""
    settings = ["--set", "train.epochs=1", "--set", "train.batch=512", "--set", "model.width=32"]
    settings += ["--set", "objective.steps=1", "--device", "cpu"]
    predicted = json.loads(_in_a_process("estimate", "digits-at", *settings, "--json"))["peak_memory_bytes"]
    trained = _in_a_process("train", "digits-at", *settings, "--out", str(tmp_path / "run"), "--json")
    assert predicted == pytest.approx(json.loads(trained)["last"]["peak_memory_bytes"], rel=0.3)
