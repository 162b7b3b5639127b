"""A recorded step counts only after its replay was seen to do what the eager step does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fsrobust.train.graph import CapturedStep, Work, check_replay


class Descent:
    """Gradient descent on a quadratic with noise from torch's generator, as a step of training has it."""

    def __init__(self) -> None:
        self.weights = torch.ones(8)

    def work(self, indices: Tensor) -> dict[str, Tensor]:
        """Move towards the batch's mean, noisily."""
        self.weights -= 0.1 * (self.weights - indices.float().mean() + torch.rand(8))
        return {"loss": self.weights.square().sum()}


def check(descent: Descent, replayed: Callable[[], Work]) -> Work:
    """Check one replay from the present state."""
    return check_replay(
        replayed, descent.work, torch.arange(4), [descent.weights], lambda: torch.manual_seed(3)
    )


def test_a_faithful_replay_is_accepted_after_one_step() -> None:
    """The state is that of one step, not of two."""
    descent, single = Descent(), Descent()
    torch.manual_seed(3)
    single.work(torch.arange(4))
    assert check(descent, lambda: descent.work) == descent.work
    torch.testing.assert_close(descent.weights, single.weights, rtol=0, atol=0)


@pytest.mark.parametrize("fault", ["stale images", "does nothing", "nan", "fails"])
def test_an_unfaithful_replay_is_refused_and_the_eager_step_stands(fault: str) -> None:
    """Whatever a recording gets wrong, the weights are those of one eager step."""
    descent, single = Descent(), Descent()
    torch.manual_seed(3)
    single.work(torch.arange(4))

    def wrong(indices: Tensor) -> dict[str, Tensor]:
        if fault == "stale images":
            return descent.work(torch.zeros_like(indices))
        if fault == "nan":
            descent.weights *= torch.nan
        return {}

    def make() -> Work:
        if fault == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        return wrong

    with pytest.raises(RuntimeError, match=r"differs|not permitted"):
        check(descent, make)
    torch.testing.assert_close(descent.weights, single.weights, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_step_learns_from_other_batches() -> None:
    """Replays see new indices and, seeded alike, the eager step's noise."""
    start = torch.ones(8, device="cuda")
    eager, captured = start.clone(), start.clone()

    def work(weights: Tensor) -> Work:
        def step(indices: Tensor) -> dict[str, Tensor]:
            weights.sub_(0.1 * (weights - indices.float().mean() + torch.rand(8, device="cuda")))
            return {"loss": weights.sum()}

        return step

    first = torch.arange(4, device="cuda")
    graph = CapturedStep(work(captured), first)
    captured.copy_(start)
    for number in range(3):
        for step in (work(eager), graph):
            torch.manual_seed(number)
            step(first + number)
    torch.testing.assert_close(captured, eager)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_failed_capture_leaves_stream_and_generator_as_they_were() -> None:
    """A network that asks the device for a number cannot be recorded; the next eager step draws all the same."""
    x = torch.ones(4, device="cuda")
    stream = torch.cuda.current_stream()

    def synchronises(_indices: Tensor) -> dict[str, Tensor]:
        torch.rand(4, device="cuda")
        return {"loss": x * float(x.sum())}

    with pytest.raises(Exception, match=r"captur"):
        CapturedStep(synchronises, torch.arange(4, device="cuda"))
    assert torch.cuda.current_stream() == stream
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(torch.rand(4, device="cuda"))
    assert torch.equal(draws[0], draws[1])
    CapturedStep(lambda _indices: {"loss": 2 * torch.rand(4, device="cuda")}, torch.arange(4, device="cuda"))
