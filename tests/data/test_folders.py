"""Folders of images are read in order and pixel for pixel, and every unusable one is named."""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fsrobust.data.readers import read_folder
from fsrobust.types import InputError


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, image: np.ndarray | Image.Image, **options: Any) -> Path:
    """Write an image, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, two training images each and one test image, 6 × 6 colour PNGs."""
    for position, name in enumerate(
        ["train/dog/b", "train/dog/a", "train/cat/2", "train/cat/10", "test/cat/x"]
    ):
        save(tmp_path / f"{name}.png", pixels(6, 6, 3, seed=position))
    save(tmp_path / "test/dog/x.PNG", pixels(6, 6, 3, seed=9))
    return tmp_path


def test_folder_order_and_pixels(folder: Path) -> None:
    """Classes and files come sorted by name, pixels unchanged, ids by position."""
    train = read_folder(folder, "train")
    expected = [pixels(6, 6, 3, seed=seed).transpose(2, 0, 1) for seed in (3, 2, 1, 0)]
    np.testing.assert_array_equal(train.images, expected)
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.ids.tolist() == [0, 1, 2, 3]
    assert train.class_names == ("cat", "dog")
    assert read_folder(folder, "test").labels.tolist() == [0, 1]


def test_folder_ignores_what_is_no_image(folder: Path) -> None:
    """Notes and the hidden files of file managers change nothing."""
    (folder / "train/cat/notes.txt").write_text("x")
    (folder / "train/cat/.hidden.png").write_text("x")
    (folder / "train/.cache").mkdir()
    assert len(read_folder(folder, "train").images) == 4


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(folder: Path, mode: str) -> None:
    """Grey, bilevel, palette, transparent and print images end as three channels."""
    suffix = "jpg" if mode == "CMYK" else "png"
    image = Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode)
    options: dict[str, Any] = {"transparency": bytes(range(256))} if mode == "P" else {}
    (folder / "train/cat/2.png").unlink()
    save(folder / f"train/cat/2.{suffix}", image, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = read_folder(folder, "train")
    assert train.images[1].min() >= 254  # JPEG may lose one level


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "webp"])
def test_every_promised_format_is_read(folder: Path, suffix: str) -> None:
    """Each suffix, in either case, is decoded; a plain colour survives the lossy ones within 3 levels."""
    save(folder / f"test/cat/y.{suffix}", np.full((6, 6, 3), (200, 100, 50), np.uint8))
    image = read_folder(folder, "test").images[1].astype(int)
    assert abs(image - np.array([200, 100, 50])[:, None, None]).max() <= 3


def test_resizing_cuts_the_centre(folder: Path) -> None:
    """An image whose shorter side has the right length already loses only its outer columns."""
    wide = pixels(6, 10, 3, seed=5)
    save(folder / "test/cat/x.png", wide)
    image = read_folder(folder, "test", image_size=6).images[0]
    np.testing.assert_array_equal(image, wide[:, 2:8].transpose(2, 0, 1))


def test_resizing_is_antialiased(folder: Path) -> None:
    """Two white columns in each eight shrink to a dark grey; sampled alone they would stay white."""
    board = np.zeros((24, 24, 3), np.uint8)
    board[:, [3, 4, 11, 12, 19, 20]] = 255
    save(folder / "test/cat/x.png", board)
    image = read_folder(folder, "test", image_size=3).images[0].astype(float)
    # their mean is 64, and bicubic weights favour the middle a little; unfiltered it would be 255
    assert abs(image - 64).max() < 16


def test_sizes_must_agree_or_be_made_to(folder: Path) -> None:
    """Two sizes, or one that is not square, are refused with both sizes and the way out."""
    save(folder / "train/dog/b.png", pixels(8, 8, 3))
    with pytest.raises(InputError, match=r"10\.png is 6×6 and .*b\.png is 8×8.*--image-size 64"):
        read_folder(folder, "train")
    save(folder / "test/cat/x.png", pixels(6, 8, 3))
    with pytest.raises(InputError, match=r"square .*x\.png is 8×6; .*--image-size 64"):
        read_folder(folder, "test")
    assert read_folder(folder, "train", image_size=4).images.shape == (4, 3, 4, 4)


def test_unusable_images_are_named(folder: Path) -> None:
    """16-bit, cut, foreign and disguised images are refused with their name."""
    file = folder / "train/cat/2.png"
    good = file.read_bytes()
    save(file, pixels(6, 6).astype(np.uint16) * 257)
    with pytest.raises(InputError, match=r"8 bits a channel, but .*2\.png"):
        read_folder(folder, "train")
    for broken in (good[:-30], b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n"):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"Expected an image in .*2\.png"):
            read_folder(folder, "train")
    save(folder / "train/cat/3.tif", pixels(6, 6, 3))
    with pytest.raises(InputError, match=r"3\.tif; convert it"):
        read_folder(folder, "train")


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_sixteen_bits_a_channel_are_refused(folder: Path, colour: int) -> None:
    """Pillow would cut colours, and greys with transparency, to their high bytes in silence."""
    file = folder / "train/cat/2.png"
    file.write_bytes(sixteen_bits(6, colour))
    with pytest.raises(InputError, match=r"8 bits a channel, but .*2\.png"):
        read_folder(folder, "train")


def sixteen_bits(side: int, colour: int) -> bytes:
    """Return a PNG of 16 bits a channel, which Pillow does not write: RGB (2); grey (4) or RGB (6) and how opaque."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    channels = {2: 3, 4: 2, 6: 4}[colour]
    rows = b"".join(b"\0" + pixels(side, channels, 2, seed=row).tobytes() for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 16, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_classes_are_named_in_text(folder: Path) -> None:
    """Bytes of another encoding, as old archives leave them, are refused before anything is trained on them."""
    for split in ("train", "test"):
        (folder / split / "cat").rename(os.fsdecode(os.fsencode(folder / split) + b"/caf\xe9"))
    with pytest.raises(InputError, match=r"named in UTF-8, but got 'caf"):
        read_folder(folder, "train")


@pytest.mark.parametrize("limit", [20, 10])
def test_decompression_bombs_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Above Pillow's limit of pixels, where it warns, and above twice that, where it raises."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match="DecompressionBomb"):
        read_folder(folder, "train")


def test_broken_folders_are_named(folder: Path) -> None:
    """A missing split, a missing, empty or only class: each is refused by name."""
    (folder / "test/cat/x.png").unlink()
    with pytest.raises(InputError, match=r"Expected images in .*test/cat, but got none"):
        read_folder(folder, "train")
    (folder / "test/cat").rmdir()
    with pytest.raises(InputError, match=r"got no folder .*test/cat"):
        read_folder(folder, "train")
    for file in (folder / "train/cat").iterdir():
        file.unlink()
    (folder / "train/cat").rmdir()
    with pytest.raises(InputError, match=r"at least two class folders .*got dog"):
        read_folder(folder, "train")
    (folder / "test").rename(folder / "testing")
    with pytest.raises(InputError, match=r"Expected a folder .*test with"):
        read_folder(folder, "train")
