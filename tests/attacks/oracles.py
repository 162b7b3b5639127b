"""What tests against pyautoattack share: a model that counts, and who was fooled by ours and by theirs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fsrobust.attacks import Attack, search

NORMS = {"linf": "Linf", "l2": "L2"}
"""Our names and pyautoattack's."""


class Counting(nn.Module):
    """A network that counts samples forward and backward, and remembers what it was asked.

    It gives logits of its own each time: pyautoattack's Square writes into them.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        self.forwards += len(x)
        self.asked.append(x.detach().clone())
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits.clone()

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def fooled_by_ours(
    attacks: Sequence[Attack], model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0
) -> Tensor:
    """Return who is fooled by any of the attacks, each of which sees the samples that the earlier ones left."""
    fooled = torch.zeros(len(x), dtype=torch.bool)
    for attack in attacks:
        left = (~fooled).nonzero().squeeze(1)
        if len(left):
            fooled[left] = search(attack, model, x[left], y[left], ids=left, seed=seed).fooled_any
    return fooled


def fooled_by_theirs(
    perturb: Callable[[Tensor, Tensor], Tensor], model: nn.Module, x: Tensor, y: Tensor
) -> Tensor:
    """Return who is misclassified as an attack of pyautoattack leaves the images."""
    with torch.no_grad():
        logits: Tensor = model(perturb(x, y))
    return logits.argmax(1) != y
