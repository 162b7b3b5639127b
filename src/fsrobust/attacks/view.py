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
from fsrobust.attacks.folding import Folded, fold, foldable
from fsrobust.attacks.probe import as_input, is_double
from fsrobust.types import Images

_MULTIPLYING: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose products a GPU or an AVX512 CPU has bf16 instructions for."""


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
        self.model, self.dtype = model, dtype
        self.notes: list[str] = []
        self.folded: list[Folded] = []
        self._copy: nn.Module | None = None
        self._wide = False
        self._copied: list[tuple[Tensor, Tensor]] = []
        self._ask: Callable[[Images], Tensor] = self._query
        if compiled:
            self._ask = compiled_or_eager(self._query, "the attack", self.notes)

    def __call__(self, x: Images) -> Tensor:
        """Return logits, of ``dtype`` or wider."""
        if self._copy is None:
            self._wide = is_double(self.model)
            self._copy = self._make(as_input(self.model, x[:2].detach()))
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
        x = x.double() if self._wide else x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits: Tensor = self._copy(x.contiguous(memory_format=torch.channels_last))
        return logits

    def _make(self, example: Images) -> nn.Module:
        try:
            with torch.no_grad():
                copied = _frozen_copy(self.model)
                self.folded = fold(copied, self.model, foldable(copied, example))
        except Exception as error:  # whatever a foreign network does when copied
            self.notes.append(f"attacks query the network itself: it cannot be copied ({first_line(error)})")
            return self.model
        if self.dtype != torch.float32:
            heads = _heads(copied, example)
            for module in copied.modules():
                if module in heads:
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


class _WideLinear(nn.Linear):
    """A linear layer in float32 whatever goes on around it.

    Of the last layer that is next to no work, and it keeps the logits' differences: bf16 knows logits near 8 in steps
    of 1/32 only, and a search that compares margins (FAB, Square) would see most of its moves change nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x·Wᵀ + b in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.float(), self.weight, self.bias)


def _heads(model: nn.Module, example: Images) -> list[nn.Module]:
    """Return the plain linear layers that give as many numbers as there are logits: the last one, or heads of a sum."""
    with torch.no_grad():
        classes = model(example.clone()).shape[1]
    return [layer for layer in model.modules() if type(layer) is nn.Linear and layer.out_features == classes]


def _frozen_copy(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
