"""Who wins where: against verdicts made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from fsrobust.evaluate import wilson
from fsrobust.evaluate.stats import Paired
from fsrobust.report import report
from fsrobust.report.entries import Entry, cast
from fsrobust.report.results import read_run
from fsrobust.report.tables import accuracy_table
from fsrobust.report.winners import Winner, contests, right
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


def winners(*entries: Entry) -> dict[str, Winner]:
    """Return the winners of the one group that entries make, by column."""
    (contest,) = contests(entries)
    return {winner.column: winner for winner in contest.winners}


def test_the_best_is_named_and_what_the_images_show_of_it(tmp_path: Path) -> None:
    """15 of 20 is ahead of 0 and not shown to be ahead of 13; equals share the place."""
    entries = cast([read_run(run) for run in runs(tmp_path)]).entries
    (contest,) = contests(entries)
    found = winners(*entries)
    assert (found["fgsm"].best, found["fgsm"].cell.accuracy) == ("strong", 0.75)
    assert found["fgsm"].verdict.replace("\N{NO-BREAK SPACE}", " ") == (
        "ahead of weak (by 75.0 points, 95 % interval 47.8 to 88.8); "
        "not shown to be ahead of middling (by 10.0 points, 95 % interval −6.5 to 26.2)"
    )
    assert Paired(0, 0, 15, 5).interval() == pytest.approx((0.478, 0.888), abs=5e-4)
    assert found["natural"].best == "strong, middling and weak"
    assert found["natural"].verdict == "all are equal"
    assert contest.sample.startswith("20 test images of cifar10")


def test_pairs_decide_where_intervals_overlap(tmp_path: Path) -> None:
    """46 against 60 of 100 by the same images: the intervals overlap, the paired test is certain of it."""
    folders = [
        write_run(
            tmp_path / name,
            Fake(
                natural="1" * 100,
                fooled_last={"fgsm": "1" * k + "0" * (100 - k), "pgd20": "1" * k + "0" * (100 - k)},
                fooled_any={},
                weights=k,
            ),
            title=name,
        )
        for name, k in {"base": 54, "better": 40}.items()
    ]
    found = winners(*cast([read_run(folder) for folder in folders]).entries)
    cells = {"base": wilson(46, 100), "better": wilson(60, 100)}
    assert cells["base"].high > cells["better"].low
    for column in ("fgsm", "all"):
        assert found[column].best == "better"
        assert found[column].verdict.startswith("ahead of base (by 14.0")


def test_every_column_is_judged_by_its_own_bits(tmp_path: Path) -> None:
    """The bits behind a verdict are those that the accuracy beside it counts, ensembles included."""
    fakes = [Fake(), Fake(weights=1, fooled_last={"fgsm": "1" * 5 + "0" * 15}, fooled_any={})]
    folders = [write_run(tmp_path / str(k), fake, title=f"run {k}") for k, fake in enumerate(fakes)]
    entries = cast([read_run(folder) for folder in folders]).entries
    table = accuracy_table({entry.label: entry.evaluation.outcome for entry in entries})
    assert {"natural", "cw", "ensemble", "all"} <= set(table.rows[0].cells)
    for entry, row in zip(entries, table.rows, strict=True):
        for column, cell in row.cells.items():
            assert right(entry.evaluation.outcome, column).mean() == cell.accuracy


def test_other_images_are_no_pairs(tmp_path: Path) -> None:
    """Where verdicts are on images of other ids, the intervals decide, as they are all there is."""
    first, *rest = cast([read_run(run) for run in runs(tmp_path)]).entries
    outcome = first.evaluation.outcome
    moved = replace(
        first, evaluation=replace(first.evaluation, outcome=replace(outcome, ids=outcome.ids + 1))
    )
    assert winners(moved, *rest)["fgsm"].verdict == (
        "interval apart from that of weak; interval overlaps that of middling"
    )


def test_a_page_of_one_run_has_no_winner(tmp_path: Path) -> None:
    """Nor have runs that did not meet the same images; a page of several has the table."""
    three = runs(tmp_path)
    other = write_run(tmp_path / "other", Fake(seed=5, data="svhn"), title="SVHN, AT")
    assert contests(cast([read_run(three[0])]).entries) == []
    assert contests(cast([read_run(three[0]), read_run(other)]).entries) == []
    page = Page(report(three, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Who withstands what best" in page.text
    assert "FGSM strong 75.0 53.1–88.8 ahead of weak (by 75.0 points" in page.text
