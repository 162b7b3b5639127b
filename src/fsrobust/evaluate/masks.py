"""What the plug-in's mask does to clean and attacked images, as pictures and as a histogram."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fsrobust.attacks.probe import as_input, under_attack
from fsrobust.plugin import FSR, Guarded, insertion_points, parts_of
from fsrobust.types import Images

BINS = 50


def mask_pictures(model: nn.Module, x: Images, x_adv: Images) -> Mapping[str, NDArray[Any]] | None:
    """Return maps of the mask for clean and attacked images, None for a model without the plug-in.

    ``natural`` and ``attacked`` [n, M, N]: the mean of m over channels at each place; ``histogram`` [2, 50]:
    counts of m in equal bins of [0, 1], clean and attacked; ``position``: the layer. Of several insertion
    points the last is shown.
    """
    if not insertion_points(model):
        return None
    with under_attack(model), torch.no_grad():
        clean, attacked = (parts_of(model, as_input(model, images)).mask[-1] for images in (x, x_adv))
    histogram = [np.histogram(m.cpu().numpy(), bins=BINS, range=(0, 1))[0] for m in (clean, attacked)]
    return {
        "natural": clean.mean(1).cpu().numpy(),
        "attacked": attacked.mean(1).cpu().numpy(),
        "histogram": np.stack(histogram),
        "position": np.array(_place(model)),
    }


def _place(model: nn.Module) -> str:
    """Return the layer that the last plug-in follows, or its own name where it is a layer itself."""
    guarded = [module.at[-1] for module in model.modules() if isinstance(module, Guarded)]
    return (guarded or [name for name, module in model.named_modules() if isinstance(module, FSR)])[-1]
