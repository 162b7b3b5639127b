"""What a run costs while it runs: seconds by part of the step, and memory; nothing here waits for a GPU."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Laps:
    """Seconds spent in named parts of a step, summed until read.

    On a GPU the device's own clock is read: events are queued between kernels and cost nothing; inside a
    graph, where there is no queue to put them in, nothing is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Time what happens inside under ``name``."""
        if self.device.type == "cuda":
            with self._events_around(name):
                yield
            return
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def _events_around(self, name: str) -> Iterator[None]:
        if torch.cuda.is_current_stream_capturing():
            yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._events.append((name, begin, end))

    def read(self) -> dict[str, float]:
        """Return the seconds of each part since the last reading; waits for the device."""
        if self._events:
            torch.cuda.synchronize(self.device)
        for name, begin, end in self._events:
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds


def cost(laps: Laps, seconds: float, images: int) -> dict[str, object]:
    """Return what an epoch cost; ``step_seconds`` splits the steps that could be timed by their parts."""
    return {
        "seconds": seconds,
        "images_per_second": images / seconds if seconds else 0.0,
        "step_seconds": laps.read(),
        "peak_memory_bytes": peak_memory(laps.device),
    }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere else
