"""Who is told of whom: a process that was lost, one that failed, and one that nobody needs any more."""

import queue
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from fsrobust.train.lifelines import DONE, FAILED, Lifelines

SOON = 3.0
"""Seconds: less than anybody waits for a process that is gone."""


class Line:
    """The connections of one process: what was ``heard``, None for a broken line, and what was ``sent``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: queue.Queue[int | None] = queue.Queue()
        self.sent: list[int] = []
        monkeypatch.setattr(dist, "new_group", lambda **_: None)
        monkeypatch.setattr(dist, "send", lambda word, **_: self.sent.append(int(word)))
        monkeypatch.setattr(dist, "recv", self._receive)
        monkeypatch.setattr(dist, "irecv", self._begin)

    def _receive(self, word: Tensor, **_: Any) -> None:
        number = self.heard.get()
        if number is None:
            raise RuntimeError("the connection is closed")
        word.fill_(number)

    def _begin(self, word: Tensor, **_: Any) -> Any:
        class Work:
            def wait(_self, _timeout: timedelta) -> None:  # noqa: N805
                self._receive(word)

        return Work()


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """Return connections that say what the test says."""
    return Line(monkeypatch)


def test_nobody_is_missed_when_the_run_is_complete(line: Line) -> None:
    """Rank 0, done, waits for a process that then dies: it goes on at once, its run whole."""
    lifelines, started = Lifelines(0, 2), time.monotonic()
    threading.Timer(0.2, line.heard.put, [None]).start()
    lifelines.leave(DONE)
    assert 0.1 < time.monotonic() - started < SOON
    assert line.sent == [DONE]
    assert lifelines.lost == 1
    assert not lifelines.broken()


def test_rank_0_is_missed_until_it_has_written(line: Line) -> None:
    """Another process, done, waits for rank 0, which dies before it is: that is said."""
    lifelines, started = Lifelines(1, 2), time.monotonic()
    threading.Timer(0.2, line.heard.put, [None]).start()
    lifelines.leave(DONE)
    assert time.monotonic() - started < SOON
    assert lifelines.broken()
    assert lifelines.speaks
    assert "Process 0 of 2" in lifelines.sentence()


def test_all_done_is_nothing_broken(line: Line) -> None:
    """Each waits for the other's word, and both leave."""
    for rank in (0, 1):
        lifelines = Lifelines(rank, 2)
        threading.Timer(0.2, line.heard.put, [DONE]).start()
        lifelines.leave(DONE)
        assert lifelines.lost is None
        assert not lifelines.broken()


def test_one_that_fails_is_given_time_to_say_so(line: Line) -> None:
    """Who hears of it does not speak, and stays until the line breaks: torchrun ends all when one ends."""
    lifelines = Lifelines(0, 2)
    line.heard.put(FAILED)
    assert lifelines.broken(wait=SOON)
    lifelines.leave(FAILED)
    assert not lifelines.speaks
    waiting = threading.Thread(target=lifelines.await_end)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    line.heard.put(None)
    waiting.join(SOON)
    assert not waiting.is_alive()
