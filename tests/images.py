"""Folders of small images, made up, for tests that read them."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root: Path, *, classes: int = 2, train: int = 20, test: int = 4, size: int = 8) -> Path:
    """Write ``classes`` classes of noisy flat colours, ``train`` and ``test`` PNGs each, and return the folder."""
    generator = np.random.default_rng(0)
    colours = generator.integers(40, 216, (classes, 3))
    for split, count in (("train", train), ("test", test)):
        for name, colour in enumerate(colours):
            folder = root / split / f"class{name}"
            folder.mkdir(parents=True)
            for number in range(count):
                grain = generator.integers(-40, 40, (size, size, 3))
                Image.fromarray((colour + grain).astype(np.uint8)).save(folder / f"{number:03}.png")
    return root
