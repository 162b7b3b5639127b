"""The soft mask that separates robust from non-robust units (Kim et al., 2023, eq. 2)."""

from typing import Final

import torch

from fsrobust.types import Features

_SMALLEST: Final = 2.0**-24  # torch.rand's grid: keeps log(u) finite without moving any other draw


def logistic_like(robustness: Features, *, generator: torch.Generator | None = None) -> Features:
    """Return float32 Logistic(0, 1) noise of the same shape: the difference of two Gumbel draws.

    Without a generator it comes from torch's default one, as dropout's does. Which unit gets which draw does
    not depend on the memory order of ``robustness``, so NCHW and channels-last networks see the same noise.
    """
    u = torch.empty(robustness.shape, device=robustness.device).uniform_(generator=generator)
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
