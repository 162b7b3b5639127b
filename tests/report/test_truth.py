"""What stands behind a robust accuracy: every section against numbers that were counted by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from fsrobust.attacks import Linf
from fsrobust.evaluate import Sign, wilson
from fsrobust.evaluate.stats import holm
from fsrobust.report import read_run
from fsrobust.report.entries import cast
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.extremes import extremes
from fsrobust.report.overlap import overlap_part
from fsrobust.report.rungs import NOTHING_TO_ADAPT, rungs
from fsrobust.report.stages import cascades
from fsrobust.report.verdict import NO_DIAGNOSIS, command, state, verdict_part
from tests.report.builder import Fake, write_fake, write_run
from tests.report.test_html import HOSTILE, page_of

# ten samples with the ids 0, 2, … 18; the last is wrong without an attack
NATURAL = "1111111110"
BASE = Fake(
    natural=NATURAL,
    fooled_last={"fgsm": "1110000001", "pgd20": "1111000001"},
    fooled_any={},
    cascades={"autoattack": {"apgd-ce": "1111000000", "apgd-t 1": "0000100000", "apgd-t 2": "0000010000"}},
)
GUARDED = Fake(
    natural=NATURAL,
    fooled_last={"fgsm": "1000000001", "pgd20": "0110000001"},
    fooled_any={},
    fsr="layer3",
    weights=1,
    cascades={
        "autoattack": {"apgd-ce": "1110000000", "square": "0001000000"},
        "adaptive": {
            "joint/apgd-ce 0": "1100000000",
            "joint/apgd-t 1": "0010000000",
            "noisy/apgd-ce 0": "0001111000",
        },
    },
    signs=(
        Sign("more steps are weaker", False, 0, 9, 0.05, wilson(0, 9), "steps do not help"),
        Sign("black box beats white box", True, 4, 9, 0.01, wilson(4, 9), "random search wins"),
        Sign("transfer beats direct", None, 0, 9, 0.01, None, "nothing to transfer from"),
    ),
)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Return a plain model's run and a guarded one's, on the same ten samples."""
    return [
        write_run(tmp_path / "plain", BASE, title="CIFAR-10, AT"),
        write_run(tmp_path / "guarded", GUARDED, title="CIFAR-10, AT + FSR"),
    ]


def only(run: Path) -> Evaluation:
    """Return the one evaluation of a run."""
    (evaluation,) = read_run(run).evaluations
    return evaluation


def test_rungs_hold_strict_counts(pair: list[Path]) -> None:
    """Each rung counts who is right when clean and at every step; the plug-in is measured against the base."""
    (table,) = rungs(cast([read_run(run) for run in reversed(pair)]).entries)
    assert [entry.label for entry in table.entries] == ["AT", "AT + FSR"]
    found = {title: [(step.right, step.attack, step.gap) for step in steps] for title, steps in table.rows}
    assert found == {
        "No attack": [(9, "", ""), (9, "", "")],
        "Strongest white box": [(5, "PGD-20", ""), (7, "PGD-20", "")],
        "AutoAttack": [(3, "AutoAttack", ""), (5, "AutoAttack", "")],
        "Adaptive": [(0, "", NOTHING_TO_ADAPT), (2, "Adaptive", "")],
        "Worst of all": [(3, "3 attacks", ""), (2, "4 attacks", "")],
    }
    assert table.verdicts == [NO_DIAGNOSIS, "not to be trusted"]
    assert any("AT + FSR met attacks that not every model here met: Adaptive" in note for note in table.notes)


def test_rungs_compare_the_same_samples(pair: list[Path]) -> None:
    """The exact McNemar p is that of the discordant samples; none where a model met no such attack."""
    (table,) = rungs(cast([read_run(run) for run in pair]).entries)
    steps = {title: row[1].against for title, row in table.rows}
    assert all(row[0].against is None for _, row in table.rows)
    assert steps["Adaptive"] is None
    # PGD-20: only the base falls on 0 and 3; AutoAttack: on 4 and 5; of all attacks the plug-in met one more
    expected = {"No attack": 1.0, "Strongest white box": 0.5, "AutoAttack": 0.5}
    shown = {title: one for title, one in steps.items() if one is not None}
    assert {title: one.p for title, one in shown.items()} == pytest.approx(expected)
    assert [one.adjusted_p for one in shown.values()] == pytest.approx(holm(list(expected.values())))
    assert shown["AutoAttack"].difference == pytest.approx(20)


def test_models_on_other_samples_are_not_compared(tmp_path: Path, pair: list[Path]) -> None:
    """Another ball or draw has a table of its own, without p-values."""
    other = write_run(tmp_path / "other", replace(GUARDED, ball=Linf(0.1)), title="CIFAR-10, other")
    tables = rungs(cast([read_run(run) for run in (pair[0], other)]).entries)
    assert [len(table.entries) for table in tables] == [1, 1]
    assert not any(table.paired for table in tables)


def test_signs_with_value_interval_and_threshold(pair: list[Path]) -> None:
    """What was found comes first, what was not looked for last, each with its numbers."""
    diagnosis = only(pair[1]).diagnosis
    assert diagnosis is not None
    part = verdict_part(diagnosis)
    assert (part.state, part.sentence) == (
        "not to be trusted",
        "not to be trusted because random search wins",
    )
    assert [(row.name, row.state, row.value, row.threshold) for row in part.rows] == [
        ("black box beats white box", "found", "4 of 9", "1"),
        ("more steps are weaker", "not found", "0 of 9", "5"),
        ("transfer beats direct", "not looked for", "", "1"),
    ]
    low, high = wilson(4, 9)
    assert part.rows[0].interval == f"{100 * low:.1f}–{100 * high:.1f}"


def test_a_missing_diagnosis_is_said_with_its_command(tmp_path: Path) -> None:
    """The command names the run, its checkpoint and a ball that is not its own; an audit's, the model and data."""
    run = write_run(tmp_path / "a", replace(BASE, checkpoint="best", ball=Linf(0.1)))
    assert state(only(run)) == NO_DIAGNOSIS
    assert command(read_run(run), only(run)) == (
        f"fsrobust diagnose {run} --checkpoint best --norm linf --eps 0.1"
    )
    audit = tmp_path / "audit"
    write_fake(audit, replace(BASE, checkpoint=None), source="my model.pth")
    assert command(read_run(audit), only(audit)) == (
        f"fsrobust diagnose 'PATH/my model.pth' --data cifar10 --norm linf --eps 8/255 --out {audit}"
    )
    record = {**only(audit).record, "source": "mine:net", "image_shape": [3, 64, 64]}
    record["data"] = {**record["data"], "name": "folder:photos"}
    photos = replace(only(audit), records={"pgd20": record})
    assert command(read_run(audit), photos) == (
        f"fsrobust diagnose mine:net --data folder:photos --image-size 64 --norm linf --eps 8/255 --out {audit}"
    )


def test_a_diagnosis_of_fewer_samples_joins_its_model(tmp_path: Path) -> None:
    """It need not be of the attacks' samples, but of their weights in their ball; the largest is shown."""
    run = write_run(tmp_path / "a", BASE)
    fewer = replace(BASE, natural="11111", fooled_last={}, cascades={}, parts=(), signs=GUARDED.signs)
    write_fake(run, fewer)
    write_fake(run, replace(fewer, natural="111"))
    write_fake(run, replace(fewer, natural="1" * 12, ball=Linf(0.1)))
    write_fake(run, replace(fewer, natural="1" * 12, weights=5))
    found = read_run(run)
    assert only(run).diagnosis is not None
    assert (only(run).diagnosis or {})["n"] == 5
    assert found.remarks == []


def test_cascades_taken_apart(pair: list[Path]) -> None:
    """Stages of a surrogate are a row: what it was given, whom it fooled, which part of the time it took."""
    auto, adaptive = cascades(only(pair[1]))
    assert [part.attack for part in (auto, adaptive)] == ["AutoAttack", "Adaptive"]
    found = [
        (row.name, row.count, row.attacked, row.fooled, row.passes, row.seconds, row.whom)
        for row in adaptive.groups
    ]
    assert found == [
        ("joint", 2, 9, 3, 10 * (9 + 7), 3.0, "0, 2, 4"),
        ("noisy", 1, 6, 4, 60, 3.0, "6, 8, 10, 12"),
    ]
    assert [row.share for row in adaptive.groups] == [0.5, 0.5]
    assert [row.whom for row in adaptive.stages] == ["0, 2", "4", "6, 8, 10, 12"]
    assert "Of 10 samples 1 were wrong without an attack, 7 fell to 3 stages, 2 stand." in adaptive.sentence
    assert auto.heading == "Attack"
    assert [row.name for row in cascades(only(pair[0]))[0].groups] == ["apgd-ce", "apgd-t"]


def test_overlap_counts_common_victims(pair: list[Path]) -> None:
    """Of those that a row fools, how many a column fools; who is wrong when clean is nobody's victim."""
    part = overlap_part(only(pair[1]).outcome)
    assert part is not None
    assert (part.n, part.titles) == (9, ["FGSM", "PGD-20", "AutoAttack", "Adaptive"])
    found = {
        row.title: (row.fooled, row.alone, [one and (one.both, one.of) for one in row.meetings])
        for row in part.rows
    }
    assert found == {
        "FGSM": (1, 0, [None, (0, 1), (1, 1), (1, 1)]),
        "PGD-20": (2, 0, [(0, 2), None, (2, 2), (2, 2)]),
        "AutoAttack": (4, 0, [(1, 4), (2, 4), None, (4, 4)]),
        "Adaptive": (7, 3, [(1, 7), (2, 7), (4, 7), None]),
    }


def test_overlap_leaves_out_who_was_not_visited(tmp_path: Path) -> None:
    """A sample that an attack never saw does not count as one that it failed on."""
    fake = replace(BASE, cascades={}, attacked={"fgsm": "1111011111"})
    fake = replace(fake, fooled_last={"fgsm": "1000000000", "pgd20": "1100100000"})
    part = overlap_part(only(write_run(tmp_path / "a", fake)).outcome)
    assert part is not None
    assert part.rows[1].meetings[0] is not None
    assert (part.rows[1].meetings[0].both, part.rows[1].meetings[0].of) == (1, 2)


def test_extremes_show_what_is_on_record(tmp_path: Path, pair: list[Path]) -> None:
    """Galleries hold four samples here: others are counted and said to have no picture, unless all were kept."""
    hardest, easiest = extremes(only(pair[1]))
    assert hardest.portraits == []
    assert hardest.sentence.startswith("3 of the 9 samples that are right without an attack (ids 8, 10, 12).")
    assert "Pictures of none of them are on record" in hardest.sentence
    assert "the first 4 samples" in hardest.sentence
    assert "(--save-images)" in hardest.sentence
    assert easiest.sentence == "0 of the 9 samples that are right without an attack."
    hardest, easiest = extremes(only(write_run(tmp_path / "k", replace(GUARDED, kept=["adaptive"]))))
    assert [(shot.id, shot.attack, shot.image) for shot in hardest.portraits] == [
        (8, "Adaptive", None),
        (10, "Adaptive", None),
        (12, "Adaptive", None),
    ]
    assert [(shot.label, shot.said, shot.wrong) for shot in hardest.portraits][:1] == [
        ("class e", "class f", True)
    ]
    assert "Pictures" not in hardest.sentence


def test_one_attack_has_no_overlap(tmp_path: Path) -> None:
    """With one attack there is nothing to set against each other, and the page says so."""
    run = write_run(tmp_path / "a", replace(BASE, fooled_last={"fgsm": "1" * 10}, cascades={}))
    assert overlap_part(only(run).outcome) is None
    assert extremes(only(run)) == []
    assert "it is not shown which attacks fool the same samples" in page_of(run, out=tmp_path / "r.html").text


def test_the_page_has_every_section(tmp_path: Path, pair: list[Path]) -> None:
    """A reader finds the verdict, the models side by side, cascades, overlap and extremes, and the bound."""
    text = page_of(*pair, out=tmp_path / "r.html").text
    for part in (
        "Side by side, under ever stronger attacks",
        "AutoAttack 30.0 10.8–60.3 3 of 10 50.0 23.7–76.3 5 of 10 +20.0 points",
        "p 0.5, Holm 1",
        NOTHING_TO_ADAPT,
        "Not to be trusted because random search wins.",
        "black box beats white box found 4 of 9 44.4 %",
        "No diagnosis on record",
        f"fsrobust diagnose {pair[0]}",
        "Inside AutoAttack: who fell to what",
        "Inside Adaptive: who fell to what",
        "noisy 6 4 60 3.0 50 % 6, 8, 10, 12",
        "All 3 stages",
        "Adaptive 7 1 of 7, 14 %",
        "Hardest to fool: one attack alone did",
        "Easiest to fool: all 4 attacks did",
        "Every number under an attack is an upper bound",
        "3 attacks in a row, each on what the ones before left: through joint (2), through noisy",
    ):
        assert part in text


def test_hostile_records_stay_text(tmp_path: Path) -> None:
    """Names of signs, stages and attacks, verdicts and sources are text, never markup."""
    sign = Sign(HOSTILE, True, 4, 9, 0.01, wilson(4, 9), HOSTILE)
    fake = replace(
        GUARDED,
        checkpoint=None,
        signs=(sign,),
        cascades={HOSTILE: {f"{HOSTILE}/a 1": "1100000000", f"{HOSTILE} 2": "0010000000"}},
        class_names=[HOSTILE] * 10,
        kept=[HOSTILE],
    )
    write_fake(tmp_path / "a", fake, source=HOSTILE)
    write_fake(tmp_path / "b", replace(fake, signs=()), source=HOSTILE)
    page = page_of(tmp_path / "a", tmp_path / "b", out=tmp_path / "r.html")
    assert "script" not in page.tags
    assert f"Inside {HOSTILE}" in page.text
    assert "<script" not in (tmp_path / "r.html").read_text(encoding="utf-8")
