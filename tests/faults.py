"""A process that dies between two file operations, at each of them in turn."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

OPERATIONS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")
"""What changes a file system for good; pathlib and shutil go through these. To them come opening and writing."""


class Killed(BaseException):
    """The process is gone: nothing may catch this and go on."""


@dataclass
class Fault:
    """Which operation is the last that is not carried out; ``died`` says whether it came to that."""

    at: int
    count: int = 0
    died: bool = False

    def pass_through(self) -> None:
        """Count an operation; from the fatal one on, none is carried out, no cleaning up either."""
        self.count += 1
        if self.died or self.count == self.at:
            self.died = True
            raise Killed(f"before file operation {self.at}")


class Torn:
    """A file of which half a write may be all that gets through."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file, self._fault = file, fault

    def write(self, content: Any) -> int:
        """Write all of it or, at the fatal operation, the first half."""
        try:
            self._fault.pass_through()
        except Killed:
            if self._fault.count == self._fault.at:
                self._file.write(content[: len(content) // 2])
                self._file.flush()
            raise
        written: int = self._file.write(content)
        return written

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[Fault]:
    """Die before the ``at``-th file operation of the block, as SIGKILL would have it; then go on after it."""
    fault = Fault(at)

    def guarded(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            fault.pass_through()
            return operation(*arguments, **options)

        return run

    opened = io.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode).isdisjoint("wax+"):
            return opened(file, mode, *arguments, **options)
        fault.pass_through()
        return Torn(opened(file, mode, *arguments, **options), fault)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", opening)  # as pathlib opens
        for name in OPERATIONS:
            patch.setattr(os, name, guarded(getattr(os, name)))
        try:
            yield fault
        except Killed:
            assert fault.died


def every_fault(trial: Callable[[int], Fault], *, most: int = 300) -> int:
    """Call ``trial(k)``, which dies at operation k, for k = 1, 2, … until it survives; return how many died."""
    for at in range(1, most):
        if not trial(at).died:
            return at - 1
    raise AssertionError(f"still dying at file operation {most}")


@dataclass
class Refusal:
    """From which operation on a file system refuses to write; ``met`` says whether it came to that."""

    at: int
    count: int = 0
    met: bool = False

    def pass_through(self, number: int, path: object) -> None:
        """Count an operation; raise what the system would from the fatal one on."""
        self.count += 1
        if self.count >= self.at:
            self.met = True
            name = path if isinstance(path, str | os.PathLike) else None
            raise OSError(number, os.strerror(number), *([os.fspath(name)] if name else []))


@contextmanager
def refused_from(monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> Iterator[Refusal]:
    """Refuse the ``at``-th write of the block and all after it with an errno; deleting goes on working."""
    refusal = Refusal(at)

    def guarded(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(path: Any, *arguments: Any, **options: Any) -> Any:
            refusal.pass_through(number, path)
            return operation(path, *arguments, **options)

        return run

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wxa") and str(path) not in SPARED:
            refusal.pass_through(number, path)
        return OPEN(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "mkdir", "fsync"):
            patch.setattr(os, name, guarded(getattr(os, name)))
        patch.setattr(io, "open", opened)
        yield refusal


OPEN = io.open
SPARED = ("/dev/null",)
