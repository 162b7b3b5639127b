"""Data sets are found where they should be, are refused in one sentence, and are drawn from by seed."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from fsrobust.data import DATASETS, Dataset, draw, hold_out, load_dataset
from fsrobust.types import InputError


def toy(n: int, *, first_id: int = 0) -> Dataset:
    """Return n grey 2 × 2 images that all differ, in three classes."""
    ids = torch.arange(first_id, first_id + n)
    images = ids.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).to(torch.uint8)
    return Dataset("toy", "train", images, ids % 3, ids, ("a", "b", "c"))


def write_cifar10(folder: Path, *, batches: tuple[str, ...] = DATASETS["cifar10"].layouts[0].train) -> Path:
    """Write two records a batch, whose pixels are all the batch's number; the test batch's are 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*batches, "test_batch.bin"):
        number = int(name[11]) if name.startswith("data") else 0
        (folder / name).write_bytes((bytes([number]) + bytes([number]) * 3072) * 2)
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's own data from the tests."""
    monkeypatch.delenv("FSROBUST_DATA", raising=False)
    monkeypatch.setenv("FSROBUST_CACHE", str(tmp_path / "cache"))


# --- loading ---


def test_digits_first_row_by_hand() -> None:
    """The first digit is a 0 whose top row is 0 0 5 13 9 1 0 0 of 16, so k · 255/16 rounded."""
    test = load_dataset("digits", "test")
    assert test.images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert test.labels[0] == 0
    assert test.images.max() == 255
    assert (test.name, test.split, test.image_size) == ("digits", "test", (8, 8))
    assert (test.classes, test.channels) == (10, 1)


def test_digits_splits_share_nothing_and_lack_nothing() -> None:
    """Every fifth sample is test, the others train; ids are scikit-learn's order."""
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert test.ids.tolist() == list(range(0, 1797, 5))
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == list(range(1797))


@pytest.mark.parametrize("row", DATASETS.values(), ids=DATASETS.keys())
def test_rows_are_consistent(row: Any) -> None:
    """Each row's classes have distinct names, and what must be downloaded has a place to lie."""
    assert row.classes == len(set(row.class_names))
    assert (row.archives == ()) == (row.layouts == ())


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("source", ["root", "environment", "cache"])
def test_cifar10_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, inner: str) -> None:
    """The folder or its parent, as an argument or in the environment; and what is in the cache."""
    place = tmp_path / "cache" / "cifar10" if source == "cache" else tmp_path / "data"
    write_cifar10(place / "cifar-10-batches-bin")
    named = place / inner
    if source == "environment":
        monkeypatch.setenv("FSROBUST_DATA", str(named))
    train = load_dataset("cifar10", "train", root=named if source == "root" else None)
    assert train.labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert train.images[:, 2, 31, 31].tolist() == train.labels.tolist()
    assert load_dataset("cifar10", "test", root=named if source == "root" else None).labels.tolist() == [0, 0]


def test_root_goes_before_environment_before_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first place that has the data wins; an environment without them is passed over."""

    def place(folder: Path, label: int) -> None:
        write_cifar10(folder)
        (folder / "test_batch.bin").write_bytes(bytes([label]) + bytes(3072))

    place(tmp_path / "root", 7)
    place(tmp_path / "environment/cifar-10-batches-bin", 8)
    place(tmp_path / "cache/cifar10/cifar-10-batches-bin", 9)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("FSROBUST_DATA", str(tmp_path / "environment"))
    assert load_dataset("cifar10", "test", root=tmp_path / "root").labels.item() == 7
    assert load_dataset("cifar10", "test").labels.item() == 8
    monkeypatch.setenv("FSROBUST_DATA", str(tmp_path / "empty"))
    assert load_dataset("cifar10", "test").labels.item() == 9


def test_cifar10_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a place named, nothing is downloaded: the message says which layouts were looked for."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"CIFAR-10 in .*empty.*cifar-10-batches-bin/.*cifar-10-batches-py/"):
        load_dataset("cifar10", "train", root=empty)
    with pytest.raises(InputError, match=r"no such folder; let --data-root"):
        load_dataset("cifar10", "train", root=tmp_path / "mistyped")
    monkeypatch.setenv("FSROBUST_DATA", str(tmp_path / "mistyped"))
    with pytest.raises(InputError, match=r"no such folder; let FSROBUST_DATA"):
        load_dataset("cifar10", "train")


def test_a_missing_batch_is_named_and_the_other_split_read(tmp_path: Path) -> None:
    """Half a training set is not taken for the whole; the test set beside it can be used."""
    write_cifar10(tmp_path, batches=("data_batch_1.bin", "data_batch_2.bin"))
    with pytest.raises(InputError, match=r"Expected data_batch_3\.bin in .*, but it is missing"):
        load_dataset("cifar10", "train", root=tmp_path)
    assert len(load_dataset("cifar10", "test", root=tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar01", r"did you mean cifar10\?"),
        ("CIFAR10", r"did you mean cifar10\?"),
        ("mnist", r"tiny-imagenet, synthetic:NAME, npz:FILE and folder:PATH, but got 'mnist'$"),
        ("npz:", "but got 'npz:'"),
        ("", "but got ''"),
    ],
)
def test_unknown_names_get_a_hint(name: str, message: str) -> None:
    """A near miss is suggested, and the list is always given."""
    with pytest.raises(InputError, match=message):
        load_dataset(name, "train")


def test_a_path_without_its_prefix_gets_a_hint(tmp_path: Path) -> None:
    """Who names a folder or a file alone is told how to write it."""
    (tmp_path / "own.npz").touch()
    for path, hint in ((tmp_path, "folder"), (tmp_path / "own.npz", "npz")):
        with pytest.raises(InputError, match=f"did you mean {hint}:{path}"):
            load_dataset(str(path), "train")


def test_image_size_is_for_folders(tmp_path: Path) -> None:
    """Where it would be ignored it is refused; below one pixel, too."""
    with pytest.raises(InputError, match="resized to 64 pixels, but got digits"):
        load_dataset("digits", "train", image_size=64)
    with pytest.raises(InputError, match="1 to 4096 pixels, but got 0"):
        load_dataset(f"folder:{tmp_path}", "train", image_size=0)


def test_own_data_keep_their_name(tmp_path: Path) -> None:
    """A data set from a file is called what it was asked for."""
    x, y = np.zeros((2, 8, 8), np.uint8), np.array([0, 1])
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = load_dataset(f"npz:{tmp_path / 'own.npz'}", "test")
    assert (data.name, data.split) == (f"npz:{tmp_path / 'own.npz'}", "test")


# --- one data set ---


def test_sha256_by_hand() -> None:
    """The fingerprint is that of the shape's text, the pixels and little-endian int64 labels."""
    data = toy(2)
    content = b"(2, 1, 2, 2)" + bytes([0] * 4 + [1] * 4) + bytes([0] * 8 + [1] + [0] * 7)
    assert data.sha256 == hashlib.sha256(content).hexdigest()


def test_sha256_sees_every_change() -> None:
    """Order, pixels, labels and shape each change it; ids, and where the tensors lie, do not."""
    data = toy(6)
    turned = replace(data, images=data.images.view(6, 1, 1, 4))
    relabelled = replace(data, labels=2 - data.labels)
    others = [data.select([1, 0, 2, 3, 4, 5]), data.select(range(5)), turned, relabelled]
    assert len({data.sha256, *(other.sha256 for other in others)}) == 5
    assert data.sha256 == replace(data, ids=data.ids + 9).sha256 == data.to("cpu").sha256


def test_select_keeps_order_identity_and_names() -> None:
    """Any order of indices, as numbers or a tensor; the split can be renamed."""
    data = toy(6, first_id=10)
    for indices in ([4, 0], torch.tensor([4, 0])):
        some = data.select(indices, "validation")
        assert some.ids.tolist() == [14, 10]
        assert some.images[:, 0, 0, 0].tolist() == [14, 10]
        assert some.labels.tolist() == [2, 1]
        assert (some.split, some.class_names, data.split) == ("validation", ("a", "b", "c"), "train")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([0, 1])},
        {"labels": torch.tensor([0, 1, 3])},
        {"labels": torch.tensor([0, 1, -1])},
        {"labels": torch.tensor([0.0, 1.0, 2.0])},
        {"ids": torch.tensor([0, 1, 2, 3])},
        {"images": torch.zeros(3, 1, 2, 2)},
        {"images": torch.zeros(3, 2, 2, dtype=torch.uint8)},
    ],
)
def test_parts_must_fit(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that differ, labels without a class and other types are refused without type checks, too."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="Expected"):
        replace(toy(3), **change)


def test_nothing_is_no_data_set() -> None:
    """A data set has at least one sample."""
    with pytest.raises(InputError, match="at least one"):
        toy(0)


# --- drawing ---


def test_hold_out_is_a_partition() -> None:
    """The two parts share no sample, lack none, ascend, and say what they are."""
    rest, validation = hold_out(toy(200, first_id=5), count=20, seed=0)
    assert (len(rest), len(validation)) == (180, 20)
    assert (rest.split, validation.split) == ("train", "validation")
    assert sorted([*rest.ids.tolist(), *validation.ids.tolist()]) == list(range(5, 205))
    for part in (rest, validation):
        assert part.ids.tolist() == sorted(part.ids.tolist())


def test_choices_depend_on_seed_and_ids_alone() -> None:
    """Neither the order of the samples nor torch's own generator matters; the seed does."""
    data = toy(200)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    chosen = draw(data, count=50, seed=0).ids.tolist()
    assert torch.equal(torch.get_rng_state(), before)
    assert draw(data.select(range(199, -1, -1)), count=50, seed=0).ids.tolist() == chosen
    assert draw(data, count=60, seed=0).ids.tolist() != chosen
    assert set(chosen) < set(draw(data, count=60, seed=0).ids.tolist())
    assert draw(data, count=50, seed=1).ids.tolist() != chosen
    assert hold_out(data, count=20, seed=0)[1].ids.tolist() != draw(data, count=20, seed=0).ids.tolist()


def test_every_sample_is_drawn_equally_often() -> None:
    """Over 400 seeds each of 20 samples is among 5 drawn about 100 times (sd 8.7; 5 sd allowed)."""
    data = toy(20)
    drawn = torch.cat([draw(data, count=5, seed=seed).ids for seed in range(400)])
    counts = drawn.bincount(minlength=20)
    assert counts.sum() == 2000
    assert (counts - 100).abs().max() < 44


def test_counts_are_capped_or_refused() -> None:
    """At most a tenth is held out, at most everything drawn; nothing is refused."""
    data = toy(30)
    assert len(hold_out(data, count=1000, seed=0)[1]) == 3
    assert draw(data, count=30, seed=0) is data
    for count in (0, -1):
        with pytest.raises(InputError, match=f"count of {count}"):
            hold_out(data, count=count, seed=0)
        with pytest.raises(InputError, match=f"count of {count}"):
            draw(data, count=count, seed=0)
    with pytest.raises(InputError, match="at least 10 training samples"):
        hold_out(toy(9), count=1, seed=0)


# --- the real thing ---

ROOT = os.environ.get("FSROBUST_DATA")


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the real test set: FSROBUST_DATA, or a packed copy beside the checkout."""
    if ROOT:
        return Path(ROOT)
    packed = Path(__file__).parents[2].parent / "shared" / "data"
    if not (packed / "cifar10" / "test").is_dir():
        pytest.skip("needs CIFAR-10 under FSROBUST_DATA")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, packed / "unpack.py", folder, "cifar10/test"], check=True)
    return folder


@pytest.mark.paper
def test_real_cifar10(real_cifar10: Path) -> None:
    """10,000 test images, or the 9,980 of the packed copy, some 1,000 a class, with the known mean."""
    test = load_dataset("cifar10", "test", root=real_cifar10)
    assert len(test) in (9_980, 10_000)
    counts = test.labels.bincount(minlength=10)
    assert len(counts) == 10
    assert counts.min() >= 980
    assert counts.max() <= 1000
    mean = test.images.double().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.494, 0.485, 0.450]).double(), atol=0.01, rtol=0)
