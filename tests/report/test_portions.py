"""A report on runs of a part of an official data set: what is missing is said, and what was published left out."""

from pathlib import Path
from typing import Any

import pytest

from fsrobust.report import read_run
from fsrobust.report.portions import WITHHELD
from tests.report.builder import Fake, write_run
from tests.report.test_html import page_of


def trained_on(n: int, **settings: Any) -> dict[str, Any]:
    """Return what config.json says of a run that learnt from ``n`` samples, by default 1,000 more being held out."""
    train = {"train_on": "minus_validation", "validation": 1000, "epochs": 0, "seed": 0, **settings}
    return {"data": {"name": "cifar10", "sha256": "0" * 64, "n": n}, "train": train}


@pytest.mark.parametrize(
    ("fake", "config", "shown"),
    [
        (Fake(), trained_on(49_000), True),
        (Fake(), trained_on(50_000, train_on="all"), True),
        (Fake(of=9_980), trained_on(48_928), True),
        (Fake(of=9_900), trained_on(49_000), False),
        (Fake(), trained_on(9_000), False),
        (Fake(), trained_on(49_000, train_on="all"), False),
        (Fake(class_names=("a", "b")), trained_on(49_000), False),
    ],
)
def test_published_numbers_are_of_all_classes_and_nearly_all_samples(
    tmp_path: Path, fake: Fake, config: dict[str, Any], *, shown: bool
) -> None:
    """Beside 9,980 of CIFAR-10's 10,000 test images they stand, beside 9,900 or a part of the training set not."""
    run = read_run(write_run(tmp_path, fake, **config))
    assert bool(run.published(run.evaluations[0])) == shown


def test_a_page_says_what_its_data_lack(tmp_path: Path) -> None:
    """Nearly all of CIFAR-10 has the paper's numbers beside it, a part of it the reason why not; all needs no word."""
    pages = {}
    for of in (10_000, 9_980, 360):
        folder = write_run(tmp_path / str(of), Fake(of=of), **trained_on(49_000))
        pages[of] = page_of(folder, out=tmp_path / f"{of}.html").text
    assert "of cifar10: " not in pages[10_000]
    assert "Everything here: Nearly all of cifar10: 9,980 of 10,000 test samples." in pages[9_980]
    assert "paper 60 ours +15.0" in pages[9_980]
    assert f"Everything here: A part of cifar10: 360 of 10,000 test samples. {WITHHELD}" in pages[360]
    assert "paper 60" not in pages[360]
