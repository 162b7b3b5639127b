"""Tables over seeds: against numbers made by hand, in every form they are printed in."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fsrobust.evaluate import Outcome
from fsrobust.report import report
from fsrobust.report.gain import gain_in_words, gain_of
from fsrobust.report.html import render_tables, write_table
from fsrobust.report.spread import (
    Course,
    Share,
    Spread,
    SpreadRow,
    read_spread,
    share_of,
    spread,
    write_spread,
)
from fsrobust.report.spread_forms import meaning, spread_csv, spread_latex, spread_markdown
from fsrobust.report.spread_part import table_part
from tests.report.test_html import HOSTILE, Page

COLUMNS = ("natural", "fgsm", "pgd20", "pgd100", "cw", "ensemble")


def outcome(correct: int, n: int = 200) -> Outcome:
    """Return an outcome in which every attack leaves the first ``correct`` samples right."""
    right = np.arange(n) < correct
    names = ("fgsm", "pgd20", "pgd100", "cw")
    return Outcome(
        np.arange(n),
        right,
        {a: np.ones(n, bool) for a in names},
        dict.fromkeys(names, ~right),
        dict.fromkeys(names, ~right),
    )


def table(*rows: SpreadRow, **changes: object) -> Spread:
    """Return a table of some rows."""
    plain = Spread("S0", "S0: a title", None, True, COLUMNS, rows)
    return replace(plain, **changes)  # type: ignore[arg-type]


def row(label: str = "at", checkpoint: str = "last", correct: int = 100, **published: float) -> SpreadRow:
    """Return a row of one seed."""
    return SpreadRow(label, checkpoint, spread([outcome(correct)], COLUMNS), published)


def test_seeds_have_a_deviation_one_seed_an_interval() -> None:
    """By hand: 50, 52 and 54 % are 52 ± 2; 100 of 200 lie in Wilson's (0.431, 0.569)."""
    several = spread([outcome(100), outcome(104), outcome(108)], COLUMNS)["pgd20"]
    assert [several.mean, several.low, several.high] == pytest.approx([0.52, 0.50, 0.54])
    assert (several.seeds, several.n, several.text) == (3, 200, "52.0 ± 2.0")
    single = spread([outcome(100)], COLUMNS)["ensemble"]
    assert [single.low, single.high] == pytest.approx([0.4314, 0.5686], abs=1e-4)
    assert single.text == "50.0 (43.1–56.9)"


def test_every_form_has_ours_theirs_and_the_difference() -> None:
    """50 % against a published 48.22 is +1.8 on 200 samples; names are escaped as each form asks."""
    made = table(row("a_b", pgd20=48.22))
    assert "| a_b | last | 1 | 200 | 50.0 (43.1–56.9) |" in spread_markdown(made)
    assert "50.0 (43.1–56.9); 48.22, +1.8 |" in spread_markdown(made)
    latex = spread_latex(made)
    assert r"a\_b & last & 1 & 200 & $50.0$ ($43.1$--$56.9$)" in latex
    assert r"C\&W" in latex
    assert "$48.22$ ($+1.78$)" in latex
    lines = list(csv.DictReader(io.StringIO(spread_csv(made))))
    line = next(line for line in lines if line["column"] == "pgd20")
    assert (line["mean"], line["published"]) == ("0.5", "48.22")
    assert float(line["difference"]) == pytest.approx(1.78)
    page = Page(render_tables([table_part(made)]))
    assert "50.0 43.1–56.9 paper 48.22 ours +1.8" in page.text


def test_a_table_says_what_its_numbers_are() -> None:
    """Seeds, intervals, the paper's number and fewer samples of one attack are spoken of where they occur."""
    assert meaning(table(row())) == "Accuracy in %, one seed with its 95 % Wilson interval."
    assert "the paper's number, and ours less the paper's" in meaning(table(row(pgd20=1.0)))
    several = SpreadRow("at", "last", spread([outcome(100)] * 2, COLUMNS), {})
    assert "mean ± standard deviation over seeds." in meaning(table(several))
    made = table(fewer(), columns=(*COLUMNS, "autoattack"))
    assert meaning(made).endswith(
        "AutoAttack on 40 of the samples: not to be held against columns on all of them. In square brackets: the "
        "natural accuracy on just those."
    )
    old = {**row().shares, "autoattack": share_of([0.5], 40)}  # of before the natural accuracy was kept
    assert "brackets" not in meaning(replace(made, rows=[replace(row(), shares=old)]))
    assert "No row is finished yet" in spread_markdown(table())


def test_a_column_that_was_not_run_says_so() -> None:
    """A gap is a gap in every form, not an error."""
    made = table(row(), columns=(*COLUMNS, "autoattack"))
    assert spread_markdown(made).splitlines()[-1].endswith("| not run |")
    assert spread_latex(made).splitlines()[-3].endswith(r"-- \\")
    assert "not run" in Page(render_tables([table_part(made)])).text


GAINED = {"at": 100, "at+fsr": 102, "trades": 90, "trades+fsr": 94, "mart": 95, "mart+fsr": 95}
"""By hand: +2, +4 and 0 samples of 200 are 1, 2 and 0 points: 1.00 on average."""


def test_the_mean_gain_is_over_all_three_methods() -> None:
    """Two pairs are not enough; a table of before gains were kept has no interval, and says so."""
    rows = [row(label, correct=count) for label, count in GAINED.items()]
    made = table(*rows, gain=0.67)
    (sentence,) = gain_in_words(made)
    assert (
        "last checkpoint: +1.00 points (one seed, n = 200, no interval is known); published +0.67."
        in sentence
    )
    assert gain_in_words(table(*rows[:4], gain=0.67)) == []
    assert gain_in_words(replace(made, evidence=False)) == []
    outcomes = {label: {0: outcome(count)} for label, count in GAINED.items()}
    assert gain_of(outcomes, "last") is not None
    assert gain_of({**outcomes, "mart": {}}, "last") is None


def test_the_gain_of_one_seed_has_an_interval_over_its_samples() -> None:
    """Against a closed form: two samples gain ⅓ and four ⅓ of six that differ; and against a bootstrap of samples."""
    made = gain_of({label: {0: outcome(count)} for label, count in GAINED.items()}, "last")
    assert made is not None
    assert made.low is not None
    assert made.high is not None
    each = np.repeat([0.0, 1 / 3], [194, 6])  # samples 90 to 93, and 100 and 101
    half = 1.972 * 100 * np.sqrt(6 / 9 / 200 - 0.01**2) / np.sqrt(199)  # Student's t, 199 degrees of freedom
    assert made.mean == pytest.approx(1.0)
    assert (made.seeds, made.n) == (1, 200)
    assert [made.low, made.high] == pytest.approx([1 - half, 1 + half], abs=1e-3)
    draws = np.random.default_rng(0).choice(each, (20_000, 200)).mean(axis=1)
    bootstrap = 100 * np.quantile(draws, [0.025, 0.975])
    assert [made.low, made.high] == pytest.approx(bootstrap, abs=0.2)  # draws lie on a grid of ⅙ of a point
    (sentence,) = gain_in_words(table(row(), gains=[made], gain=0.67))
    assert (
        f"(one seed, n = 200, 95 % interval +{made.low:.2f} to +{made.high:.2f} over the samples" in sentence
    )
    assert sentence.endswith("; published +0.67.")


def test_the_gain_of_several_seeds_has_an_interval_over_those_that_all_rows_have() -> None:
    """By hand: 1, 2 and 3 points are 2 ± 1, and t with two degrees of freedom is 4.303: from −0.48 to 4.48."""
    seeds = {
        label: {s: outcome(100 + 2 * (s + 1) * label.endswith("fsr")) for s in range(3)} for label in GAINED
    }
    made = gain_of(seeds, "best")
    assert made is not None
    assert [made.mean, made.low, made.high] == pytest.approx([2.0, 2 - 2.4841, 2 + 2.4841], abs=1e-3)
    (sentence,) = gain_in_words(table(row(), gains=[made], gain=0.67))
    assert "+2.00 points (3 seeds, n = 200 each, 95 % interval -0.48 to +4.48 over the seeds)." in sentence
    seeds["mart"].pop(2)
    fewer = gain_of(seeds, "best")
    assert fewer is not None
    assert fewer.mean == pytest.approx(1.5)
    assert fewer.seeds == 2


def test_without_a_spread_to_judge_by_the_gain_has_no_interval() -> None:
    """Rows that are right on the same samples, and rows that met different ones."""
    same = gain_of({label: {0: outcome(100)} for label in GAINED}, "last")
    assert same is not None
    assert (same.mean, same.low, same.high) == (0.0, None, None)
    others = {label: {0: outcome(count)} for label, count in GAINED.items()}
    others["mart"][0] = replace(others["mart"][0], ids=np.arange(200) + 1)
    apart = gain_of(others, "last")
    assert apart is not None
    assert apart.mean == pytest.approx(1.0)
    assert apart.low is None
    assert "(one seed, n = 200, no interval is known)" in gain_in_words(table(row(), gains=[apart]))[0]


def fewer(label: str = "at", n: int = 40, correct: int = 100) -> SpreadRow:
    """Return a row whose AutoAttack met fewer samples than the rest."""
    shares = {**row(label, correct=correct).shares, "autoattack": share_of([0.25], n, 0.45)}
    return SpreadRow(label, "last", shares, {"autoattack": 26.0})


def test_every_form_says_on_how_many_samples_a_column_rests() -> None:
    """AutoAttack met 40 of 200: its head says so, and its cells the natural accuracy on just those."""
    made = table(fewer(), columns=(*COLUMNS, "autoattack"))
    heads, _, cells = spread_markdown(made).splitlines()[-3:]
    assert heads.endswith("| Ensemble | AutoAttack, n = 40 |")
    assert cells.endswith("| 25.0 (14.2–40.2) [45.0]; 26.00, −1.0 |")
    latex = spread_latex(made)
    assert r"Ensemble & AutoAttack ($n = 40$) \\" in latex
    assert r"$25.0$ ($14.2$--$40.2$) [$45.0$] \\" in latex
    line = list(csv.DictReader(io.StringIO(spread_csv(made))))[-1]
    assert (line["column"], line["n"], line["natural"]) == ("autoattack", "40", "0.45")
    assert "25.0 14.2–40.2, n 40 [natural 45.0] paper" in Page(
        render_tables([table_part(made)])
    ).text.replace("\xa0", " ")


def test_where_rows_differ_in_it_each_cell_has_its_own_n() -> None:
    """One head cannot speak for both; a row whose own n it is needs none."""
    made = table(fewer(), fewer("mart", n=50), columns=(*COLUMNS, "autoattack"))
    heads, _, first, second = spread_markdown(made).splitlines()[-4:]
    assert heads.endswith("| AutoAttack |")
    assert first.endswith("[45.0], n = 40; 26.00, −1.0 |")
    assert second.endswith("[45.0], n = 50; 26.00, −1.0 |")
    assert "[$45.0$], $n = 50$" in spread_latex(made)
    assert "AutoAttack on 40 or 50 of the samples" in meaning(made)


def test_latex_says_in_comments_what_its_numbers_are() -> None:
    """Title, note, meaning and gains, each on one commented line whatever is in it."""
    rows = [row(label, correct=count) for label, count in GAINED.items()]
    comments = spread_latex(table(*rows, note="a\nnote")).split("\\begin{tabular}")[0].splitlines()
    assert all(line.startswith("% ") for line in comments)
    assert comments[1] == "% a note"
    assert comments[2] == "% Accuracy in %, one seed with its 95 % Wilson interval."
    assert comments[3].startswith("% Mean gain of FSR")


def test_a_table_is_written_and_read_back(tmp_path: Path) -> None:
    """What later pages are made of is what was made."""
    course = Course("at", "last", [0, 1], [share_of([0.5], 10), share_of([0.25], 10)])
    made = table(row(pgd20=48.22), note="a note", steps=[course], eps=[course], gain=1.0)
    write_spread(made, tmp_path / "table.json")
    assert spread_markdown(read_spread(tmp_path / "table.json")) == spread_markdown(made)
    assert read_spread(tmp_path / "table.json").steps == [course]


def test_a_sweep_is_drawn_as_curves_through_the_papers_values() -> None:
    """Two checkpoints of three settings are six figures; the default row is in each, at 0.1, 1 and 1."""
    labels = [
        "tau=0.01",
        "tau=0.1",
        "tau=1",
        "lambda_sep=0",
        "lambda_sep=2",
        "lambda_rec=0.5",
        "lambda_rec=5",
    ]
    rows = [row(label, checkpoint) for label in labels for checkpoint in ("last", "best")]
    part = table_part(table(*rows))
    assert [picture.alt.split(",")[0] for picture in part.pictures[::2]] == [
        "Accuracy against the temperature τ",
        "Accuracy against the λ of separation",
        "Accuracy against the λ of recalibration",
    ]
    assert len(part.pictures) == 6
    assert all(len(picture.legend) == len(COLUMNS) for picture in part.pictures)


def test_rows_are_drawn_as_dots() -> None:
    """One wide figure; the same table gives the same bytes."""
    made = table(row(pgd20=48.22), row(checkpoint="best"))
    (picture,) = table_part(made).pictures
    assert picture.wide
    assert "A black bar: the paper's number." in picture.caption
    assert [label for _, label in picture.legend] == ["last checkpoint", "best checkpoint"]
    assert table_part(made).pictures == [picture]
    assert table_part(table()).pictures == []


def test_the_page_escapes_and_needs_nothing_but_itself(tmp_path: Path) -> None:
    """Titles, notes and rows are text, never markup; nothing is loaded from anywhere; a banner stands above smoke."""
    made = table(row(HOSTILE), title=HOSTILE, note=f"smoke: not evidence {HOSTILE}", evidence=False)
    write_table(made, tmp_path)
    text = (tmp_path / "table.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert HOSTILE in page.text
    assert all(address.startswith("data:") for address in page.addresses)
    assert 'class="caution banner"' in text
    assert "Robust accuracy is an upper bound" not in page.text


def test_a_reproduction_is_part_of_a_report(tmp_path: Path) -> None:
    """Alone or beside runs, a folder with a table is shown as one."""
    from tests.report.builder import write_run

    write_table(table(row(pgd20=48.22)), tmp_path / "S0-full")
    alone = Page(report([tmp_path / "S0-full"], tmp_path / "alone.html").read_text(encoding="utf-8"))
    assert "S0: a title" in alone.text
    run = write_run(tmp_path / "run")
    both = Page(report([run, tmp_path / "S0-full"], tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "paper 48.22 ours +1.8" in both.text
    assert "How it was trained" in both.text


def test_a_share_knows_its_own_text() -> None:
    """Two decimals need ten thousand samples."""
    assert Share(0.5, 0.49, 0.51, 3, 10_000).text == "50.00 ± 1.00"
