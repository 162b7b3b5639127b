"""Wilson's interval against statsmodels, and against what an interval promises."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from fsrobust.evaluate import Interval, wilson


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
