"""Killed between any two file operations, a run can go on, and ends as if nothing had happened."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fsrobust.records import Metrics
from fsrobust.seeding import Noise
from fsrobust.train import TrainingError, find_checkpoint, load
from fsrobust.train.checkpoint import find_resumable, load_state, save_checkpoint
from fsrobust.train.control import Stopwatch
from fsrobust.train.objectives import Loss
from tests.faults import Fault, every_fault, killed_at
from tests.helpers import fingerprint
from tests.runs import Listener, at, digits, net, timeless, train


def save(run: Path, step: int, *, best: bool = False) -> nn.Module:
    """Save a network of the seed ``step``; return it."""
    model = net(seed=step)
    save_checkpoint(run, step, model, {"position": {"step": step}}, best=best)
    return model


@pytest.mark.parametrize("best", [False, True])
def test_a_save_killed_anywhere_leaves_the_one_before_or_the_new_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best: bool,  # noqa: FBT001
) -> None:
    """``last`` and ``best`` always name a sound checkpoint, and weights and state are of one step."""

    def trial(k: int) -> Fault:
        run = tmp_path / str(k)
        prints = {step: fingerprint(save(run, step, best=step == 2)) for step in (1, 2, 3)}
        prints[4] = fingerprint(net(seed=4))
        with killed_at(monkeypatch, k) as fault:
            save(run, 4, best=best)
        checkpoint, remarks = find_resumable(run)
        assert checkpoint is not None
        assert remarks == []
        step = load_state(checkpoint)["position"]["step"]
        assert step in (3, 4)
        assert step == 4 or fault.died
        assert fingerprint(load(run)) == prints[step]
        assert find_checkpoint(run) == checkpoint
        at_best = int(find_checkpoint(run, "best").name)
        assert at_best in ((2, 4) if best else (2,))
        assert fingerprint(load(run, checkpoint="best")) == prints[at_best]
        save(run, 5)  # and the next save is none the worse
        assert find_checkpoint(run).name == "00000005"
        return fault

    assert every_fault(trial) >= 10  # three files flushed and renamed, a folder, a pointer, the pruning


def test_the_first_save_killed_anywhere_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is any checkpoint, a kill leaves nothing to resume, or the whole first one."""

    def trial(k: int) -> Fault:
        run = tmp_path / str(k)
        with killed_at(monkeypatch, k) as fault:
            save(run, 1)
        checkpoint, remarks = find_resumable(run)
        assert remarks == []
        assert checkpoint is None or load_state(checkpoint)["position"]["step"] == 1
        return fault

    assert every_fault(trial) >= 8


def test_a_checkpoint_saved_again_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed and stopped again before a step, a run would write the checkpoint it came from: it stays whole."""

    def trial(k: int) -> Fault:
        run = tmp_path / str(k)
        model = save(run, 1)
        with killed_at(monkeypatch, k) as fault:
            save(run, 1)
        assert find_resumable(run)[0] == find_checkpoint(run)
        assert fingerprint(load(run)) == fingerprint(model)
        return fault

    every_fault(trial)


@pytest.mark.slow
def test_a_run_killed_anywhere_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each file operation of a whole run: killed there and resumed, weights and metrics are the same."""
    settings: dict[str, Any] = {"count": 20, "objective": at(steps=1), "fsr": "paper"}
    whole = train(tmp_path / "whole", **settings)

    def trial(k: int) -> Fault:
        out = tmp_path / str(k)
        with killed_at(monkeypatch, k) as fault:
            train(out, **settings)
        resumed = train(out, resume=True, **settings)
        assert fingerprint(resumed.model) == fingerprint(whole.model), f"killed at {k}"
        assert resumed.lines == whole.lines
        assert resumed.history.best_epoch == whole.history.best_epoch
        for which in ("last", "best"):
            theirs = load(tmp_path / "whole", checkpoint=which)
            assert fingerprint(load(out, checkpoint=which)) == fingerprint(theirs)
        return fault

    assert every_fault(trial) >= 20


@pytest.mark.parametrize("lost", ["one", "all"])
def test_a_run_goes_back_behind_damage(tmp_path: Path, lost: str) -> None:
    """With the last checkpoint torn the one before is used, with none left it starts anew: same end, and said."""
    whole = train(tmp_path / "run", epochs=3)
    last = find_checkpoint(tmp_path / "run")
    for folder in [last] if lost == "one" else list((tmp_path / "run" / "checkpoints").glob("0*")):
        (folder / "state.pt").write_bytes(b"torn")
    listener = Listener()
    resumed = train(tmp_path / "run", epochs=3, resume=True, listener=listener)
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert resumed.lines == whole.lines
    assert any(str(last) in text and "damaged" in text for text in listener.said)
    assert any("starting anew" in text for text in listener.said) == (lost == "all")
    assert find_checkpoint(tmp_path / "run") == last  # sound again
    aside = tmp_path / "run" / "checkpoints" / "damaged"
    assert (aside / f"{last.name}-1" / "state.pt").read_bytes() == b"torn"
    kept = Metrics(aside / "metrics.jsonl-1").rows()
    assert timeless(kept) == (whole.lines if lost == "all" else [])


def test_a_flipped_pointer_begins_nothing_anew(tmp_path: Path) -> None:
    """``last`` names a step that never was: no epoch is trained again, no row is lost, and it is said."""
    whole = train(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last").write_text("00000002\n")
    before, listener = (tmp_path / "run" / "metrics.jsonl").read_bytes(), Listener()
    resumed = train(tmp_path / "run", resume=True, listener=listener)
    assert listener.losses == []
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert any("names 00000002, which is not there" in text for text in listener.said)
    assert not any("anew" in text for text in listener.said)


def test_a_passing_failure_of_the_disk_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest checkpoint cannot be read this once: resuming fails, and the next time goes on from it."""
    whole, last = train(tmp_path / "run"), find_checkpoint(tmp_path / "run")
    opened = Path.open

    def fail(path: Path, *more: Any, **options: Any) -> Any:
        if path == last / "weights.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(OSError, match="Input/output"):
            train(tmp_path / "run", resume=True)
    listener = Listener()
    resumed = train(tmp_path / "run", resume=True, listener=listener)
    assert listener.losses == []
    assert resumed.lines == whole.lines


def test_what_did_not_count_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A best checkpoint that was whole when the run was killed, before ``last``, is gone; ``best`` is as it was."""
    whole, folder = train(tmp_path / "run"), tmp_path / "run" / "checkpoints"
    shutil.rmtree(folder / "00000010")
    save(tmp_path / "run", 10, best=True)  # of other bits, as other processes may have made it
    (folder / "last").write_text("00000005\n")
    with monkeypatch.context() as patch:
        patch.setattr(Stopwatch, "stop_reason", lambda _self: "stop")
        train(tmp_path / "run", resume=True)
    assert find_checkpoint(tmp_path / "run", "best").name == "00000005"
    train(tmp_path / "run", resume=True)
    assert fingerprint(load(tmp_path / "run")) == fingerprint(whole.model)


def test_stopping_twice_in_one_place_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed and stopped before a step, again and again, the run loses and gains nothing."""
    whole = train(tmp_path / "whole")
    answers = iter([None, None, "stop", "stop", "stop"])
    with monkeypatch.context() as patch:
        patch.setattr(Stopwatch, "stop_reason", lambda _self: next(answers))
        for resume in (False, True, True):
            stopped = train(tmp_path / "run", resume=resume)
            assert stopped.history.stopped == "stop"
            assert find_checkpoint(tmp_path / "run").name == "00000002"
    resumed = train(tmp_path / "run", resume=True)
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert resumed.lines == whole.lines


def test_stopped_at_every_step_it_is_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped after each single step and resumed is, in the end, the undisturbed one."""
    whole = train(tmp_path / "whole", fsr="paper", augment="crop_flip")
    with monkeypatch.context() as patch:
        for turn in range(30):
            answers = iter([None, "stop"])
            patch.setattr(Stopwatch, "stop_reason", lambda _self, answers=answers: next(answers))
            part = train(tmp_path / "run", fsr="paper", augment="crop_flip", resume=turn > 0)
            if part.history.stopped is None:
                break
    assert turn == whole.history.rows[-1]["step"] - 1
    assert fingerprint(part.model) == fingerprint(whole.model)
    assert part.lines == whole.lines


def test_nan_in_a_later_epoch_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names step, epoch and samples of the batch; what was saved before is finite and loads."""
    import fsrobust.train.objectives as objectives

    count, classify = 0, objectives.classify

    def spoilt(*arguments: object) -> Loss:
        nonlocal count
        count += 1
        loss = classify(*arguments)  # type: ignore[arg-type]
        return Loss(loss.total * torch.nan, loss.terms, loss.logits) if count == 8 else loss

    monkeypatch.setattr(objectives, "classify", spoilt)
    with pytest.raises(TrainingError, match=r"not finite at step 8 \(epoch 2, samples ") as caught:
        train(tmp_path / "run")  # five batches an epoch
    assert "keeps the last good checkpoint" in str(caught.value)
    named = str(caught.value).split("samples ")[1].split(" …")[0]
    assert {int(i) for i in named.split(", ")} <= set(digits(90).ids.tolist())
    assert find_checkpoint(tmp_path / "run").name == "00000005"
    assert all(torch.isfinite(value).all() for value in load(tmp_path / "run").state_dict().values())


def test_held_out_samples_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids that training asks noise for and those of validation are disjoint, and 90 in all."""
    seen: dict[str, set[int]] = {}
    plain = Noise.of

    def spy(ids: torch.Tensor, *words: int | str) -> object:
        seen.setdefault(str(words[1]), set()).update(ids.tolist())
        return plain(ids, *words)

    monkeypatch.setattr(Noise, "of", spy)
    train(tmp_path / "run", epochs=12, batch=8, objective=at(steps=1))
    assert len(seen["validation"]) == 9
    assert seen["train"].isdisjoint(seen["validation"])
    assert seen["train"] | seen["validation"] == set(digits(90).ids.tolist())
