"""A record is used again only while the network judges the clean images as it did then."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import Linf
from fsrobust.evaluate import Study, Subject, carry_out, curves, evidence, read_records
from fsrobust.evaluate import study as study_module
from fsrobust.evaluate.engine import predict_all
from fsrobust.evaluate.study import carry_out_diagnosis
from tests.runs import digits, learnt

SWITCH: dict[str, bool] = {"mirrored": False}


class Follows(nn.Module):
    """A network that does what nothing in it shows: as a file or a clock, which it reads while it runs, says."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.net, self.noise = learnt(), noise

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, of the mirrored image if that is what is asked for."""
        logits: Tensor = self.net(x.flip(3) if _asked() else x)
        return logits + self.noise * torch.randn_like(logits)


def _asked() -> bool:
    return bool(globals()["SWITCH"]["mirrored"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "STEPS", 2)
    monkeypatch.setattr(evidence, "QUERIES", 10)
    monkeypatch.setitem(SWITCH, "mirrored", False)


def plan(folder: Path, noise: float = 0.0) -> Study:
    """Return a study of such a network; its identity is said to be the same whatever it does."""
    subject = Subject(Follows(noise).eval(), "a network")
    subject.__dict__["identity"] = {"weights_sha256": "0" * 64, "model": "a network", "code_sha256": "0" * 64}
    return Study(folder, subject, digits(40, "test"), 360, Linf(0.1))


def work(study: Study) -> list[str]:
    """Carry a study out, attack, curve and diagnosis, and return what was said."""
    said: list[str] = []
    carry_out(study, ["fgsm"], curve_samples=30, say=said.append)
    carry_out_diagnosis(study, say=said.append)
    return said


def test_what_is_judged_otherwise_is_run_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack, curve and diagnosis of a network that changed under its key are set aside and made again."""
    assert work(plan(tmp_path)) == []
    old = {record["name"]: record for record in read_records(tmp_path)}
    assert sum("already on record" in text for text in work(plan(tmp_path))) == 3
    monkeypatch.setitem(SWITCH, "mirrored", True)
    said = work(plan(tmp_path))
    assert [text.split(":")[0] for text in said] == ["fgsm", "eps", "signs"]
    assert all("of 40 clean images are judged otherwise" in text for text in said)
    new = {record["name"]: record for record in read_records(tmp_path)}
    assert new.keys() == old.keys()
    assert new["fgsm"]["accuracy"]["natural"] < old["fgsm"]["accuracy"]["natural"]
    assert len(list((tmp_path / "eval" / "stale").iterdir())) == 3
    assert sum("already on record" in text for text in work(plan(tmp_path))) == 3


def test_a_random_network_keeps_its_records(tmp_path: Path) -> None:
    """One that differs from itself as much tells nothing by differing from its record."""
    study = plan(tmp_path, noise=5.0)
    carry_out(study, ["fgsm"])
    said: list[str] = []
    carry_out(replace(study, subject=plan(tmp_path, noise=5.0).subject), ["fgsm"], batch=7, say=said.append)
    assert said == ["fgsm: already on record"]


def test_rounding_withdraws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample in forty that is judged otherwise is another machine's rounding."""
    first = carry_out(plan(tmp_path), ["fgsm"])
    right = np.flatnonzero(first.natural_correct)
    moved = [right[:1]]

    def other(*arguments: Any, **options: Any) -> Any:
        found = predict_all(*arguments, **options)
        found[moved[-1]] = (found[moved[-1]] + 1) % 10
        return found

    monkeypatch.setattr(study_module, "predict_all", other)
    said: list[str] = []
    carry_out(plan(tmp_path), ["fgsm"], say=said.append)
    assert said == ["fgsm: already on record"]
    moved.append(right[:2])
    carry_out(plan(tmp_path), ["fgsm"], say=said.append)
    assert "2 of 40 clean images" in said[1]
