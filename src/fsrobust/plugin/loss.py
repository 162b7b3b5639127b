"""The two losses that train the plug-in (Kim et al., 2023, eqs. 3 and 4)."""

from collections.abc import Callable
from typing import Final, Literal

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
    # no softmax in half precision; float64 stays
    wide = [each if each.dtype == torch.float64 else each.float() for each in logits]
    return torch.stack([loss(each) for each in wide]).mean()


Nonrobust = Literal["mispredicted", "uniform", "entropy", "average"]
"""What the auxiliary head is to say of f⁻ (Table S5): y′, every class alike, nothing, or any wrong class."""


def separation_loss(parts: Parts, y: Labels, *, nonrobust: Nonrobust = "mispredicted") -> Tensor:
    """Return L_sep = CE(aux f⁺, y) + a term for f⁻, averaged over samples and insertion points.

    With p⁻ the softmax of aux f⁻ that term is: "mispredicted" (the default), CE(aux f⁻, y′), y′ being read off the
    main logits of the same forward pass, not off the auxiliary head; "uniform", the cross-entropy against 1/K for
    each class; "entropy", −H(p⁻); "average", the mean of CE(aux f⁻, k) over all wrong classes k.
    """
    wrong = most_likely_wrong(parts.logits, y)
    on_robust = _mean_over_points(lambda z: F.cross_entropy(z, y), parts.robust)
    return on_robust + _mean_over_points(lambda z: _NONROBUST[nonrobust](z, y, wrong), parts.nonrobust)


def _negative_entropy(z: Logits) -> Tensor:
    log_p = z.log_softmax(1)
    return (log_p.exp() * log_p).sum(1).mean()


def _mean_over_wrong(z: Logits, y: Labels) -> Tensor:
    log_p = z.log_softmax(1)
    return (log_p.gather(1, y[:, None]).squeeze(1) - log_p.sum(1)).mean() / (z.shape[1] - 1)


_NONROBUST: Final[dict[str, Callable[[Logits, Labels, Labels], Tensor]]] = {
    "mispredicted": lambda z, _y, wrong: F.cross_entropy(z, wrong),
    "uniform": lambda z, _y, _wrong: -z.log_softmax(1).mean(),
    "entropy": lambda z, _y, _wrong: _negative_entropy(z),
    "average": lambda z, y, _wrong: _mean_over_wrong(z, y),
}


def recalibration_loss(parts: Parts, y: Labels) -> Tensor:
    """Return L_rec = CE(aux f̃⁻, y), averaged over samples and insertion points."""
    return _mean_over_points(lambda z: F.cross_entropy(z, y), parts.recalibrated)
