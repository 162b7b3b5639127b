"""Comparisons of run directories: which records are put side by side, and what is said of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fsrobust.attacks import Linf
from fsrobust.evaluate.compare import Contrast, SeedsContrast
from fsrobust.evaluate.identity import weights_sha256
from fsrobust.evaluate.stats import Paired
from fsrobust.report.versus import versus, versus_text
from fsrobust.train.packing import pack
from fsrobust.types import InputError
from tests.report.builder import Fake, write_fake, write_run
from tests.runs import net

STRONGER = {"fgsm": "1" * 3 + "0" * 17, "pgd20": "0" * 18 + "11"}
"""Fooled last under fgsm and pgd20: of 20 samples three by the first, two by the second."""


def weaker(**changes: object) -> Fake:
    """Return an evaluation of fgsm and pgd20 with fewer fooled samples."""
    return Fake(weights=1, fooled_last=STRONGER, fooled_any={}, **changes)  # type: ignore[arg-type]


def test_two_runs_are_compared_by_their_records(tmp_path: Path) -> None:
    """A row holds the numbers that the bits in both directories make; sources, data and ball are named."""
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", weaker(), title="Other")
    made = versus([a], [b])
    row = made.comparison.row("pgd20", "paper")
    assert isinstance(row, Contrast)
    # A is fooled on 0 … 8, B on 18 and 19
    assert (row.a, row.b, row.only_a, row.only_b) == (11 / 20, 18 / 20, 2, 9)
    assert row.p == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    text = versus_text(made)
    for part in (
        "A: CIFAR-10, AT",
        "B: Other",
        "20 test samples of cifar10",
        "eps 8/255",
        "PGD-20",
        "only B",
    ):
        assert part in text
    assert "two checkpoints" in text
    assert "cw, pgd100" in text  # what B never met
    assert [
        line.split()[0] for line in text.splitlines() if line.startswith(("All attacks", "Ensemble"))
    ] == 2 * ["All"]
    summary = json.loads(json.dumps(made.summary()))
    assert {row["name"] for row in summary["rows"]} == {"natural", "fgsm", "pgd20", "all"}
    assert summary["setting"]["eps"] == "8/255"
    assert len(summary["rows"]) == 8


def test_table_sentence_and_json_hold_one_interval(tmp_path: Path) -> None:
    """Of 20 samples without a discordant one the interval is no point, in the table as in the sentence."""
    made = versus([write_run(tmp_path / "a")], [write_run(tmp_path / "b", Fake(weights=1))])
    low, high = Paired(7, 0, 0, 13).interval()
    assert low == pytest.approx(-high) == pytest.approx(-0.1019, abs=5e-5)
    assert "95 % interval -10.2 to +10.2" in made.comparison.sentence
    rows = [text for text in versus_text(made).splitlines() if text.lstrip().startswith("Ensemble")]
    assert len(rows) == 2
    assert "−10.2 to +10.2" in rows[1]
    row = made.summary()["rows"][-1]  # type: ignore[index]
    assert row["interval"] == pytest.approx([low, high])
    assert row["bootstrap"] == [0.0, 0.0]


def test_seeds_without_spread_have_a_dash(tmp_path: Path) -> None:
    """Neither interval nor p where every seed has the same difference; JSON says null, as it knows no NaN."""
    sides = [
        [
            write_run(tmp_path / f"{side}{k}", Fake(fooled_last={"fgsm": fooled}, fooled_any={}, weights=k))
            for k in range(3)
        ]
        for side, fooled in {"a": "1" * 5 + "0" * 15, "b": "1" * 4 + "0" * 16}.items()
    ]
    made = versus(*sides)
    (line, _) = [text for text in versus_text(made).splitlines() if text.startswith("FGSM")]
    assert line.split()[-3:] == ["–", "–", "–"]
    row = json.loads(json.dumps(made.summary(), allow_nan=False))["rows"][-1]
    assert (row["adjusted_p"], row["difference"]["p"], row["difference"]["interval"]) == (
        None,
        None,
        [None, None],
    )


def test_the_checkpoint_is_chosen(tmp_path: Path) -> None:
    """The option takes the best checkpoint's records, an audit's always count, and no records is an error."""
    a, b = write_run(tmp_path / "a"), tmp_path / "audit"
    write_fake(a, weaker(checkpoint="best"))
    write_fake(b, Fake(checkpoint=None))
    best = versus([a], [b], checkpoint="best").comparison.row("pgd20", "paper")
    assert isinstance(best, Contrast)
    assert best.a == 18 / 20
    with pytest.raises(InputError, match="--checkpoint best"):
        versus([a], [write_run(tmp_path / "c")], checkpoint="best")


def test_other_data_or_balls_are_refused(tmp_path: Path) -> None:
    """Records that share no data and ball are not compared; the message says what either holds."""
    a = write_run(tmp_path / "a")
    for name, fake in {"ball": weaker(ball=Linf(4 / 255)), "data": weaker(data="svhn")}.items():
        with pytest.raises(InputError, match=r"eps 8/255; .*(eps 4/255|svhn)"):
            versus([a], [write_run(tmp_path / name, fake)])
    with pytest.raises(InputError, match="neither"):
        versus([a], [tmp_path / "nothing"])


def test_other_draws_are_matched_by_id_and_said(tmp_path: Path) -> None:
    """Of two draws the common ids are compared, and a note says what that rests on; the same draw goes first."""
    a = write_run(tmp_path / "a")
    fewer = {name: text[:12] for name, text in STRONGER.items()}
    b = write_run(tmp_path / "b", Fake(natural="1" * 12, fooled_last=fewer, fooled_any={}, weights=1))
    made = versus([a], [b])
    assert made.comparison.n == 12
    assert "different draws" in versus_text(made)
    assert "Only the 12 samples" in versus_text(made)
    write_fake(b, weaker(seed=0, ball=Linf(8 / 255)))
    again = versus([a], [b])
    assert again.comparison.n == 20
    assert "different draws" not in versus_text(again)


def test_several_balls_are_named(tmp_path: Path) -> None:
    """Of several common settings the run's own is compared, the others are named."""
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", weaker())
    for folder in (a, b):
        write_fake(folder, weaker(ball=Linf(0.1)))
    made = versus([a], [b])
    assert made.setting.eps == "8/255"
    assert any("eps 0.1" in note for note in made.notes)


def test_seeds_are_compared_pair_by_pair(tmp_path: Path) -> None:
    """Three directories a side give mean ± sd of three seeds and a paired interval, and name all six."""
    sides = [
        [
            write_run(tmp_path / f"{side}{seed}", Fake(fooled_last=last, fooled_any={}, weights=seed))
            for seed, last in enumerate(fooled)
        ]
        for side, fooled in {
            "a": [{"fgsm": "1" * k + "0" * (20 - k)} for k in (8, 9, 10)],
            "b": [{"fgsm": "1" * k + "0" * (20 - k)} for k in (4, 6, 5)],
        }.items()
    ]
    made = versus(*sides)
    row = made.comparison.row("fgsm", "paper")
    assert isinstance(row, SeedsContrast)
    assert row.difference.mean == pytest.approx((4 + 3 + 5) / 60)
    assert row.difference.sd == pytest.approx(1 / 20)
    text = versus_text(made)
    assert "mean ± sd of 3 seeds" in text
    assert all(f"{side}{seed}" in text for side in "ab" for seed in range(3))
    assert "+20.0 ± 5.0" in text
    with pytest.raises(InputError, match="got 3 and 2"):
        versus(sides[0], sides[1][:2])


def test_records_of_other_weights_are_not_compared(tmp_path: Path) -> None:
    """A run that went on after it was evaluated is refused with the reason; the remarks of others are passed on."""
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", weaker())
    pack(net(seed=9), a / "weights", "last")
    with pytest.raises(
        InputError, match=r"none \(5 records are left out, being of other weights .*run: fsrobust evaluate"
    ):
        versus([a], [b])
    shutil.rmtree(a / "weights")
    write_fake(a, Fake(weights=2, created="2026-03-01T00:00:00+00:00"))
    for gallery in b.glob("eval/*/gallery.npz"):  # no number is another one for the want of it
        gallery.unlink()
    notes = versus([a], [b]).notes
    assert [note.partition(" are")[0] for note in notes] == [f"{a}: 1 of 2 evaluations"]


def test_attacks_on_other_samples_are_named(tmp_path: Path) -> None:
    """What both sides met on fewer samples is not compared, but said, with how to see it; what one met is not."""
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", weaker())
    few = Fake(natural="1" * 5, fooled_any={})
    write_fake(a, replace(few, fooled_last={"pgd10": "10000", "di-fgsm": "10000"}))
    assert not any("Also on record" in note for note in versus([a], [b]).notes)
    write_fake(b, replace(few, fooled_last={"pgd10": "11000", "fgsm": "00000"}, weights=1))
    made = versus([a], [b])
    assert made.comparison.n == 20
    assert f"Also on record, on 5 samples: PGD-10; compared by: fsrobust report {a} {b}" in made.notes


def test_other_weights_in_an_audit_are_named(tmp_path: Path) -> None:
    """Of several models in one folder one is compared, and which ones are not is said."""
    a, b = tmp_path / "audit", write_run(tmp_path / "b", weaker())
    for weights in (3, 4):
        write_fake(a, Fake(checkpoint=None, weights=weights), source=f"w{weights}.pth")
    made = versus([a], [b])
    assert made.a == [f"w3.pth ({a})"]
    assert f"{a} also holds records of other weights: {weights_sha256(net(seed=4))[:8]}." in made.notes
