"""What a comparison comes to, in sentences: who is ahead, by which test, and what keeps a lead from being one."""

import math
from collections.abc import Mapping
from typing import Final, Literal

from fsrobust.evaluate.aligned import ALL, ENSEMBLE, Count
from fsrobust.evaluate.stats import Interval, Seeds
from fsrobust.evaluate.trust import UNTRUSTED, doubt

ALPHA: Final = 0.05
FEWEST_SEEDS: Final = 3
"""With fewer trainings a side nobody is called ahead: two say next to nothing of their spread."""

Side = Literal["A", "B"]
Verdicts = Mapping[Side, str]
"""What diagnoses say of either side: their states, see ``trust``."""


def under(name: str, count: Count) -> str:
    """Return what a row is about, as a sentence begins."""
    how = "right when clean and at every step" if count == "strict" else "the paper's count"
    if name == "natural":
        return "Without an attack,"
    return f"Under {'all attacks together' if name in (ENSEMBLE, ALL) else name} ({how}),"


def lead(difference: float, interval: Interval, p: float, verdicts: Verdicts) -> tuple[Side | None, str]:
    """Return who is ahead, if the test shows it and no diagnosis takes it back, and a sentence that says so.

    The exact test is the more cautious of the two: where the interval leaves out 0 all the same, the sentence says
    which one decides.
    """
    low, high = (100 * end for end in interval)
    points = 100 * difference
    if p > ALPHA:
        but = "" if low <= 0 <= high else " The interval alone would leave out 0, but the test decides."
        return None, f"No difference is shown: B less A is {_about(difference, interval)}.{but}"
    ahead: Side = "B" if points > 0 else "A"
    near, far = (low, high) if ahead == "B" else (-high, -low)
    but = doubt(ahead, verdicts[ahead]) if ahead in verdicts else ""
    if verdicts.get(ahead) == UNTRUSTED:
        return None, f"B less A is {_about(difference, interval)}, but {but}"
    return (
        ahead,
        f"{ahead} is ahead by {abs(points):.1f} points (95 % interval {near:.1f} to {far:.1f}). {but}".rstrip(),
    )


def lead_over_seeds(made: Seeds, verdicts: Verdicts) -> tuple[Side | None, str]:
    """Return who is ahead over seeds and a sentence that says by which test, or why nobody can be called so."""
    if math.isnan(made.p):
        return None, (
            f"Undecided: B less A is {100 * made.mean:+.1f} points with each of the {made.count} seeds, which leaves "
            "no spread to judge by."
        )
    if made.count < FEWEST_SEEDS:
        ahead, text = (
            None,
            f"Undecided, {made.count} seeds being too few to judge by: B less A is "
            f"{_about(made.mean, made.interval)}.",
        )
    else:
        ahead, text = lead(made.mean, made.interval, made.p, verdicts)
    return ahead, f"{text} Paired t test, p: {p_text(made.p)}."


def multiplicity(paper: int, strict: int) -> list[str]:
    """Return what is to be said of the rows beside the primary one, so many by either count."""
    if paper + strict < 2:
        return []
    return [
        "One test is declared beforehand, that of all attacks together by the strict count: the sentence above rests "
        f"on its p as it is. The other rows, {paper} by the paper's count and {strict} by the strict one, are looked "
        f"at besides: among so many, chance alone easily finds a p below {ALPHA}. Adjusted p-values (Holm, 1979) allow "
        "for that; judge them by these."
    ]


def in_percent(share: float) -> str:
    """Return a share in %, "45.2 %"."""
    return f"{100 * share:.1f} %"


def spread(made: Seeds) -> str:
    """Return mean ± sd in %, "45.2 ± 0.3 %"."""
    return f"{100 * made.mean:.1f} ± {100 * made.sd:.1f} %"


def p_text(value: float) -> str:
    """Return a p-value to two figures, a dash where there is none.

    >>> p_text(0.0312), p_text(1e-9), p_text(1.0), p_text(math.nan)
    ('0.031', '<0.0001', '1', '–')
    """
    if math.isnan(value):
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _about(difference: float, interval: Interval) -> str:
    low, high = (100 * end for end in interval)
    return f"{100 * difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
