"""A row in miniature: stopped and continued, its numbers are those of the packed weights."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from fsrobust.attacks import Linf
from fsrobust.data import load_dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate import adaptive, evaluate
from fsrobust.evaluate.searching import PILOTS
from fsrobust.recipes import recipe
from fsrobust.recipes.row import Row, make_row
from fsrobust.settings import override
from fsrobust.train import load
from tests.runs import Listener, digits


def row(folder: Path, time_limit: float | None = None, *, seed: int = 0, epochs: int = 2) -> Row:
    """Make a row of a short training on digits."""
    settings = [f"train.epochs={epochs}", "model.width=4", f"train.seed={seed}"]
    run = override(recipe("digits-at-fsr"), settings)
    listener = Listener()
    return make_row(
        run,
        load_dataset("digits", "train"),
        work=folder / "work",
        out=folder / "out",
        attacks=dict.fromkeys(["fgsm", "pgd20"], PILOTS),
        device=torch.device("cpu"),
        time_limit=time_limit,
        reporter=listener,
        say=listener.say,
    )


@pytest.mark.slow
def test_a_row_is_stopped_continued_and_carried_away(tmp_path: Path) -> None:
    """Out of time it leaves no numbers; continued, it leaves weights, records, metrics and no checkpoints."""
    stopped = row(tmp_path, time_limit=0.0)
    assert stopped.stopped is not None
    assert "time limit" in stopped.stopped
    assert stopped.outcomes == {}
    done = row(tmp_path)
    assert done.stopped is None
    assert set(done.outcomes) == {"last", "best"}
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= {"config.json", "metrics.jsonl", "weights", "eval"}
    assert not (out / "checkpoints").exists()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_row_stops_between_two_attacks_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attack takes 100 of 150 seconds: after the second nothing is begun, and what is done is on record."""
    monkeypatch.setattr(importlib.import_module("fsrobust.evaluate.curves"), "STEPS", 1)
    clock, met = [0.0], list[str]()

    def attacked(name: str, _done: int, _total: int) -> None:
        met.append(name)
        clock[0] += 100.0

    def make(time_limit: float | None) -> Row:
        return make_row(
            override(recipe("digits-at"), ["train.epochs=1", "model.width=4", "train.train_on=all"]),
            digits(64),
            work=tmp_path / "work",
            out=tmp_path / "out",
            attacks=dict.fromkeys(["fgsm", "pgd20"], 8),
            curve_samples=2,
            device=torch.device("cpu"),
            time_limit=time_limit,
            reporter=listener,
            progress=attacked,
            say=listener.say,
        )

    listener = Listener()
    with monkeypatch.context() as patch:
        patch.setattr("time.monotonic", lambda: clock[0])
        stopped = make(150.0)
    assert stopped.stopped == "the time limit is reached; what is evaluated is on record"
    assert met == ["fgsm", "pgd20"]
    done = make(None)
    assert done.stopped is None
    assert done.outcomes["last"].attacks == ("fgsm", "pgd20")
    assert not {"fgsm", "pgd20"} & set(met[2:])


@pytest.mark.slow
def test_runs_of_a_row_meet_the_same_images(tmp_path: Path) -> None:
    """Whatever their seeds, so that they can be compared sample by sample."""
    runs = [row(tmp_path / str(seed), seed=seed, epochs=1).outcomes["last"] for seed in (0, 1)]
    assert runs[0].ids.tolist() == runs[1].ids.tolist()
    assert 0 < len(runs[0].ids) < 360


@pytest.mark.slow
def test_the_numbers_are_those_of_the_packed_weights(tmp_path: Path) -> None:
    """Evaluating what can be carried away gives the record, to the sample."""
    done = row(tmp_path)
    test = load_dataset("digits", "test")
    ids = torch.from_numpy(done.outcomes["last"].ids)
    kept = torch.isin(test.ids, ids)
    chosen = test.select(kept.nonzero()[:, 0])
    again = evaluate(
        load(tmp_path / "out"),
        pixels(chosen.images),
        chosen.labels,
        ball=Linf(0.15),
        attacks=["fgsm", "pgd20"],
        ids=chosen.ids,
        precision="auto",
    )
    for name in ("natural", "fgsm", "pgd20"):
        assert again.correct(name).tolist() == done.outcomes["last"].correct(name).tolist()
    record = json.loads(next((tmp_path / "out" / "eval").glob("*/record.json")).read_text())
    assert record["precision"] in ("fp32", "bf16")


@pytest.mark.slow
def test_a_second_call_runs_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is on record."""
    first = row(tmp_path)
    study = importlib.import_module("fsrobust.evaluate.study")  # evaluate is also a function's name
    monkeypatch.setattr(study, "run_attack", lambda *_a, **_k: pytest.fail("ran again"))
    second = row(tmp_path)
    assert second.outcomes["last"].summary() == first.outcomes["last"].summary()


@pytest.mark.slow
def test_a_row_with_the_plug_in_meets_attacks_that_adapt_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On as many samples as are asked; a row without it goes on without them, and says so."""
    monkeypatch.setattr(adaptive, "RESTARTS", 1)
    monkeypatch.setattr(adaptive, "TARGETS", 0)
    for name in ("digits-at-fsr", "digits-at"):
        listener = Listener()
        made = make_row(
            override(recipe(name), ["train.epochs=1", "model.width=4", "train.train_on=all"]),
            load_dataset("digits", "train"),
            work=tmp_path / name / "work",
            out=tmp_path / name / "out",
            attacks={"fgsm": PILOTS, "adaptive": 8},
            curve_samples=0,
            device=torch.device("cpu"),
            reporter=listener,
            say=listener.say,
        )
        assert made.stopped is None
        guarded = name.endswith("fsr")
        met = {attack: outcome.n for outcome in made.outcomes.values() for attack in outcome.attacks}
        assert met == ({"fgsm": PILOTS, "adaptive": 8} if guarded else {"fgsm": PILOTS})
