"""A model under examination: any module, asked gently, its answers kept."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn

from fsrobust.data.batches import evaluation_batches
from fsrobust.types import Images, InputError, Labels

BATCH: Final = 64
"""Images asked about at once."""
ROUNDING: Final = 1e-6
"""Share of the largest score that float32 may round off on the way: some sixteen of its last bits."""


class Unjudged(Exception):  # noqa: N818 - no error: what a check says that has nothing to look at
    """A check cannot be made, because of what another one reports."""


@dataclass(eq=False)
class Patient:
    """A model, images float [N, C, H, W] and labels int64 [N], brought to where and how the model computes.

    ``given`` are the images as they came; ``training`` names the modules that were in train mode then.
    ``classes`` is how many the data have, where that is known.
    """

    model: nn.Module
    given: Tensor
    y: Labels
    classes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise InputError(f"Expected a torch module, but got {type(self.model).__name__}")
        x, y = self.given, self.y
        if x.ndim != 4 or y.shape != (len(x),) or y.dtype != torch.int64 or len(x) == 0:
            raise InputError(
                "Expected images [N, C, H, W] and as many int64 labels, at least one, "
                f"but got {list(x.shape)} and {y.dtype} {list(y.shape)}"
            )
        self.training = [name for name, module in self.model.named_modules() if module.training]

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers."""
        yield from self.model.parameters()
        yield from self.model.buffers()

    @cached_property
    def x(self) -> Images:
        """The images on the device and in the float type of most of the model's numbers."""
        x = (self.given if self.given.is_floating_point() else self.given.float()).detach().clone()
        kinds: Counter[tuple[torch.device, torch.dtype]] = Counter()
        for tensor in self.tensors:
            if tensor.is_floating_point():
                kinds[tensor.device, tensor.dtype] += tensor.numel()
        return x.to(*kinds.most_common(1)[0][0]) if kinds else x

    def ask(self, x: Tensor) -> Tensor:
        """Return scores [B, K] in float64, found inside whatever the model returns.

        Raises:
            Unjudged: there are none inside.
        """
        found = find_scores(self.model(x.clone()), len(x))  # it may write to them
        if found is None:
            raise Unjudged("there are no scores [B, K] in the output")
        return found.double()

    def ask_all(self, x: Tensor) -> Tensor:
        """Return the scores of many images, a batch at a time, on the CPU."""
        with torch.no_grad():
            return torch.cat([self.ask(x[part]).cpu() for part in evaluation_batches(len(x), batch=BATCH)])

    @cached_property
    def output(self) -> object:
        """What the model returns for the first images, or the exception it raises."""
        try:
            with torch.no_grad():
                return self.model(self.x[:BATCH].clone())
        except Exception as error:  # any module may be a patient
            return error

    @cached_property
    def scores(self) -> Tensor:
        """Scores [N, K] of all images, finite or not."""
        if isinstance(self.output, Exception):
            raise Unjudged("the forward pass fails")
        return self.ask_all(self.x)

    @property
    def logits(self) -> Tensor:
        """Finite scores [N, K] of all images.

        Raises:
            Unjudged: there are none.
        """
        if not bool(torch.isfinite(self.scores).all()):
            raise Unjudged("the scores are not finite")
        return self.scores

    @property
    def spread(self) -> float:
        """How far a score is from the mean of its image's at most: what is added to all of them says nothing."""
        return max(float(centred(self.logits).abs().max()), 1e-12)

    def apart(self, one: Tensor, other: Tensor) -> float:
        """Return the largest difference of scores, float32's rounding of them aside, as a share of the spread."""
        rounding = ROUNDING * float(self.logits.abs().max())
        return max(0.0, float((centred(one) - centred(other)).abs().max()) - rounding) / self.spread

    @cached_property
    def unsteadiness(self) -> float:
        """How far two passes over the same batch are apart."""
        _ = self.logits  # without finite scores there is nothing to compare
        with torch.no_grad():
            one, other = (self.ask(self.x[:BATCH]).cpu() for _ in range(2))
        return self.apart(one, other)


def centred(scores: Tensor) -> Tensor:
    """Return scores less the mean of their image's.

    >>> centred(torch.tensor([[30000.0, 30002.0]]))
    tensor([[-1.,  1.]])
    """
    return scores - scores.mean(1, keepdim=True)


def find_scores(output: object, count: int) -> Tensor | None:
    """Return the first float tensor [count, K] in an output, None if there is none.

    >>> find_scores({"loss": torch.zeros(()), "logits": torch.zeros(2, 10)}, 2).shape
    torch.Size([2, 10])
    """
    if isinstance(output, Tensor):
        fits = output.ndim == 2 and len(output) == count and output.is_floating_point()
        return output if fits else None
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    parts = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(parts, list | tuple):
        return None
    return next((s for s in (find_scores(part, count) for part in parts) if s is not None), None)
