"""How an attack sees a model: logits and gradients with respect to pixels, nothing else."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fsrobust.types import Flags, Images, InputError, Labels, Logits, PerSample

Query = Callable[[Images], Tensor]
Rows = Int[Tensor, " B"]
"""Which samples of the batch at the gate a smaller batch holds."""


def as_input(model: Query, x: Images) -> Images:
    """Return images as a model is to be given them: a copy that it may write to, in float64 if its weights are.

    A network that normalises in place would else change an attack's own images; where a gradient is wanted, torch
    would refuse. Beside any network's pass a copy of the images is nothing.
    """
    return x.to(torch.float64 if is_double(model) else x.dtype, copy=True)


def is_double(model: Query) -> bool:
    """Return whether a network's numbers, if it has any, are in float64."""
    if not isinstance(model, nn.Module):
        return False
    numbers = itertools.chain(model.parameters(), model.buffers())
    first = next((number for number in numbers if number.is_floating_point()), None)
    return first is not None and first.dtype == torch.float64


@runtime_checkable
class Watch(Protocol):
    """Who sees every query of a search and knows whose search is over."""

    def __call__(self, rows: Rows | None, x: Images, logits: Logits) -> None:
        """Take the logits of some rows of the batch, of all where ``rows`` is None."""

    def won(self, rows: Rows | None) -> Flags:
        """Return which of these rows need no further search: an image that fools them was seen and holds."""


@dataclass
class Counts:
    """What a search cost, in samples."""

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True, eq=False)
class Probe:
    """A model under attack. Every query is counted, in samples, and shown to ``watch``.

    ``model`` is any callable from images to logits: the network itself, a compiled or low-precision view
    of it, a surrogate. Logits come back in float32 or wider. ``judge`` is whose logits count where ``model`` is
    but a surrogate: it is asked about every image, without a gradient. ``checked`` refuses gradients that are not
    finite, and answers that are NaN: sign(NaN) is 0 in torch, and no margin is wider than NaN, so a network that
    hides behind NaN would look perfectly robust. Training goes without, since looking waits for the device. Of a
    random model each answer is the mean of so many ``draws``, and a gradient the mean of theirs: expectation over
    transformation (Athalye et al., 2018).
    """

    model: Query
    watch: Watch | None = None
    judge: Query | None = None
    checked: bool = True
    draws: int = 1
    rows: Rows | None = None
    counts: Counts = field(default_factory=Counts)

    @property
    def forwards(self) -> int:
        """Samples that went forward, this probe's and those of all that were selected from it."""
        return self.counts.forwards

    @property
    def backwards(self) -> int:
        """Samples that went backward, likewise."""
        return self.counts.backwards

    def select(self, kept: Flags) -> "Probe":
        """Return a probe for the samples that are left of a batch; it counts into the same account."""
        rows = torch.arange(len(kept), device=kept.device) if self.rows is None else self.rows
        return replace(self, rows=rows[kept])

    def won(self, logits: Logits, y: Labels) -> Flags:
        """Return which samples of the query that gave these logits need no further search."""
        return logits.argmax(1) != y if self.watch is None else self.watch.won(self.rows)

    def logits(self, x: Images) -> Logits:
        """Return logits without a graph."""
        with torch.no_grad():
            return self._query(x)

    def gradient(self, x: Images, loss: Callable[[Logits], PerSample]) -> tuple[Images, Logits]:
        """Return ∂ Σ loss / ∂x and the logits at ``x``; no gradient reaches any parameter.

        Raises:
            InputError: the logits do not depend on the pixels through autograd, or a gradient is not finite.
        """
        x = x.detach().requires_grad_(True)
        answers, gradients = list[Logits](), list[Images]()
        for _ in range(self.draws):
            with torch.enable_grad():
                answers.append(self._ask(self.model, x))
                total = loss(answers[-1]).sum()
            gradients.append(self._backward(total, x))
        self._show(x, logits := _mean([answer.detach() for answer in answers]))
        return (gradients[0] if self.draws == 1 else torch.stack(gradients).mean(0)), logits

    def jacobian(
        self, x: Images, outputs: Callable[[Logits], Float[Tensor, "B J"]]
    ) -> Iterator[tuple[PerSample, Images]]:
        """Yield each column of ``outputs`` with ∂ Σ column / ∂x: one query, and a backward pass a column.

        Raises:
            InputError: as ``gradient``.
        """
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            columns = outputs(self._query(x)).unbind(1)
            totals = [column.sum() for column in columns]
        for j, (column, total) in enumerate(zip(columns, totals, strict=True), start=1):
            yield column.detach(), self._backward(total, x, again=j < len(columns))

    def _backward(self, total: Tensor, x: Images, *, again: bool = False) -> Images:
        """Return ∂ total / ∂x; the graph stays if it is needed ``again``."""
        self.counts.backwards += len(x)
        try:
            (gradient,) = torch.autograd.grad(total, x, retain_graph=again)
        except RuntimeError as error:
            if "does not require grad" not in str(error) and "not have been used" not in str(error):
                raise
            raise InputError(
                "Expected logits that depend on the pixels by gradient, but the model detaches them "
                "(no_grad, rounding or a conversion inside?); gradient attacks cannot judge it"
            ) from error
        if self.checked and not bool(torch.isfinite(gradient).all()):
            raise InputError(NOT_FINITE)
        return gradient

    def _query(self, x: Images) -> Logits:
        logits = _mean([self._ask(self.model, x) for _ in range(self.draws)])
        self._show(x, logits)
        return logits

    def _show(self, x: Images, logits: Logits) -> None:
        """Show the watch a query, by the judge's logits where there is one."""
        if self.watch is None:
            return
        seen = logits
        if self.judge is not None:
            with torch.no_grad():
                seen = _mean([self._ask(self.judge, x.detach()) for _ in range(self.draws)])
        self.watch(self.rows, x.detach(), seen.detach())

    def _ask(self, model: Query, x: Images) -> Logits:
        self.counts.forwards += len(x)
        output: object = model(as_input(model, x))
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"Expected logits of shape [{len(x)}, K] from the model, but got {shape}")
        if output.shape[1] < 2:
            raise InputError("Expected scores of two or more classes from the model, but got one per image")
        if self.checked and bool(output.detach().isnan().any()):
            raise InputError(NOT_FINITE)
        return output if output.dtype == torch.float64 else output.float()


NOT_FINITE: Final = (
    "Expected finite logits and gradients, but the model gives NaN or infinity; no attack can judge it"
)


def _mean(answers: list[Logits]) -> Logits:
    """Return log of the mean softmax of a random model's answers: logits of the classifier that it is on average."""
    if len(answers) == 1:
        return answers[0]
    return torch.stack(answers).log_softmax(2).logsumexp(0) - math.log(len(answers))


@contextmanager
def under_attack(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode with frozen parameters, gradients allowed; restore all of it after."""
    # a frozen TorchScript module has no mode
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
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


_SWITCHES: Final = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
"""Where torch ≥ 2.9 keeps the precision of float32 products, per operation."""


@contextmanager
def ieee_fp32() -> Iterator[None]:
    """Switch TF32, bf16 shortcuts and autocast off: float32 products are float32 products."""
    with _ieee_switches(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def _ieee_switches() -> Iterator[None]:
    """Set torch's switches to IEEE and back: the older two, then those per operation where there are any.

    The older ones cannot be read once a caller has used the newer ones otherwise; then only those go back.
    """
    newer = _SWITCHES if hasattr(torch.backends, "fp32_precision") else ()
    switches: list[Any] = [reduce(getattr, name.split("."), torch.backends) for name in newer]
    before = [switch.fp32_precision for switch in switches]
    matmul = _readable(torch.get_float32_matmul_precision)
    cudnn = _readable(lambda: torch.backends.cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _readable(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # torch refuses to read a mix of its two generations of settings
        return None
