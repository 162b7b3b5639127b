"""Killed between any two file operations, or half-way through a write, an evaluation and a table's cell go on."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fsrobust.attacks import APGD, ATTACKS, Ball, Cascade, Linf, Square, Stage
from fsrobust.evaluate import Study, Subject, carry_out, curves, journal
from fsrobust.recipes import recipe
from fsrobust.recipes.cell import Place, make_cell
from fsrobust.recipes.plan import Cell
from fsrobust.records import FORMAT, read_json
from fsrobust.settings import override
from tests.endurance.killing import remains
from tests.faults import Fault, every_fault, killed_at
from tests.runs import Listener, digits, net

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AutoAttack of two stages that notes its progress after each, and a curve of four steps."""

    def two_stages(ball: Ball) -> Cascade:
        return Cascade(
            ball, (Stage("apgd-ce", APGD(ball, steps=2)), Stage("square", Square(ball, queries=3)))
        )

    monkeypatch.setitem(ATTACKS, "autoattack", two_stages)
    monkeypatch.setattr(journal, "_PAUSE", -1.0)
    monkeypatch.setattr(curves, "STEPS", 2)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # no plug is pulled here


def test_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal, samples, gallery, images, curve, mask, records and index are the undisturbed run's, bit for bit."""
    model, data = net(fsr="paper").eval(), digits(6, "test")

    def study(folder: Path) -> dict[str, Any]:
        subject = Subject(model, "a network", "last")
        carry_out(
            Study(folder, subject, data, 360, Linf(0.1)),
            ["autoattack"],
            curve_samples=1,
            batch=6,
            images=True,
        )
        return remains(folder)

    whole = study(tmp_path / "whole")

    def trial(k: int) -> Fault:
        folder = tmp_path / str(k)
        with killed_at(monkeypatch, k) as fault:
            study(folder)
        assert study(folder) == whole, f"killed at {k}"
        shutil.rmtree(folder)
        return fault

    assert every_fault(trial) >= 80


def test_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of its training on: packed weights, records and the mark that it is done; never a mark too soon."""
    settings = ["train.epochs=3", "train.train_on=all", "model.width=4", "objective.steps=1"]
    run = override(recipe("digits-at-fsr"), settings)
    place, listener = Place(None, torch.device("cpu")), Listener()
    listener.attack = lambda *_state: None  # type: ignore[attr-defined]

    def cell(folder: Path) -> Cell:
        return Cell("S5", "at", run, folder, {"fgsm": 4}, 128, 0)

    def make(folder: Path) -> dict[str, Any]:
        assert make_cell(cell(folder), digits(128), place, listener) is None  # type: ignore[arg-type]
        return remains(folder)

    whole = make(tmp_path / "whole" / "cell")
    assert read_json(tmp_path / "whole" / "cell" / "done") == {
        "format": FORMAT,
        "attacks": ["fgsm"],
    }

    def trial(k: int) -> Fault:
        folder = tmp_path / str(k) / "cell"  # records name it
        shutil.copytree(tmp_path / "whole" / "cell" / "work", folder / "work")
        with killed_at(monkeypatch, k) as fault:
            make(folder)
        if cell(folder).state == "done":
            assert remains(folder) == whole
        assert make(folder) == whole, f"killed at {k}"
        assert cell(folder).state == "done"
        shutil.rmtree(folder)
        return fault

    assert every_fault(trial) >= 40
