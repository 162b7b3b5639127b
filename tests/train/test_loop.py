"""Training: stopped anywhere and resumed, it gives the bits of a run that was never disturbed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fsrobust.data import Dataset
from fsrobust.records import Metrics
from fsrobust.train import TrainingError, control, find_checkpoint, fit, load, loop
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import Listener, at, digits, net, short, timeless, train


def _stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the stopwatch ask to stop once so many batches have been begun."""
    asked = 0

    def stop_reason(_: control.Stopwatch) -> str | None:
        nonlocal asked
        asked += 1
        return "the test says so" if asked > steps else None

    monkeypatch.setattr(control.Stopwatch, "stop_reason", stop_reason)


@pytest.mark.parametrize("fsr", [None, "paper"])
@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("steps", [1, 5, 7])
def test_stopped_and_resumed_is_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsr: str | None, engine: str, steps: int
) -> None:
    """Stopped in the first epoch, at its end (5 batches) or in the second: same weights, same metrics."""
    whole = train(tmp_path / "whole", fsr=fsr, engine=engine)
    with monkeypatch.context() as patch:
        _stop_after(patch, steps)
        stopped = train(tmp_path / "parts", fsr=fsr, engine=engine)
    assert stopped.history.stopped == "the test says so"
    assert fingerprint(stopped.model) != fingerprint(whole.model)
    listener = Listener()
    resumed = train(tmp_path / "parts", fsr=fsr, engine=engine, resume=True, listener=listener)
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert resumed.lines == whole.lines
    assert resumed.history.best_epoch == whole.history.best_epoch
    assert any("resumed at epoch" in text for text in listener.said)


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    """Resuming what is finished trains nothing and returns its history."""
    whole = train(tmp_path / "run")
    again = train(tmp_path / "run", resume=True)
    assert fingerprint(again.model) == fingerprint(whole.model)
    assert timeless(again.history.rows) == whole.lines


def test_what_a_kill_left_in_the_metrics_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row written just before a kill, without its checkpoint, is not there twice after resuming."""
    whole = train(tmp_path / "whole")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run")
    assert len(Metrics(tmp_path / "run" / "metrics.jsonl").rows()) == 1
    assert train(tmp_path / "run", resume=True).lines == whole.lines


TINY = [
    *(
        "train",
        "digits-at-fsr",
        "--set",
        "train.epochs=3",
        "--set",
        "model.width=4",
        "--set",
        "train.batch=256",
    ),
    *("--set", "objective.steps=1", "--device", "cpu"),
]


PLAIN: tuple[str, ...] = ()
LIFTED = (
    *("--set", "train.averaging=ema", "--set", "objective.awp=5e-3", "--set", "train.schedule=cosine"),
    *("--set", "objective.label_smoothing=0.1", "--set", "objective.name=trades"),
)


def _start(out: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fsrobust.cli", *TINY, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


def _finish(process: "subprocess.Popen[str]") -> None:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output


def _wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PLAIN, LIFTED], ids=["plain", "lifted"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signalled_process_resumes_bit_for_bit(
    tmp_path: Path, number: signal.Signals, settings: tuple[str, ...]
) -> None:
    """SIGKILL loses nothing checkpointed; SIGTERM exits 0 and says how to go on; the end is the same."""
    _finish(_start(tmp_path / "whole", *settings))
    run = _start(tmp_path / "run", *settings)
    _wait_for(tmp_path / "run" / "checkpoints" / "last", run)
    run.send_signal(number)
    output = run.communicate(timeout=120)[0]
    if number == signal.SIGTERM:
        assert run.returncode == 0, output
        assert "--resume" in output
    else:
        assert run.returncode == -signal.SIGKILL
    _finish(_start(tmp_path / "run", *settings, "--resume"))
    assert fingerprint(load(tmp_path / "run")) == fingerprint(load(tmp_path / "whole"))
    lines = [Metrics(tmp_path / name / "metrics.jsonl").rows() for name in ("run", "whole")]
    assert timeless(lines[0]) == timeless(lines[1])


def test_another_configuration_is_not_resumed(tmp_path: Path) -> None:
    """Resuming with other settings, or without saying resume, ends in a sentence and changes nothing."""
    train(tmp_path / "run")
    before = fingerprint(load(tmp_path / "run"))
    with pytest.raises(InputError, match=r"another configuration \(train: lr\)"):
        train(tmp_path / "run", lr=0.03, resume=True)
    with pytest.raises(InputError, match="already holds a run"):
        train(tmp_path / "run")
    assert fingerprint(load(tmp_path / "run")) == before


def test_the_same_samples_under_another_name_are_gone_on_with(tmp_path: Path) -> None:
    """Data are their pixels and labels: a file that was moved is remarked on, one with other samples refused."""

    def go(data: Dataset, *, resume: bool = True) -> Listener:
        listener = Listener()
        fit(
            net(),
            data,
            objective=at(),
            train=short(),
            out=tmp_path / "run",
            resume=resume,
            reporter=listener,
        )
        return listener

    go(digits(40), resume=False)
    moved = go(replace(digits(40), name="npz:elsewhere.npz"))
    (remark,) = (text for text in moved.said if "elsewhere" in text and "called digits" in text)
    assert "--data npz:elsewhere.npz" in remark
    assert any("already trained" in text for text in moved.said)
    for other in (digits(40).select(range(39)), digits(40, "test")):
        with pytest.raises(InputError, match=r"another configuration \(data: .*sha256"):
            go(replace(other, name="npz:elsewhere.npz"))


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    """Two trainings cannot share a directory."""
    from fsrobust.records import locked

    with locked(tmp_path / "run"), pytest.raises(InputError, match="in use"):
        train(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """The step, its samples and the last good checkpoint are named; that checkpoint is finite."""
    train(tmp_path / "run", epochs=1)
    config: dict[str, Any] = {"epochs": 2, "lr": 1e30}
    with pytest.raises(TrainingError, match=r"step \d+ \(epoch 1, samples \d+") as caught:
        train(tmp_path / "other", **config)
    assert "keeps the last good" not in str(caught.value)
    model = load(tmp_path / "run")
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_training_on_all_has_no_best(tmp_path: Path) -> None:
    """Without a held-out split there is no validation, and asking for the best checkpoint says why."""
    run = train(tmp_path / "run", train_on="all")
    assert run.history.best_epoch is None
    assert not any(key.startswith("validation") for row in run.lines for key in row)
    with pytest.raises(InputError, match="without a validation split"):
        find_checkpoint(tmp_path / "run", "best")


def test_best_is_the_first_of_the_highest(tmp_path: Path) -> None:
    """The best epoch is the first with the highest robust validation accuracy; its checkpoint is kept."""
    run = train(tmp_path / "run", epochs=6)
    scores = [row["validation_robust"] for row in run.history.rows]
    best = run.history.best_epoch
    assert best == scores.index(max(scores)) + 1
    folder = find_checkpoint(tmp_path / "run", "best")
    assert int(folder.name) == run.history.rows[best - 1]["step"]


def test_the_callers_randomness_is_untouched() -> None:
    """Training draws nothing from torch's default generator as the caller sees it."""
    state = torch.get_rng_state()
    fit(net(fsr="paper"), digits(40), objective=at(), train=short(epochs=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mask_is_noisy_and_noise_follows_the_seed() -> None:
    """Two seeds of the same network part; one seed repeats itself, whatever was drawn before."""

    def final(seed: int) -> str:
        model = net(fsr="paper")
        torch.rand(seed + 1)
        fit(model, digits(40), objective=at(), train=short(epochs=1, seed=seed))
        return fingerprint(model)

    assert final(0) == final(0)
    assert final(0) != final(1)


def test_adversarial_training_learns() -> None:
    """A small network gets far beyond chance, 0.1, under its own attack in three epochs of 400 digits."""
    history = fit(net(width=8), digits(400), objective=at(), train=short(epochs=3, lr=0.1))
    assert history.rows[-1]["validation_robust"] > 0.3
    assert history.rows[-1]["loss"] < 0.7 * history.rows[0]["loss"]


@pytest.mark.parametrize("field", ["epochs", "batch", "validation"])
def test_counts_below_one_are_refused(field: str) -> None:
    """Zero epochs, batches or validation samples end in a sentence that names the setting."""
    with pytest.raises(InputError, match=f"train.{field}"):
        short(**{field: 0})
