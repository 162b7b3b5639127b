"""A frozen copy of a network, as fast to query as its device allows: what attacks search with.

An attack asks the same weights for logits and input gradients many times over. Three things that training
needs are then only in the way: a batch norm after a convolution (in eval mode both are one convolution), float32
products (a search may be imprecise, a verdict may not), and gradients of parameters.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fsrobust.attacks.compiled import compiled_or_eager, first_line
from fsrobust.types import Images

_MULTIPLYING: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose products a GPU or an AVX512 CPU has bf16 instructions for."""
_SAME: Final = 1e-3
"""Largest difference of logits, as a share of the largest, that folding may make; a wrong pair makes far more."""


_NARROW: Final = 16
"""Channels below which torch's strided 1×1 convolutions are not to be trusted in channels-last order on a CPU."""


@runtime_checkable
class View(Protocol):
    """Images to logits, by the weights that a model had when ``refresh`` was last called."""

    def __call__(self, x: Images) -> Tensor:
        """Return logits."""

    def refresh(self) -> None:
        """Take over the model's present weights."""


@dataclass(frozen=True, eq=False)
class Plain:
    """The model itself, in its own precision."""

    model: nn.Module

    def __call__(self, x: Images) -> Tensor:
        """Return the model's logits."""
        logits: Tensor = self.model(x)
        return logits

    def refresh(self) -> None:
        """Do nothing: these are the model's weights."""


class FrozenView:
    """Logits of a copy of ``model`` in eval mode: batch norms folded, channels-last, products in ``dtype``.

    The copy is made at the first call, on the first images. Which batch norms can be folded is found by
    watching one forward pass, whatever the network's code, and tried on scrambled statistics; where folding
    would change logits nothing is folded. A network that cannot be copied is queried as it is, and ``notes``
    says so. Weights are those of the first call until ``refresh``.
    """

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype = torch.float32, compiled: bool = False
    ) -> None:
        self.model, self.dtype, self._layout = model, dtype, memory_order(model)
        self.notes: list[str] = []
        self.folded: list[_Folded] = []
        self._copy: nn.Module | None = None
        self._copied: list[tuple[Tensor, Tensor]] = []
        self._ask: Callable[[Images], Tensor] = self._query
        if compiled:
            self._ask = compiled_or_eager(self._query, "the attack", self.notes)

    def __call__(self, x: Images) -> Tensor:
        """Return logits, of ``dtype`` or wider."""
        if self._copy is None:
            self._copy = self._make(x[:2].detach())
        return self._ask(x)

    def refresh(self) -> None:
        """Take over the model's present weights and statistics; costs one pass over them."""
        with torch.no_grad():
            for theirs, ours in self._copied:
                ours.copy_(theirs)
            for fold in self.folded:
                fold.refresh()

    def _query(self, x: Images) -> Tensor:
        assert self._copy is not None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits: Tensor = self._copy(x.contiguous(memory_format=self._layout))
        return logits

    def _make(self, example: Images) -> nn.Module:
        try:
            with torch.no_grad():
                copied = _frozen_copy(self.model)
                names = _foldable(self.model, example)
                self.folded = _fold(copied, self.model, names)
        except Exception as error:  # whatever a foreign network does when copied
            self.notes.append(f"attacks query the network itself: it cannot be copied ({first_line(error)})")
            return self.model
        if self.dtype != torch.float32:
            head = _head(copied, example)
            for module in copied.modules():
                if module is head:
                    module.__class__ = _WideLinear  # names stay, so weights are refreshed as before
                elif isinstance(module, _MULTIPLYING):
                    module.to(self.dtype)
        made = {id(tensor) for fold in self.folded for tensor in (fold.made.weight, fold.made.bias)}
        ours = dict(_tensors(copied))
        self._copied = [
            (tensor, ours[name])
            for name, tensor in _tensors(self.model)
            if name in ours and id(ours[name]) not in made
        ]
        self.refresh()
        return copied


def memory_order(model: nn.Module) -> torch.memory_format:
    """Return the order of a network's images and weights in memory that is fast and safe: channels-last, or NCHW.

    On a CPU the weight gradient of a strided 1×1 convolution of fewer than 16 channels writes beyond its memory in
    channels-last order (torch 2.13, maps of 56 × 56 and more): such networks stay NCHW.
    """
    narrow = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < _NARROW
        for module in model.modules()
    )
    on_cpu = next((p.device.type for p in model.parameters()), "cpu") == "cpu"
    return torch.contiguous_format if narrow and on_cpu else torch.channels_last


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether bf16 products are native on the device; emulated ones are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return capability.startswith("AVX512") and _cpu_has_bf16()
    return False


def _cpu_has_bf16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # new in torch 2.6, private still
    return bool(supported()) if supported is not None else False


@dataclass(frozen=True, eq=False)
class _Folded:
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


class _WideLinear(nn.Linear):
    """A linear layer in float32 whatever goes on around it.

    Of the last layer that is next to no work, and it keeps the logits' differences: bf16 knows logits near 8 in steps
    of 1/32 only, and a search that compares margins (FAB, Square) would see most of its moves change nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x·Wᵀ + b in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.float(), self.weight, self.bias)


def _head(model: nn.Module, example: Images) -> nn.Module | None:
    """Return the plain linear layer whose output is the logits themselves, None if there is none."""
    made: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        made.append((module, output))

    layers = [module for module in model.modules() if type(module) is nn.Linear]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            logits = model(example)
    finally:
        for handle in handles:
            handle.remove()
    return next((module for module, output in made if output is logits), None)


def _frozen_copy(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    copied.to(memory_format=memory_order(model))  # type: ignore[call-overload]
    return copied


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _foldable(model: nn.Module, example: Images) -> list[tuple[str, str]]:
    """Return pairs of names (convolution, batch norm) whose folding leaves the logits as they are.

    A pair is a norm that was given the very tensor which a convolution returned. That nothing else took that
    tensor no hook can see, so the folded network is compared with the unfolded one, under statistics far from
    the identity.
    """
    trial = _frozen_copy(model)
    names = _watch(trial, example)
    _scramble(trial, names)
    expected = trial(example)
    folded = _fold(trial, _frozen_copy(trial), names)
    for fold in folded:
        fold.refresh()
    try:
        same = torch.allclose(trial(example), expected, rtol=0, atol=_SAME * float(expected.abs().max()))
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
        model(example)
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


def _fold(copied: nn.Module, model: nn.Module, pairs: list[tuple[str, str]]) -> list[_Folded]:
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
        folded.append(_Folded(theirs, after, made))
    return folded
