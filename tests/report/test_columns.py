"""Records of one attack side by side: none is lost, whatever they searched in and wherever gradients came from."""

from dataclasses import replace
from pathlib import Path

from fsrobust.attacks import SUITES
from fsrobust.evaluate.identity import weights_sha256
from fsrobust.evaluate.joined import by_column
from fsrobust.report import read_run
from fsrobust.report.entries import cast
from fsrobust.report.facts import evaluation_facts
from fsrobust.report.page import build_page
from fsrobust.report.tables import accuracy_table, as_text
from fsrobust.report.versus import versus
from tests.report.builder import Fake, write_fake, write_run
from tests.runs import net

FP32 = Fake(natural="1" * 8, fooled_last={"pgd20": "11100000"}, fooled_any={}, parts=())
BF16 = replace(FP32, fooled_last={"pgd20": "10000001"}, precision="bf16", created="2026-02-02T03:04:05+00:00")


def test_both_precisions_count(tmp_path: Path) -> None:
    """A later search in bf16 takes nothing from one in float32: each is a column, all together are the union."""
    write_fake(tmp_path, FP32)
    write_fake(tmp_path, BF16)
    (one,) = read_run(tmp_path).evaluations
    assert one.outcome.attacks == ("pgd20", "pgd20 (bf16 search)")
    assert [one.outcome.accuracy(name) for name in one.outcome.attacks] == [5 / 8, 6 / 8]
    assert one.outcome.ensemble(["pgd20"]) == one.outcome.ensemble() == 4 / 8
    table = accuracy_table({"": one.outcome})
    assert table.rows[0].cells["all"].accuracy == 4 / 8
    assert "PGD-20 (bf16 search)" in as_text(table)


def test_the_precision_is_on_the_page(tmp_path: Path) -> None:
    """A search in bf16 is said to be one, in both places that say how attacks were run; float32 needs no word there."""
    runs = [write_run(tmp_path / "low", BF16), write_run(tmp_path / "exact", replace(FP32, weights=1))]
    low, exact = (read_run(run) for run in runs)
    assert dict(evaluation_facts(low.evaluations[0]))["Search"] == "in bf16: PGD-20; verdicts in IEEE float32"
    assert dict(evaluation_facts(exact.evaluations[0]))["Search"] == "in IEEE float32, as every verdict is"
    attacks = [text for name, text in build_page(cast([low, exact])).attacks if name == "PGD-20"]
    assert ["searched in bf16" in text for text in attacks] == [True, False]
    note = "Not every side was searched in the same precision: PGD-20."
    assert note in versus([runs[0]], [runs[1]]).notes


def test_two_surrogates_of_one_name_count(tmp_path: Path) -> None:
    """Gradients of two networks that lie in folders of one name fool others; either is a column, by its weights."""
    for rival, fooled in ((7, "11100000"), (8, "10000001")):
        write_fake(tmp_path, replace(FP32, rival=rival, fooled_last={"pgd20": fooled}))
    (one,) = read_run(tmp_path).evaluations
    digests = [weights_sha256(net(seed=rival))[:8] for rival in (7, 8)]
    assert set(one.outcome.attacks) == {f"pgd20 from net ({digest})" for digest in digests}
    assert one.outcome.ensemble() == 4 / 8


def test_another_surrogate_is_another_attack_to_compare(tmp_path: Path) -> None:
    """What either side met from a network of its own is not put side by side for its folder's name."""
    runs = [write_run(tmp_path / str(rival), replace(FP32, weights=rival, rival=rival)) for rival in (7, 8)]
    made = versus([runs[0]], [runs[1]]).comparison
    assert {row.name for row in made.rows} == {"natural"}


def test_the_ensemble_is_of_all_records_of_the_four(tmp_path: Path) -> None:
    """What a search in bf16 fooled beside float32 is fooled in the ensemble; compared is what both sides met."""
    four = dict.fromkeys(SUITES["whitebox"], "11100000")
    a, b = write_run(tmp_path / "a", replace(FP32, fooled_last=four)), tmp_path / "b"
    write_fake(a, BF16)
    write_run(b, replace(FP32, fooled_last=four, weights=1))
    (one,) = read_run(a).evaluations
    assert accuracy_table({"": one.outcome}).rows[0].cells["ensemble"].accuracy == 4 / 8
    made = versus([a], [b]).comparison
    row = made.row("ensemble")
    assert (row.a, row.b) == (5 / 8, 5 / 8)
    assert "Not compared, as not every side met it: pgd20 (bf16 search)." in made.notes


def test_a_larger_search_in_low_precision_covers_nothing(tmp_path: Path) -> None:
    """More samples in bf16 do not take fewer in float32 off the page; more in float32 do."""
    write_fake(tmp_path, FP32)
    many = {"natural": "1" * 16, "fooled_last": {"pgd20": "1" + "0" * 15}}
    write_fake(tmp_path, replace(BF16, **many))  # type: ignore[arg-type]
    assert [one.outcome.n for one in read_run(tmp_path).evaluations] == [16, 8]
    write_fake(tmp_path, replace(FP32, **many))  # type: ignore[arg-type]
    assert {one.outcome.n for one in read_run(tmp_path).evaluations} == {16}


def test_an_older_record_of_other_settings_counts() -> None:
    """What a former version of an attack fooled stays a column; the newest record has the attack's name."""
    records = [{"name": "pgd20", "key": key * 20, "attack": {"type": "PGD"}} for key in "abc"]
    assert by_column(records) == {
        "pgd20 (record aaaaaaaa)": records[0],
        "pgd20 (record bbbbbbbb)": records[1],
        "pgd20": records[2],
    }
