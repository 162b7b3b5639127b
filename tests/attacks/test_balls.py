"""Balls: projection, sampling and distance against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from fsrobust.attacks import L2, Ball, Linf, make_ball
from fsrobust.attacks.witness import in_ball
from fsrobust.seeding import Noise
from fsrobust.types import InputError

ROUNDING = 2e-7  # two float32 roundings of a pixel near 1


def start_and_far_point(seed: int, scale: float, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return images, some pixels 0 or 1, and points up to ``scale`` away from them, in range or not."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(3, *shape, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return x, x + scale * (2 * torch.rand(3, *shape, generator=generator) - 1)


PLACES = {
    "seed": st.integers(0, 10_000),
    "eps": st.one_of(st.just(0.0), st.floats(1e-4, 1.0)),
    "scale": st.floats(0, 3),
    "shape": st.sampled_from([(1, 1, 1), (1, 4, 4), (3, 5, 2)]),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(**PLACES)
def test_projection_lands_in_the_ball_and_in_range(
    norm: str, seed: int, eps: float, scale: float, shape: tuple[int, int, int]
) -> None:
    """From anywhere, the projected point is in the ball and in [0, 1]; eps = 0 gives x itself."""
    ball = make_ball(norm, eps)
    x, far = start_and_far_point(seed, scale, shape)
    near = ball.project(far, x)
    assert near.min() >= 0
    assert near.max() <= 1
    # the distance of the rounded pixels, summed over up to 30 of them
    assert (ball.distance(near, x) <= eps * (1 + 1e-6) + ROUNDING * math.sqrt(x[0].numel())).all()
    if eps == 0:
        assert torch.equal(near, x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(**PLACES)
def test_projection_is_idempotent(
    norm: str, seed: int, eps: float, scale: float, shape: tuple[int, int, int]
) -> None:
    """Projecting a projected point moves no pixel by more than its rounding."""
    ball = make_ball(norm, eps)
    x, far = start_and_far_point(seed, scale, shape)
    once = ball.project(far, x)
    assert (ball.project(once, x) - once).abs().max() <= ROUNDING


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(seed=st.integers(0, 10_000), share=st.floats(0, 0.99))
def test_projection_keeps_points_of_the_ball(norm: str, seed: int, share: float) -> None:
    """A point that is in the ball and in [0, 1] already stays where it is."""
    x, far = start_and_far_point(seed, 0.5, (3, 4, 4))
    inside = far.clamp(0, 1)
    radius = make_ball(norm, 0.0).distance(inside, x).max().item() / max(share, 0.5) + 1e-6
    ball = make_ball(norm, min(radius, 1.0) if norm == "linf" else radius)
    assert (ball.project(inside, x) - inside).abs().max() <= ROUNDING


@given(seed=st.integers(0, 10_000), eps=st.floats(0.01, 1.0))
def test_linf_projection_clips_each_pixel(seed: int, eps: float) -> None:
    """The nearest point of an L∞ box: each pixel clipped to [max(0, x − eps), min(1, x + eps)]."""
    x, far = start_and_far_point(seed, 1.0, (3, 4, 4))
    expected = far.double().clamp((x.double() - eps).clamp_min(0), (x.double() + eps).clamp_max(1))
    torch.testing.assert_close(Linf(eps).project(far, x).double(), expected, rtol=0, atol=ROUNDING)


@given(seed=st.integers(0, 10_000), eps=st.floats(0.01, 1.0))
def test_l2_projection_scales_the_perturbation(seed: int, eps: float) -> None:
    """Outside the ball δ becomes δ·eps/‖δ‖₂, then pixels are clamped; in float64 by hand."""
    x, far = start_and_far_point(seed, 1.0, (3, 4, 4))
    delta = far.double() - x.double()
    length = delta.flatten(1).norm(dim=1)[:, None, None, None]
    expected = (x.double() + torch.where(length > eps, delta * eps / length, delta)).clamp(0, 1)
    torch.testing.assert_close(L2(eps).project(far, x).double(), expected, rtol=0, atol=5 * ROUNDING)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(seed=st.integers(0, 10_000))
def test_no_point_of_the_ball_is_nearer(norm: str, seed: int) -> None:
    """Away from the pixel range's edge, no other point of the ball is nearer to what was projected."""
    ball, x = make_ball(norm, 0.1), torch.full((3, 2, 4, 4), 0.5)
    _, far = start_and_far_point(seed, 0.3, (2, 4, 4))
    nearest = (ball.project(far, x) - far).flatten(1).norm(dim=1)
    other = ball.sample(x, Noise.of(torch.arange(3), seed))
    assert (nearest <= (other - far).flatten(1).norm(dim=1) + 1e-6).all()


def test_distances_are_the_norms() -> None:
    """Distances are max |δ| and √Σδ² of each sample, in float64 by hand; float32 whatever comes in."""
    x, other = start_and_far_point(0, 0.7, (3, 5, 5))
    delta = (other.double() - x.double()).flatten(1)
    for ball, expected in ((Linf(0.1), delta.abs().amax(1)), (L2(0.1), delta.square().sum(1).sqrt())):
        assert isinstance(ball, Ball)
        torch.testing.assert_close(ball.distance(other, x).double(), expected, rtol=1e-6, atol=0)
        assert ball.distance(other.double(), x.double()).dtype == torch.float32


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascent_gains_what_duality_allows(norm: str, generator: torch.Generator) -> None:
    """A step of size s raises a linear score by s times the gradient's dual norm, the most there is."""
    gradient, x = torch.randn(3, 2, 4, 4, generator=generator), torch.full((3, 2, 4, 4), 0.5)
    gain = ((make_ball(norm, 1.0).ascend(x, gradient, 0.01) - x) * gradient).flatten(1).sum(1)
    flat = gradient.flatten(1)
    dual = flat.abs().sum(1) if norm == "linf" else flat.norm(dim=1)
    torch.testing.assert_close(gain, 0.01 * dual, rtol=1e-4, atol=0)  # 0.01 is taken from pixels near 0.5


def test_linf_ascends_by_the_sign() -> None:
    """Each pixel moves by the step with its gradient's sign, and not at all where that is 0."""
    x, gradient = torch.full((1, 1, 1, 4), 0.5), torch.tensor([[[[1e-30, -2.0, 0.0, torch.inf]]]])
    assert torch.equal(Linf(1.0).ascend(x, gradient, 0.25), torch.tensor([[[[0.75, 0.25, 0.5, 0.75]]]]))


@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e10, 1e-37, 1e-30, 1e20, 1e30])
def test_l2_steps_have_their_length(scale: float, generator: torch.Generator) -> None:
    """The step is step_size·g/‖g‖₂ for a gradient of any scale: a confident model's are near 10⁻³⁰."""
    direction = torch.randn(2, 3, 8, 8, generator=generator)
    step = L2(1.0).ascend(torch.zeros_like(direction), direction * scale, 0.25)
    expected = 0.25 * direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-7)  # 10⁻³⁷ is near float32's last digits


def test_l2_stays_where_there_is_no_gradient() -> None:
    """A zero gradient is no direction: the point stays, and does not become NaN."""
    x = torch.full((2, 1, 2, 2), 0.5)
    assert torch.equal(L2(1.0).ascend(x, torch.zeros_like(x), 0.25), x)


def test_linf_samples_uniformly() -> None:
    """(x_adv − x)/eps is uniform in (−1, 1), pixel by pixel, where no clamp bites; seed fixed."""
    x = torch.full((500, 3, 8, 8), 0.5)
    offsets = (Linf(0.25).sample(x, Noise.of(torch.arange(500), 0)) - x) / 0.25
    assert stats.kstest(offsets.flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_l2_samples_uniformly() -> None:
    """In three dimensions (r/eps)³ is uniform in (0, 1), and so is each direction cosine in (−1, 1).

    The second is Archimedes' theorem on the sphere; together they are the uniform law of the ball.
    """
    x = torch.full((5000, 3, 1, 1), 0.5)
    delta = (L2(0.4).sample(x, Noise.of(torch.arange(5000), 0)) - x).flatten(1).double()
    radius = delta.norm(dim=1)
    assert stats.kstest((radius / 0.4).pow(3).numpy(), "uniform").pvalue > 0.01
    for cosine in (delta / radius[:, None]).T:
        assert stats.kstest(cosine.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    direction = delta / radius[:, None]
    assert abs(torch.corrcoef(torch.stack([radius, direction[:, 0]]))[0, 1].item()) < 4 / math.sqrt(5000)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(seed=st.integers(0, 10_000), eps=st.floats(0, 1))
def test_samples_are_in_the_ball_and_in_range(norm: str, seed: int, eps: float) -> None:
    """Draws around images with black and white pixels stay in the ball and in [0, 1]."""
    ball = make_ball(norm, eps)
    x, _ = start_and_far_point(seed, 0.0, (3, 4, 4))
    draw = ball.sample(x, Noise.of(torch.arange(3), seed))
    assert draw.min() >= 0
    assert draw.max() <= 1
    assert (ball.distance(draw, x) <= eps * (1 + 1e-6) + 10 * ROUNDING).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_dtypes_are_kept(norm: str) -> None:
    """float64 images get float64 steps, projections and draws."""
    ball, x = make_ball(norm, 0.1), torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    assert ball.sample(x, Noise.of(torch.arange(2), 0)).dtype == torch.float64
    assert ball.project(ball.ascend(x, torch.ones_like(x), 0.1), x).dtype == torch.float64


@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 8.0), ("linf", -0.1), ("linf", math.nan), ("l2", -1.0), ("l2", math.inf)]
)
def test_impossible_radii_are_refused(norm: str, eps: float) -> None:
    """8 for 8/255, negative, NaN and infinite radii are refused, with the way to write it."""
    with pytest.raises(InputError, match=r"Expected eps in \[0, .*write 8/255"):
        make_ball(norm, eps)


def test_an_unknown_norm_is_answered_with_the_nearest() -> None:
    """A misspelt norm names the nearest known."""
    with pytest.raises(InputError, match='Unknown norm "linff"; did you mean "linf"'):
        make_ball("linff", 0.1)
    with pytest.raises(InputError, match='Unknown norm "l1"'):
        make_ball("l1", 0.1)


def test_balls_are_values() -> None:
    """Equal radii make equal, hashable balls; L∞ and L2 are never equal."""
    assert len({Linf(0.5), Linf(0.5), L2(0.5), L2(0.25)}) == 3


LARGE = [(3, 224, 224), (3, 512, 512), (3, 1024, 1024)]


@pytest.mark.parametrize("shape", LARGE)
def test_distance_is_right_at_any_size(shape: tuple[int, int, int]) -> None:
    """‖x_adv − x‖₂ of a large image is float64's, to the roundings of float32."""
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    exact = x.double().norm()
    torch.testing.assert_close(L2(1.0).distance(x, torch.zeros_like(x)).double()[0], exact, rtol=2e-7, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 32, 32), *LARGE])
@pytest.mark.parametrize("eps", [0.5, 3.0])
@pytest.mark.parametrize("level", [None, 1.0], ids=["noise", "flat"])
def test_steps_along_the_surface_stay_in_the_ball(
    shape: tuple[int, int, int], eps: float, level: float | None
) -> None:
    """Also of a white image whose pixels all go one way, where all roundings add up."""
    ball, generator = L2(eps), torch.Generator().manual_seed(1)
    x = torch.full((2, *shape), level) if level else torch.rand(2, *shape, generator=generator)
    gradient = -torch.ones_like(x) if level else torch.randn(x.shape, generator=generator)
    x_adv = x
    for _ in range(3):
        x_adv = ball.project(ball.ascend(x_adv, gradient, eps / 2), x)
    assert in_ball(ball, x_adv, x).all()


def test_what_is_outside_is_outside() -> None:
    """The roundings of a million pixels excuse no more than a ten-thousandth of a radius of 3."""
    ball, x = L2(3.0), torch.full((1, 3, 1024, 1024), 0.5)
    assert not in_ball(ball, L2(3.0003).ascend(x, torch.ones_like(x), 3.0003), x).any()
