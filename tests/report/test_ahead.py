"""What a page says of who withstands more: against verdicts made by hand, and against what ``compare`` says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fsrobust.attacks import Linf
from fsrobust.evaluate import wilson
from fsrobust.report.ahead import summary
from fsrobust.report.entries import Entry, cast
from fsrobust.report.results import read_run
from fsrobust.report.rungs import rungs
from fsrobust.report.versus import versus
from fsrobust.report.winners import contests
from fsrobust.report.words import SPACE
from tests.report.builder import Fake, write_fake, write_run


def write(folder: Path, fooled: Mapping[str, str]) -> list[Path]:
    """Return a run for each name, whom FGSM fooled where the text has a 1; all are right when clean."""
    return [
        write_run(
            folder / name,
            Fake(
                natural="1" * len(text),
                of=2000,
                fooled_last={"fgsm": text},
                fooled_any={},
                weights=k,
                parts=(),
            ),
            title=name,
        )
        for k, (name, text) in enumerate(fooled.items())
    ]


def entries(folders: list[Path]) -> list[Entry]:
    """Return the rows of their page."""
    return list(cast([read_run(folder) for folder in folders]).entries)


def said(*rows: Entry) -> str:
    """Return the summary with plain spaces."""
    return " ".join(summary(rows)).replace(SPACE, " ")


def apart(b: int, both: int = 455) -> dict[str, str]:
    """Return a base that stands on ``both`` of 1,000 images, and another one that stands on ``b`` more."""
    return {"AT": "0" * both + "1" * (1000 - both), "FSR": "0" * (both + b) + "1" * (1000 - both - b)}


def test_the_same_images_decide_where_intervals_overlap(tmp_path: Path) -> None:
    """45.5 % and 49.7 % of the same 1,000 images: the page says what ``compare`` says, with the interval."""
    folders = write(tmp_path, apart(42))
    assert wilson(455, 1000).high > wilson(497, 1000).low
    text = said(*entries(folders))
    assert (
        "FSR withstands more of the same 1,000 images than AT (by 4.2 points, 95 % interval 2.9 to 5.5"
        in text
    )
    assert "p <0.0001): by the exact McNemar test, chance in the choice of images hardly makes" in text
    assert "do not show" not in text
    assert (
        "B is ahead by 4.2 points (95 % interval 2.9 to 5.5)"
        in versus(*([f] for f in folders)).comparison.sentence
    )


def test_few_discordant_images_show_nothing(tmp_path: Path) -> None:
    """5 images that only one of them withstands have p = 0.062: too few, and the page says by which test."""
    text = said(*entries(write(tmp_path, apart(5))))
    assert "These 1,000 images alone do not show that FSR withstands more than AT (by 0.5 points" in text
    assert "p 0.062): by the exact McNemar test, chance in the choice of images could make" in text


def test_all_pairs_count(tmp_path: Path) -> None:
    """6 discordant images have p = 0.031 between two models, but not where the best of three was looked for."""
    runs = apart(6)
    assert "FSR withstands more of" in said(*entries(write(tmp_path / "two", runs)))
    text = said(*entries(write(tmp_path / "three", {**runs, "third": runs["AT"]})))
    assert "do not show that FSR withstands more than AT (by 0.6" in text
    assert "Holm's adjustment for 3 pairs" in text


def test_of_many_only_the_least_and_the_most_are_given(tmp_path: Path) -> None:
    """Four and more models behind the best make one range, not a page of intervals."""
    runs = {f"run {k}": "0" * (100 - k) + "1" * (k + 100) for k in (0, 20, 30, 40, 50)}
    text = said(*entries(write(tmp_path, runs)))
    assert "than run 20, run 30, run 40 and run 50 (by 10.0 to 25.0 points, p <0.0001 to <0.0001)" in text


def test_other_images_are_no_pairs(tmp_path: Path) -> None:
    """Verdicts on images of other ids are compared by their intervals, as before."""
    one, other = entries(write(tmp_path, apart(42)))
    outcome = replace(one.evaluation.outcome, ids=one.evaluation.outcome.ids + 1)
    text = said(replace(one, evaluation=replace(one.evaluation, outcome=outcome)), other)
    assert "do not show that FSR withstands more than AT: the intervals overlap." in text


def fewer_and_more(folder: Path, fewer: Mapping[str, str]) -> list[Entry]:
    """Return the rows of one network under two names, the first of which met fewer attacks."""
    more = {"fgsm": "1" * 2 + "0" * 18, "apgd-ce": "1" * 12 + "0" * 8}
    fakes = {"bold": Fake(fooled_last=fewer, fooled_any={}), "plain": Fake(fooled_last=more, fooled_any={})}
    return entries([write_run(folder / name, fake, title=name) for name, fake in fakes.items()])


def test_nobody_is_ahead_for_having_met_fewer_attacks(tmp_path: Path) -> None:
    """The same network is level with itself by what both met, and it is said what was left out."""
    rows = fewer_and_more(tmp_path, {"fgsm": "1" * 2 + "0" * 18})
    text = said(*rows)
    assert (
        "whatever the attacks that all of them met tried: 85 % (64–95 %) by bold and 85 % (64–95 %) by plain"
        in text
    )
    assert "do not show that bold withstands more than plain (by 0.0 points" in text
    assert "without APGD-CE" in text
    assert "they do not compare" in text
    (contest,) = contests(rows)
    assert {one.column: one.verdict for one in contest.winners} == dict.fromkeys(
        ("natural", "fgsm", "all"), "all are equal"
    )
    assert contest.left_out == ["APGD-CE"]
    (table,) = rungs(rows)
    against = {title: steps[1].against for title, steps in table.rows}
    assert against["Worst of all"] is against["Strongest white box"] is None
    assert against["No attack"] is not None


def test_without_a_common_attack_nothing_is_decided(tmp_path: Path) -> None:
    """Models that share no attack are not ranked by any."""
    rows = fewer_and_more(tmp_path, {"cw": "0" * 20})
    text = said(*rows)
    assert "no attack is on record for all of them: nothing says which one withstands more" in text
    assert "McNemar" not in text
    (contest,) = contests(rows)
    assert [one.column for one in contest.winners] == ["natural"]


def test_a_model_in_two_balls_keeps_its_name(tmp_path: Path) -> None:
    """A sentence names the model, not its ball alone."""
    folder = write_run(tmp_path, Fake(), title="Digits, AT")
    write_fake(folder, Fake(ball=Linf(4 / 255)))
    write_fake(folder, Fake(checkpoint="best", weights=1))
    text = said(*entries([folder]))
    assert "are still classified correctly by Digits, AT (last checkpoint, L∞ 4/255) when" in text
    assert "by Digits, AT (best checkpoint)" in text
    assert "than Digits, AT (" in text
