"""Progress: what a person reads while they wait."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fsrobust.progress import ConsoleReporter, TensorBoardReporter, duration, epoch_line, parse_duration
from fsrobust.types import InputError
from tests.runs import Listener

ROW = {"epoch": 2, "loss": 1.2345, "train_accuracy": 0.5, "seconds": 90.0}


def test_an_epochs_line_says_what_there_is() -> None:
    """Accuracies are in %, validation is shown where there was one, the last epoch has no time left."""
    assert epoch_line(ROW, 4) == "epoch 2/4  loss 1.234  train 50.0 %  90.0 s  about 3 min left"
    validated = ROW | {"validation_natural": 0.9, "validation_robust": 0.25}
    assert (
        epoch_line(validated, 2)
        == "epoch 2/2  loss 1.234  train 50.0 %  natural 90.0 %  robust 25.0 %  90.0 s"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5999, "100 min"), (86400, "24.0 h")]
)
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, text: str) -> None:
    """Seconds below 100 s, minutes below 100 min, hours above."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("0.5s", 0.5),
        ("25m", 1500),
        ("1h30m", 5400),
        ("1h30", 5400),  # as people say it
        ("1m30", 90),
        ("2h", 7200),
        ("1h2m3s", 3723),
        (" 5m ", 300),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Hours, minutes and seconds add up; a bare number is seconds, after hours minutes."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "soon", "-5m", "5 m", "m", "1.5h", "30m1h", "10x", "1e3", "5mm", "٣m", "9" * 400]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Anything else is refused, and shown in the message."""
    with pytest.raises(InputError, match=r"duration such as 90s, 25m or 1h30m") as refused:
        parse_duration(text)
    assert f'"{text}"' in str(refused.value)


def test_without_a_terminal_there_is_a_line_per_epoch() -> None:
    """In a log file: one line per epoch and one per attack, no bars, no control characters."""
    output = io.StringIO()
    with ConsoleReporter(Console(file=output, force_terminal=False, width=40)) as reporter:
        for epoch in range(1, 13):
            for share in (0.5, 1.0):
                reporter.batch(epoch, 12, share, 1.0)
            reporter.epoch(ROW | {"epoch": epoch}, 12)
        for done in (100, 200):
            reporter.attack("pgd20", done, 200)
        reporter.say("a [path] is no markup")
    lines = output.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:12]] == [f"{epoch}/12" for epoch in range(1, 13)]
    assert lines[12:] == ["pgd20: 200 samples done", "a [path] is no markup"]
    assert "\x1b" not in output.getvalue()


def test_a_terminal_has_a_bar_and_few_lines() -> None:
    """On a terminal, long runs print every fifth of their epochs and the last; the bar says the rest."""
    output = io.StringIO()
    with ConsoleReporter(Console(file=output, force_terminal=True, width=100)) as reporter:
        for epoch in range(1, 21):
            reporter.batch(epoch, 20, 1.0, 1.0)
            reporter.epoch(ROW | {"epoch": epoch}, 20)
        reporter.attack("pgd20", 1, 3)
        reporter.attack("cw", 3, 3)
    text = output.getvalue()
    shown = [epoch for epoch in range(1, 21) if f"epoch {epoch}/20  loss" in text]
    assert shown == [4, 8, 12, 16, 20]


def test_a_plan_has_one_bar_with_its_own_time_left() -> None:
    """It stands above the bar of what is under way, which has the time that its speed says."""
    output = io.StringIO()
    with ConsoleReporter(Console(file=output, force_terminal=True, width=100)) as reporter:
        reporter.overall("1/15  S5 at, seed 0", 0.0, 9000.0)
        reporter.attack("pgd20", 1, 3)
        reporter.overall("1/15  S5 at, seed 0", 0.25, 6000.0)
        reporter._bar.refresh()
        first, second = reporter._bar.tasks
    assert (first.percentage, second.description) == (25.0, "pgd20, 1/3 samples")
    assert "1/15  S5 at, seed 0" in output.getvalue()
    assert "about 1.7 h" in output.getvalue()


def test_a_quiet_console_says_nothing() -> None:
    """With --json nothing but the object is printed: the reporter is silent."""
    output = io.StringIO()
    with ConsoleReporter(Console(file=output, quiet=True)) as reporter:
        reporter.say("hello")
        reporter.epoch(ROW, 4)
        reporter.attack("pgd20", 2, 2)
    assert output.getvalue() == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_tensorboard_gets_every_number_of_an_epoch(tmp_path: Path) -> None:
    """What is written reads back, nested parts too, and the inner reporter hears everything."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    inner = Listener()
    reporter = TensorBoardReporter(inner, tmp_path)
    reporter.say("a sentence")
    reporter.batch(1, 2, 0.5, 1.0)
    for epoch in (1, 2):
        reporter.epoch(
            {**ROW, "epoch": epoch, "step": 10 * epoch, "step_seconds": {"attack": 3.0 * epoch}}, 2
        )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("step_seconds/attack")] == [(10, 3.0), (20, 6.0)]
    assert events.Scalars("loss")[0].value == pytest.approx(ROW["loss"])
    assert (inner.said, inner.losses, len(inner.rows)) == (["a sentence"], [1.0], 2)


def test_without_tensorboard_one_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is trained."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"\.\[tensorboard\]"):
        TensorBoardReporter(Listener(), tmp_path)
