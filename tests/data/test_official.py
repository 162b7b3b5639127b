"""CIFAR-100, SVHN and Tiny ImageNet: files in the official formats are read back; broken ones are refused."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from fsrobust.data import DATASETS, load_dataset
from fsrobust.data.archives import extract
from fsrobust.types import InputError

RNG = np.random.default_rng(0)


def pixels(count: int) -> np.ndarray:
    """Return random planes [count, 3072]."""
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)


# --- CIFAR-100 ---


def cifar100(root: Path, kind: str, labels: list[int] | None = None) -> np.ndarray:
    """Write three records of either split in the binary or the pickled layout; return the pixels."""
    planes, fine = pixels(3), np.array([7, 99, 0] if labels is None else labels)
    if kind == "binary":
        folder = root / "cifar-100-binary"
        folder.mkdir()
        records = np.concatenate([np.full((3, 1), 19), fine[:, None], planes], axis=1).astype(np.uint8)
        for name in ("train.bin", "test.bin"):
            (folder / name).write_bytes(records.tobytes())
    else:
        folder = root / "cifar-100-python"
        folder.mkdir()
        content = {b"data": planes, b"fine_labels": fine.tolist(), b"coarse_labels": [19] * 3}
        for name in ("train", "test"):
            (folder / name).write_bytes(pickle.dumps(content))
    return planes


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_cifar100_has_its_fine_labels(tmp_path: Path, kind: str) -> None:
    """The second label byte counts, and pixels keep their planes."""
    planes = cifar100(tmp_path, kind)
    data = load_dataset("cifar100", "test", root=tmp_path)
    assert data.labels.tolist() == [7, 99, 0]
    assert [data.class_names[k] for k in (0, 7, 99)] == ["apple", "beetle", "worm"]
    assert np.array_equal(data.images.numpy().reshape(3, -1), planes)


def test_a_label_that_cifar100_does_not_have_is_refused(tmp_path: Path) -> None:
    """100 is one too many."""
    cifar100(tmp_path, "binary", [7, 100, 0])
    with pytest.raises(InputError, match=r"from 0 to 99 in .*train.bin, but got 100"):
        load_dataset("cifar100", "train", root=tmp_path)


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    """A CIFAR-10 file under the other's name has no whole records either."""
    cifar100(tmp_path, "binary")
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(bytes(3073))
    with pytest.raises(InputError, match="whole records of 3074 bytes"):
        load_dataset("cifar100", "test", root=tmp_path)


# --- SVHN ---


def svhn(root: Path, **changes: np.ndarray) -> np.ndarray:
    """Write four digits of either split; return the images [32, 32, 3, N]."""
    x = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    content = {"X": x, "y": np.array([[1], [10], [9], [2]], np.uint8), **changes}
    for name in ("train_32x32.mat", "test_32x32.mat"):
        savemat(root / name, content)
    return x


def test_svhns_ten_is_zero_and_its_axes_are_turned(tmp_path: Path) -> None:
    """Rows, columns, channels, images become images, channels, rows, columns."""
    x = svhn(tmp_path)
    data = load_dataset("svhn", "train", root=tmp_path)
    assert data.labels.tolist() == [1, 0, 9, 2]
    assert data.images[3, 2, 5, 7].item() == x[5, 7, 2, 3]
    assert data.images.shape == (4, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 4))}, "X as uint8"),
        ({"X": np.zeros((3, 32, 32, 4), np.uint8)}, r"but got uint8 \[3, 32, 32, 4\]"),
        ({"y": np.array([[1], [11], [9], [2]])}, "from 0 to 10"),
        ({"y": np.array([[1], [9]])}, "4 images and 2 labels"),
        ({"y": np.array(["a"])}, "no numeric array y"),
    ],
)
def test_another_svhn_is_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    """Types, shapes and labels that the official file does not have."""
    svhn(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_dataset("svhn", "test", root=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_a_broken_matlab_file_is_refused(tmp_path: Path, damage: str) -> None:
    """The sentence names the file."""
    svhn(tmp_path)
    file = tmp_path / "train_32x32.mat"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    elif damage == "text":
        file.write_text("<html>no such page</html>" * 100)
    else:
        savemat(file, {"X": np.zeros(3)})
    with pytest.raises(InputError, match=r"a MATLAB file with the arrays X and y in .*train_32x32.mat"):
        load_dataset("svhn", "train", root=tmp_path)


# --- Tiny ImageNet ---


def tiny(root: Path, *, size: tuple[int, int] = (64, 64)) -> Path:
    """Write two of three classes, two images each, one of them grey, and three validation images."""
    folder = root / "tiny-imagenet-200"
    classes = ["n02", "n01"]
    for c in classes:
        (folder / "train" / c / "images").mkdir(parents=True)
        for k in (10, 9):
            colour = {"n01": (250, 0, 0), "n02": (0, 0, 250)}[c]
            image = Image.new("RGB", size, colour) if k == 9 else Image.new("L", size, 128)
            image.save(folder / "train" / c / "images" / f"{c}_{k}.JPEG", quality=95)
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for k, (c, grey) in enumerate([("n02", 200), ("n03", 100), ("n01", 50)]):
        Image.new("L", size, grey).save(folder / "val" / "images" / f"val_{k}.JPEG", quality=95)
        lines.append(f"val_{k}.JPEG\t{c}\t0\t0\t5\t5\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n02\nn01\nn03\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn99\tother\n")
    return folder


def test_tiny_imagenet_reads_its_own_layout(tmp_path: Path) -> None:
    """Classes are the folders there are, sorted; the validation images of those classes are the test split."""
    tiny(tmp_path)
    train, test = (load_dataset("tiny-imagenet", split, root=tmp_path) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("goldfish", "n02")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.images.shape == (4, 3, 64, 64)
    assert train.images[0, :, 0, 0].tolist()[0] > 200  # image 9 before image 10: red, then grey
    assert (train.images[1] - 128).abs().max() < 5 or (train.images[1].int() - 128).abs().max() < 5
    assert test.labels.tolist() == [1, 0]
    assert [round(float(image.float().mean()) / 50) for image in test.images] == [4, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("image", "Expected an image in"),
        ("size", "64×64 pixels in .*but got 32×32"),
        ("annotated", "which .*val_annotations.txt names, but there is none"),
        ("escape", "names, but there is none"),
        ("annotations", "lines of an image"),
        ("no classes", "a folder per class"),
        ("empty class", "Expected JPEG images in"),
        ("missing", "Expected val_annotations.txt in"),
    ],
)
def test_a_broken_tiny_imagenet_is_refused(tmp_path: Path, damage: str, message: str) -> None:
    """One sentence each, naming the file."""
    folder = tiny(tmp_path, size=(32, 32) if damage == "size" else (64, 64))
    annotations, split = folder / "val" / "val_annotations.txt", "test"
    if damage == "image":
        (folder / "val" / "images" / "val_0.JPEG").write_bytes(b"<html>")
    elif damage == "annotated":
        (folder / "val" / "images" / "val_2.JPEG").unlink()
    elif damage == "escape":
        (tmp_path / "secret.JPEG").write_bytes(b"")
        annotations.write_text("../../../secret.JPEG\tn01\t0\t0\t1\t1\n")
    elif damage == "annotations":
        annotations.write_text("val_0.JPEG n01\n")
    elif damage == "missing":
        annotations.unlink()
    elif damage in ("no classes", "empty class"):
        split = "train"
        for c in ("n01", "n02") if damage == "no classes" else ("n01",):
            for image in (folder / "train" / c / "images").iterdir():
                image.unlink()
            if damage == "no classes":
                (folder / "train" / c / "images").rmdir()
                (folder / "train" / c).rmdir()
    with pytest.raises(InputError, match=message):
        load_dataset("tiny-imagenet", split, root=tmp_path)  # type: ignore[arg-type]


# --- zip archives ---


def archive(file: Path, members: dict[str, bytes], *, link: bool = False) -> Path:
    """Write a zip file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
        if link:
            info = zipfile.ZipInfo("link")
            info.external_attr = 0o120777 << 16
            made.writestr(info, "/etc/passwd")
    return file


def test_a_zip_archive_is_unpacked(tmp_path: Path) -> None:
    """Files and folders as they are in it."""
    extract(archive(tmp_path / "a.zip", {"top/": b"", "top/a": b"1", "top/b/c": b"2"}), tmp_path / "out")
    assert (tmp_path / "out" / "top" / "b" / "c").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("members", "link", "message"),
    [
        ({"../evil": b""}, False, "inside the archive's folder"),
        ({"/etc/evil": b""}, False, "inside the archive's folder"),
        ({"a\\..\\evil": b""}, False, "inside the archive's folder"),
        ({}, True, "got a link"),
        ({"bomb": bytes(2**21)}, False, "at most 1048576 bytes"),
        ({str(k): b"" for k in range(12)}, False, "at most 10 members"),
    ],
)
def test_a_zip_archive_that_means_harm_leaves_nothing(
    tmp_path: Path,
    members: dict[str, bytes],
    link: bool,  # noqa: FBT001 - a column of the table
    message: str,
) -> None:
    """Paths that escape, links, and bombs of bytes or of members."""
    file = archive(tmp_path / "a.zip", members, link=link)
    with pytest.raises(InputError, match=message):
        extract(file, tmp_path / "out", max_bytes=2**20, max_members=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_a_damaged_zip_archive_is_refused(tmp_path: Path) -> None:
    """A flipped byte in a member shows in its checksum."""
    file = archive(tmp_path / "a.zip", {"a": RNG.bytes(5000)})
    content = bytearray(file.read_bytes())
    content[2000] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged archive"):
        extract(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- made-up images ---


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "svhn", pytest.param("tiny-imagenet", marks=pytest.mark.slow), "digits"]
)
def test_synthetic_images_have_the_shape_and_the_classes(name: str) -> None:
    """All classes are in both splits, the splits differ, and a second call gives the same bits."""
    train, test = (load_dataset(f"synthetic:{name}", split) for split in ("train", "test"))
    row = DATASETS[name]
    assert (train.channels, train.image_size, train.classes) == (row.channels, row.image_size, row.classes)
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(row.classes))
    assert train.name == f"synthetic:{name}"
    assert load_dataset(f"synthetic:{name}", "train").sha256 == train.sha256
    assert not torch.equal(train.images[: len(test)], test.images)


def test_synthetic_images_can_be_learnt_from_the_training_split() -> None:
    """The nearest class mean of the training images names 9 of 10 test images."""
    train, test = (load_dataset("synthetic:cifar10", split) for split in ("train", "test"))
    means = torch.stack([train.images[train.labels == k].float().mean(0).flatten() for k in range(10)])
    nearest = torch.cdist(test.images.float().flatten(1), means).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.9


def test_an_unknown_shape_is_refused() -> None:
    """The message names the nearest set."""
    with pytest.raises(InputError, match="did you mean cifar10"):
        load_dataset("synthetic:cifar1O", "train")


# --- the real sets ---


@pytest.mark.paper
@pytest.mark.skipif("FSROBUST_DATA" not in os.environ, reason="no real data")
def test_real_cifar100_is_the_published_one() -> None:
    """500 and 100 images of each class; the means that the literature normalises with."""
    root = Path(os.environ["FSROBUST_DATA"])
    if not (root / "cifar-100-binary").is_dir():
        pytest.skip("no CIFAR-100 there")
    train, test = (load_dataset("cifar100", split, root=root) for split in ("train", "test"))
    assert set(torch.bincount(train.labels).tolist()) == {500}
    assert set(torch.bincount(test.labels).tolist()) == {100}
    means = train.images.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.5071, 0.4865, 0.4409]), rtol=0, atol=1e-4)
