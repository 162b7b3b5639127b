"""What happens around a training run: signals, the clock, and whoever is watching."""

import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
    """Whoever watches a run."""

    def say(self, text: str) -> None:
        """Take a sentence."""

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Take the state of the epoch under way, of which a ``share`` in [0, 1] is done."""

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Take a finished epoch's row of metrics."""


class Silent:
    """A reporter that keeps quiet."""

    def say(self, text: str) -> None:
        """Drop the sentence."""

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Drop the state."""

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Drop the row."""


@dataclass
class Stopwatch:
    """Ask to stop on SIGTERM, on Ctrl-C, or when ``limit`` seconds have passed; handlers go back after.

    A second Ctrl-C is not held up.
    """

    limit: float | None = None
    reason: str | None = None
    _started: float = field(default_factory=lambda: time.monotonic())
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "Stopwatch":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = f"received {signal.Signals(number).name}"

    @classmethod
    def until(cls, deadline: float | None) -> "Stopwatch":
        """Return one that ends with the ``deadline`` of another process, in seconds since the epoch."""
        return cls(None if deadline is None else deadline - time.time())

    @property
    def left(self) -> float | None:
        """Seconds until the limit, below 0 after it; None without one."""
        return None if self.limit is None else self._started + self.limit - time.monotonic()

    @property
    def deadline(self) -> float | None:
        """When the limit will be reached, in seconds since the epoch, which other processes know, too."""
        return None if self.left is None else time.time() + self.left

    def stop_reason(self) -> str | None:
        """Return why the run should stop now, None to go on."""
        if self.reason is None and self.left is not None and self.left <= 0:
            self.reason = "the time limit is reached"
        return self.reason


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits.

    >>> duration(45.0), duration(150.0), duration(9000.0), duration(1e6)
    ('45 s', '2 min', '2.5 h', '12 days')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds >= 72 * 3600:
        return f"{seconds / 86400:.0f} days"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
