"""How an attack sees a model: logits and gradients with respect to pixels, nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsrobust.types import Images, InputError, Logits, PerSample

Watch = Callable[[Images, Logits], None]


@dataclass
class Probe:
    """A model under attack. Every query is counted, in samples, and shown to ``watch``.

    ``model`` is any callable from images to logits: the network itself, a compiled or low-precision view
    of it, a surrogate. Logits come back in float32 or wider.
    """

    model: Callable[[Images], Tensor]
    watch: Watch | None = None
    forwards: int = 0
    backwards: int = 0

    def logits(self, x: Images) -> Logits:
        """Return logits without a graph."""
        with torch.no_grad():
            return self._query(x)

    def gradient(self, x: Images, loss: Callable[[Logits], PerSample]) -> tuple[Images, Logits]:
        """Return ∂ Σ loss / ∂x and the logits at ``x``; no gradient reaches any parameter.

        Raises:
            InputError: the logits do not depend on the pixels through autograd.
        """
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self._query(x)
            total = loss(logits).sum()
        self.backwards += len(x)
        try:
            (gradient,) = torch.autograd.grad(total, x)
        except RuntimeError as error:
            if "does not require grad" not in str(error) and "not have been used" not in str(error):
                raise
            raise InputError(
                "Expected logits that depend on the pixels by gradient, but the model detaches them "
                "(no_grad, rounding or a conversion inside?); gradient attacks cannot judge it"
            ) from error
        return gradient, logits.detach()

    def _query(self, x: Images) -> Logits:
        self.forwards += len(x)
        output: object = self.model(x)
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"Expected logits of shape [{len(x)}, K] from the model, but got {shape}")
        logits = output if output.dtype == torch.float64 else output.float()
        if self.watch is not None:
            self.watch(x.detach(), logits.detach())
        return logits


@contextmanager
def under_attack(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode with frozen parameters, gradients allowed; restore all of it after."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for module, training in modes:
            module.training = training


@contextmanager
def ieee_fp32() -> Iterator[None]:
    """Switch TF32 and bf16 shortcuts off: float32 products are float32 products."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn
