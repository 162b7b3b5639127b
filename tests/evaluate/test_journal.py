"""An attack that is not a cascade, killed after any batch, ends where it would have ended."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from fsrobust.attacks import PGD, Attack, Linf, Square
from fsrobust.data.batches import pixels
from fsrobust.evaluate.engine import AttackResult, run_attack
from fsrobust.evaluate.journal import Pace
from fsrobust.evaluate.transfer import transfer_attack
from tests.runs import digits, learnt

BALL = Linf(0.1)
N, BATCH = 14, 4


def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let progress be noted after every batch."""
    module = sys.modules["fsrobust.evaluate.journal"]  # evaluate is also a function's name
    monkeypatch.setattr(module, "_PAUSE", -1.0)
    monkeypatch.setattr(module, "_SHARE", float("inf"))


class _KilledError(Exception):
    """Stands for a kill."""


def attacked(
    attack: Attack, journal: Path | None, *, transfer: bool, dies_after: int | None = None
) -> AttackResult:
    """Run an attack, from another network's gradients or not; it may die once so many batches are done."""
    model, data = learnt(), digits(N, "test")
    done = 0

    def count(_name: str, _done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if done == dies_after:
            raise _KilledError

    networks: list[nn.Module] = [learnt("paper"), model] if transfer else [model]
    run: Any = transfer_attack if transfer else run_attack
    result: AttackResult = run(
        attack,
        *networks,
        pixels(data.images),
        data.labels,
        ids=data.ids,
        batch=BATCH,
        journal=journal,
        progress=count,
    )
    return result


@pytest.mark.parametrize("transfer", [False, True], ids=["direct", "transfer"])
@pytest.mark.parametrize(
    "attack",
    [PGD(BALL, steps=3, step_size=0.05, random_start=True, restarts=2), Square(BALL, queries=20)],
    ids=["pgd", "square"],
)
def test_killed_after_any_batch(
    attack: Attack, *, transfer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts, images, path and counts are those of the undisturbed attack."""
    always_due(monkeypatch)
    expected = attacked(attack, None, transfer=transfer)
    for batches in (1, 2, 3):
        file = tmp_path / f"{batches}.npz"
        with pytest.raises(_KilledError):
            attacked(attack, file, transfer=transfer, dies_after=batches)
        resumed = attacked(attack, file, transfer=transfer)
        for field in fields(AttackResult):
            ours, theirs = getattr(resumed, field.name), getattr(expected, field.name)
            if field.name != "seconds":
                assert np.array_equal(ours, theirs), field.name
        assert resumed.seconds > 0


def test_of_a_damaged_journal_nothing_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torn, or of another number of samples: it is said, and the attack starts anew."""
    always_due(monkeypatch)
    attack, model, data = PGD(BALL, steps=2, step_size=0.05), learnt(), digits(6, "test")
    file, said = tmp_path / "progress.npz", list[str]()

    def run(n: int) -> AttackResult:
        x, y, ids = pixels(data.images[:n]), data.labels[:n], data.ids[:n]
        return run_attack(attack, model, x, y, ids=ids, batch=2, journal=file, say=said.append)

    expected = run(6)
    assert not said
    assert np.array_equal(run(4).predicted, expected.predicted[:4])
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(run(6).predicted, expected.predicted)
    assert len(said) == 2
    assert all("starts anew" in sentence for sentence in said)


def test_progress_is_noted_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 20 s, but not so often that writing took more than a twentieth of the time."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    pace, written = Pace(), list[float]()

    def write() -> None:
        written.append(clock[0])
        clock[0] += 2.0

    for second in range(0, 100, 5):
        clock[0] = max(clock[0], float(second))
        pace.note(write)
    assert written == [25.0, 70.0]
    pace.note(write, now=True)
    assert len(written) == 3
