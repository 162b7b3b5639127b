"""The way to a plane in a box against closed forms, generic solvers and the implementation of FAB's authors."""

import math

import numpy as np
import pytest
import torch
from pyautoattack.fab_projections import projection_l2, projection_linf
from scipy.optimize import Bounds, LinearConstraint, linprog, minimize
from torch import Tensor

from fsrobust.attacks.projections import ORDERS, dual, lengths, to_plane

NORMS = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


def problem(
    rows: int, pixels: int, *, reach: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images with a sixth of their pixels on a side, planes, and rises of ± ``reach`` · ‖w‖₁ at most."""
    generator = torch.Generator().manual_seed(pixels)
    x = torch.rand(rows, pixels, generator=generator, dtype=dtype).mul(1.2).sub(0.1).clamp(0, 1)
    w = torch.randn(rows, pixels, generator=generator, dtype=dtype)
    w[torch.rand(w.shape, generator=generator) < 0.1] = 0
    u = torch.rand(rows, generator=generator, dtype=dtype)
    return x, w, (2 * u - 1) * reach * w.abs().sum(1)


def best_length(x: np.ndarray, w: np.ndarray, rise: float, order: float) -> float:
    """Return the least length by a generic solver, NaN where the box does not reach the plane."""
    n = len(x)
    if order == math.inf:  # minimise t over (d, t) with −t ≤ d ≤ t
        eye, ones = np.eye(n), np.ones((n, 1))
        found = linprog(
            np.append(np.zeros(n), 1),
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * n),
            A_eq=np.append(w, 0)[None],
            b_eq=[rise],
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        return float(found.fun) if found.status == 0 else math.nan
    found = minimize(
        lambda d: d @ d,
        np.zeros(n),
        jac=lambda d: 2 * d,
        method="SLSQP",
        bounds=Bounds(-x, 1 - x),
        constraints=LinearConstraint(w, rise, rise),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return math.sqrt(found.fun) if found.success else math.nan


@NORMS
def test_far_from_the_box_it_is_the_free_projection(order: float) -> None:
    """Where no side interferes: rise · sign(w)/‖w‖₁ in L∞, rise · w/‖w‖₂² in L2."""
    _, w, _ = problem(20, 50, reach=0, dtype=torch.float64)
    rise = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64)
    d = to_plane(torch.full_like(w, 0.5), w, rise, order=order)
    direction = (
        w.sign() / w.abs().sum(1, keepdim=True) if order == math.inf else w / (w**2).sum(1, keepdim=True)
    )
    torch.testing.assert_close(d, rise[:, None] * direction, rtol=0, atol=1e-14)  # float64's roundings


@NORMS
@pytest.mark.parametrize("pixels", [2, 6, 12])
def test_a_generic_solver_finds_no_shorter_way(order: float, pixels: int) -> None:
    """In float64, of 40 planes: on the plane, in the box, and as short as a linear program or SLSQP can."""
    x, w, rise = problem(40, pixels, reach=0.5, dtype=torch.float64)
    d = to_plane(x, w, rise, order=order)
    solved = 0
    for row in range(len(x)):
        best = best_length(x[row].numpy(), w[row].numpy(), rise[row].item(), order)
        if math.isnan(best):
            continue
        solved += 1
        assert (w[row] @ d[row]).item() == pytest.approx(rise[row].item(), abs=1e-12)
        # the solvers' own tolerances
        assert lengths(d[row], order).item() == pytest.approx(best, abs=1e-6)
    assert solved > 10
    assert ((x + d) >= -1e-15).all()
    assert ((x + d) <= 1 + 1e-15).all()


@NORMS
def test_out_of_reach_it_goes_to_the_corner(order: float) -> None:
    """Where the box does not reach the plane every pixel with a weight goes to its side, all others stay."""
    x, w, _ = problem(10, 30, reach=0)
    for sign in (-1.0, 1.0):
        rise = sign * (w.abs().sum(1) + 1)
        ends = torch.where(sign * w > 0, 1.0, 0.0)
        torch.testing.assert_close(x + to_plane(x, w, rise, order=order), torch.where(w == 0, x, ends))


@NORMS
@pytest.mark.parametrize("pixels", [7, 192, 3072])
def test_it_is_the_authors_projection(order: float, pixels: int) -> None:
    """On random planes, with pixels on the sides and zero weights, it is what pyautoattack computes."""
    x, w, rise = problem(64, pixels, reach=0.3)
    theirs = projection_linf if order == math.inf else projection_l2
    expected = theirs(x, w, (w * x).sum(1) + rise)
    ours = to_plane(x, w, rise, order=order)
    # their right-hand side w·x + rise has lost what float32 rounds off at its size; pixels are of size 1
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)
    assert lengths(ours, order).max() > 0.1


@NORMS
@pytest.mark.parametrize("factor", [1e-30, 1e20])
def test_the_length_of_the_normal_does_not_matter(order: float, factor: float) -> None:
    """Gradients near 1e-30, or 1e20, give the same way, though their squares do not fit float32."""
    x, w, rise = problem(16, 100, reach=0.3)
    torch.testing.assert_close(
        to_plane(x, factor * w, factor * rise, order=order),
        to_plane(x, w, rise, order=order),
        rtol=0,
        atol=1e-6,  # float32's roundings of the scaled rise
    )


@NORMS
def test_where_there_is_no_way_nothing_moves(order: float) -> None:
    """No rise, or no normal: 0, and no NaN."""
    x, w, rise = problem(8, 20, reach=0.3)
    for normal, wanted in ((w, 0 * rise), (0 * w, rise), (0 * w, 0 * rise)):
        assert torch.equal(to_plane(x, normal, wanted, order=order), torch.zeros_like(x))


@NORMS
def test_one_plane_serves_several_images(order: float) -> None:
    """With leading dimensions, each row is as if alone."""
    x, w, rise = problem(8, 20, reach=0.3)
    points, rises = torch.stack([x, 1 - x]), torch.stack([rise, -rise])
    together = to_plane(points, w, rises, order=order)
    for k in range(2):
        assert torch.equal(together[k], to_plane(points[k], w, rises[k], order=order))


def test_dual_exponents() -> None:
    """1/p + 1/q = 1."""
    assert [dual(p) for p in (math.inf, 2.0, 4.0)] == pytest.approx([1.0, 2.0, 4 / 3])
