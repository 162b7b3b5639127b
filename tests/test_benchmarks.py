"""The benchmark against the reference: sides in turn, medians, cold runs apart, all that is ours on our bill."""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks import autoattack
from fsrobust.attacks import Linf
from fsrobust.evaluate.searching import choose_precision
from tests.runs import digits, learnt


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but for what is added to its one number."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def side(
    name: str, seconds: Iterator[float], clock: list[float], order: list[str]
) -> Callable[[], Callable[[], dict[str, Any]]]:
    """Return work that takes so long in turn, and whose summing up takes 1,000 s more."""

    def finish() -> dict[str, Any]:
        clock[0] += 1000
        return {"standing": len(order)}

    def work() -> Callable[[], dict[str, Any]]:
        order.append(name)
        clock[0] += next(seconds)
        return finish

    return work


def test_sides_take_turns_and_medians_are_reported(clock: list[float]) -> None:
    """A cold run of each first, apart from the rest; then in turn; what follows the search is nobody's time."""
    order: list[str] = []
    times = {"reference": iter([90.0, 5, 1, 4]), "fp32": iter([70.0, 2, 3, 9])}
    sides = {name: side(name, seconds, clock, order) for name, seconds in times.items()}
    rows = autoattack.timed(sides, repeats=3, device=torch.device("cpu"))
    assert order == ["reference", "fp32"] * 4
    assert {name: row["seconds"] for name, row in rows.items()} == {"reference": 4, "fp32": 3}
    assert {name: row["cold"] for name, row in rows.items()} == {"reference": 90, "fp32": 70}
    assert rows["fp32"]["times"] == [2, 3, 9]
    assert rows["fp32"]["standing"] == 8


def test_our_view_is_on_our_bill(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    """The folded copy of the network is made within our seconds, every time."""

    def slow(*arguments: Any) -> object:
        clock[0] += 30
        return choose_precision(*arguments)

    def reference(*_: object) -> Callable[[], dict[str, Any]]:
        clock[0] += 40
        return lambda: {"standing": 0, "forwards": 0}

    monkeypatch.setattr(autoattack, "choose_precision", slow)
    monkeypatch.setattr(autoattack, "_reference", reference)
    monkeypatch.setattr(autoattack, "multiplies_bf16", lambda _: False)
    data = digits(8, "test")
    options = argparse.Namespace(batch=8, repeats=2)
    row = autoattack.compare("apgd-ce", learnt(), data.images / 255, data.labels, Linf(0.05), options)
    assert row["fp32"]["times"] == [30, 30]
    assert row["reference"]["seconds"] == 40
    assert {"seconds", "times", "cold", "standing", "forwards", "backwards"} <= set(row["fp32"])


def test_a_single_run_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    """With --repeats 1 there is no median to speak of, and the output says so; cold times are printed."""
    assert "single run" in autoattack._repeats_in_words(1)
    assert "median seconds of 3 runs" in autoattack._repeats_in_words(3)
    one = {"seconds": 2.0, "cold": 9.0, "standing": 1}
    autoattack._print("square", {"reference": one, "fp32": {**one, "seconds": 1.0}})
    text = capsys.readouterr().out
    assert "ratio 2.00" in text
    assert "cold: reference 9.0 s, fp32 9.0 s" in text
