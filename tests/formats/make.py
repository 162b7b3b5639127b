"""Make one small example of every kind of file, and note what is in them: `python -m tests.formats.make FOLDER`.

The examples of a format are made once, by the version that introduced it, and never again: what today's code writes
is tested elsewhere; these files stand for what is on somebody's disk.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fsrobust.attacks import ATTACKS, Linf
from fsrobust.cli import run as command
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Study, Subject, carry_out, curves, evidence, journal, read_records
from fsrobust.evaluate.shards import Shard
from fsrobust.evaluate.study import carry_out_diagnosis, carry_out_shard
from fsrobust.models import ModelConfig
from fsrobust.plugin import build
from fsrobust.records import Metrics
from fsrobust.train import find_checkpoint, fit, load
from fsrobust.train.checkpoint import load_state
from fsrobust.train.packing import pack
from tests.endurance.jobs import small_autoattack
from tests.helpers import fingerprint
from tests.runs import at, digits, learnt, net, short

BALL = Linf(0.1)
ATTACKED = ("fgsm", "autoattack")


def tiny() -> nn.Module:
    """Return a network whose weights take a few kilobytes."""
    torch.manual_seed(0)
    return build(ModelConfig("resnet_small", classes=10, channels=1, width=1))


def run(folder: Path) -> None:
    """Leave a run of two epochs, with two checkpoints."""
    fit(tiny(), digits(80), objective=at(), train=short(validation=20), out=folder, config={"title": "tiny"})
    (folder / "lock").unlink()


def audit(folder: Path) -> None:
    """Leave records of every kind: attacks with images, a transfer, a curve, masks, a diagnosis."""
    data = digits(6, "test")
    guarded = Study(folder, Subject(learnt("paper"), "a network", "last"), data, 360, BALL)
    carry_out(guarded, ATTACKED, curve_samples=3, images=True)
    carry_out_diagnosis(Study(folder, Subject(learnt(), "another"), data, 360, BALL))
    rival = Subject(net(seed=1).eval(), "rival")
    carry_out(Study(folder, guarded.subject, data, 360, BALL, surrogate=rival), ["fgsm"])
    (folder / "lock").unlink()


def begun(folder: Path) -> None:
    """Leave what a killed evaluation does: a cascade's journal, and one part of two."""
    study = Study(folder, Subject(learnt(), "a network", "last"), digits(6, "test"), 360, BALL)
    carry_out_shard(study, ["autoattack"], Shard(1, 2))


def table(folder: Path) -> None:
    """Leave a reproduced table, and the mark of its one cell."""
    with tempfile.TemporaryDirectory() as scratch:
        made = ["reproduce", "S5", "--rows", "at", "--scale", "smoke", "--device", "cpu", "--out", scratch]
        assert command(made) == 0
        folder.mkdir(parents=True)
        for file in ("table.json", "at-s0/done"):
            shutil.copy2(Path(scratch) / "S5-smoke" / file, folder / Path(file).name)


def facts(folder: Path) -> Mapping[str, Any]:
    """Return what is in the files, to hold later readers against."""
    model, last = load(folder / "run"), find_checkpoint(folder / "run")
    with torch.no_grad():
        logits = model(pixels(digits(2, "test").images))
    position = load_state(last)["position"]
    return {
        "weights": fingerprint(model),
        "best_weights": fingerprint(load(folder / "run", checkpoint="best")),
        "packed_weights": fingerprint(load(folder / "packed")),
        "logits": logits.tolist(),
        "step": position["step"],
        "best_step": position["best_step"],
        "losses": [row["loss"] for row in Metrics(folder / "run" / "metrics.jsonl").rows()],
        "records": {
            record["key"]: [record["kind"], record["name"], record.get("accuracy")]
            for record in read_records(folder / "audit")
        },
    }


def main(folder: Path) -> None:
    """Make everything."""
    torch.set_num_threads(1)
    ATTACKS["autoattack"] = small_autoattack
    journal._PAUSE, curves.STEPS, evidence.QUERIES = -1.0, 4, 20  # type: ignore[misc]
    run(folder / "run")
    pack(load(folder / "run"), folder / "packed" / "weights", "last")
    audit(folder / "audit")
    begun(folder / "begun")
    table(folder / "table")
    text = json.dumps(facts(folder), indent=1)
    (folder / "facts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
