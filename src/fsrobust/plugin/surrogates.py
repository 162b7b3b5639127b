"""Adaptive views of a model with the plug-in: what an attacker climbs who knows how the plug-in is made.

At τ = 0.1 the mask's gradient, m(1 − m)/τ, is all but zero where the mask is sure of itself, and an attack that
climbs it may stop for no fault of its own. Each surrogate gives the same weights another gradient. Surrogates are
searched, never judged: whether an image fools is for the model to say.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from fsrobust.plugin.attach import parts_of
from fsrobust.plugin.mask import logistic, with_gradient_of
from fsrobust.plugin.module import insertion_points
from fsrobust.seeding import Noise
from fsrobust.types import Features, Images, InputError, Logits

SURROGATES: Final = ("joint", "soft-backward", "transfer", "frozen-mask", "noisy", "no-residual")
"""All that there are for the paper's plug-in."""


def surrogates(
    model: nn.Module, *, weight: float = 1.0, tau: float = 1.0, draws: int = 8, seed: int = 0
) -> dict[str, nn.Module]:
    """Return networks from images to logits that share the model's weights, each with gradients of its own.

    - "joint": main logits with ``weight`` times the auxiliary head's of f⁺ and f̃⁻; see Joint.
    - "soft-backward": the model's own logits, bit for bit, with the gradient of a plug-in of temperature ``tau``.
    - "frozen-mask": the model's own logits; no gradient through the mask.
    - "no-residual": the model's own logits; gradient through the identity path alone.
    - "noisy": the mean logits under ``draws`` draws of the training-time noise, fixed by ``seed``; see Noisy.
    - "transfer": the mask softened to σ(r/``tau``) forward as well.

    Left out is what would be the model itself: without a Separation Net only "joint" and "no-residual" remain; a
    binary mask has no noise in training and, unless straight-through, no gradient that could be frozen.

    The surrogates are in eval mode. They are copies of the structure; parameters and buffers are the model's own
    tensors, so take them once the model is on its device.

    The plug-in may lie in a network that wraps the guarded one.

    Raises:
        InputError: a tau, weight or number of draws that makes no sense; a model without the plug-in.
    """
    if not insertion_points(model):
        raise InputError("Expected a model with the plug-in, but got one that has none")
    if not tau > 0 or not weight > 0 or draws < 1:
        raise InputError(
            f"Expected tau and weight above 0 and at least one draw, but got {tau}, {weight} and {draws}"
        )
    made: dict[str, nn.Module] = {"joint": Joint(_copy(model), weight)}
    points = insertion_points(model)
    if any(point.separation is not None for point in points):
        made["soft-backward"] = _soften_backward(_copy(model), tau)
        made["transfer"] = _soften(_copy(model), tau)
        if any(point.mask != "binary" for point in points):
            made["frozen-mask"] = _freeze_mask(_copy(model))
        if any(point.mask == "gumbel" for point in points):
            made["noisy"] = Noisy(_copy(model), draws, seed)
    made["no-residual"] = _detach_residual(_copy(model))
    return {name: made[name].eval() for name in made}


def _copy(model: nn.Module) -> nn.Module:
    """Return a model of the same tensors whose structure, hooks included, can be changed without a trace."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _detach(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.detach()


def _soften_backward(model: nn.Module, tau: float) -> nn.Module:
    """BPDA (Athalye et al., 2018): forward the plug-in as it is, backward the plug-in of temperature ``tau``.

    The whole plug-in, not the mask alone: where m is 1 the residual's factor 1 − m is 0, and would block the
    gradient that the softer mask has.
    """
    soft = _soften(_copy(model), tau)
    for point, softer in zip(insertion_points(model), insertion_points(soft), strict=True):
        point.add_module("softer", softer)
        point.register_forward_hook(_as_softer)
    return model


def _as_softer(point: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    soft: Tensor = point.get_submodule("softer")(*inputs)
    return with_gradient_of(soft, output)


def _soften(model: nn.Module, tau: float) -> nn.Module:
    for point in insertion_points(model):
        point.tau, point.mask = tau, "gumbel"  # a step becomes a sigmoid too
    return model


def _freeze_mask(model: nn.Module) -> nn.Module:
    for point in insertion_points(model):
        if point.separation is not None:
            point.separation.register_forward_hook(_detach)
    return model


def _detach_residual(model: nn.Module) -> nn.Module:
    """Cut (1 − m)⊗R((1 − m)⊗f) off: both of its factors, S's output and R's."""
    for point in insertion_points(_freeze_mask(model)):
        point.recalibration.register_forward_hook(_detach)
    return model


class Joint(nn.Module):
    """The weighted mean of logits (z + weight · (aux f⁺ + aux f̃⁻)) / (1 + 2 · weight), over all insertion points.

    Their softmax is a geometric mean of p_main and of the heads' p_f⁺ and p_f̃⁻, so any loss of logits that lowers y's
    place in it pushes against all three at once: cross-entropy's gradient falls on each head. The heads' log-softmax
    in place of their logits would shift all classes alike, which neither cross-entropy nor a margin sees. A mean, not
    a sum: where three heads agree, the margins of a sum add up, and its cross-entropy's gradient vanishes in float32.
    """

    def __init__(self, model: nn.Module, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight

    def forward(self, x: Images) -> Logits:
        """Return the joint logits."""
        parts = parts_of(self.model, x)
        heads = [a + b for a, b in zip(parts.robust, parts.recalibrated, strict=True)]
        return (parts.logits + self.weight * torch.stack(heads).mean(0)) / (1 + 2 * self.weight)


class Noisy(nn.Module):
    """The mean of the logits under ``draws`` draws of mask noise: expectation over transformation.

    The draws are functions of (seed, insertion point, draw, unit), the same for every sample and query: one fixed
    function of the image, whatever the batch. What comes before the first noise is computed once for all draws, if a
    trial on the first images (``settle``) shows that the network bears it; a connection around the plug-in does not,
    and then a pass costs as much as ``draws`` of the model's.
    """

    def __init__(self, model: nn.Module, draws: int, seed: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws
        self.branch = _Branch(draws)
        self.late: bool | None = None
        for index, point in enumerate(insertion_points(model)):
            if point.separation is not None and point.mask == "gumbel":
                point.register_forward_pre_hook(self.branch)
                point.separation.register_forward_hook(_Jitter(draws, seed, index))

    def forward(self, x: Images) -> Logits:
        """Return the mean logits."""
        return self._mean(x, late=self.settle(x))

    def settle(self, x: Images) -> bool:
        """Return whether draws branch late, decided on the first images that come; a copy keeps to it."""
        if self.late is None:
            with torch.no_grad():
                self.late = self._bears(torch.cat([x[:1], x[:1].flip(3)]))
        return self.late

    def _mean(self, x: Images, *, late: bool) -> Logits:
        logits: Tensor
        if late:
            with self.branch.at(len(x)):
                logits = self.model(x)
        else:
            logits = self.model(x.repeat(self.draws, 1, 1, 1))
        return logits.view(self.draws, len(x), -1).mean(0)

    def _bears(self, pair: Images) -> bool:
        """Return whether branching at the first noise gives these images the logits that branching at once does."""
        expected = self._mean(pair, late=False)
        try:
            found = self._mean(pair, late=True)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # maps of one sample and of several draws met, or code that counts its batch
            return False
        return found.shape == expected.shape and torch.allclose(
            found, expected, rtol=0, atol=1e-4 * float(expected.abs().max())
        )


class _Branch:
    """Repeats a map that a batch of so many images brings to a noisy plug-in, once for each draw."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self.count: int | None = None

    @contextmanager
    def at(self, count: int) -> Iterator[None]:
        """Repeat maps of ``count`` samples; behind the first plug-in they are longer, unless there is one draw."""
        self.count = count
        try:
            yield
        finally:
            self.count = None

    def __call__(self, _point: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Return the repeated map, None to leave it as it is."""
        return (inputs[0].repeat(self.draws, 1, 1, 1),) if len(inputs[0]) == self.count else None


@dataclass(frozen=True)
class _Jitter:
    """Adds to r the logistic noise that it has in training: of the k-th draw to the k-th share of the batch."""

    draws: int
    seed: int
    point: int

    def __call__(self, _module: nn.Module, _inputs: object, r: Features) -> Features:
        """Return r plus noise, float32 or wider."""
        noise = Noise.of(torch.arange(self.draws, device=r.device), self.seed, "mask noise", self.point)
        drawn = logistic(noise.uniform(tuple(r.shape[1:])))
        return (r.view(self.draws, -1, *drawn.shape[1:]) + drawn[:, None]).flatten(0, 1)
