"""What a table rests on: parts of official sets are named, and cells of other data refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fsrobust.attacks import ATTACKS
from fsrobust.cli import run
from fsrobust.data import Dataset, load_dataset
from fsrobust.recipes.basis import announce, refuse_other_data
from fsrobust.recipes.execute import check_shapes
from fsrobust.recipes.paper import paper_table
from fsrobust.recipes.plan import Cell, plan
from fsrobust.recipes.table import read_table
from fsrobust.report.spread import Spread
from fsrobust.report.spread_forms import spread_markdown
from fsrobust.types import InputError
from tests.report.builder import Fake, write_config, write_fake

WITHHELD = "Published numbers are of the whole data set and do not stand beside it."


def made_up(name: str, *, classes: int, count: int, split: str = "train") -> Dataset:
    """Return blank images that go by the name of a data set."""
    labels = torch.arange(count) % classes
    images = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    return Dataset(name, split, images, labels, torch.arange(count), tuple(map(str, range(classes))))


def full_table(
    folder: Path, name: str, *, classes: int, trained: int, tested: int, rows: Sequence[str] = ("at",)
) -> Spread:
    """Return a table of full scale whose cells were done on so many samples: half are right, whatever attacks.

    With the plug-in the second one is, too.
    """
    cells = plan(paper_table(name), scale="full", out=folder, rows=rows)
    for cell in cells:
        bits = ("11" if cell.row.endswith("+fsr") else "10") + "10" * (tested // 2 - 1)
        fooled = dict.fromkeys(("fgsm", "pgd20", "pgd100", "cw"), bits.translate({48: "1", 49: "0"}))
        data = {"name": cell.run.data, "sha256": "0" * 64, "n": trained}
        train = {"train_on": "minus_validation", "validation": 1000, "seed": 0}
        write_config(cell.folder, data=data, train=train)
        names = tuple(map(str, range(classes)))
        fake = Fake(bits, fooled, {}, data=cell.run.data, of=tested, class_names=names, parts=())
        write_fake(cell.folder, fake)
        cell.finish()
    return read_table(paper_table(name), cells, "full")


@pytest.fixture
def whitebox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave AutoAttack out of every plan: records are made up, and it has stages."""
    monkeypatch.delitem(ATTACKS, "autoattack")


@pytest.mark.usefixtures("whitebox")
def test_published_numbers_stand_beside_the_whole_set_alone(tmp_path: Path) -> None:
    """Two of 200 classes and six test images are a part, which the table says; the paper's 51.13 is not in it."""
    made = full_table(tmp_path, "S2", classes=2, trained=900, tested=6)
    assert made.note == (
        "A part of tiny-imagenet: 2 of 200 classes, 1,000 of 100,000 training samples, 6 of 10,000 test samples. "
        + WITHHELD
    )
    assert not made.compared
    assert made.gain is None
    assert "A part of tiny-imagenet: 2 of 200 classes" in spread_markdown(made)
    whole = full_table(tmp_path / "whole", "S2", classes=200, trained=99_000, tested=10_000)
    assert (whole.note, whole.rows[0].published["natural"], whole.gain) == (
        None,
        51.13,
        paper_table("S2").gain,
    )


@pytest.mark.usefixtures("whitebox")
def test_nearly_all_of_a_set_has_them_and_says_so(tmp_path: Path) -> None:
    """9,980 of CIFAR-10's 10,000 test images are within a fifth of a point of all; 9,900 are not."""
    made = full_table(tmp_path, "S5", classes=10, trained=48_928, tested=9_980)
    assert made.note == (
        "Nearly all of cifar10: 49,928 of 50,000 training samples, 9,980 of 10,000 test samples."
    )
    assert made.rows[0].published["natural"] == 85.02
    assert not full_table(tmp_path / "fewer", "S5", classes=10, trained=49_000, tested=9_900).compared


@pytest.mark.usefixtures("whitebox")
def test_a_table_has_fsrs_mean_gain_with_its_interval(tmp_path: Path) -> None:
    """By hand: one sample of 20 gains 1, so 5 points ± 5 × 2.093, Student's t with 19 degrees of freedom."""
    made = full_table(
        tmp_path, "S1", classes=100, trained=49_000, tested=20, rows=list(paper_table("S1").rows)
    )
    (gain,) = made.gains
    assert [gain.mean, gain.low, gain.high] == pytest.approx([5, 5 - 10.465, 5 + 10.465], abs=1e-3)
    assert (gain.checkpoint, gain.seeds, gain.n) == ("last", 1, 20)


def test_what_is_missing_is_said_before_anything_is_made(tmp_path: Path) -> None:
    """At full scale with what follows from it; at small scale nothing is published anyway."""
    train = made_up("tiny-imagenet", classes=2, count=20)
    test = made_up("tiny-imagenet", classes=2, count=6, split="test")
    for scale, end in (("full", WITHHELD), ("small", "6 of 10,000 test samples.")):
        (cell,) = plan(paper_table("S2"), scale=scale, out=tmp_path, rows=["at"])  # type: ignore[arg-type]
        (sentence,) = announce(cell, train, test)
        assert sentence.startswith(
            "A part of tiny-imagenet: 2 of 200 classes, 20 of 100,000 training samples"
        )
        assert sentence.endswith(end)
    whole = made_up("cifar10", classes=10, count=50_000), made_up("cifar10", classes=10, count=10_000)
    assert announce(cell, *whole) == []


def test_a_part_of_the_classes_is_no_reason_to_leave_the_model_alone() -> None:
    """What to do is said, and the other advice stays where somebody has changed the model."""
    part = made_up("tiny-imagenet", classes=20, count=40)
    recipe = paper_table("S2").run("at")
    with pytest.raises(
        InputError, match="only 20 of them are there; let --data-root name the whole"
    ) as refused:
        check_shapes(recipe, part)
    assert "give --data tiny-imagenet" in str(refused.value)
    assert "alone" not in str(refused.value)
    changed = replace(recipe, model=replace(recipe.model, classes=3))
    with pytest.raises(InputError, match=r"leave model.channels and model.classes alone"):
        check_shapes(changed, part)


def done(folder: Path) -> tuple[Cell, Dataset, Dataset]:
    """Return a cell that was done at smoke scale, and its data."""
    arguments = ["reproduce", "S5", "--rows", "at", "--scale", "smoke", "--device", "cpu"]
    assert run([*arguments, "--out", str(folder)]) == 0
    (cell,) = plan(paper_table("S5"), scale="smoke", out=folder, rows=["at"])
    train, test = (load_dataset(cell.run.data, split) for split in ("train", "test"))
    return cell, train, test


def test_cells_of_other_data_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other training images, other test images, and through the command; on its own data a table is shown again."""
    cell, train, test = done(tmp_path)
    by_hand = ["evaluate", str(cell.folder), "--attacks", "fgsm", "--limit", "5", "--curve-samples", "0"]
    assert run([*by_hand, "--device", "cpu"]) == 0  # more records, of which no table is made
    refuse_other_data([cell], train, test)
    other_train = replace(train, labels=train.labels.roll(1))
    with pytest.raises(InputError, match=r"S5 at, seed 0, was done on other training images") as refused:
        refuse_other_data([cell], other_train, test)
    assert f'remove "{cell.folder}" to make it anew' in str(refused.value)
    other_test = replace(test, images=255 - test.images)
    with pytest.raises(InputError, match="was done on other test images"):
        refuse_other_data([cell], train, other_test)
    again = ["reproduce", "S5", "--rows", "at", "--scale", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert run([*again, "--data-root", str(tmp_path)]) == 0
    data_of = listening(monkeypatch, train, other_test)
    assert run([*again, "--data-root", str(tmp_path)]) == 2
    assert "was done on other test images of synthetic:cifar10" in capsys.readouterr().err
    assert data_of == ["asked"]
    assert run(again) == 0  # no data are named: what is on record is shown


def listening(monkeypatch: pytest.MonkeyPatch, train: Dataset, test: Dataset) -> list[str]:
    """Let ``reproduce`` find these data, and return a list that tells whether it looked."""
    asked: list[str] = []

    def data_of(*_arguments: Any) -> tuple[Dataset, Dataset]:
        asked.append("asked")
        return train, test

    monkeypatch.setattr("fsrobust.recipes.reproduce.data_of", data_of)
    return asked
