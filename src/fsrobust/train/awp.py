"""Adversarial weight perturbation: train at weights that were moved to where the loss is higher (Wu et al., 2020)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsrobust.types import InputError


@dataclass(frozen=True)
class AWP:
    """How far weights are moved: ``gamma`` is γ, 0 for not at all, from the epoch after ``warmup`` epochs on."""

    gamma: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        if not self.gamma >= 0 or self.warmup < 0:
            raise InputError(
                "Expected objective.awp and objective.awp_warmup of at least 0, "
                f"but got {self.gamma} and {self.warmup}"
            )


def gamma_in(objective: object, epoch: int) -> float:
    """Return γ in a 1-based epoch; 0 for an objective that says nothing of weight perturbation."""
    awp = getattr(objective, "awp", None)
    return awp.gamma if isinstance(awp, AWP) and epoch > awp.warmup else 0.0


@contextmanager
def perturbed(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    gamma: float,
    mean_: Callable[[Iterable[Tensor]], None] = lambda _gradients: None,
) -> Iterator[None]:
    """Move every layer's weights by γ · ‖w‖ · g/‖g‖, g = ∂loss/∂w, while inside; then put them back, bit for bit.

    Weights are what has two dimensions or more and is trained: biases and the factors of batch norms stay. ``loss``
    is taken once, in whatever mode the model is; the mask's noise is drawn anew, as by any other pass. Running
    statistics move by that pass alone: what passes inside do to buffers is undone, since the weights that are
    attacked and evaluated are the unperturbed ones. ``mean_`` makes of gradients on a share of the batch those on the
    whole, in place. With ``gamma`` 0 nothing is done.
    """
    if not gamma:
        yield
        return
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    gradients: Sequence[Tensor | None] = torch.autograd.grad(loss(), weights, allow_unused=True)
    mean_(g for g in gradients if g is not None)
    kept = [(tensor, tensor.detach().clone()) for tensor in (*weights, *model.buffers())]
    with torch.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            if g is not None:
                tiny = torch.finfo(g.dtype).tiny  # a gradient of zero has no direction, and moves nothing
                w.add_(g * (gamma * w.norm() / g.norm().clamp_min(tiny)))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
