"""The command line as a user meets it: what it prints, what it leaves, how it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn

from fsrobust.cli import run
from fsrobust.types import InputError

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


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_an_evaluation_has_a_time_limit_like_a_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A limit that is over at once exits 0, for people and as JSON; then the same command goes on to its end."""
    few = [command, str(trained), "--limit", "16", "--out", str(tmp_path)]
    few += ["--attacks", "fgsm", "--curve-samples", "0"] if command == "evaluate" else []
    assert run([*few, "--time-limit", "0.001s"]) == 0
    assert "Stopped: the time limit is reached." in capsys.readouterr().out
    assert run([*few, "--time-limit", "0.001s", "--json"]) == 0
    assert _object(capsys) == {"folder": str(tmp_path), "stopped": "the time limit is reached"}
    assert not list(tmp_path.rglob("record.json"))
    assert run([*few, "--time-limit", "1h", "--json"]) == 0
    assert _object(capsys)["stopped"] is None
    assert list(tmp_path.rglob("record.json"))


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


@pytest.mark.parametrize("command", [("demo",), ("reproduce", "S1", "--scale", "smoke")])
def test_several_processes_are_refused_where_one_does_it_all(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under torchrun each would make the same runs in the same folders: nothing is begun."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    assert f"one process for {command[0]}, but got 2 from torchrun" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_page_goes_where_a_named_link_leads(trained: Path, tmp_path: Path) -> None:
    """The file at its end, there or not yet, is written; the link stays."""
    (tmp_path / "pages").mkdir()
    for name in ("new", "old"):
        (tmp_path / name).symlink_to(f"pages/{name}.html")
    (tmp_path / "pages" / "old.html").write_text("an old page")
    for name in ("new", "old"):
        assert run(["report", str(trained), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_symlink()
        assert "<html" in (tmp_path / "pages" / f"{name}.html").read_text(encoding="utf-8")


def test_no_page_takes_the_place_of_a_pipe(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe, a link to one, and a link to itself are refused, and stay what they are."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", "link", "circle"):
        assert run(["report", str(trained), "--out", str(tmp_path / name)]) == 2
        assert "is a device, a pipe or a circle of links" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "link", "pipe"]


MAIN = [sys.executable, "-P", "-c", "from fsrobust.cli import main; main()"]


def test_no_module_of_a_folder_stands_in_for_a_library(trained: Path, tmp_path: Path) -> None:
    """Where somebody's folder holds a matplotlib, or a library that is not installed, it is not run."""
    for name in ("matplotlib", "torch", "sitecustomise", "tensorboard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    shutil.copytree(trained, tmp_path / "its-run")
    done = subprocess.run([*MAIN, "report", "its-run"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    attack = ["evaluate", "its-run", "--attacks", "fgsm", "--limit", "2", "--curve-samples", "0"]
    done = subprocess.run([*MAIN, *attack], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_ones_own_network_is_evaluated_where_one_stands(tmp_path: Path) -> None:
    """A module of the working directory is found for --init, and again for the run that came of it."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    tune = [
        "train",
        "finetune-at",
        "--init",
        "mine:net",
        "--data",
        "digits",
        "--out",
        "tuned",
        "--device",
        "cpu",
    ]
    tune += ["--set", "train.epochs=1", "--set", "objective.steps=1", "--set", "train.batch=512"]
    few = ["--attacks", "fgsm", "--limit", "2", "--curve-samples", "0"]
    for line in (tune, ["evaluate", "tuned", *few], ["report", "tuned"]):
        done = subprocess.run([*MAIN, *line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_is_said(trained: Path, tmp_path: Path) -> None:
    """An evaluation that Ctrl-C ends says so in a sentence and exits as shells expect; the same command goes on."""
    attack = ["evaluate", str(trained), "--out", str(tmp_path / "out"), "--attacks", "pgd100,square"]
    attack += ["--curve-samples", "0", "--limit", "300"]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so its children
    with subprocess.Popen([*MAIN, *attack], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # its announcement: from here on it works
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130, first + rest
    last = rest.splitlines()[-1]
    assert last.startswith("fsrobust: Interrupted; what was written before is whole")
    assert "Traceback" not in rest


@pytest.mark.parametrize("raised", [KeyboardInterrupt, typer.Abort])
def test_an_interruption_is_said_whoever_catches_it(
    raised: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Versions of the parser differ in what they make of it; the exit code and the sentence do not."""

    def interrupted(*_arguments: object, **_options: object) -> None:
        raise raised

    monkeypatch.setattr("fsrobust.cli.app", interrupted)
    assert run(["recipes"]) == 130
    assert "fsrobust: Interrupted; " in capsys.readouterr().err
