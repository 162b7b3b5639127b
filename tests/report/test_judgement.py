"""Whose diagnosis counts for whom: models are told apart by all that makes them, and no sign is outvoted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fsrobust.evaluate import Sign, read_outcome, read_records, wilson
from fsrobust.report import read_run
from fsrobust.report.ahead import summary
from fsrobust.report.entries import Entry, cast
from fsrobust.report.rungs import rungs
from fsrobust.report.verdict import NO_DIAGNOSIS, state
from fsrobust.report.versus import versus, versus_text
from fsrobust.report.winners import contests
from fsrobust.types import InputError
from tests.report.builder import Fake, write_fake, write_run

CLEAN = (Sign("black box beats white box", False, 0, 40, 0.01, wilson(0, 40), "random search wins"),)
BORNE = (Sign("black box beats white box", True, 9, 40, 0.01, wilson(9, 40), "random search wins"),)


def stands(count: int, n: int = 40, **changes: object) -> Fake:
    """Return an evaluation by PGD-20 that ``count`` of n samples stand, all being right when clean."""
    fooled = {"pgd20": "0" * count + "1" * (n - count)}
    return Fake(natural="1" * n, fooled_last=fooled, fooled_any={}, parts=(), **changes)  # type: ignore[arg-type]


def test_the_same_weights_in_other_code_are_another_model(tmp_path: Path) -> None:
    """A masked network has neither the attacks nor the diagnosis of the one without the mask, however it is called."""
    write_fake(tmp_path, stands(4, checkpoint=None, weights=1, signs=CLEAN), source="nets:net")
    write_fake(tmp_path, stands(38, checkpoint=None, weights=1, rounded=True), source="nets:net")
    run = read_run(tmp_path)
    found = {one.outcome.accuracy("pgd20"): state(one) for one in run.evaluations}
    assert found == {4 / 40: "no sign found", 38 / 40: NO_DIAGNOSIS}
    labels = [entry.label for entry in cast([run]).entries]
    assert len(set(labels)) == 2
    assert any(label.startswith("code ") for label in labels)
    with pytest.raises(InputError, match="different models"):
        read_outcome(tmp_path, [record for record in read_records(tmp_path) if record["kind"] == "attack"])


def test_a_diagnosis_of_other_code_is_not_shown_and_said(tmp_path: Path) -> None:
    """Where only the masked network was attacked, the other one's diagnosis is nobody's."""
    undefended = replace(stands(4, checkpoint=None, signs=CLEAN), fooled_last={})
    write_fake(tmp_path, undefended, source="nets:plain")
    write_fake(tmp_path, stands(38, checkpoint=None, rounded=True), source="nets:masked")
    run = read_run(tmp_path)
    assert [state(one) for one in run.evaluations] == [NO_DIAGNOSIS]
    assert any("A diagnosis of nets:plain is on record, but no attack" in remark for remark in run.remarks)


def test_compare_names_the_other_model_of_the_same_weights(tmp_path: Path) -> None:
    """Of two models in one folder one is compared; the other is not taken for it."""
    a, b = tmp_path / "audit", write_run(tmp_path / "b", stands(20, weights=2))
    for rounded in (False, True):
        write_fake(a, stands(4, checkpoint=None, weights=1, rounded=rounded), source="nets:net")
    assert any("these weights as another model" in note for note in versus([a], [b]).notes)


@pytest.mark.parametrize("first", ["few", "many"])
def test_a_sign_once_found_stays_found(tmp_path: Path, first: str) -> None:
    """Neither more samples nor a later date nor another seed take back that attacks failed; the page says both."""
    few, many = stands(38, signs=BORNE), stands(90, n=100, seed=1, signs=CLEAN)
    for fake in (few, many) if first == "few" else (many, few):
        write_fake(tmp_path, fake)
    run = read_run(tmp_path)
    assert {state(one) for one in run.evaluations} == {"not to be trusted"}
    said = "“not to be trusted” on 40 samples (seed 0), “no sign found” on 100 samples (seed 1)"
    assert [said in remark for remark in run.on_verdicts] == [True]


def test_diagnoses_that_agree_are_not_worth_a_word(tmp_path: Path) -> None:
    """Of two of one verdict the larger one counts."""
    for fake in (stands(90, n=100, seed=1, signs=CLEAN), stands(38, signs=CLEAN)):
        write_fake(tmp_path, fake)
    run = read_run(tmp_path)
    assert run.on_verdicts == []
    assert {one.diagnosis["n"] for one in run.evaluations if one.diagnosis} == {100}


def pair(folder: Path, signs: tuple[Sign, ...]) -> tuple[list[Path], list[Entry]]:
    """Return runs AT and FSR, of which the second stands on far more samples, and their rows on a page."""
    fakes = {"AT": stands(10, signs=CLEAN), "FSR": stands(35, weights=1, signs=signs)}
    runs = [write_run(folder / name, fake, title=name) for name, fake in fakes.items()]
    return runs, list(cast([read_run(run) for run in runs]).entries)


def test_who_is_not_to_be_trusted_wins_nothing(tmp_path: Path) -> None:
    """Neither in short nor in the table of winners nor in ``compare``, whose text and JSON hold both verdicts."""
    runs, rows = pair(tmp_path, BORNE)
    text = " ".join(summary(rows))
    assert "On paper FSR comes before AT, but FSR is not to be trusted: attacks failed on it" in text
    assert "FSR withstands more" not in text
    (contest,) = contests(rows)
    told = {one.column: one.verdict for one in contest.winners}
    assert told["pgd20"].startswith("nothing shown: attacks failed on FSR")
    assert told["natural"] == "all are equal"
    made = versus(*([run] for run in runs))
    assert "nothing here says who withstands more" in made.comparison.sentence
    assert "is ahead" not in versus_text(made)
    assert (
        f"B: FSR ({runs[1]}, last checkpoint); signs of masked gradients: not to be trusted"
        in versus_text(made)
    )
    plain = json.loads(json.dumps(made.summary()))
    assert (plain["verdicts"], plain["ahead"]) == ({"a": ["no sign found"], "b": ["not to be trusted"]}, None)


def test_the_others_are_still_compared(tmp_path: Path) -> None:
    """Of three models the one that attacks fail on is set apart, and the next one judged against the last."""
    runs, _ = pair(tmp_path, BORNE)
    runs.append(write_run(tmp_path / "third", stands(25, weights=2, signs=CLEAN), title="third"))
    text = " ".join(summary(cast([read_run(run) for run in runs]).entries))
    assert "On paper FSR comes before third and AT, but FSR is not to be trusted" in text
    assert "third withstands more of the same 40 images than AT (by" in text


def test_who_was_never_diagnosed_leads_with_a_word_on_it(tmp_path: Path) -> None:
    """The lead stands, and what was not looked at is said; where no sign was found there is nothing to add."""
    _, rows = pair(tmp_path / "never", ())
    text = " ".join(summary(rows))
    assert "FSR withstands more of the same 40 images than AT" in text
    assert "But FSR was never diagnosed" in text
    runs, rows = pair(tmp_path / "sound", CLEAN)
    assert "But FSR" not in " ".join(summary(rows))
    assert versus(*([run] for run in runs)).comparison.sentence.count("But") == 0


def test_page_and_compare_make_one_test(tmp_path: Path) -> None:
    """The last rung of the page has the p of ``compare``, whatever other rows there are; those are adjusted apart."""
    runs, rows = pair(tmp_path, CLEAN)
    (table,) = rungs(rows)
    against = dict(table.rows)["Worst of all"][1].against
    compared = versus(*([run] for run in runs)).comparison.row("pgd20")
    assert against is not None
    assert against.adjusted_p == against.p == compared.adjusted_p
    besides = dict(table.rows)["Strongest white box"][1].against
    assert besides is not None
    assert besides.adjusted_p == pytest.approx(2 * besides.p)  # natural accuracy is the other row
