"""Normalisation as a layer, so that every attack and every user sees pixels in [0, 1]."""

import torch
from torch import Tensor, nn

from fsrobust.types import Images, InputError


class Normalize(nn.Module):
    """Subtract ``mean`` and divide by ``std``, one number per channel.

    >>> Normalize((0.5,), (0.25,))(torch.full((1, 1, 1, 1), 0.75)).item()
    1.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise InputError(
                f"Expected as many means as positive standard deviations, but got {mean} and {std}"
            )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Images) -> Images:
        """Return (x − mean) / std."""
        return (x - self.mean) / self.std
