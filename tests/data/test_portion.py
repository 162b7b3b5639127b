"""How much of an official data set some counts are, and when published numbers speak of it."""

import pytest

from fsrobust.data import DATASETS, draw, hold_out, load_dataset, portion
from fsrobust.data.portion import before_hold_out


@pytest.mark.parametrize(
    ("name", "counts", "comparable", "remark"),
    [
        ("cifar10", (10, 50_000, 10_000), True, None),
        ("cifar10", (10, None, None), True, None),
        (
            "cifar10",
            (10, 49_928, 9_980),
            True,
            "Nearly all of cifar10: 49,928 of 50,000 training samples, 9,980 of 10,000 test samples.",
        ),
        ("cifar100", (100, 50_000, 9_900), False, "A part of cifar100: 9,900 of 10,000 test samples."),
        ("cifar100", (100, 49_500, 10_000), False, "A part of cifar100: 49,500 of 50,000 training samples."),
        ("svhn", (10, 73_257, 26_032), True, None),
        (
            "tiny-imagenet",
            (2, 1_000, 6),
            False,
            "A part of tiny-imagenet: 2 of 200 classes, 1,000 of 100,000 training samples, 6 of 10,000 test samples.",
        ),
        (
            "tiny-imagenet",
            (199, None, 9_950),
            False,
            "A part of tiny-imagenet: 199 of 200 classes, 9,950 of 10,000 test samples.",
        ),
        (
            "svhn",
            (10, 604_388, 26_032),
            False,
            "A part of svhn: 604,388 instead of 73,257 training samples.",
        ),
    ],
)
def test_what_there_is_is_held_against_the_official_counts(
    name: str, counts: tuple[int, int | None, int | None], *, comparable: bool, remark: str | None
) -> None:
    """Every class and more than 99 % of either split, and no more than that either; whatever differs is said."""
    classes, train, test = counts
    found = portion(name, classes=classes, train=train, test=test)
    assert found is not None
    assert found.comparable == comparable
    assert found.remark == remark


def test_data_that_nobody_has_published_on_are_no_part_of_anything() -> None:
    """One's own, made-up ones, and the bundled digits, of which nothing can be missing."""
    for name in ("folder:photos", "npz:some.npz", "synthetic:cifar10", "digits"):
        assert portion(name, classes=2, train=10, test=6) is None
    assert all(spec.samples for spec in DATASETS.values() if spec.archives)


@pytest.mark.parametrize("size", [20, 200, 1437])
@pytest.mark.parametrize("count", [1, 15, 1000])
def test_how_many_there_were_follows_from_the_rest(size: int, count: int) -> None:
    """What ``hold_out`` left tells what it had."""
    rest, _ = hold_out(draw(load_dataset("digits", "train"), count=size, seed=0), count=count, seed=0)
    assert before_hold_out(len(rest), count=count) == size
