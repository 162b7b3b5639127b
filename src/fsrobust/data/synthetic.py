"""Images that nobody took: the shape and classes of a real set, in seconds, for trying things out.

A network learns them; nothing it does on them says anything about the set whose shape they have.
"""

from typing import Final

import numpy as np
import torch

from fsrobust.data.readers import Samples, Split
from fsrobust.seeding import Noise

_PER_CLASS: Final = {"train": 10, "test": 4}
_LEAST: Final = {"train": 512, "test": 256}
_CONTRAST: Final = 0.25
_GRAIN: Final = 0.15


def synthesise(
    channels: int, image_size: tuple[int, int], class_names: tuple[str, ...], split: Split
) -> Samples:
    """Return a smooth pattern for each class under uniform noise for each image; the same bits everywhere.

    At least 512 training and 256 test images, 10 and 4 of each class.
    """
    classes, (height, width) = len(class_names), image_size
    count = max(_LEAST[split], _PER_CLASS[split] * classes)
    labels = torch.arange(count) % classes
    coarse = Noise.of(torch.arange(classes), 0, "synthetic", "pattern").uniform((channels, 4, 4)) - 0.5
    patterns = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")
    grain = Noise.of(torch.arange(count), 0, "synthetic", split).uniform((channels, height, width)) - 0.5
    images = (0.5 + 2 * _CONTRAST * patterns[labels] + 2 * _GRAIN * grain).clamp(0, 1)
    as_bytes = (images * 255).round().to(torch.uint8).numpy()
    return Samples(as_bytes, labels.numpy().astype(np.int64), np.arange(count), class_names)
