"""Who wins where: against verdicts made by hand."""

from pathlib import Path

from fsrobust.report import report
from fsrobust.report.entries import cast
from fsrobust.report.results import read_run
from fsrobust.report.winners import contests
from tests.report.builder import Fake, write_run
from tests.report.test_html import Page


def runs(folder: Path) -> list[Path]:
    """Return three runs on the same 20 images: 15, 13 and 0 of them withstand FGSM; they are equal when clean."""
    counts = {"strong": 5, "middling": 7, "weak": 20}
    return [
        write_run(
            folder / name,
            Fake(fooled_last={"fgsm": "1" * k + "0" * (20 - k)}, fooled_any={}, weights=k),
            title=f"CIFAR-10, {name}",
        )
        for name, k in counts.items()
    ]


def test_the_best_is_named_and_what_the_intervals_say_of_it(tmp_path: Path) -> None:
    """15 of 20 is apart from 0 and not from 13; equals share the place."""
    (contest,) = contests(cast([read_run(run) for run in runs(tmp_path)]).entries)
    found = {winner.column: winner for winner in contest.winners}
    assert (found["fgsm"].best, found["fgsm"].cell.accuracy) == ("strong", 0.75)
    assert found["fgsm"].verdict == "apart from that of weak; overlaps that of middling"
    assert found["natural"].best == "strong, middling and weak"
    assert found["natural"].verdict == "all are equal"
    assert contest.sample.startswith("20 test images of cifar10")


def test_a_page_of_one_run_has_no_winner(tmp_path: Path) -> None:
    """Nor have runs that did not meet the same images; a page of several has the table."""
    three = runs(tmp_path)
    other = write_run(tmp_path / "other", Fake(seed=5, data="svhn"), title="SVHN, AT")
    assert contests(cast([read_run(three[0])]).entries) == []
    assert contests(cast([read_run(three[0]), read_run(other)]).entries) == []
    page = Page(report(three, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Who withstands what best" in page.text
    assert "FGSM strong 75.0 53.1–88.8 apart from that of weak; overlaps that of middling" in page.text
