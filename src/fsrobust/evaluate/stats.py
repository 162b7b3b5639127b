"""Intervals: how far a share measured on n samples may be off."""

from typing import NamedTuple

from scipy.stats import norm


class Interval(NamedTuple):
    """Both ends of an interval for a share in [0, 1]."""

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
