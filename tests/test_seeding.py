"""Counter-based noise: published vectors, independence of batching, and the distributions it claims."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fsrobust.seeding import Noise, derive, splitmix64

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
INT64 = st.integers(-(2**63), 2**63 - 1)


def signed(word: int) -> int:
    """Return the int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word


def reference_splitmix64(state: int) -> int:
    """The published C code's output function, on Python's unbounded integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_splitmix64_gives_the_published_vectors() -> None:
    """From state 1234567, five steps give the five words that are published for the generator."""
    states = [signed((1234567 + k * GOLDEN) & MASK) for k in range(1, 6)]
    words = [word & MASK for word in splitmix64(torch.tensor(states)).tolist()]
    assert words == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.lists(INT64, min_size=1, max_size=20))
def test_splitmix64_wraps_as_unsigned_words_do(states: list[int]) -> None:
    """int64 arithmetic, arithmetic shifts included, gives the bits of the unsigned definition."""
    words = splitmix64(torch.tensor(states)).tolist()
    assert words == [signed(reference_splitmix64(state)) for state in states]


def test_derive_is_pinned() -> None:
    """Keys never change between versions: records name seeds, and must stay repeatable."""
    assert derive(0, "pgd") == 5129942654120499232
    words = Noise.of(torch.tensor([0, 1]), 0, "pgd").words((2,))
    assert words.tolist() == [
        [-7552164297422690061, -4807401371433800742],
        [-1782572166144334794, -6164278148461824699],
    ]


def test_derive_tells_all_words_apart() -> None:
    """Kind, order and grouping of the words matter, not only their text."""
    purposes: list[tuple[int | str, ...]] = [
        (1,), ("1",), (1, 2), (2, 1), (12,), ("1", 2), ("ab",), ("a", "b"), (0, "start"), (1, "start"), (-1,)
    ]  # fmt: skip
    assert len({derive(*words) for words in purposes}) == len(purposes)


@given(
    ids=st.lists(INT64, min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    length=st.integers(1, 12),
    data=st.data(),
)
def test_noise_depends_on_the_id_alone(ids: list[int], seed: int, length: int, data: st.DataObject) -> None:
    """Any subset of the samples, in any order and with repeats, sees the same bits per sample."""
    kept = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=8))
    together = Noise.of(torch.tensor(ids), seed, "purpose")
    alone = Noise.of(torch.tensor([ids[k] for k in kept]), seed, "purpose")
    for draw in (Noise.words, Noise.uniform, Noise.normal):
        assert torch.equal(draw(together, (length,))[kept], draw(alone, (length,)))


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    """The i-th number of a sample does not depend on how many are asked for, nor on their shape."""
    noise = Noise.of(torch.arange(3), 0)
    assert torch.equal(noise.words((2, 3, 4)).flatten(1)[:, :5], noise.words((5,)))


def test_select_and_fold_commute() -> None:
    """Dropping samples midway changes nothing for those that stay, by flags or by indices."""
    noise, kept = Noise.of(torch.arange(4), 0, "a"), torch.tensor([True, False, True, False])
    expected = noise.fold("step", 3).uniform((2,))[kept]
    assert torch.equal(noise.select(kept).fold("step", 3).uniform((2,)), expected)
    assert torch.equal(noise.fold("step", 3).select(torch.tensor([0, 2])).uniform((2,)), expected)


def test_noise_leaves_torchs_generators_alone() -> None:
    """Drawing counter-based noise does not move torch's default stream."""
    before = torch.get_rng_state()
    Noise.of(torch.arange(4), 0).normal((8,))
    assert torch.equal(torch.get_rng_state(), before)


def test_words_never_repeat() -> None:
    """No two of 2¹⁹ words agree across ids and purposes: streams do not overlap.

    Truly random words would collide with probability 2³⁸/2⁶⁵ < 10⁻⁸.
    """
    ids = torch.arange(-64, 64)
    purposes = [Noise.of(ids, seed, name) for seed in (0, 1) for name in ("pgd", "square")]
    words = torch.cat([noise.words((1024,)).flatten() for noise in purposes])
    assert len(set(words.tolist())) == words.numel() == 2**19


def test_every_bit_is_fair() -> None:
    """Each of the 64 bits is one in half of 10⁵ words; six standard deviations allow for 64 looks."""
    words = Noise.of(torch.arange(100), 5, "bits").words((1000,)).flatten()
    ones = torch.stack([(words >> bit) & 1 for bit in range(64)]).double().mean(1)
    assert (ones - 0.5).abs().max() < 6 * 0.5 / math.sqrt(words.numel())


def test_uniform_is_uniform() -> None:
    """Draws lie in [0, 1) on a grid of 2⁻²⁴ and pass Kolmogorov and Smirnov's test, mean and variance too.

    The seed is fixed, so the test is not a lottery: p ≥ 1 % holds for 99 of 100 good generators.
    """
    u = Noise.of(torch.arange(200), 0, "uniform").uniform((1000,)).flatten().double()
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    assert abs(u.mean().item() - 1 / 2) < 4 * math.sqrt(1 / 12 / len(u))
    # the variance of a uniform draw's squared deviation is 1/80 − 1/144
    assert abs(u.var().item() - 1 / 12) < 4 * math.sqrt((1 / 80 - 1 / 144) / len(u))


def test_normal_is_normal() -> None:
    """Draws are finite, pass the test against N(0, 1), and have its mean, variance and kurtosis."""
    z = Noise.of(torch.arange(200), 0, "normal").normal((1000,)).flatten().double()
    assert torch.isfinite(z).all()
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01
    assert abs(z.mean().item()) < 4 / math.sqrt(len(z))
    assert abs(z.var().item() - 1) < 4 * math.sqrt(2 / len(z))
    assert abs(z.pow(4).mean().item() - 3) < 4 * math.sqrt(96 / len(z))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.arange(100), (1, "a")),  # another seed
        (torch.arange(100), (0, "b")),  # another purpose
        (torch.arange(1, 101), (0, "a")),  # the neighbour's id
        (torch.arange(100) + 2**32, (0, "a")),  # ids that agree in their low half
        (-torch.arange(100) - 1, (0, "a")),  # ids that are each other's complement
    ],
    ids=["seed", "purpose", "neighbour", "high half", "complement"],
)
def test_streams_are_uncorrelated(ids: torch.Tensor, words: tuple[int | str, ...]) -> None:
    """Streams that differ in seed, purpose or id correlate by chance only: |r| < 5/√n."""
    a = Noise.of(torch.arange(100), 0, "a").uniform((1000,)).flatten().double()
    b = Noise.of(ids, *words).uniform((1000,)).flatten().double()
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 5 / math.sqrt(len(a))


def test_successive_numbers_are_uncorrelated() -> None:
    """Within a sample, and from a restart or step to the next, |r| < 5/√n at every lag tried."""
    u = Noise.of(torch.tensor([11]), 0).uniform((100_000,)).flatten().double() - 0.5
    for lag in (1, 2, 3, 64, 3072):
        assert abs((u[lag:] * u[:-lag]).mean().item() * 12) < 5 / math.sqrt(len(u) - lag)
    noise = Noise.of(torch.arange(100), 0)
    steps = torch.stack([noise.fold(step).uniform((1000,)).flatten() for step in range(4)])
    assert (torch.corrcoef(steps.double()) - torch.eye(4)).abs().max() < 5 / math.sqrt(100_000)


@pytest.mark.gpu
def test_devices_give_the_same_bits() -> None:
    """Uniform draws are equal bit for bit on CPU and CUDA; normal ones up to how log and cos are rounded."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here, there = (Noise.of(torch.arange(64, device=device), 0) for device in ("cpu", "cuda"))
    assert torch.equal(here.uniform((3072,)), there.uniform((3072,)).cpu())
    # both functions are right to a few units in the last place, and |normal| < 6
    torch.testing.assert_close(here.normal((3072,)), there.normal((3072,)).cpu(), rtol=1e-5, atol=1e-5)
