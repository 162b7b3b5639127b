"""How large a run's model is, read from the header of its weights alone."""

from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, safe_open

_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked", "normalize.mean", "normalize.std")


def count_parameters(folder: Path) -> int | None:
    """Return how many trainable numbers the last checkpoint holds, read from its header alone."""
    pointer = folder / "checkpoints" / "last"
    try:
        step = pointer.read_text(encoding="utf-8").strip()
        weights = pointer.parent / step / "weights.safetensors"
        if not step.isdigit() or not weights.is_file():
            return None
        with safe_open(weights, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError):
        return None
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(_STATISTICS))
