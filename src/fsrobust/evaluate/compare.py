"""Two models on the same samples: what differs, and whether chance alone explains it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from fsrobust.evaluate.aligned import ALL, COUNTS, ENSEMBLE, Column, Count, align, columns
from fsrobust.evaluate.outcome import Outcome
from fsrobust.evaluate.stats import Interval, Paired, Seeds, holm, over_seeds, wilson
from fsrobust.types import InputError

ALPHA: Final = 0.05
FEWEST_SEEDS: Final = 3
"""With fewer trainings a side nobody is called ahead: two say next to nothing of their spread."""

CHECKPOINTS_ONLY: Final = (
    "This compares two checkpoints. A claim about two methods needs at least three seeds of each."
)


@dataclass(frozen=True)
class Contrast:
    """A row: one attack, "natural", "ensemble" or "all", by one count; differences are B less A, in [-1, 1].

    "ensemble" is of the paper's four white-box attacks, "all" of all that both sides met.

    ``a`` and ``b`` are accuracies with their Wilson intervals. Of the difference, ``interval`` is Newcombe's
    paired one, which sentences and tables show; ``bootstrap`` resamples the samples and is a second opinion, a
    point where no sample is discordant. ``p`` is exact McNemar, ``adjusted_p`` is Holm's over the rows of the same
    count.
    """

    name: str
    count: Count
    a: float
    b: float
    a_interval: Interval
    b_interval: Interval
    difference: float
    interval: Interval
    bootstrap: Interval
    only_a: int
    only_b: int
    p: float
    adjusted_p: float


@dataclass(frozen=True)
class SeedsContrast:
    """A row over seeds: mean ± sd of either side, and of the differences B less A, paired seed by seed.

    ``difference.p`` is that of the paired t test, ``adjusted_p`` is Holm's over the rows of the same count; both
    are NaN where every seed has the same difference.
    """

    name: str
    count: Count
    a: Seeds
    b: Seeds
    difference: Seeds
    adjusted_p: float


_Row = TypeVar("_Row", Contrast, SeedsContrast)


@dataclass(frozen=True)
class Comparison:
    """Two sides on ``n`` common samples; ``sentence`` says what it comes to, ``notes`` what it leaves open.

    ``seeds`` is how many trainings each side is of: rows are a ``Contrast`` for one, a ``SeedsContrast`` for
    more.
    """

    n: int
    seeds: int
    rows: Sequence[Contrast | SeedsContrast]
    sentence: str
    notes: Sequence[str]

    def row(self, name: str, count: Count = "strict") -> Contrast | SeedsContrast:
        """Return the row of an attack, of "natural", of "ensemble" or of "all".

        Raises:
            InputError: no such row.
        """
        for row in self.rows:
            if (row.name, row.count) == (name, count):
                return row
        raise InputError(f'Expected a row "{name}" by the count "{count}", but this comparison has none')

    def summary(self) -> dict[str, object]:
        """Return everything as plain values: for JSON, which knows no NaN, so what is not known is None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def compare(outcome_a: Outcome, outcome_b: Outcome, *, seed: int = 0) -> Comparison:
    """Return how two models differ on the samples that both were attacked on, matched by id.

    Per attack that both met and for all of them together, by the paper's count and strictly. ``seed`` is the
    bootstrap's. Ids must mean the same images on both sides: outcomes do not know their data.

    Raises:
        InputError: no sample in common, or an id that comes twice.
    """
    (a, b), lacking = align([outcome_a, outcome_b])
    asked, notes = columns([a, b])
    found = [Paired.of(column.correct(a), column.correct(b)) for column in asked]
    adjusted = _adjusted(asked, [pairs.p for pairs in found])
    rows = [
        _contrast(column, pairs, p, seed) for column, pairs, p in zip(asked, found, adjusted, strict=True)
    ]
    top, k = _headline(rows)
    sentence = (
        f"{_under(top.name, top.count)} A is right on {_percent(top.a)} and B on {_percent(top.b)} of the same "
        f"{a.n:,} samples. {_verdict(top.difference, top.interval, top.adjusted_p)} Only A "
        f"gets {top.only_a:,} of them right, only B {top.only_b:,}. Exact McNemar test, "
        f"p: {p_text(top.p)}{_holm(top.adjusted_p, k)}."
    )
    return Comparison(a.n, 1, rows, sentence, [*lacking, *notes, *_multiplicity(k), CHECKPOINTS_ONLY])


def compare_seeds(side_a: Sequence[Outcome], side_b: Sequence[Outcome]) -> Comparison:
    """Return how two methods differ, from several trainings of each; the i-th of both sides are a pair.

    Raises:
        InputError: fewer than two seeds, another number of them on either side, or no sample in common.
    """
    seeds = len(side_a)
    if seeds != len(side_b) or seeds < 2:
        raise InputError(
            f"Expected as many seeds on both sides, at least 2, but got {seeds} and {len(side_b)}"
        )
    outcomes, lacking = align([*side_a, *side_b])
    asked, notes = columns(outcomes)
    found = [_three(column, outcomes[:seeds], outcomes[seeds:]) for column in asked]
    adjusted = _adjusted(asked, [difference.p for _, _, difference in found])
    rows = [
        SeedsContrast(column.name, column.count, a, b, difference, p)
        for column, (a, b, difference), p in zip(asked, found, adjusted, strict=True)
    ]
    top, k = _headline(rows)
    sentence = (
        f"{_under(top.name, top.count)} A is right on {_spread(top.a)} and B on {_spread(top.b)} (mean ± sd of "
        f"{seeds} seeds) of the same {outcomes[0].n:,} samples. "
        f"{_seeds_verdict(top, k)}"
    )
    few = ["Two seeds say little of the spread: a claim about methods needs at least three."]
    few *= seeds < FEWEST_SEEDS
    return Comparison(outcomes[0].n, seeds, rows, sentence, [*lacking, *notes, *_multiplicity(k), *few])


def _contrast(column: Column, pairs: Paired, adjusted_p: float, seed: int) -> Contrast:
    n, right_a, right_b = pairs.n, pairs.both + pairs.only_a, pairs.both + pairs.only_b
    return Contrast(
        name=column.name,
        count=column.count,
        a=right_a / n,
        b=right_b / n,
        a_interval=wilson(right_a, n),
        b_interval=wilson(right_b, n),
        difference=pairs.difference,
        interval=pairs.interval(),
        bootstrap=pairs.bootstrap(seed=seed),
        only_a=pairs.only_a,
        only_b=pairs.only_b,
        p=pairs.p,
        adjusted_p=adjusted_p,
    )


def _three(column: Column, a: Sequence[Outcome], b: Sequence[Outcome]) -> tuple[Seeds, Seeds, Seeds]:
    """Return A, B, and B less A over their seeds."""
    shares_a, shares_b = ([float(column.correct(o).mean()) for o in side] for side in (a, b))
    differences = [theirs - ours for ours, theirs in zip(shares_a, shares_b, strict=True)]
    return over_seeds(shares_a), over_seeds(shares_b), over_seeds(differences)


def _adjusted(asked: Sequence[Column], p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted among the rows of one count: both counts are of the same verdicts, twice.

    A row without a p stays without, and makes the others' no smaller: it counts as one of 1.
    """
    pairs = [(column, 1.0 if math.isnan(p) else p) for column, p in zip(asked, p_values, strict=True)]
    made = {c: iter(holm([p for column, p in pairs if column.count == c])) for c in COUNTS}
    adjusted = [next(made[column.count]) for column in asked]
    return [p if math.isnan(p) else q for p, q in zip(p_values, adjusted, strict=True)]


def _headline(rows: Sequence[_Row]) -> tuple[_Row, int]:
    """Return the row that asks for most, and how many rows its p-value was adjusted for.

    The last of the strict ones: all attacks together, else the one attack there is, else natural accuracy.
    """
    strict = [row for row in rows if row.count == "strict"]
    return strict[-1], len(strict)


def _multiplicity(k: int) -> list[str]:
    if k < 2:
        return []
    return [
        f"{k} rows are looked at by either count: among so many, chance alone easily finds a p below "
        f"{ALPHA}. Adjusted p-values (Holm, 1979) allow for that; judge by these."
    ]


def _under(name: str, count: Count) -> str:
    how = "right when clean and at every step" if count == "strict" else "the paper's count"
    if name == "natural":
        return "Without an attack,"
    return f"Under {'all attacks together' if name in (ENSEMBLE, ALL) else name} ({how}),"


def _verdict(difference: float, interval: Interval, adjusted_p: float) -> str:
    """Return what the test shows.

    The exact test is the more cautious of the two, and adjusted for all rows: where the interval leaves out 0 all
    the same, the sentence says which one decides.
    """
    low, high = (100 * end for end in interval)
    points = 100 * difference
    if adjusted_p > ALPHA:
        but = "" if low <= 0 <= high else " The interval alone would leave out 0, but the test decides."
        return f"No difference is shown: B less A is {_about(difference, interval)}.{but}"
    ahead, near, far = ("B", low, high) if points > 0 else ("A", -high, -low)
    return f"{ahead} is ahead by {abs(points):.1f} points (95 % interval {near:.1f} to {far:.1f})."


def _seeds_verdict(row: SeedsContrast, k: int) -> str:
    """Return who is ahead and by which test, or why nobody can be called so."""
    made = row.difference
    if math.isnan(made.p):
        return (
            f"Undecided: B less A is {100 * made.mean:+.1f} points with each of the {made.count} seeds, which leaves "
            "no spread to judge by."
        )
    if made.count < FEWEST_SEEDS:
        verdict = (
            f"Undecided, {made.count} seeds being too few to judge by: B less A is "
            f"{_about(made.mean, made.interval)}."
        )
    else:
        verdict = _verdict(made.mean, made.interval, row.adjusted_p)
    return f"{verdict} Paired t test, p: {p_text(made.p)}{_holm(row.adjusted_p, k)}."


def _about(difference: float, interval: Interval) -> str:
    low, high = (100 * end for end in interval)
    return f"{100 * difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def _plain(value: Any) -> Any:
    """Return a value without NaN, at whatever depth."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _spread(made: Seeds) -> str:
    return f"{100 * made.mean:.1f} ± {100 * made.sd:.1f} %"


def p_text(value: float) -> str:
    """Return a p-value to two figures, a dash where there is none.

    >>> p_text(0.0312), p_text(1e-9), p_text(1.0), p_text(math.nan)
    ('0.031', '<0.0001', '1', '–')
    """
    if math.isnan(value):
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _holm(adjusted_p: float, k: int) -> str:
    return f", {p_text(adjusted_p)} after Holm's adjustment for {k} rows" if k > 1 else ""
