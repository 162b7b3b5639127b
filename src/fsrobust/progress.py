"""Progress as a person wants to see it: a bar with the time left, or a line per epoch without a terminal."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from fsrobust.train import Reporter
from fsrobust.train.control import duration as duration
from fsrobust.types import InputError


class _TimeLeft(TimeRemainingColumn):
    """The time left: what a task says of itself, else what its speed says."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return super().render(task) if left is None else Text(f"about {duration(left)}", "progress.remaining")


class ConsoleReporter:
    """Shows training and attacks on a console; a context manager, so that the bar goes when work is done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            _TimeLeft(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._whole: TaskID | None = None
        self._title = ""
        self._started = time.monotonic()
        self._first = 0.0

    def __enter__(self) -> "ConsoleReporter":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Move the bar of the whole run."""
        self._move("training", epoch - 1 + share, epochs, f"epoch {epoch}/{epochs}, loss {loss:.3f}")

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Print the epoch's line, unless a bar is shown and there are many."""
        if self.console.is_terminal and row["epoch"] % max(1, epochs // 5) and row["epoch"] != epochs:
            return
        self.say(epoch_line(row, epochs))

    def attack(self, name: str, done: int, total: int) -> None:
        """Move the bar of one attack."""
        self._move(name, done, total, f"{name}, {done}/{total} samples")
        if done == total and not self.console.is_terminal:
            self.say(f"{name}: {total} samples done")

    def overall(self, text: str, share: float, left: float) -> None:
        """Move the bar of a whole plan, which stays above the others."""
        if self._whole is None:
            self._whole = self._bar.add_task(text, total=1.0)
        self._bar.update(self._whole, completed=share, description=text, left=left)

    def _move(self, title: str, done: float, total: float, text: str) -> None:
        if self._task is None or title != self._title:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._title = self._bar.add_task(text, total=total), title
        self._bar.update(self._task, completed=done, total=total, description=text)
        if done >= total:
            self._bar.remove_task(self._task)
            self._task = None


class TensorBoardReporter:
    """Writes each epoch's numbers for TensorBoard, and passes everything on to ``inner``.

    A resumed run writes on into the same folder; an epoch that is trained again replaces its points.
    """

    def __init__(self, inner: Reporter, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                'Expected TensorBoard for --tensorboard; pip install -e ".[tensorboard]"'
            ) from error
        self.inner = inner
        self._folder, self._make = folder, SummaryWriter
        self._writer: SummaryWriter | None = None

    def say(self, text: str) -> None:
        """Pass the sentence on."""
        self.inner.say(text)

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Pass the state on."""
        self.inner.batch(epoch, epochs, share, loss)

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Write every number of the row as a scalar at its step."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=row["step"])
        for name, value in flatten(row):
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()
        self.inner.epoch(row, epochs)


def flatten(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield a row's numbers by name, those of parts as "whole/part".

    >>> list(flatten({"loss": 1.5, "step_seconds": {"attack": 2.0}, "note": "text"}))
    [('loss', 1.5), ('step_seconds/attack', 2.0)]
    """
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """Return an epoch's metrics in a line.

    >>> epoch_line({"epoch": 1, "loss": 2.0, "train_accuracy": 0.5, "seconds": 60.0}, 3)
    'epoch 1/3  loss 2.000  train 50.0 %  60.0 s  about 2 min left'
    """
    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"loss {row['loss']:.3f}",
        f"train {100 * row['train_accuracy']:.1f} %",
    ]
    for key, name in (("validation_natural", "natural"), ("validation_robust", "robust")):
        if key in row:
            parts.append(f"{name} {100 * row[key]:.1f} %")
    parts.append(f"{row['seconds']:.1f} s")
    if "images_per_second" in row:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    left = (epochs - row["epoch"]) * row["seconds"]
    if left:
        parts.append(f"about {duration(left)} left")
    return "  ".join(parts)


def parse_duration(text: str) -> float:
    """Return seconds from "90", "90s", "25m" or "1h30m"; "1h30" is an hour and a half, as a person says it.

    >>> parse_duration("1h30m"), parse_duration("1h30"), parse_duration("25m"), parse_duration("90")
    (5400.0, 5400.0, 1500.0, 90.0)

    Raises:
        InputError: anything else.
    """
    plain = text.strip()
    match = re.fullmatch(
        r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]+)?)s?)?",
        f"{plain}m" if re.fullmatch("[0-9]+h[0-9]+", plain) else plain,
    )
    if not match or not any(match.groups()):
        raise InputError(f'Expected a duration such as 90s, 25m or 1h30m, but got "{text}"')
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds
