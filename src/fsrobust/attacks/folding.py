"""Batch norms folded into the convolutions before them: which can be, found by watching, and how it is done."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from fsrobust.types import Images

_SAME: Final = 1e-3
"""Largest difference of logits, as a share of the largest, that folding may make; a wrong pair makes far more."""


@dataclass(frozen=True, eq=False)
class Folded:
    """``made``, a convolution of the copy, stands for the model's ``convolution`` and the ``norm`` after it."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d
    made: nn.Conv2d

    def refresh(self) -> None:
        """Set w · s as weight and β + (b − μ) · s as bias, where s = γ/√(σ² + ε)."""
        norm, bias = self.norm, self.convolution.bias
        factor: Tensor | None = norm.weight  # None in a norm that is not affine
        offset: Tensor | None = norm.bias
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert self.made.bias is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if factor is None else scale * factor
        shift = (-norm.running_mean if bias is None else bias - norm.running_mean) * scale
        self.made.weight.copy_(self.convolution.weight * scale[:, None, None, None])
        self.made.bias.copy_(shift if offset is None else shift + offset)


def fold(copied: nn.Module, model: nn.Module, pairs: list[tuple[str, str]]) -> list[Folded]:
    """Make room in ``copied`` for folded convolutions: a bias for each, and nothing where the norm was."""
    folded = []
    for convolution, norm in pairs:
        made = copied.get_submodule(convolution)
        assert isinstance(made, nn.Conv2d)
        if made.bias is None:
            made.bias = nn.Parameter(torch.zeros_like(made.weight[:, 0, 0, 0]), requires_grad=False)
        parent, _, leaf = norm.rpartition(".")
        copied.get_submodule(parent).register_module(leaf, nn.Identity())
        theirs, after = model.get_submodule(convolution), model.get_submodule(norm)
        assert isinstance(theirs, nn.Conv2d)
        assert isinstance(after, nn.BatchNorm2d)
        folded.append(Folded(theirs, after, made))
    return folded


def foldable(model: nn.Module, example: Images) -> list[tuple[str, str]]:
    """Return pairs of names (convolution, batch norm) whose folding leaves the logits of a frozen network as they are.

    A pair is a norm that was given the very tensor which a convolution returned. That nothing else took that
    tensor no hook can see, so the folded network is compared with the unfolded one, under statistics far from
    the identity.
    """
    trial = copy.deepcopy(model)
    names = _watch(trial, example)
    _scramble(trial, names)
    expected = trial(example.clone())  # a network may write to what it is given
    for folded in fold(trial, copy.deepcopy(trial), names):
        folded.refresh()
    try:
        same = torch.allclose(
            trial(example.clone()), expected, rtol=0, atol=_SAME * float(expected.abs().max())
        )
    except Exception:  # code that reads a norm which is gone
        same = False
    return names if same else []


def _watch(model: nn.Module, example: Images) -> list[tuple[str, str]]:
    """Return (convolution, batch norm) wherever the norm was given what the convolution had just returned."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, or their ids would be used again
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    handles = []

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            made[id(output)] = name, output
            runs[name] = runs.get(name, 0) + 1

        return hook

    def match(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if inputs and id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return hook

    for name, module in model.named_modules():
        # an exact type with a plain weight: what a subclass or a parametrisation computes is its own affair
        if type(module) is nn.Conv2d and "weight" in module._parameters:
            handles.append(module.register_forward_hook(note(name)))
        elif type(module) is nn.BatchNorm2d and module.running_var is not None:
            handles.append(module.register_forward_pre_hook(match(name)))
    try:
        model(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if all(runs[name] == 1 for name in pair)]


def _scramble(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Give the norms of ``pairs`` statistics and factors that no fold could ignore."""
    generator = torch.Generator().manual_seed(0)
    for _, name in pairs:
        norm = model.get_submodule(name)
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if isinstance(tensor, Tensor):
                draw = (
                    torch.rand(tensor.shape, generator=generator) + 0.5
                )  # positive: a variance is among them
                tensor.copy_(draw.to(tensor))
