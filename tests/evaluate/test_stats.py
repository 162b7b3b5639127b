"""Intervals and tests against statsmodels and scipy, and against what an interval promises."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from fsrobust.evaluate import Interval, wilson
from fsrobust.evaluate.stats import Paired, duels, holm, over_seeds
from fsrobust.types import InputError

TABLES = [(40, 5, 15, 40), (0, 0, 0, 7), (3, 0, 9, 0), (50, 12, 12, 26), (900, 31, 3, 66), (0, 1, 0, 0)]
"""Counts (both, only A, only B, neither)."""


@pytest.mark.parametrize("n", [1, 2, 10, 97, 1000, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_it_is_statsmodels_interval(n: int, confidence: float) -> None:
    """Both ends agree with an independent implementation to float64 rounding, 0 and n included."""
    for successes in sorted({0, 1, n // 3, n // 2, n - 1, n} & set(range(n + 1))):
        theirs = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
        assert tuple(wilson(successes, n, confidence=confidence)) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
def test_it_covers_the_truth_as_often_as_it_says(share: float) -> None:
    """Of 4,000 samples of 300 from a known share, about 95 % of the intervals hold it.

    Three standard errors of the coverage are 1.0 %; the score interval's own wobble at n = 300 is below 1.5 %.
    """
    rng = np.random.default_rng(0)
    held = 0
    for successes in rng.binomial(300, share, size=4000):
        low, high = wilson(int(successes), 300)
        held += low <= share <= high
    assert held / 4000 == pytest.approx(0.95, abs=0.025)


def test_the_ends_are_exact() -> None:
    """Nothing right begins at exactly 0, everything right ends at exactly 1, and neither is a point."""
    nothing, everything = wilson(0, 50), wilson(50, 50)
    assert nothing.low == 0.0 < nothing.high
    assert everything.low < everything.high == 1.0
    assert isinstance(nothing, Interval)
    assert nothing.high == pytest.approx(1 - everything.low, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    """More successes than trials, fewer than none, or no trials have no interval."""
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def bits(counts: tuple[int, int, int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two vectors with these counts of both, only A, only B, neither."""
    a = np.repeat([True, True, False, False], counts)
    b = np.repeat([True, False, True, False], counts)
    return a, b


@pytest.mark.parametrize("counts", TABLES)
def test_mcnemar_is_statsmodels(counts: tuple[int, int, int, int]) -> None:
    """The exact p-value agrees to rounding, no discordant sample at all included; so do the counts."""
    pairs = Paired.of(*bits(counts))
    assert (pairs.both, pairs.only_a, pairs.only_b, pairs.neither) == counts
    table = [[pairs.both, pairs.only_a], [pairs.only_b, pairs.neither]]
    assert pairs.p == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-12)
    a, b = bits(counts)
    assert pairs.difference == pytest.approx(b.mean() - a.mean(), abs=1e-12)


def test_mcnemar_errs_no_more_often_than_it_says() -> None:
    """Of 4,000 pairs without a difference at most 5 % have p ≤ 0.05: the test is exact, so conservative.

    Three standard errors are 1.0 %. With a true difference of 10 points nearly all are found.
    """
    rng = np.random.default_rng(1)
    equal = rng.multinomial(300, [0.5, 0.1, 0.1, 0.3], size=4000)
    apart = rng.multinomial(300, [0.5, 0.05, 0.15, 0.3], size=200)
    wrongly = np.mean([Paired(*map(int, row)).p <= 0.05 for row in equal])
    assert 0.02 < wrongly <= 0.05 + 0.01
    assert np.mean([Paired(*map(int, row)).p <= 0.05 for row in apart]) > 0.9


@pytest.mark.parametrize("right", [(20, 30), (46, 50), (10, 10)])
def test_without_correlation_the_paired_interval_is_newcombes_for_independent_shares(
    right: tuple[int, int],
) -> None:
    """Where φ is 0 the paired interval is that of two independent samples, as statsmodels computes it."""
    n, (a, b) = 100, right
    both = a * b / n
    pairs = Paired(round(both), a - round(both), b - round(both), n - a - b + round(both))
    assert pairs.both * pairs.neither == pairs.only_a * pairs.only_b
    theirs = confint_proportions_2indep(b, n, a, n, method="newcomb", compare="diff")
    assert tuple(pairs.interval()) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1, 0.3), (0.45, 0.02, 0.08, 0.45), (0.8, 0.15, 0.02, 0.03)])
@pytest.mark.parametrize("how", ["interval", "bootstrap"])
def test_intervals_of_the_difference_cover_it(shares: tuple[float, ...], how: str) -> None:
    """Of 1,500 pairs of 400 samples about 95 % of the intervals hold the true difference.

    Three standard errors of the coverage are 1.7 %; a percentile bootstrap of counts is off by up to 1 %.
    """
    rng = np.random.default_rng(2)
    truth, held = shares[2] - shares[1], 0
    for seed, row in enumerate(rng.multinomial(400, shares, size=1500)):
        pairs = Paired(*map(int, row))
        low, high = pairs.interval() if how == "interval" else pairs.bootstrap(seed=seed, draws=1000)
        held += low <= truth <= high
    assert held / 1500 == pytest.approx(0.95, abs=0.027)


@pytest.mark.parametrize("counts", [(40, 5, 15, 40), (900, 31, 3, 66)])
def test_the_bootstrap_is_scipys(counts: tuple[int, int, int, int]) -> None:
    """Scipy resamples sample by sample; both ends agree to the grid of 1/n and the noise of 10,000 draws.

    The noise of a 2.5 % quantile of 10,000 draws is below 0.03 standard deviations of the difference.
    """
    a, b = bits(counts)
    pairs, n = Paired.of(a, b), len(a)
    theirs = scipy_stats.bootstrap(
        (b.astype(float) - a,), np.mean, n_resamples=10_000, method="percentile", rng=0, batch=1000
    )
    tolerance = 1.01 / n + 0.1 * theirs.standard_error
    assert tuple(pairs.bootstrap()) == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)
    assert pairs.bootstrap(seed=3) == pairs.bootstrap(seed=3)


@pytest.mark.parametrize("counts", TABLES)
def test_intervals_stay_in_range_and_hold_the_difference(counts: tuple[int, int, int, int]) -> None:
    """Both intervals hold what was measured and never leave [-1, 1]; exchanging A and B mirrors them."""
    pairs = Paired(*counts)
    mirrored = Paired(pairs.both, pairs.only_b, pairs.only_a, pairs.neither)
    for low, high in (pairs.interval(), pairs.bootstrap()):
        assert -1 <= low <= pairs.difference <= high <= 1
    low, high = pairs.interval()
    assert tuple(mirrored.interval()) == pytest.approx((-high, -low), abs=1e-12)


def test_holm_is_statsmodels() -> None:
    """Adjusted p-values agree with an independent implementation, in the order they came in."""
    p_values = [0.2, 0.001, 0.04, 0.04, 0.9, 0.012]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    assert holm([]) == []


def test_seeds_are_scipys_t() -> None:
    """Mean, deviation, interval and p are those of scipy's paired t test."""
    a, b = [0.48, 0.50, 0.47, 0.52], [0.51, 0.52, 0.50, 0.53]
    made = over_seeds([y - x for x, y in zip(a, b, strict=True)])
    theirs = scipy_stats.ttest_rel(b, a)
    assert made.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert tuple(made.interval) == pytest.approx(tuple(theirs.confidence_interval(0.95)), abs=1e-12)
    assert made.count == 4
    assert made.sd == pytest.approx(np.std(np.subtract(b, a), ddof=1), abs=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [0.25, 0.25, 0.25],
        [0.1] * 3,  # their deviation is 10⁻¹⁷ in float64
        [0.456 - 0.455, 0.502 - 0.501, 0.738 - 0.737],  # one sample of 1,000 each
    ],
)
def test_seeds_that_agree_have_no_spread(values: list[float]) -> None:
    """All equal but for float64's roundings: no deviation, and no interval or p that could be taken for certainty."""
    made = over_seeds(values)
    assert made.mean == pytest.approx(np.mean(values))
    assert made.sd == 0
    assert np.isnan([made.p, *made.interval]).all()


def test_one_sample_of_a_thousand_is_spread() -> None:
    """The least difference that 10⁶ samples can have is not taken for rounding."""
    made = over_seeds([0.25, 0.25, 0.25 + 1e-6])
    assert made.sd > 0
    assert made.p < 1e-4


def test_every_pair_of_every_field_is_adjusted_for() -> None:
    """Duels hold the pair's counts, i less j, and Holm's p over all of them, as statsmodels has it."""
    rng = np.random.default_rng(4)
    fields = [[rng.random(60) < share for share in shares] for shares in ((0.9, 0.6, 0.5), (0.7, 0.4))]
    made = duels(fields)
    assert [set(field) for field in made] == [{(0, 1), (0, 2), (1, 2)}, {(0, 1)}]
    flat = [(field, places) for field, found in enumerate(made) for places in found]
    raw = [Paired.of(fields[field][j], fields[field][i]).p for field, (i, j) in flat]
    theirs = multipletests(raw, method="holm")[1]
    assert [made[field][places].adjusted_p for field, places in flat] == pytest.approx(theirs, abs=1e-12)
    assert made[0][0, 2].pairs.difference == pytest.approx(fields[0][0].mean() - fields[0][2].mean())


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_the_interval_holds_0_only_where_the_test_is_silent(n: int) -> None:
    """A p of at most 0.05 never stands beside a paired interval that holds 0: no sentence can say both."""
    for only_a in range(min(n, 20)):
        for only_b in range(only_a, min(n - only_a, 40) + 1):
            for both in (0, (n - only_a - only_b) // 2, n - only_a - only_b):
                pairs = Paired(both, only_a, only_b, n - only_a - only_b - both)
                assert pairs.p > 0.05 or pairs.interval().low > 0


def test_what_has_no_answer_is_refused() -> None:
    """One seed has no spread; vectors of different or no length make no pairs."""
    with pytest.raises(InputError, match="at least 2 seeds, but got 1"):
        over_seeds([0.5])
    for a, b in ((np.ones(3, bool), np.ones(2, bool)), (np.ones(0, bool), np.ones(0, bool))):
        with pytest.raises(InputError, match="equally long"):
            Paired.of(a, b)
