"""One optimisation step, twice: as one reads it, and as fast as the device allows."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from fsrobust.attacks.probe import Probe, under_attack
from fsrobust.seeding import Noise
from fsrobust.train.objectives import Loss, Objective
from fsrobust.types import Images, Labels, unknown_name

Engine = Literal["reference", "fast"]


@dataclass(frozen=True)
class Step:
    """Attack a batch, take the loss of the result, update the weights.

    ``precision`` wraps every forward pass and ``layout`` is the memory order of images; the reference engine
    has neither. ``view`` is the model as attacks and validation query it: the same weights, its precision.
    """

    model: nn.Module
    objective: Objective
    optimiser: torch.optim.Optimizer
    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    layout: torch.memory_format = torch.contiguous_format

    def __call__(self, x: Images, y: Labels, noise: Noise) -> Loss:
        """Return the loss that was minimised; nothing here waits for the device."""
        x = x.contiguous(memory_format=self.layout)
        x_adv = self.attack(x, y, noise)
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        with self.precision():
            loss = self.objective.loss(self.model, x, x_adv, y)
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss

    def attack(self, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the training attack's images: model in eval mode, parameters frozen."""
        attack = self.objective.attack
        if attack is None:
            return x
        with under_attack(self.model):
            return attack.run(Probe(self.view, checked=False), x, y, noise).detach()

    def view(self, x: Images) -> Tensor:
        """Return logits in the engine's precision."""
        with self.precision():
            logits: Tensor = self.model(x.contiguous(memory_format=self.layout))
        return logits


def reference_step(model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer) -> Step:
    """Return the plain loop: eager, float32, NCHW."""
    return Step(model, objective, optimiser)


def fast_step(model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer) -> Step:
    """Return the fast loop: channels-last, bf16 where the device multiplies it natively.

    Master weights, batch statistics, the mask and the loss stay float32 (autocast keeps them so).
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    if multiplies_bf16(device):
        precision = lambda: torch.autocast(device.type, torch.bfloat16)  # noqa: E731 - a value, not a name
    return Step(model, objective, optimiser, precision, torch.channels_last)


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


ENGINES: Final[dict[str, Callable[[nn.Module, Objective, torch.optim.Optimizer], Step]]] = {
    "reference": reference_step,
    "fast": fast_step,
}


def make_step(engine: str, model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer) -> Step:
    """Return a step by the name of its engine.

    Raises:
        InputError: an unknown engine.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    return ENGINES[engine](model, objective, optimiser)
