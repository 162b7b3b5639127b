"""Studies: a record per attack, found again by its key, never run twice, whole after any kill."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fsrobust.attacks import L2, Linf
from fsrobust.data import Dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Study, Subject, carry_out, curves, evaluate, read_outcome, read_records, study
from fsrobust.evaluate.engine import run_attack
from fsrobust.evaluate.outcome import Outcome
from fsrobust.plugin import attach
from fsrobust.records import locked, read_json, read_npz
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import digits, net

ATTACKS = ["fgsm", "pgd10"]


@pytest.fixture(autouse=True)
def _short_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "STEPS", 4)


def plan(
    folder: Path, *, model: nn.Module | None = None, data: Dataset | None = None, eps: float = 0.1
) -> Study:
    """Return a study of a small guarded network on 20 test digits."""
    model = net(fsr="paper") if model is None else model
    data = digits(20, "test") if data is None else data
    return Study(folder, Subject(model.eval(), "a network", "last"), data, 360, Linf(eps))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the attacks that really ran, in order."""
    names: list[str] = []

    def spy(*arguments: Any, **options: Any) -> object:
        names.append(options["name"])
        return run_attack(*arguments, **options)

    monkeypatch.setattr(study, "run_attack", spy)
    return names


def same(a: Outcome, b: Outcome) -> bool:
    """Return whether two outcomes hold the same bits."""
    return (
        a.attacks == b.attacks
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.natural_correct, b.natural_correct)
        and all(
            np.array_equal(getattr(a, part)[name], getattr(b, part)[name])
            for part in ("attacked", "fooled_last", "fooled")
            for name in a.attacks
        )
    )


def test_the_records_are_what_was_promised(tmp_path: Path) -> None:
    """eval/KEY/ holds record.json, samples.npz, gallery.npz, curves.json and mask.npz, each with its format."""
    outcome = carry_out(plan(tmp_path), ATTACKS, curve_samples=4)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(tmp_path):
        by_kind.setdefault(record["kind"], []).append(record)
        folder = tmp_path / "eval" / record["key"]
        assert record["format"] == 1
        common = {
            "kind", "key", "name", "ball", "source", "checkpoint", "weights_sha256", "model", "data", "seed",
            "precision", "created", "provenance",
        }  # fmt: skip
        assert common <= set(record)
        for file in folder.iterdir():
            if file.suffix == ".npz":
                with np.load(file, allow_pickle=False) as archive:
                    assert int(archive["format"]) == 1
            else:
                assert json.loads(file.read_text())["format"] == 1
    files = {
        kind: sorted(path.name for path in (tmp_path / "eval" / found[0]["key"]).iterdir())
        for kind, found in by_kind.items()
    }
    assert files == {
        "attack": ["gallery.npz", "record.json", "samples.npz"],
        "curve": ["curves.json", "record.json"],
        "mask": ["mask.npz", "record.json"],
    }
    record = next(r for r in by_kind["attack"] if r["name"] == "pgd10")
    assert record["ball"] == {"norm": "linf", "eps": "0.1"}
    assert record["attack"]["steps"] == 10
    assert record["data"]["n"] == 20
    assert record["data"]["of"] == 360
    assert record["accuracy"]["paper"] == pytest.approx(outcome.accuracy("pgd10"))
    assert record["accuracy"]["strict"] == pytest.approx(outcome.strict("pgd10"))
    samples = read_npz(tmp_path / "eval" / record["key"] / "samples.npz")
    assert {"ids", "attacked", "fooled_last", "fooled_any", "natural_correct"} <= set(samples)
    assert all(len(array) == 20 for array in samples.values())


def test_a_study_is_evaluate_written_down(tmp_path: Path) -> None:
    """The outcome, computed now or read from the records later, holds the bits that ``evaluate`` finds."""
    this = plan(tmp_path)
    outcome = carry_out(this, ATTACKS, batch=7)
    x, y, ids = pixels(this.data.images), this.data.labels, this.data.ids
    direct = evaluate(this.subject.model, x, y, ball=this.ball, attacks=ATTACKS, ids=ids, batch=7)
    assert same(outcome, direct)
    records = {r["name"]: r for r in read_records(tmp_path) if r["kind"] == "attack"}
    assert same(read_outcome(tmp_path, [records[name] for name in ATTACKS]), direct)


def test_what_is_on_record_is_not_run_again(tmp_path: Path, runs: list[str]) -> None:
    """A second study runs nothing, changes no file of a record, and says so; a third runs what is new."""
    first = carry_out(plan(tmp_path), ATTACKS, curve_samples=3)
    assert [name for name in runs if not name.startswith("eps")] == ATTACKS
    before = {p: p.read_bytes() for p in (tmp_path / "eval").rglob("*") if p.is_file()}
    runs.clear()
    said: list[str] = []
    again = carry_out(plan(tmp_path), ATTACKS, curve_samples=3, say=said.append)
    assert runs == []
    assert [text.split(":")[0] for text in said] == [*ATTACKS, "accuracy against eps"]
    assert {p: p.read_bytes() for p in (tmp_path / "eval").rglob("*") if p.is_file()} == before
    assert same(first, again)
    carry_out(plan(tmp_path), ["pgd10", "cw"])
    assert runs == ["cw"]


def nudged() -> nn.Module:
    """Return the network with one weight moved by the least that float32 knows."""
    model = net(fsr="paper")
    with torch.no_grad():
        p = next(model.parameters())
        p.view(-1)[0] = torch.nextafter(p.view(-1)[0], torch.tensor(9.0))
    return model


def with_statistics() -> nn.Module:
    """Return the network with other BatchNorm statistics: buffers, not parameters."""
    model = net(fsr="paper")
    buffer = next(b for name, b in model.named_buffers() if name.endswith("running_var"))
    buffer.mul_(1.5)
    return model


def relabelled() -> Dataset:
    """Return the digits with one label changed."""
    data = digits(20, "test")
    return replace(data, labels=torch.cat([(data.labels[:1] + 1) % 10, data.labels[1:]]))


OTHERS: dict[str, Callable[[Path], Study]] = {
    "seed": lambda folder: replace(plan(folder), seed=1),
    "eps": lambda folder: plan(folder, eps=0.11),
    "norm": lambda folder: replace(plan(folder), ball=L2(0.1)),
    "weights": lambda folder: plan(folder, model=nudged()),
    "statistics": lambda folder: plan(folder, model=with_statistics()),
    "tau": lambda folder: plan(folder, model=net(fsr="paper", tau=0.5)),
    "samples": lambda folder: plan(folder, data=digits(21, "test").select(range(1, 21))),
    "fewer samples": lambda folder: plan(folder, data=digits(19, "test")),
    "labels": lambda folder: plan(folder, data=relabelled()),
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_a_number_depends_on_is_in_its_key(tmp_path: Path, runs: list[str], what: str) -> None:
    """Another seed, ball, weight, buffer, τ or sample is another record; both stay side by side."""
    carry_out(plan(tmp_path), ["fgsm"])
    carry_out(OTHERS[what](tmp_path), ["fgsm"])
    assert runs == ["fgsm", "fgsm"]
    assert len([r for r in read_records(tmp_path) if r["kind"] == "attack"]) == 2


def foreign(tau: float) -> nn.Module:
    """Return somebody's network with the plug-in attached: no configuration of ours says what τ is."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return attach(body, at="0", classes=10, tau=tau, init="paper", example=torch.zeros(1, 1, 8, 8))


def test_the_key_of_a_foreign_network_knows_its_tau(tmp_path: Path, runs: list[str]) -> None:
    """Two networks of the same weights that compute different things do not share records."""
    assert fingerprint(foreign(0.1)) == fingerprint(foreign(1.0))
    carry_out(plan(tmp_path, model=foreign(0.1)), ["fgsm"])
    carry_out(plan(tmp_path, model=foreign(1.0)), ["fgsm"])
    assert runs == ["fgsm", "fgsm"]


def test_keys_do_not_depend_on_where_and_who(tmp_path: Path) -> None:
    """The folder, the source's name and the rest of the data set are not part of what a number depends on."""
    this = plan(tmp_path)
    other = replace(this, folder=tmp_path / "x", subject=replace(this.subject, source="y"), total=99)
    assert this.key("attack", {"name": "fgsm"}) == other.key("attack", {"name": "fgsm"})
    assert this.key("attack", {"name": "fgsm"}) != this.key("attack", {"name": "cw"})
    assert this.key("attack", {"name": "fgsm"}) != this.key("mask", {"name": "fgsm"})


def indexed(folder: Path) -> list[str]:
    """Return the keys that the index lists."""
    return sorted(row["key"] for row in read_json(folder / "eval" / "index.json")["records"])


def complete(folder: Path) -> list[str]:
    """Return the keys of the records that are complete."""
    return sorted(path.parent.name for path in (folder / "eval").glob("*/record.json"))


def test_an_attack_that_fails_leaves_those_before_it(tmp_path: Path, runs: list[str]) -> None:
    """Interrupted in the second attack, the first is on record and only the second runs again."""

    def interrupt(name: str, _done: int, _total: int) -> None:
        if name == "pgd10":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan(tmp_path), ATTACKS, progress=interrupt)
    assert indexed(tmp_path) == complete(tmp_path)
    assert len(complete(tmp_path)) == 1
    runs.clear()
    carry_out(plan(tmp_path), ATTACKS)
    assert runs == ["pgd10"]


def test_a_study_holds_its_folder(tmp_path: Path) -> None:
    """Two evaluations cannot write one folder at a time."""
    with locked(tmp_path), pytest.raises(InputError, match="in use"):
        carry_out(plan(tmp_path), ["fgsm"])


def test_records_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """No records, records of two models and records of two samples make no outcome."""
    with pytest.raises(InputError, match="run evaluate first"):
        read_outcome(tmp_path, [])
    carry_out(plan(tmp_path), ["fgsm"])
    carry_out(plan(tmp_path, model=nudged()), ["pgd10"])
    carry_out(plan(tmp_path, data=digits(19, "test")), ["cw"])
    records = {r["name"]: r for r in read_records(tmp_path) if r["kind"] == "attack"}
    for other in ("pgd10", "cw"):
        with pytest.raises(InputError, match="different models or samples"):
            read_outcome(tmp_path, [records["fgsm"], records[other]])


def test_the_sentence_before_the_work_says_what_is_judged(tmp_path: Path) -> None:
    """Model, checkpoint, samples, seed, data, norm and eps are said before anything runs."""
    said = replace(plan(tmp_path, eps=8 / 255), seed=5).announce()
    for part in (
        "a network",
        "last checkpoint",
        "20 of 360",
        "seed 5",
        "test",
        "digits",
        "linf",
        "eps 8/255",
    ):
        assert part in said
    assert "all 20" in replace(plan(tmp_path), total=20).announce()
