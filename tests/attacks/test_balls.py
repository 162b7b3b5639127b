"""Balls: projections are projections, draws are uniform, radii make sense."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from fsrobust.attacks import L2, Linf, make_ball
from fsrobust.seeding import Noise
from fsrobust.types import InputError

KINDS = pytest.mark.parametrize("kind", [Linf, L2])


def _images(seed: int, *, low: float, high: float) -> Tensor:
    return torch.empty(3, 2, 4, 4).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


@KINDS
@given(seed=st.integers(0, 10_000), eps=st.floats(0, 1))
def test_projecting_is_projecting(kind: type[Linf | L2], seed: int, eps: float) -> None:
    """A projection lies in the ball and the range, stays put when repeated, and leaves what is inside alone."""
    ball, x = kind(eps), _images(seed, low=0, high=1)
    there = ball.project(_images(seed + 1, low=-1, high=2), x)
    assert (ball.distance(there, x) <= eps + 1e-6).all()
    assert 0 <= there.min() <= there.max() <= 1
    assert torch.allclose(ball.project(there, x), there, atol=1e-6)


@KINDS
@given(seed=st.integers(0, 10_000))
def test_no_point_of_the_ball_is_nearer(kind: type[Linf | L2], seed: int) -> None:
    """Away from the pixel range's edge, no other point of the ball is nearer to what was projected."""
    ball, x = kind(0.1), torch.full((3, 2, 4, 4), 0.5)
    outside = x + _images(seed, low=-0.3, high=0.3)
    nearest = (ball.project(outside, x) - outside).flatten(1).norm(dim=1)
    other = ball.sample(x, Noise.of(torch.arange(3), seed))
    assert (nearest <= (other - outside).flatten(1).norm(dim=1) + 1e-6).all()


@KINDS
def test_ascent_gains_what_duality_allows(kind: type[Linf | L2]) -> None:
    """A step of size s raises a linear score by s times the gradient's dual norm, the most there is."""
    gradient, x = _images(3, low=-1, high=1), torch.full((3, 2, 4, 4), 0.5)
    gain = ((kind(1.0).ascend(x, gradient, 0.01) - x) * gradient).flatten(1).sum(1)
    flat = gradient.flatten(1)
    dual = flat.abs().sum(1) if kind is Linf else flat.norm(dim=1)
    assert torch.allclose(gain, 0.01 * dual, rtol=1e-4)


def test_a_zero_gradient_moves_nothing() -> None:
    """Where the gradient vanishes an ascent stays in place; no division by zero."""
    x = torch.full((1, 1, 2, 2), 0.5)
    for ball in (Linf(0.1), L2(0.1)):
        assert torch.equal(ball.ascend(x, torch.zeros_like(x), 0.1), x)


def test_draws_from_linf_are_uniform() -> None:
    """Each coordinate of a draw is U(−eps, eps), by Kolmogorov and Smirnov, and batches do not matter."""
    x, noise = torch.full((200, 1, 4, 4), 0.5), Noise.of(torch.arange(200), 0, "draw")
    moved = (Linf(0.25).sample(x, noise) - x).flatten()
    assert kstest(moved.numpy(), "uniform", (-0.25, 0.5)).pvalue > 0.01
    alone = Linf(0.25).sample(x[7:8], Noise.of(torch.tensor([7]), 0, "draw"))
    assert torch.equal(alone, Linf(0.25).sample(x, noise)[7:8])


def test_draws_from_l2_fill_the_ball() -> None:
    """(radius/eps)^d of a uniform draw from a d-dimensional ball is U(0, 1)."""
    x, ball = torch.full((2000, 1, 1, 3), 0.5), L2(0.3)
    radius = ball.distance(ball.sample(x, Noise.of(torch.arange(2000), 1, "draw")), x)
    assert kstest(((radius / 0.3) ** 3).numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", 8.0, "8/255"),
        ("linf", -0.1, "eps in"),
        ("linf", float("nan"), "eps in"),
        ("l2", float("inf"), "eps in"),
        ("l1", 1.0, 'Unknown norm "l1"'),
    ],
)
def test_radii_that_make_no_sense_are_refused(norm: str, eps: float, message: str) -> None:
    """A radius outside its norm's range, or an unknown norm, ends in a sentence."""
    with pytest.raises(InputError, match=message):
        make_ball(norm, eps)
