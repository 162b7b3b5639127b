"""A whole training step as one CUDA graph: at batch 128 it is launches, not arithmetic, that cost time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

Work = Callable[[Tensor], dict[str, Tensor]]
"""From indices [B] of the batch's samples to the numbers of its loss, all on the device."""

_SAME: Final = 0.25
"""Largest difference between a replayed and an eager update, as a share of the update.

Signs of near-zero gradients turn with the order of sums, so two eager steps differ too, by a few percent in
bf16; a graph that reads stale images or weights differs by more than the update itself.
"""


class CapturedStep:
    """``work`` recorded once and replayed for other samples: one launch a step.

    What is no tensor is a constant of the recording: learning rate, keys of the noise. So a recording is good
    for one epoch. torch's own generator is no constant: seeded before a replay, it gives the same mask noise as
    an eager step.
    """

    def __init__(self, work: Work, indices: Tensor) -> None:
        self._indices = indices.clone()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self._graph):
                self._numbers = work(self._indices)
        except Exception:
            _leave_capture(stream)
            raise

    def __call__(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the numbers of this batch's loss, overwritten by the next call."""
        self._indices.copy_(indices)
        self._graph.replay()
        return self._numbers


def _leave_capture(stream: torch.cuda.Stream) -> None:
    """Put right what torch before 2.13 leaves of a capture that failed.

    It stays on its own stream, and its generator believes to be recorded still, so that the next random number of
    an eager step would be refused.
    """
    torch.cuda.set_stream(stream)
    generator = torch.cuda.default_generators[stream.device_index]
    generator.graphsafe_set_state(torch.Generator(stream.device).graphsafe_get_state())


def check_replay(
    replayed: Callable[[], Work],
    eager: Work,
    indices: Tensor,
    state: Sequence[Tensor],
    seed: Callable[[], object],
) -> Work:
    """Return a captured step that was seen to make the same update as the eager one, from the same state.

    ``state`` is every tensor that a step changes. Afterwards one step on ``indices`` has been taken.

    Raises:
        RuntimeError: capture failed, or the updates differ; the eager step stands.
    """
    before = _copy(state)
    seed()
    eager(indices)
    after = _copy(state)
    _restore(state, before)
    try:
        work = replayed()
        _restore(state, before)  # capture does not run, but what it broke is not worth finding out
        seed()
        work(indices)
        difference = _distance(state, after) / max(_distance(before, after), 1e-30)
        if not difference <= _SAME:
            raise RuntimeError(f"a replayed update differs from the eager one by {difference:.0%}")
    except Exception:
        _restore(state, after)
        raise
    return work


def _copy(state: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in state]


def _restore(state: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(state, values, strict=True):
            tensor.copy_(value)


def _distance(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    squares = [
        (x.detach().double() - y.double()).square().sum()
        for x, y in zip(a, b, strict=True)
        if x.is_floating_point()
    ]
    return float(torch.stack(squares).sum().sqrt())
