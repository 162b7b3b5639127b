"""What attacks maximise, against the formulas in numpy's float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fsrobust.attacks.losses import LOSSES, best_wrong

Scores = NDArray[np.float64]


def cross_entropy(z: Scores, y: int) -> float:
    """−log softmax, by its definition."""
    return float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[y])


def margin(z: Scores, y: int) -> float:
    """The best wrong score over the right one."""
    return float(max(score for k, score in enumerate(z) if k != y) - z[y])


def carlini_wagner(z: Scores, y: int) -> float:
    """−max(z_y − max_{j≠y} z_j + 50, 0)."""
    return -max(-margin(z, y) + 50.0, 0.0)


REFERENCES: dict[str, Callable[[Scores, int], float]] = {
    "ce": cross_entropy,
    "margin": margin,
    "cw": carlini_wagner,
}


def test_every_loss_has_a_reference() -> None:
    """A new row of LOSSES needs its formula here."""
    assert {*REFERENCES, "dlr"} == set(LOSSES)  # DLR's stands beside Auto-PGD


@pytest.mark.parametrize("name", REFERENCES)
@given(
    scores=st.lists(st.lists(st.floats(-80, 80, width=32), min_size=4, max_size=4), min_size=1, max_size=6),
    data=st.data(),
)
def test_losses_equal_their_formulas(name: str, scores: list[list[float]], data: st.DataObject) -> None:
    """One number per sample, the formula's, up to float32's rounding of numbers below 160."""
    y = data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)))
    ours = LOSSES[name](torch.tensor(scores, dtype=torch.float32), torch.tensor(y))
    theirs = [REFERENCES[name](np.array(z), label) for z, label in zip(scores, y, strict=True)]
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", REFERENCES)
def test_losses_do_not_mix_samples(name: str) -> None:
    """The gradient of the sum has each sample's own gradient as its row."""
    z = torch.randn(4, 5, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3])
    (together,) = torch.autograd.grad(LOSSES[name](z, y).sum(), z)
    for k in range(4):
        alone = z[k : k + 1].detach().requires_grad_(True)
        (row,) = torch.autograd.grad(LOSSES[name](alone, y[k : k + 1]).sum(), alone)
        assert torch.equal(together[k : k + 1], row)


def test_the_margin_decides() -> None:
    """The margin is positive exactly where the prediction is wrong."""
    z, y = torch.randn(500, 4), torch.randint(4, (500,))
    assert torch.equal(LOSSES["margin"](z, y) > 0, z.argmax(1) != y)


def test_cw_stops_when_won_by_fifty() -> None:
    """C&W's gradient is the margin's until the margin is 50, and zero beyond."""
    z = torch.tensor([[0.0, 49.0, -1.0], [0.0, 51.0, -1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES["cw"](z, torch.tensor([0, 0])).sum(), z)
    assert gradient.tolist() == [[-1, 1, 0], [0, 0, 0]]


def test_the_best_wrong_score_ignores_the_right_one() -> None:
    """A right class that scores highest, or infinitely, never counts as wrong."""
    z = torch.tensor([[torch.inf, 1.0, 2.0], [0.0, 5.0, 3.0]])
    assert best_wrong(z, torch.tensor([0, 1])).tolist() == [2, 3]


def test_cross_entropy_is_finite_where_softmax_is_not() -> None:
    """Scores of ±10⁴ give a finite loss and gradient: log-softmax, never log of softmax."""
    z = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = LOSSES["ce"](z, torch.tensor([0, 0]))
    assert loss.tolist() == [0, 2e4]
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert torch.isfinite(gradient).all()
