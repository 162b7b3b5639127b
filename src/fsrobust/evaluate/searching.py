"""How to search: in which precision, and how many samples at once. No choice made here decides a verdict."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import torch
from torch import Tensor, nn

from fsrobust.attacks import Attack
from fsrobust.attacks.compiled import first_line, is_out_of_memory
from fsrobust.attacks.losses import margin
from fsrobust.attacks.probe import Probe, as_input, ieee_fp32, under_attack
from fsrobust.attacks.view import FrozenView, View, multiplies_bf16
from fsrobust.data.memory import free_memory
from fsrobust.types import Images, InputError, Labels

Precision = Literal["fp32", "bf16"]
Say = Callable[[str], None]
T = TypeVar("T")

PILOTS: Final = 32
"""On how many samples it is tried whether a search on a copy, or in low precision, would find its way."""
_AGREEING: Final = 0.8
"""Least share of the margin gradient's weight on whose sign both precisions must agree; guessing gives a half.

Networks trained with and without attacks came to 0.93 and more. One with features too fine for bf16, where it would
search in the dark, stays near a half, however large its logits: a margin's gradient does not fade as they grow.
"""
_SAME: Final = 0.98
"""The same for a copy in float32, where folded batch norms turn the signs of small gradients alone."""
_LARGEST: Final = {"cpu": 256, "cuda": 2048}
"""Samples at once beyond which throughput no longer grows: caches on a CPU, launches on a GPU."""
_WORK: Final[dict[str, float]] = {"cpu": 320e9, "cuda": 38e12}
"""Bytes that layers put out, over all passes and samples of a batch, after which something should be on record."""
_SHARE: Final = 0.5
"""Share of the free memory that an attack may plan with."""


def silent(_text: str) -> None:
    """Say nothing: where nobody wants to be told."""


@dataclass(frozen=True, eq=False)
class Searching:
    """``view`` is what attacks query, None for the model; ``why`` is said where it is not what was asked."""

    precision: Precision
    view: View | None
    why: str | None = None


def choose_precision(
    model: nn.Module, x: Images, y: Labels, asked: Literal["auto", "fp32", "bf16"]
) -> Searching:
    """Return how to search ``model``: "auto" takes bf16 where the device multiplies it and the model bears it.

    Either way a frozen copy with folded batch norms is asked, as far as it proves to be the same network.

    A model bears it if, on these samples, input gradients in bf16 point where those in float32 do. Else an
    attack would be weak for no fault of the model's defence, and float32 is used. Who asks for bf16 all the same
    gets it, and is warned.

    Raises:
        InputError: another word than these.
    """
    if asked not in ("auto", "fp32", "bf16"):
        raise InputError(f'Expected precision "auto", "fp32" or "bf16", but got "{asked}"')
    low = asked == "bf16" or (asked == "auto" and multiplies_bf16(x.device))
    if not low:
        return _in_float32(model, x, y)
    view = FrozenView(model, dtype=torch.bfloat16)
    try:
        agreement = _agreement(model, view, x, y)
    except Exception as error:  # a network whose code has no bf16; in float32 it may be sound
        if is_out_of_memory(error):
            raise
        return _in_float32(model, x, y, f"the model does not run in bf16 ({first_line(error)})")
    if not agreement >= _AGREEING:  # written so that NaN fails
        why = f"bf16 gradients agree with fp32 in only {agreement:.0%}"
        if asked == "auto":
            return _in_float32(model, x, y, why)
        return Searching("bf16", view, f"WARNING: {why}, so this search may miss what one in fp32 finds")
    return Searching("bf16", view)


def _in_float32(model: nn.Module, x: Images, y: Labels, why: str | None = None) -> Searching:
    """Return a search on a folded copy, or on the model where a copy of it is not the same network."""
    why = f"searching in fp32: {why}" if why else None
    view = FrozenView(model)
    try:
        agreement = _agreement(model, view, x, y)
    except InputError as error:  # no gradient attack can judge it, but others can
        return Searching("fp32", None, f"searching the network itself: {error}")
    if agreement >= _SAME:
        return Searching("fp32", view, why)
    return Searching(
        "fp32", None, why or f"searching the network itself: a copy agrees in only {agreement:.0%}"
    )


def _agreement(model: nn.Module, view: View, x: Images, y: Labels) -> float:
    """Return the share of Σ|g| over pixels where bf16 and float32 agree on the sign of g, worst half of samples.

    g is the margin's gradient. Where no sample has one, there is nothing to show that the two are alike: 0.
    """

    def gradient(ask: nn.Module | View) -> Tensor:
        return Probe(ask).gradient(x, lambda logits: margin(logits, y))[0].flatten(1)

    with under_attack(model), ieee_fp32():
        exact, near = gradient(model), gradient(view)
    weight = exact.abs()
    shares = (weight * (exact.sign() == near.sign())).sum(1) / weight.sum(1).clamp_min(1e-38)
    shares = shares[weight.sum(1) > 0]
    return float(shares.sort().values[: max(1, len(shares) // 2)].mean()) if len(shares) else 0.0


def choose_batch(model: nn.Module, x: Images) -> int:
    """Return how many samples to attack at once: a power of two, the same on every call on a machine at rest.

    The memory of one sample is that of everything its forward pass puts out, twice for the way back.
    """
    largest = _LARGEST.get(x.device.type, 256)
    bytes_each = 2 * pass_bytes(model, x[:1])
    free = _SHARE * free_memory(x.device)
    while largest > 1 and largest * bytes_each > free:
        largest //= 2
    return largest


def batch_for(attack: Attack, batch: int, device: torch.device, *, each: int, draws: int = 1) -> int:
    """Return how many of at most ``batch`` samples such an attack takes at once: fewer where it is long.

    Only what whole batches found is kept when an attack is killed. A pass costs by the bytes that layers put out for
    ``each`` sample, some 8 MB in a ResNet-18 on 32 × 32 pixels.

    >>> from fsrobust.attacks import Linf, make_attack
    >>> attacks = [make_attack(name, Linf(0.1)) for name in ("pgd100", "square", "nattack")]
    >>> [batch_for(attack, 256, torch.device("cpu"), each=7_659_600) for attack in attacks]
    [208, 8, 1]
    """
    passes = _WORK.get(device.type, _WORK["cpu"]) / max(1, each)
    return max(1, min(batch, int(passes / max(1, draws * attack.cost))))


def in_batches(
    work: Callable[[slice], T], count: int, batch: int, say: Say | None = None
) -> Iterator[tuple[slice, T]]:
    """Yield each part of 0 … count with what ``work`` makes of it; out of memory, half as many go at once.

    Raises:
        InputError: not even a single sample fits.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + batch, count))
        try:
            done = work(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if batch == 1:
                raise InputError(f"Not even one sample fits in memory: {first_line(error)}") from error
            batch = max(1, min(batch, part.stop - part.start) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if say is not None:
                say(f"out of memory: {batch} samples at once from here on")
            continue
        yield part, done
        start = part.stop


def pass_bytes(model: nn.Module, x: Images) -> int:
    """Return how many bytes the layers of a model put out in one forward pass of these images.

    TorchScript lets nobody look at its layers: there it is what they keep for the way back.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return _kept_bytes(model, x)
    sizes: list[int] = []

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with under_attack(model), torch.no_grad():
            model(as_input(model, x))
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes) + x.numel() * x.element_size()


def _kept_bytes(model: nn.Module, x: Images) -> int:
    sizes: dict[int, int] = {}

    def pack(kept: Tensor) -> Tensor:
        sizes[kept.data_ptr()] = kept.numel() * kept.element_size()
        return kept

    with under_attack(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        model(as_input(model, x.detach().requires_grad_(True)))
    return sum(sizes.values()) + x.numel() * x.element_size()
