"""The two losses that train the plug-in (Kim et al., 2023, eqs. 3 and 4)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fsrobust.plugin.attach import Parts
from fsrobust.types import Labels, Logits


def most_likely_wrong(logits: Logits, y: Labels) -> Labels:
    """Return y′, the class with the highest score among the wrong ones.

    >>> most_likely_wrong(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 1]))
    tensor([1, 0])
    """
    return logits.detach().scatter(1, y[:, None], -torch.inf).argmax(dim=1)


def _mean_over_points(loss: Callable[[Logits], Tensor], logits: list[Logits]) -> Tensor:
    return torch.stack([loss(each.float()) for each in logits]).mean()


def separation_loss(parts: Parts, y: Labels) -> Tensor:
    """Return L_sep = CE(aux f⁺, y) + CE(aux f⁻, y′), averaged over samples and insertion points.

    y′ is read off the main logits of the same forward pass, not off the auxiliary head.
    """
    wrong = most_likely_wrong(parts.logits, y)
    return _mean_over_points(lambda z: F.cross_entropy(z, y), parts.robust) + _mean_over_points(
        lambda z: F.cross_entropy(z, wrong), parts.nonrobust
    )


def recalibration_loss(parts: Parts, y: Labels) -> Tensor:
    """Return L_rec = CE(aux f̃⁻, y), averaged over samples and insertion points."""
    return _mean_over_points(lambda z: F.cross_entropy(z, y), parts.recalibrated)
