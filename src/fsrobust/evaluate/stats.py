"""Intervals and tests: how far a share measured on n samples may be off, and whether two of them differ."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm
from scipy.stats import t as student

from fsrobust.types import InputError

DRAWS: Final = 10_000
"""Bootstrap draws: the Monte-Carlo error of an end is then about 0.03 standard errors of the difference."""
NO_SPREAD: Final = 1e-12
"""Numbers that differ by less are equal but for float64's roundings: accuracies lie on a grid of 1/n."""


class Interval(NamedTuple):
    """Both ends of an interval: for a share in [0, 1], for a difference of shares in [-1, 1]."""

    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval for a share (Wilson, 1927): never outside [0, 1], sound at 0 and n.

    >>> low, high = wilson(50, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"Expected 0 ≤ successes ≤ n and n > 0, but got {successes} of {n}")
    z = float(norm.ppf(0.5 + confidence / 2))
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    # the ends at 0 and n are exact; rounding would put them a hair off
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same n samples: how many both are right on, only either, neither.

    >>> pairs = Paired(both=40, only_a=5, only_b=15, neither=40)
    >>> pairs.difference, round(pairs.p, 4)
    (0.1, 0.0414)
    """

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: NDArray[np.bool_], b: NDArray[np.bool_]) -> "Paired":
        """Return the counts of two bit vectors [n], True where a classifier is right.

        Raises:
            InputError: of different lengths, or empty.
        """
        if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
            raise InputError(
                f"Expected two equally long vectors of bits, but got {list(a.shape)} and {list(b.shape)}"
            )
        counts = (a & b, a & ~b, ~a & b, ~a & ~b)
        return cls(*(int(bits.sum()) for bits in counts))

    @property
    def n(self) -> int:
        """How many samples there are."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """The accuracy of B less that of A."""
        return (self.only_b - self.only_a) / self.n

    @property
    def p(self) -> float:
        """The two-sided p-value of McNemar's exact test: under H0 a discordant sample is anybody's.

        min(1, 2 · P[X ≤ min(only_a, only_b)]) with X ~ Binomial(only_a + only_b, ½) (McNemar, 1947).
        """
        discordant = self.only_a + self.only_b
        return min(1.0, 2 * float(binom.cdf(min(self.only_a, self.only_b), discordant, 0.5)))

    def interval(self, *, confidence: float = 0.95) -> Interval:
        """Return the score interval for the difference of paired shares (Newcombe, 1998, method 10).

        Wilson's intervals of both shares, joined with their correlation φ, which is taken towards 0 by half a
        sample.
        """
        right_a, right_b, n = self.both + self.only_a, self.both + self.only_b, self.n
        margins = right_a * (n - right_a) * right_b * (n - right_b)
        product = self.both * self.neither - self.only_a * self.only_b
        corrected = max(product - n / 2, 0) if product > 0 else product
        phi = corrected / margins**0.5 if margins else 0.0
        a, b = right_a / n, right_b / n
        (low_a, high_a), (low_b, high_b) = (wilson(k, n, confidence=confidence) for k in (right_a, right_b))
        return Interval(
            self.difference - _joined(b - low_b, high_a - a, phi),
            self.difference + _joined(high_b - b, a - low_a, phi),
        )

    def bootstrap(self, *, seed: int = 0, draws: int = DRAWS, confidence: float = 0.95) -> Interval:
        """Return the percentile interval of the difference over ``draws`` resamplings of the samples.

        Resampling n pairs with replacement draws their four counts from a multinomial: that is drawn directly.
        Of few discordant samples it knows too little, of none it makes a point: sentences rest on ``interval``.
        """
        shares = np.array([self.only_a, self.only_b, self.both + self.neither]) / self.n
        drawn = np.random.default_rng(seed).multinomial(self.n, shares, size=draws)
        tail = (1 - confidence) / 2
        low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / self.n, [tail, 1 - tail])
        return Interval(float(low), float(high))


def _joined(one: float, other: float, phi: float) -> float:
    # rounding may leave a hair below 0 where both are equal and φ is 1
    return float(max(one * one - 2 * phi * one * other + other * other, 0.0) ** 0.5)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, 1979): each ≤ α keeps the family's error at α.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


@dataclass(frozen=True)
class Duel:
    """Two of several classifiers on the same samples; ``adjusted_p`` is Holm's over all duels of the family."""

    pairs: Paired
    adjusted_p: float


def duels(fields: Sequence[Sequence[NDArray[np.bool_]]]) -> list[dict[tuple[int, int], Duel]]:
    """Return, for each field of classifiers, place i less place j for all i < j, with Holm's p over all fields.

    A field is a bit vector [n] per classifier, True where it is right. All pairs count, not only those of the
    best with others: which one is best was seen on these very samples.

    >>> import numpy as np
    >>> best, other = np.arange(10) < 9, np.arange(10) < 1
    >>> duel = duels([[best, other]])[0][0, 1]
    >>> duel.pairs.difference, round(duel.adjusted_p, 4)
    (0.8, 0.0078)
    """
    paired = [
        {(i, j): Paired.of(rights[j], rights[i]) for i, j in itertools.combinations(range(len(rights)), 2)}
        for rights in fields
    ]
    adjusted = iter(holm([pairs.p for field in paired for pairs in field.values()]))
    return [{places: Duel(pairs, next(adjusted)) for places, pairs in field.items()} for field in paired]


def primary(rights: Sequence[NDArray[np.bool_]]) -> dict[tuple[int, int], Duel]:
    """Return the one test that is declared beforehand: who is right under all attacks together, strictly, by pairs.

    Between two models it is the exact McNemar test as it is, however many attacks there are: more of them make more
    rows, but no further claim. Between more models any two may be picked, so Holm's adjustment is over all pairs.
    """
    return duels([rights])[0]


@dataclass(frozen=True)
class Seeds:
    """A number over several seeds: mean, standard deviation, and Student's t interval of the mean.

    ``p`` is that of the two-sided t test against a mean of 0: of use where the numbers are differences. Where all
    seeds agree there is no spread to judge by: ``p`` and both ends of the interval are NaN.
    """

    mean: float
    sd: float
    interval: Interval
    p: float
    count: int


def over_seeds(values: Sequence[float], *, confidence: float = 0.95) -> Seeds:
    """Return mean ± sd of one number per seed; differences of paired seeds make a paired t interval and test.

    That seeds agree to the last sample is chance and the grid of 1/n, not certainty: the t statistic is then
    mean/0, and no interval and no p are given.

    >>> made = over_seeds([0.50, 0.52, 0.54])
    >>> round(made.mean, 3), round(made.sd, 3), round(made.interval.low, 3)
    (0.52, 0.02, 0.47)

    Raises:
        InputError: fewer than two seeds, of which there is no spread.
    """
    count = len(values)
    if count < 2:
        raise InputError(f"Expected at least 2 seeds, but got {count}")
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    if max(values) - min(values) < NO_SPREAD:
        return Seeds(mean, 0.0, Interval(math.nan, math.nan), math.nan, count)
    error = sd / count**0.5
    half = float(student.ppf(0.5 + confidence / 2, count - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, count - 1))
    return Seeds(mean, sd, Interval(mean - half, mean + half), p, count)
