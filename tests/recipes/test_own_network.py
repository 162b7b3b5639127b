"""The practitioner's path, as docs/own-network.md has it: somebody's network, somebody's images, five commands."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fsrobust.cli import run
from tests.foreign import CLASSES
from tests.images import make_folder

SHORT = [
    *("--set", "train.epochs=3", "--set", "train.batch=16", "--set", "train.frozen_epochs=1"),
    *("--set", "objective.steps=2", "--set", "objective.eps=2/255", "--set", "objective.step_size=0.5/255"),
    *("--set", "evaluation.eps=2/255", "--device", "cpu"),
]


@pytest.mark.slow
def test_ones_own_network_on_ones_own_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuned from a factory on images of mixed sizes, stopped, resumed from disk, evaluated, reported."""
    monkeypatch.chdir(tmp_path)
    folder = make_folder(tmp_path / "photos", classes=CLASSES, train=30, test=8, size=32)
    odd = folder / "train" / "class1" / "004.png"
    Image.open(odd).resize((50, 40)).save(odd)
    train = ["train", "finetune-at-fsr", "--init", "tests.foreign:resnet", "--attach", "layer2"]
    train += ["--data", "folder:photos", "--image-size", "24", "--out", "runs/own", *SHORT]
    assert run([*train, "--time-limit", "0.01s"]) == 0
    assert "--resume --out runs/own" in capsys.readouterr().out
    assert run([*train, "--resume", "--keep", "disk"]) == 0
    assert "only the plug-in learns" in capsys.readouterr().err

    few = ["--attacks", "fgsm,pgd20", "--limit", "12", "--curve-samples", "4", "--json"]
    assert run(["evaluate", "runs/own", *few, "--checkpoint", "best"]) == 0
    assert run(["evaluate", "runs/own", *few]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] == 12
    record = json.loads(next(Path("runs/own/eval").glob("*/record.json")).read_text())
    assert record["ball"] == {"norm": "linf", "eps": "2/255"}
    assert record["data"]["of"] == 24
    before = [
        "evaluate",
        "tests.foreign:resnet",
        "--data",
        "folder:photos",
        "--image-size",
        "24",
        "--eps",
        "2/255",
    ]
    assert run([*before, *few, "--out", "runs/before"]) == 0
    assert run(["report", "runs/before", "runs/own", "-o", "report.html"]) == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "tests.foreign:resnet" in page
    assert "the plug-in alone learnt" in page
