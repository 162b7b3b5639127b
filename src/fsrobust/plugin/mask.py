"""The soft mask that separates robust from non-robust units (Kim et al., 2023, eq. 2)."""

from typing import Final

import torch
from torch import Tensor

from fsrobust.seeding import Noise
from fsrobust.types import Features

_SMALLEST: Final = 2.0**-24  # torch.rand's grid: keeps log(u) finite without moving any other draw


def logistic_like(robustness: Features, *, generator: torch.Generator | None = None) -> Features:
    """Return float32 Logistic(0, 1) noise of the same shape: the difference of two Gumbel draws.

    Without a generator it comes from torch's default one, as dropout's does. Which unit gets which draw does
    not depend on the memory order of ``robustness``, so NCHW and channels-last networks see the same noise.
    """
    u = torch.empty(robustness.shape, device=robustness.device).uniform_(generator=generator)
    return logistic(u)


def logistic(u: Features) -> Features:
    """Return Logistic(0, 1) noise from uniforms in [0, 1): log u − log(1 − u), finite."""
    u = u.clamp_min(_SMALLEST)
    return u.log() - (-u).log1p()


def soft_mask(robustness: Features, *, tau: float, noise: Features | None = None) -> Features:
    """Return the share of each unit that counts as robust, in (0, 1), float32 or wider.

    The paper's softmax over the pair ((log σ(r) + G₁)/τ, (log(1 − σ(r)) + G₂)/τ) has the first component
    m = σ((r + G₁ − G₂)/τ): one sigmoid, stable for any r, and P(m > ½) = σ(r) for every τ. Without noise
    m = σ(r/τ). Half precision is widened first: at τ = 0.1 its rounding of r would move the mask by 4 %.

    >>> soft_mask(torch.tensor([[[[-1.0, 0.0, 1.0]]]]), tau=0.1)
    tensor([[[[4.5398e-05, 5.0000e-01, 9.9995e-01]]]])
    """
    wide = robustness if robustness.dtype == torch.float64 else robustness.float()
    return torch.sigmoid((wide if noise is None else wide + noise) / tau)


def binary_mask(robustness: Features, *, tau: float, straight_through: bool) -> Features:
    """Return 1 where σ(r) ≥ ½, that is r ≥ 0, else 0; float32 or wider.

    A step has no gradient: with ``straight_through`` that of σ(r/τ) stands in for it (Bengio et al., 2013).

    >>> binary_mask(torch.tensor([[[[-1.0, 0.0, 1.0]]]]), tau=0.1, straight_through=False)
    tensor([[[[0., 1., 1.]]]])
    """
    soft = soft_mask(robustness, tau=tau)
    hard = (robustness >= 0).to(soft.dtype)
    return with_gradient_of(soft, hard) if straight_through else hard


def with_gradient_of(soft: Features, value: Features) -> Features:
    """Return ``value``, bit for bit, with the gradient of ``soft`` in place of its own."""
    # the bracket is exactly 0
    return value.detach() + (soft - soft.detach())


def random_mask(f: Features, seed: Tensor) -> Features:
    """Return a float32 mask that is 1 on half of the units, the same half for every sample: ``seed`` [1] draws it."""
    units = f[0].numel()
    draws = Noise.of(seed, "random mask").words((units,))[0]
    return _upper_half(draws).view(1, *f.shape[1:]).expand(f.shape).float()


def greedy_mask(f: Features) -> Features:
    """Return a float32 mask that is 0 on the half of each sample's units with the lowest |f|, 1 elsewhere.

    >>> greedy_mask(torch.tensor([[[[0.1, -2.0, 0.0, 1.0]]]]))
    tensor([[[[0., 1., 0., 1.]]]])
    """
    return _upper_half(f.detach().abs().flatten(1)).view(f.shape).float()


def _upper_half(values: Tensor) -> Tensor:
    """Return bool, the same shape: the upper half along the last axis, ties in order of position."""
    count = values.shape[-1]
    order = values.argsort(dim=-1, stable=True)
    upper = torch.zeros_like(values, dtype=torch.bool)
    return upper.scatter(-1, order[..., count // 2 :], True)
