"""A table over seeds: mean ± standard deviation, or an interval for a single seed, beside published numbers."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsrobust.attacks import SUITES
from fsrobust.evaluate import Outcome, wilson
from fsrobust.records import read_json, write_json
from fsrobust.report.tables import percent
from fsrobust.types import InputError


@dataclass(frozen=True)
class Share:
    """An accuracy in [0, 1] by the paper's count: mean over ``seeds`` on ``n`` samples each.

    ``low`` and ``high`` are one standard deviation of the seeds apart from the mean, or the 95 % Wilson interval
    of a single one. ``natural`` is the natural accuracy on the very same samples: an attack on fewer of them is to
    be held against that. Tables of before it was kept have none.
    """

    mean: float
    low: float
    high: float
    seeds: int
    n: int
    natural: float | None = None

    @property
    def text(self) -> str:
        """The share in %, "52.0 ± 2.0" over seeds, "52.0 (45.1–58.8)" of one."""
        mean = percent(self.mean, self.n)
        if self.seeds > 1:
            return f"{mean} ± {percent(self.high - self.mean, self.n)}"
        return f"{mean} ({percent(self.low, self.n)}–{percent(self.high, self.n)})"


@dataclass(frozen=True)
class SpreadRow:
    """A row at one checkpoint; ``published`` accuracies are in %."""

    label: str
    checkpoint: str
    shares: Mapping[str, Share]
    published: Mapping[str, float]

    @property
    def seeds(self) -> int:
        """How many seeds there are of it."""
        return max(share.seeds for share in self.shares.values())

    @property
    def n(self) -> int:
        """On how many samples each seed was attacked, AutoAttack perhaps on fewer."""
        return max(share.n for share in self.shares.values())

    def difference(self, column: str) -> float | None:
        """Return ours less the published accuracy, in percentage points."""
        if column not in self.published or column not in self.shares:
            return None
        return 100 * self.shares[column].mean - self.published[column]


@dataclass(frozen=True)
class Course:
    """A row's accuracy at some places: steps of an attack, or radii."""

    label: str
    checkpoint: str
    places: Sequence[float]
    shares: Sequence[Share]


@dataclass(frozen=True)
class Gain:
    """The mean gain of FSR in ensemble accuracy over AT, TRADES and MART, in points, at one checkpoint.

    ``low`` and ``high`` are the ends of its 95 % interval, None where there is none: over the ``seeds``, or of a
    single one over its ``n`` samples.
    """

    checkpoint: str
    mean: float
    low: float | None
    high: float | None
    seeds: int
    n: int


@dataclass(frozen=True)
class Spread:
    """A table to print; ``note`` says what it cannot show, ``evidence`` is False where it shows nothing.

    ``gain`` is the published mean gain of FSR in ensemble accuracy, ``gains`` are ours; ``steps`` and ``eps`` are
    figure S2's curves.
    """

    name: str
    title: str
    note: str | None
    evidence: bool
    columns: Sequence[str]
    rows: Sequence[SpreadRow]
    gain: float | None = None
    gains: Sequence[Gain] = ()
    steps: Sequence[Course] = ()
    eps: Sequence[Course] = ()

    @property
    def compared(self) -> bool:
        """Whether any row has published numbers."""
        return any(row.published for row in self.rows)


def share_of(values: Sequence[float], n: int, natural: float | None = None) -> Share:
    """Return the share that some seeds' accuracies on n samples make."""
    mean = statistics.mean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        return Share(mean, mean - deviation, mean + deviation, len(values), n, natural)
    return Share(mean, *wilson(round(mean * n), n), 1, n, natural)


def spread(outcomes: Sequence[Outcome], columns: Sequence[str]) -> dict[str, Share]:
    """Return the share of each column over outcomes of several seeds on equally many samples."""
    natural, n = statistics.mean(outcome.accuracy("natural") for outcome in outcomes), outcomes[0].n
    return {c: share_of([_accuracy(outcome, c) for outcome in outcomes], n, natural) for c in columns}


def _accuracy(outcome: Outcome, column: str) -> float:
    return outcome.ensemble(SUITES["whitebox"]) if column == "ensemble" else outcome.accuracy(column)


def write_spread(table: Spread, file: Path) -> None:
    """Write a table as JSON, for pages that are made later."""
    write_json(file, asdict(table), sealed=True)


def read_spread(file: Path) -> Spread:
    """Return a table that ``write_spread`` wrote.

    Raises:
        InputError: there is none, or it is damaged.
    """
    values = read_json(file)
    del values["format"]
    try:
        rows = [
            SpreadRow(**{**row, "shares": {c: Share(**share) for c, share in row["shares"].items()}})
            for row in values["rows"]
        ]
        gains = [Gain(**gain) for gain in values.get("gains", ())]
        courses = {kind: [_course(one) for one in values[kind]] for kind in ("steps", "eps")}
        return Spread(**{**values, "rows": rows, "gains": gains, **courses})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f'"{file}" is damaged: it is not a table; run the same reproduce again') from error


def _course(values: dict[str, Any]) -> Course:
    return Course(**{**values, "shares": [Share(**share) for share in values["shares"]]})
