"""The soft mask against the paper's literal formula, and the law of its noise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fsrobust.plugin.mask import logistic_like, soft_mask


def two_way_gumbel_softmax(r: torch.Tensor, tau: float, u1: torch.Tensor, u2: torch.Tensor) -> torch.Tensor:
    """Eq. 2 as it is written: a softmax over the pair, each with Gumbel noise −log(−log u)."""
    p = torch.sigmoid(r)
    g1, g2 = -(-u1.log()).log(), -(-u2.log()).log()
    pair = torch.stack([(p.log() + g1) / tau, ((1 - p).log() + g2) / tau])
    return torch.softmax(pair, dim=0)[0]


@given(
    r=st.lists(st.floats(-15, 15), min_size=1, max_size=16),
    tau=st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0]),
)
def test_without_noise_it_is_the_softmax_at_one_half(r: list[float], tau: float) -> None:
    """With both uniforms at ½ the two Gumbels cancel: σ(r/τ) is the paper's deterministic mask.

    In float64; log(1 − σ(15)) keeps 9 of 16 digits there, which 1/τ = 100 may amplify: 10⁻⁶ is left.
    """
    robustness = torch.tensor(r, dtype=torch.float64).view(1, 1, 1, -1)
    half = torch.full_like(robustness, 0.5)
    expected = two_way_gumbel_softmax(robustness, tau, half, half)
    torch.testing.assert_close(soft_mask(robustness, tau=tau), expected, rtol=0, atol=1e-6)


@given(r=st.floats(-8, 8), u1=st.floats(1e-6, 1 - 1e-6), u2=st.floats(1e-6, 1 - 1e-6), tau=st.floats(0.05, 2))
def test_with_noise_it_is_the_softmax_with_both_gumbels(r: float, u1: float, u2: float, tau: float) -> None:
    """For any pair of uniforms the softmax equals one sigmoid of r plus the difference of the Gumbels."""
    as_map = [torch.tensor(v, dtype=torch.float64).view(1, 1, 1, 1) for v in (r, u1, u2)]
    difference = -(-as_map[1].log()).log() + (-as_map[2].log()).log()
    expected = two_way_gumbel_softmax(as_map[0], tau, as_map[1], as_map[2])
    # 16 digits, less the few that log(1 − σ(8)) and 1/τ = 20 cost
    torch.testing.assert_close(soft_mask(as_map[0], tau=tau, noise=difference), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("r", [-2.0, -0.5, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_a_unit_is_robust_with_probability_sigma(r: float, tau: float, generator: torch.Generator) -> None:
    """P(m > ½) = σ(r) whatever τ is: a two-sided binomial test at 0.1 % on 50,000 draws, seed fixed."""
    robustness = torch.full((1, 1, 1, 50_000), r)
    mask = soft_mask(robustness, tau=tau, noise=logistic_like(robustness, generator=generator))
    share = 1 / (1 + math.exp(-r))
    assert stats.binomtest(int((mask > 0.5).sum()), mask.numel(), share).pvalue > 0.001


def test_the_noise_is_logistic(generator: torch.Generator) -> None:
    """Noise passes the test against Logistic(0, 1) and has its mean 0 and variance π²/3.

    Four standard errors: the logistic's variance of squares is (16/45) π⁴ (its kurtosis is 4.2).
    """
    noise = logistic_like(torch.zeros(1, 1, 400, 500), generator=generator).flatten().double()
    assert stats.kstest(noise.numpy(), "logistic").pvalue > 0.01
    variance = math.pi**2 / 3
    assert abs(noise.mean().item()) < 4 * math.sqrt(variance / len(noise))
    assert abs(noise.var().item() - variance) < 4 * math.sqrt(16 / 45 * math.pi**4 / len(noise))


def test_the_noise_is_the_difference_of_two_gumbels(generator: torch.Generator) -> None:
    """One logistic draw and two Gumbel draws have one law: a two-sample test on 100,000 of each."""
    ours = logistic_like(torch.zeros(1, 1, 1, 100_000), generator=generator).flatten()
    u1, u2 = torch.rand(2, 100_000, generator=generator, dtype=torch.float64)
    theirs = -(-u1.log()).log() + (-u2.log()).log()
    assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 0.01


def test_the_noise_is_always_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest and the largest uniform that torch can draw, 0 and 1 − 2⁻²⁴, give finite noise."""
    for u in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, _u=u, **_: self.fill_(_u))
        assert torch.isfinite(logistic_like(torch.zeros(1, 1, 1, 2))).all()


def test_the_noise_follows_its_generator() -> None:
    """Equal seeds give equal bits; without a generator torch's own seed rules, as for dropout."""
    r = torch.zeros(1, 2, 3, 3)
    draws = [logistic_like(r, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    torch.manual_seed(5)
    first = logistic_like(r)
    torch.manual_seed(5)
    assert torch.equal(logistic_like(r), first)


def test_no_robustness_is_too_large() -> None:
    """The mask is a number in [0, 1] for any finite r, with a gradient that is finite: no log of 0 inside."""
    r = torch.tensor([-1e30, -1e4, -20.0, 20.0, 1e4, 1e30]).view(1, 1, 1, -1).requires_grad_(True)
    mask = soft_mask(r, tau=0.1)
    assert mask.flatten().tolist() == [0, 0, 0, 1, 1, 1]  # σ(±200) is beyond float32
    (gradient,) = torch.autograd.grad(mask.sum(), r)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    """Half-precision r gives, bit for bit, the float32 mask of its exact value: no half arithmetic inside."""
    r = torch.linspace(-3, 3, 64).view(1, 1, 8, 8).to(dtype)
    mask = soft_mask(r, tau=0.1)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, soft_mask(r.float(), tau=0.1))
    assert logistic_like(r).dtype == torch.float32


def test_double_precision_is_kept() -> None:
    """A float64 network gets a float64 mask: finite differences of the plug-in need it."""
    assert soft_mask(torch.zeros(1, 1, 1, 1, dtype=torch.float64), tau=0.1).dtype == torch.float64


def test_the_gradient_is_the_closed_form() -> None:
    """dm/dr = m(1 − m)/τ, the vanishing gradient that adaptive attacks are about; rtol 10⁻¹² in float64."""
    r = torch.linspace(-2, 2, 41, dtype=torch.float64).view(1, 1, 1, -1).requires_grad_(True)
    mask = soft_mask(r, tau=0.1)
    (gradient,) = torch.autograd.grad(mask.sum(), r)
    torch.testing.assert_close(gradient, mask * (1 - mask) / 0.1, rtol=1e-12, atol=1e-16)
