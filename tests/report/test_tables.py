"""Tables against counts made by hand from the verdicts."""

import csv
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from fsrobust.evaluate import Outcome
from fsrobust.records import read_npz
from fsrobust.report import accuracy_table, as_csv, as_markdown, as_text, comparison_table, read_run
from fsrobust.report.tables import NOT_RUN, percent, signed, unvisited, worst_case
from tests.report.builder import Fake, bits, write_fake, write_run


def outcome(
    natural: str, last: dict[str, str], fooled: dict[str, str], attacked: dict[str, str] | None = None
) -> Outcome:
    """Return an outcome from verdicts written as "0110"."""
    everyone = "1" * len(natural)
    return Outcome(
        ids=np.arange(len(natural)),
        natural_correct=bits(natural),
        attacked={name: bits((attacked or {}).get(name, everyone)) for name in last},
        fooled_last={name: bits(text) for name, text in last.items()},
        fooled={name: bits(text) | ~bits(natural) for name, text in fooled.items()},
    )


# four samples: one always right; one wrong when clean but "repaired" by the attack; one fooled on the way
# only; one fooled at the end
TRICKY = outcome("1011", {"fgsm": "0001"}, {"fgsm": "0011"})


def test_two_counts() -> None:
    """The paper's count takes what the last image gives; strict wants right when clean and all along."""
    cell = accuracy_table({"a": TRICKY}).rows[0].cells["fgsm"]
    assert (cell.accuracy, cell.strict, cell.n) == (3 / 4, 1 / 4, 4)


def test_interval_is_wilsons() -> None:
    """The intervals are those of statsmodels."""
    cell = accuracy_table({"a": TRICKY}).rows[0].cells["fgsm"]
    assert cell.interval == pytest.approx(proportion_confint(3, 4, method="wilson"))
    assert cell.strict_interval == pytest.approx(proportion_confint(1, 4, method="wilson"))


def test_values_are_those_of_the_samples(tmp_path: Path) -> None:
    """Every cell can be recomputed from samples.npz."""
    run = read_run(write_run(tmp_path / "run"))
    (evaluation,) = run.evaluations
    row = accuracy_table({"run": evaluation.outcome}).rows[0]
    right, strictly = [], []
    for name in ("fgsm", "pgd20", "pgd100", "cw"):
        samples = read_npz(tmp_path / "run" / "eval" / evaluation.records[name]["key"] / "samples.npz")
        right.append(~samples["fooled_last"])
        strictly.append(samples["natural_correct"] & ~samples["fooled_any"])
        assert row.cells[name].accuracy == right[-1].mean()
        assert row.cells[name].strict == strictly[-1].mean()
    natural = samples["natural_correct"]
    assert row.cells["natural"].accuracy == natural.mean()
    assert row.cells["ensemble"].accuracy == (natural & np.all(right, axis=0)).mean()
    assert row.cells["ensemble"].strict == np.all(strictly, axis=0).mean()
    assert worst_case(evaluation.outcome).accuracy == np.all(strictly, axis=0).mean()


def test_published_difference() -> None:
    """The difference is ours less theirs, in percentage points; a column that nobody published has none."""
    cells = accuracy_table({"a": TRICKY}, {"a": {"fgsm": 70.5}}).rows[0].cells
    assert cells["fgsm"].difference == pytest.approx(4.5)
    assert cells["natural"].difference is None


def test_ensemble_is_the_papers_four() -> None:
    """The ensemble is of the four white-box attacks; another one counts among all, never there."""
    four = dict.fromkeys(("fgsm", "pgd20", "pgd100", "cw"), "1000")
    with_other = outcome("1111", four | {"square": "0100"}, four | {"square": "0100"})
    table = accuracy_table({"five": with_other, "four": outcome("1111", four, four)})
    assert table.columns[-3:] == ["square", "ensemble", "all"]
    five, just_four = table.rows
    assert (five.cells["ensemble"].accuracy, five.cells["all"].accuracy) == (0.75, 0.5)
    assert just_four.cells["all"].accuracy == 0.75
    assert just_four.gaps == {"square": NOT_RUN}


def test_no_ensemble_of_fewer() -> None:
    """Without all four attacks there is no ensemble to compare with the paper's."""
    assert accuracy_table({"a": TRICKY}).columns == ["natural", "fgsm", "all"]


def test_partial_attack_is_refused() -> None:
    """An attack that skipped samples has no accuracy, and the row says why; the others stand."""
    partial = outcome("1111", {"fgsm": "0000", "cw": "0000"}, {"fgsm": "0000", "cw": "0000"}, {"cw": "1100"})
    row = accuracy_table({"a": partial}).rows[0]
    assert row.cells["fgsm"].accuracy == 1
    assert "2 of 4 samples" in row.gaps["cw"]
    assert "2 of 4 samples" in row.gaps["all"]
    assert unvisited(partial) == {"cw": 2}


def test_cascade_leaves_nothing_unvisited() -> None:
    """An attack that skips only what another one fooled has visited all that matters."""
    fooled = {"fgsm": "1100", "cw": "0010"}
    cascade = outcome("1111", fooled, fooled, {"cw": "0011"})
    assert unvisited(cascade) == {}
    assert worst_case(cascade).accuracy == 1 / 4


def test_text_is_aligned() -> None:
    """In a terminal all columns end at the same place, and each run shows interval and strict count."""
    lines = comparison_table({"a run": TRICKY, "another": TRICKY}).splitlines()
    assert len(lines) == 1 + 2 * 3
    end = lines[0].index("FGSM") + len("FGSM")
    assert lines[1][:end].endswith(" 75.0")
    assert lines[2][:end].endswith("30.1–95.4")
    assert lines[3][:end].endswith(" 25.0")
    assert "published" not in "".join(lines)


def test_text_shows_published() -> None:
    """Published numbers get a line of their own."""
    assert "  published" in as_text(accuracy_table({"a": TRICKY}, {"a": {"fgsm": 70.5}}))


def test_markdown_cannot_be_broken_by_a_name() -> None:
    """A name with bars, tags or line breaks stays within its cell."""
    lines = as_markdown(accuracy_table({"a | b\n<script>": TRICKY}, {"a | b\n<script>": {"fgsm": 70.5}}))
    head, rule, row = lines.splitlines()
    assert row.startswith("| a \\| b &lt;script> | 4 |")
    assert head.count("|") == rule.count("|") == row.count("|") - 1
    assert "75.0 (30.1–95.4), strict 25.0; published 70.5 (+4.5)" in row


def test_csv_reads_back() -> None:
    """The CSV holds unrounded numbers, a line per run and column."""
    rows = list(csv.DictReader(as_csv(accuracy_table({'a "b", c': TRICKY})).splitlines()))
    assert [row["column"] for row in rows] == ["natural", "fgsm", "all"]
    assert rows[1]["run"] == 'a "b", c'
    assert float(rows[1]["high"]) == proportion_confint(3, 4, method="wilson")[1]
    assert rows[1]["published"] == ""


@pytest.mark.parametrize(("share", "n", "text"), [(1 / 3, 300, "33.3"), (0.4822, 10_000, "48.22")])
def test_decimals_follow_n(share: float, n: int, text: str) -> None:
    """Hundredths of a percent are for ten thousand samples."""
    assert percent(share, n) == text


def test_sign_of_what_rounds_to_nothing() -> None:
    """A difference that rounds to zero has no direction."""
    assert [signed(points, 300) for points in (-0.04, 0.04, -0.06)] == ["±0.0", "±0.0", "−0.1"]


def test_rows_of_an_audit(tmp_path: Path) -> None:
    """Records without a run make a table, too."""
    write_fake(tmp_path / "audit", Fake(checkpoint=None))
    (evaluation,) = read_run(tmp_path / "audit").evaluations
    assert "natural" in accuracy_table({"audit": evaluation.outcome}).columns
