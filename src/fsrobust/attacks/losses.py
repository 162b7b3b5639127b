"""What an attack maximises: one number per sample, larger is worse for the model."""

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional as F

from fsrobust.types import Labels, Logits, PerSample


def cross_entropy(logits: Logits, y: Labels) -> PerSample:
    """Return −log softmax(logits)[y].

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([4.])
    """
    return F.cross_entropy(logits, y, reduction="none")


def best_wrong(logits: Logits, y: Labels) -> PerSample:
    """Return the largest logit among the wrong classes."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def margin(logits: Logits, y: Labels) -> PerSample:
    """Return max_{j≠y} z_j − z_y: positive where the sample is misclassified.

    >>> margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2]))
    tensor([1.])
    """
    return best_wrong(logits, y) - logits.gather(1, y[:, None]).squeeze(1)


_CONFIDENCE: Final = 50.0


def carlini_wagner(logits: Logits, y: Labels) -> PerSample:
    """Return −max(z_y − max_{j≠y} z_j + 50, 0): the margin, until it is won by 50.

    Carlini and Wagner (2017), f₆ with κ = 50, ascended by PGD as robustness papers do.
    """
    return -(_CONFIDENCE - margin(logits, y)).clamp_min(0)


def kl_divergence(log_p: Logits, log_q: Logits) -> PerSample:
    """Return KL(p ‖ q) = Σ_k p_k (log p_k − log q_k) from logarithms of probabilities.

    >>> half = torch.tensor([[0.5, 0.5]]).log()
    >>> kl_divergence(half, torch.tensor([[0.25, 0.75]]).log())
    tensor([0.1438])
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


Loss = Callable[[Logits, Labels], PerSample]

LOSSES: Final[dict[str, Loss]] = {
    "ce": cross_entropy,
    "margin": margin,
    "cw": carlini_wagner,
}
