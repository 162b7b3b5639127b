"""The plug-in itself: Separation Net, Recalibration Net and the auxiliary head (Kim et al., 2023, sec. 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from fsrobust.plugin.mask import binary_mask, greedy_mask, random_mask, soft_mask
from fsrobust.plugin.mask import logistic_like as logistic_like
from fsrobust.types import Features, InputError, Logits, unknown_name

Mask = Literal["gumbel", "binary", "binary-st"]
"""How r becomes a mask (Table S6); "binary-st" lends the step a gradient."""
Separation = Literal["net", "random", "greedy", "none"]
"""Where r comes from (Table S7): a network, or one of three stand-ins without parameters."""
MASKS: Final[tuple[Mask, ...]] = ("gumbel", "binary", "binary-st")
SEPARATIONS: Final[tuple[Separation, ...]] = ("net", "random", "greedy", "none")

HIDDEN: Final = 64
"""Channels inside both nets, whatever the width of the feature map."""


def _three_convolutions(channels: int) -> nn.Sequential:
    """Return C → 64 → 64 → C with 3×3 kernels; nothing follows the last convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, HIDDEN, 3, padding=1, bias=False),
        nn.BatchNorm2d(HIDDEN),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, bias=False),
        nn.BatchNorm2d(HIDDEN),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, channels, 3, padding=1, bias=False),
    )


@dataclass(frozen=True)
class Separated:
    """What one insertion point did to one batch: logits of the auxiliary head, the mask, the new map."""

    robust: Logits
    nonrobust: Logits
    recalibrated: Logits
    mask: Features
    output: Features


class FSR(nn.Module):
    """Separate a feature map by robustness, recalibrate the non-robust part, return their sum.

    With r = S(f) and m the soft mask of r: f⁺ = m⊗f, f⁻ = (1 − m)⊗f, f̃⁻ = f⁻ + (1 − m)⊗R(f⁻), and the output
    is f⁺ + f̃⁻ = f + (1 − m)⊗R((1 − m)⊗f): a gated residual adapter. Any C, H and W will do. The mask is noisy
    in train mode only. ``init="identity"`` zeroes R's last convolution, so that the output is f exactly.

    Ablations: ``mask`` "binary" and "binary-st" take m = 1[r ≥ 0]. ``separation`` "random" takes half of the units,
    drawn once, "greedy" the half with the highest ``|f|``, "none" nothing (m = 0, so the output is f + R(f)).
    """

    seed: Tensor

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        tau: float = 0.1,
        init: Literal["paper", "identity"] = "paper",
        mask: Mask = "gumbel",
        separation: Separation = "net",
    ) -> None:
        super().__init__()
        if mask not in MASKS:
            raise unknown_name("mask", mask, MASKS)
        if separation not in SEPARATIONS:
            raise unknown_name("separation", separation, SEPARATIONS)
        if not tau > 0 or classes < 1 or init not in ("paper", "identity"):
            raise InputError(
                'Expected tau above 0, at least one class and init "paper" or "identity", '
                f'but got tau {tau}, {classes} classes and "{init}"'
            )
        self.tau = tau
        self.mask, self.kind = mask, separation
        self.separation = _three_convolutions(channels) if separation == "net" else None
        if separation == "random":
            self.register_buffer(
                "seed", torch.randint(2**62, (1,))
            )  # by the run's seed, kept with the weights
        self.recalibration = _three_convolutions(channels)
        self.aux = nn.Linear(channels, classes)
        self.tape: list[Separated] | None = None
        self.draw: Callable[[Features], Features] = logistic_like
        self.init = init
        if init == "identity":
            self.start_as_identity()

    def start_as_identity(self) -> None:
        """Zero R's last convolution: the output is the input until training moves it."""
        last = self.recalibration[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def extra_repr(self) -> str:
        """Return what is no weight."""
        return f"tau={self.tau}, mask={self.mask}, separation={self.kind}"

    def _mask(self, f: Features) -> Features:
        """Return m, float32 or wider."""
        if self.separation is not None:
            r = self.separation(f)
            if self.mask == "gumbel":
                return soft_mask(r, tau=self.tau, noise=self.draw(r) if self.training else None)
            return binary_mask(r, tau=self.tau, straight_through=self.mask == "binary-st")
        if self.kind == "random":
            return random_mask(f, self.seed)
        return greedy_mask(f) if self.kind == "greedy" else torch.zeros_like(f, dtype=torch.float32)

    def _mask_and_residual(self, f: Features) -> tuple[Features, Features]:
        """Return m (float32) and (1 − m)⊗R((1 − m)⊗f) (the dtype of f)."""
        mask = self._mask(f)
        gate = (1 - mask).to(f.dtype)
        return mask, gate * self.recalibration(gate * f)

    def forward(self, f: Features) -> Features:
        """Return the recalibrated map, same shape and dtype as ``f``; keep the parts while asked to."""
        if self.tape is not None:
            self.tape.append(separated := self.separate(f))
            return separated.output
        _, residual = self._mask_and_residual(f)
        return f + residual

    def separate(self, f: Features) -> Separated:
        """Return the recalibrated map with the mask and the auxiliary head's view of f⁺, f⁻ and f̃⁻."""
        mask, residual = self._mask_and_residual(f)
        # each part by its own product, in the mask's precision: in bf16 f − m⊗f is 0 wherever m is above 0.998
        wide = f.to(mask.dtype)
        robust, nonrobust = mask * wide, (1 - mask) * wide
        pooled = torch.cat(
            [g.mean(dim=(2, 3)) for g in (robust, nonrobust, nonrobust + residual)]
        )  # one product for the three: the head is shared
        on_robust, on_nonrobust, on_recalibrated = self.aux(pooled.to(self.aux.weight.dtype)).chunk(3)
        return Separated(on_robust, on_nonrobust, on_recalibrated, mask=mask, output=f + residual)

    def replace_output(self, _layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """Stand in as a forward hook: recalibrate a layer's output.

        A bound method of a module, not a closure, so that a deep copy of the network takes its own FSR along.
        """
        recalibrated: Tensor = self(output)
        return recalibrated


def insertion_points(model: nn.Module) -> list[FSR]:
    """Return every plug-in in a model, however deep wrappers have buried it."""
    return [module for module in model.modules() if isinstance(module, FSR)]
