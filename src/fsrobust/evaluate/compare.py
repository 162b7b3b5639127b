"""Two models on the same samples: what differs, and whether chance alone explains it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from fsrobust.evaluate.aligned import COUNTS, Column, Count, align, columns
from fsrobust.evaluate.outcome import Outcome
from fsrobust.evaluate.stats import Interval, Paired, Seeds, holm, over_seeds, primary, wilson
from fsrobust.evaluate.wording import (
    FEWEST_SEEDS,
    Side,
    Verdicts,
    in_percent,
    lead,
    lead_over_seeds,
    multiplicity,
    p_text,
    spread,
    under,
)
from fsrobust.types import InputError

CHECKPOINTS_ONLY: Final = (
    "This compares two checkpoints. A claim about two methods needs at least three seeds of each."
)


@dataclass(frozen=True)
class Contrast:
    """A row: one attack, "natural", "ensemble" or "all", by one count; differences are B less A, in [-1, 1].

    "ensemble" is of the paper's four white-box attacks, "all" of all that both sides met.

    ``a`` and ``b`` are accuracies with their Wilson intervals. Of the difference, ``interval`` is Newcombe's
    paired one, which sentences and tables show; ``bootstrap`` resamples the samples and is a second opinion, a
    point where no sample is discordant. ``p`` is exact McNemar. ``adjusted_p`` is Holm's over the secondary rows of
    the same count; the last strict row is the primary test, declared beforehand, and its is ``p``.
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

    ``difference.p`` is that of the paired t test, ``adjusted_p`` is as a ``Contrast`` has it; both are NaN where every
    seed has the same difference.
    """

    name: str
    count: Count
    a: Seeds
    b: Seeds
    difference: Seeds
    adjusted_p: float


@dataclass(frozen=True)
class Comparison:
    """Two sides on ``n`` common samples; ``sentence`` says what it comes to, ``notes`` what it leaves open.

    ``seeds`` is how many trainings each side is of: rows are a ``Contrast`` for one, a ``SeedsContrast`` for
    more. ``ahead`` is the side that the primary test shows to be ahead, None where it shows none, or where attacks
    failed on that side for the wrong reasons.
    """

    n: int
    seeds: int
    rows: Sequence[Contrast | SeedsContrast]
    sentence: str
    notes: Sequence[str]
    ahead: Side | None = None

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


def compare(
    outcome_a: Outcome, outcome_b: Outcome, *, seed: int = 0, verdicts: Verdicts | None = None
) -> Comparison:
    """Return how two models differ on the samples that both were attacked on, matched by id.

    Per attack that both met and for all of them together, by the paper's count and strictly. ``seed`` is the
    bootstrap's. Ids must mean the same images on both sides: outcomes do not know their data. Nor do they know of
    masked gradients: ``verdicts`` says by side what ``diagnose`` found, its ``state``.

    Raises:
        InputError: no sample in common, or an id that comes twice.
    """
    (a, b), lacking = align([outcome_a, outcome_b])
    asked, notes = columns([a, b])
    found = [Paired.of(column.correct(a), column.correct(b)) for column in asked]
    first = _headline(asked)
    p = primary([first.correct(b), first.correct(a)])[0, 1].adjusted_p
    adjusted = _adjusted(asked, [pairs.p for pairs in found], first, p)
    rows = [
        _contrast(column, pairs, p, seed) for column, pairs, p in zip(asked, found, adjusted, strict=True)
    ]
    top = rows[asked.index(first)]
    ahead, text = lead(top.difference, top.interval, p, _of_attacks(verdicts, first))
    sentence = (
        f"{under(top.name, top.count)} A is right on {in_percent(top.a)} and B on {in_percent(top.b)} of the same "
        f"{a.n:,} samples. {text} Only A gets {top.only_a:,} of them right, only B {top.only_b:,}. Exact McNemar test, "
        f"p: {p_text(p)}."
    )
    notes = [*lacking, *notes, *_besides(asked), CHECKPOINTS_ONLY]
    return Comparison(a.n, 1, rows, sentence, notes, ahead)


def compare_seeds(
    side_a: Sequence[Outcome], side_b: Sequence[Outcome], *, verdicts: Verdicts | None = None
) -> Comparison:
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
    first = _headline(asked)
    raw = [difference.p for _, _, difference in found]
    adjusted = _adjusted(asked, raw, first, raw[asked.index(first)])
    rows = [
        SeedsContrast(column.name, column.count, a, b, difference, p)
        for column, (a, b, difference), p in zip(asked, found, adjusted, strict=True)
    ]
    top = rows[asked.index(first)]
    ahead, text = lead_over_seeds(top.difference, _of_attacks(verdicts, first))
    sentence = (
        f"{under(top.name, top.count)} A is right on {spread(top.a)} and B on {spread(top.b)} (mean ± sd of "
        f"{seeds} seeds) of the same {outcomes[0].n:,} samples. {text}"
    )
    few = ["Two seeds say little of the spread: a claim about methods needs at least three."]
    few *= seeds < FEWEST_SEEDS
    return Comparison(outcomes[0].n, seeds, rows, sentence, [*lacking, *notes, *_besides(asked), *few], ahead)


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


def _headline(asked: Sequence[Column]) -> Column:
    """Return the column that the primary test is of, the one that asks for most.

    The last of the strict ones: all attacks together, else the one attack there is, else natural accuracy.
    """
    return [column for column in asked if column.count == "strict"][-1]


def _adjusted(
    asked: Sequence[Column], p_values: Sequence[float], first: Column, of_first: float
) -> list[float]:
    """Return p-values adjusted among the secondary rows of one count: both counts are of the same verdicts, twice.

    A row without a p stays without, and makes the others' no smaller: it counts as one of 1.
    """
    pairs = [(column, 1.0 if math.isnan(p) else p) for column, p in zip(asked, p_values, strict=True)]
    made = {
        c: iter(holm([p for column, p in pairs if column.count == c and column is not first])) for c in COUNTS
    }
    adjusted = [of_first if column is first else next(made[column.count]) for column in asked]
    return [p if math.isnan(p) else q for p, q in zip(p_values, adjusted, strict=True)]


def _besides(asked: Sequence[Column]) -> list[str]:
    counts = [column.count for column in asked]
    return multiplicity(counts.count("paper"), counts.count("strict") - 1)


def _of_attacks(verdicts: Verdicts | None, first: Column) -> Verdicts:
    """Return what diagnoses say, where attacks decide at all."""
    return {} if verdicts is None or first.name == "natural" else verdicts


def _plain(value: Any) -> Any:
    """Return a value without NaN, at whatever depth."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
