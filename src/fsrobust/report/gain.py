"""FSR's mean gain in ensemble accuracy over AT, TRADES and MART, with what is known of its chance."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from fsrobust.attacks import SUITES
from fsrobust.evaluate import Outcome
from fsrobust.evaluate.stats import over_seeds
from fsrobust.report.spread import Gain, Spread

_METHODS: Final = ("at", "trades", "mart")
_ROWS: Final = tuple(name for base in _METHODS for name in (base, f"{base}+fsr"))


def gain_of(rows: Mapping[str, Mapping[int, Outcome]], checkpoint: str) -> Gain | None:
    """Return the gain that outcomes make, by row and seed, None unless some seed has all six rows.

    It is of the seeds that all rows have. Each has a gain of its own, and of several the interval is Student's t
    over those. Of one seed it is Student's t over its samples: rows of a seed meet the same, so that each sample
    has a gain, ⅓ Σ (right with FSR − right without), of which the seed's is the mean.
    """
    seeds = sorted(set.intersection(*(set(rows.get(name, {})) for name in _ROWS)))
    if not seeds:
        return None
    found = [[rows[name][seed] for name in _ROWS] for seed in seeds]
    n = min(outcome.n for outcomes in found for outcome in outcomes)
    means = [_mean(outcomes) for outcomes in found]
    low, high = _ends(means if len(seeds) > 1 else _of_samples(found[0]))
    return Gain(checkpoint, 100 * statistics.mean(means), low, high, len(seeds), n)


def _mean(outcomes: Sequence[Outcome]) -> float:
    """Return the gain that one outcome per row makes."""
    accuracies = [outcome.ensemble(SUITES["whitebox"]) for outcome in outcomes]
    return statistics.mean(
        guarded - base for base, guarded in zip(accuracies[::2], accuracies[1::2], strict=True)
    )


def _of_samples(outcomes: Sequence[Outcome]) -> list[float]:
    """Return the gain on each sample, none where the rows did not meet the same."""
    if not all(np.array_equal(outcome.ids, outcomes[0].ids) for outcome in outcomes):
        return []
    right = np.array([outcome.survivors(SUITES["whitebox"]) for outcome in outcomes], float)
    gains: list[float] = (right[1::2] - right[::2]).mean(axis=0).tolist()
    return gains


def _ends(gains: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the ends of the mean's 95 % interval, in points; equal gains have no spread to judge by."""
    low, high = over_seeds(gains).interval if len(gains) > 1 else (math.nan, math.nan)
    return (None, None) if math.isnan(low) else (100 * low, 100 * high)


def gain_in_words(table: Spread) -> list[str]:
    """Return the mean gain of FSR at either checkpoint with its interval, beside the published one."""
    theirs = f"; published {table.gain:+.2f}" if table.gain is not None else ""
    return [
        f"Mean gain of FSR over AT, TRADES and MART in ensemble accuracy, {gain.checkpoint} checkpoint: "
        f"{gain.mean:+.2f} points ({_chance(gain)})" + (theirs if gain.checkpoint == "last" else "") + "."
        for gain in table.gains or _without_interval(table)
        if table.evidence
    ]


def _chance(gain: Gain) -> str:
    """Return what a gain rests on, and how far chance may have moved it."""
    several = gain.seeds > 1
    basis = f"{gain.seeds} seeds, n = {gain.n:,} each" if several else f"one seed, n = {gain.n:,}"
    if gain.low is None or gain.high is None:
        return f"{basis}, no interval is known"
    over = "over the seeds" if several else "over the samples: another training may be further off"
    return f"{basis}, 95 % interval {gain.low:+.2f} to {gain.high:+.2f} {over}"


def _without_interval(table: Spread) -> list[Gain]:
    """Return the gains of a table of before they were kept: what its rows tell."""
    found = []
    for checkpoint in ("last", "best"):
        rows = {row.label: row.shares for row in table.rows if row.checkpoint == checkpoint}
        shares = [rows[name]["ensemble"] for name in _ROWS if "ensemble" in rows.get(name, {})]
        if len(shares) == len(_ROWS):
            gain = statistics.mean(g.mean - b.mean for b, g in zip(shares[::2], shares[1::2], strict=True))
            seeds, n = min(share.seeds for share in shares), min(share.n for share in shares)
            found.append(Gain(checkpoint, 100 * gain, None, None, seeds, n))
    return found
