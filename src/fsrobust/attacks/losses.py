"""What an attack maximises: one number per sample, larger is worse for the model."""

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional as F

from fsrobust.types import InputError, Labels, Logits, PerSample


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
_TINY: Final = 1e-12


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


def dlr(logits: Logits, y: Labels) -> PerSample:
    """Return the margin over z₍₁₎ − z₍₃₎, sorted logits: blind to scale and shift (Croce and Hein, 2020, eq. 6).

    With two classes there is no third, and the margin over itself would be constant: then it is the margin.

    >>> dlr(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    if logits.shape[1] == 2:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def dlr_targeted(logits: Logits, y: Labels, target: Labels) -> PerSample:
    """Return (z_target − z_y) over z₍₁₎ − (z₍₃₎ + z₍₄₎)/2 (Croce and Hein, 2020, eq. 7).

    With three classes the third stands for both, with two there is nothing to divide by.

    >>> dlr_targeted(torch.tensor([[4.0, 3.0, 2.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([-0.3333])
    """
    ahead = logits.gather(1, target[:, None]).squeeze(1) - logits.gather(1, y[:, None]).squeeze(1)
    if logits.shape[1] == 2:
        return ahead
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return ahead / (top[:, 0] - (top[:, 2] + top[:, -1]) / 2 + _TINY)


def kth_wrong(logits: Logits, y: Labels, k: int) -> Labels:
    """Return the k-th most likely of the wrong classes, k from 1.

    >>> kth_wrong(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 2)
    tensor([1])

    Raises:
        InputError: there are not so many wrong classes.
    """
    if not 1 <= k < logits.shape[1]:
        raise InputError(
            f"Expected a target from 1 to {logits.shape[1] - 1} with {logits.shape[1]} classes, but got {k}"
        )
    wrong = logits.detach().scatter(1, y[:, None], -torch.inf)
    return wrong.topk(k, dim=1).indices[:, -1]


Loss = Callable[[Logits, Labels], PerSample]
TargetedLoss = Callable[[Logits, Labels, Labels], PerSample]

LOSSES: Final[dict[str, Loss]] = {
    "ce": cross_entropy,
    "margin": margin,
    "cw": carlini_wagner,
    "dlr": dlr,
}
TARGETED: Final[dict[str, TargetedLoss]] = {"dlr": dlr_targeted}
