"""A table over seeds: mean ± standard deviation, or an interval for a single seed, beside published numbers."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsrobust.attacks import SUITES
from fsrobust.evaluate import Outcome, wilson
from fsrobust.records import read_json, write_json
from fsrobust.report.tables import NOT_RUN, TITLES, percent, signed
from fsrobust.types import InputError


@dataclass(frozen=True)
class Share:
    """An accuracy in [0, 1] by the paper's count: mean over ``seeds`` on ``n`` samples each.

    ``low`` and ``high`` are one standard deviation of the seeds apart from the mean, or the 95 % Wilson interval
    of a single one.
    """

    mean: float
    low: float
    high: float
    seeds: int
    n: int

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
class Spread:
    """A table to print; ``note`` says what it cannot show, ``evidence`` is False where it shows nothing.

    ``gain`` is the published mean gain of FSR in ensemble accuracy; ``steps`` and ``eps`` are figure S2's curves.
    """

    name: str
    title: str
    note: str | None
    evidence: bool
    columns: Sequence[str]
    rows: Sequence[SpreadRow]
    gain: float | None = None
    steps: Sequence[Course] = ()
    eps: Sequence[Course] = ()

    @property
    def compared(self) -> bool:
        """Whether any row has published numbers."""
        return any(row.published for row in self.rows)


def share_of(values: Sequence[float], n: int) -> Share:
    """Return the share that some seeds' accuracies on n samples make."""
    mean = statistics.mean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        return Share(mean, mean - deviation, mean + deviation, len(values), n)
    return Share(mean, *wilson(round(mean * n), n), 1, n)


def spread(outcomes: Sequence[Outcome], columns: Sequence[str]) -> dict[str, Share]:
    """Return the share of each column over outcomes of several seeds on equally many samples."""
    return {c: share_of([_accuracy(outcome, c) for outcome in outcomes], outcomes[0].n) for c in columns}


def _accuracy(outcome: Outcome, column: str) -> float:
    return outcome.ensemble(SUITES["whitebox"]) if column == "ensemble" else outcome.accuracy(column)


def mean_gain(table: Spread, checkpoint: str) -> float | None:
    """Return the mean gain of FSR in ensemble accuracy over AT, TRADES and MART, in points, if all are there."""
    means = {
        row.label: row.shares["ensemble"].mean
        for row in table.rows
        if row.checkpoint == checkpoint and "ensemble" in row.shares
    }
    pairs = [(means.get(base), means.get(f"{base}+fsr")) for base in ("at", "trades", "mart")]
    gains = [guarded - base for base, guarded in pairs if base is not None and guarded is not None]
    return 100 * statistics.mean(gains) if len(gains) == len(pairs) else None


def meaning(table: Spread) -> str:
    """Return what a table's numbers are, in sentences."""
    seeds = {row.seeds for row in table.rows}
    parts = ["Accuracy in %"]
    parts += ["mean ± standard deviation over seeds"] if max(seeds, default=0) > 1 else []
    parts += ["one seed with its 95 % Wilson interval"] if 1 in seeds else []
    text = ", ".join(parts) + "."
    if table.compared:
        text += " Beside it: the paper's number, and ours less the paper's."
    fewer = {name: s.n for row in table.rows for name, s in row.shares.items() if s.n < row.n}
    if not fewer:
        return text
    counts = (f"{TITLES.get(name, name)} on {n:,}" for name, n in fewer.items())
    return f"{text} {', '.join(counts)} of the samples."


def gain_in_words(table: Spread) -> list[str]:
    """Return the mean gain of FSR at either checkpoint, beside the published one."""
    theirs = f"; published {table.gain:+.2f}" if table.gain is not None else ""
    gains = {checkpoint: mean_gain(table, checkpoint) for checkpoint in ("last", "best")}
    return [
        f"Mean gain of FSR over AT, TRADES and MART in ensemble accuracy, {checkpoint} checkpoint: {gain:+.2f} points"
        + (theirs if checkpoint == "last" else "")
        + "."
        for checkpoint, gain in gains.items()
        if gain is not None and table.evidence
    ]


def spread_markdown(table: Spread) -> str:
    """Return the table as Markdown, its note and what the numbers are above it."""
    lines = [f"**{table.title}**", ""]
    lines += [table.note, ""] if table.note else []
    if not table.rows:
        return "\n".join([*lines, "No row is finished yet."])
    lines += [" ".join([meaning(table), *gain_in_words(table)]), ""]
    body = [_heads(table), ["---", "---", *["--:"] * (len(table.columns) + 2)]]
    body += [
        [row.label, row.checkpoint, str(row.seeds), str(row.n), *(_text(row, c) for c in table.columns)]
        for row in table.rows
    ]
    return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in body)])


def _heads(table: Spread) -> list[str]:
    return ["row", "checkpoint", "seeds", "n", *(TITLES.get(column, column) for column in table.columns)]


def _text(row: SpreadRow, column: str) -> str:
    if column not in row.shares:
        return NOT_RUN
    share, difference = row.shares[column], row.difference(column)
    if difference is None:
        return share.text
    return f"{share.text}; {row.published[column]:.2f}, {signed(difference, share.n)}"


def spread_latex(table: Spread) -> str:
    """Return the table as a LaTeX tabular (booktabs), the paper's numbers and the differences under ours."""
    lines = [f"% {table.title}", *([f"% {table.note}"] if table.note else [])]
    lines += [
        f"\\begin{{tabular}}{{ll{'r' * (len(table.columns) + 2)}}}",
        "\\toprule",
        _latex_line(_heads(table)),
        "\\midrule",
    ]
    for row in table.rows:
        shares = [row.shares.get(column) for column in table.columns]
        cells = [_latex_share(share) if share else "--" for share in shares]
        lines.append(_latex_line([row.label, row.checkpoint, str(row.seeds), str(row.n), *cells]))
        if row.published:
            lines.append(
                _latex_line(["", "paper", "", "", *(_latex_published(row, c) for c in table.columns)])
            )
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_share(share: Share) -> str:
    mean = percent(share.mean, share.n)
    if share.seeds > 1:
        return f"${mean} \\pm {percent(share.high - share.mean, share.n)}$"
    return f"${mean}$ (${percent(share.low, share.n)}$--${percent(share.high, share.n)}$)"


def _latex_published(row: SpreadRow, column: str) -> str:
    difference = row.difference(column)
    return "" if difference is None else f"${row.published[column]:.2f}$ (${difference:+.2f}$)"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cell.replace("&", "\\&").replace("_", "\\_") for cell in cells) + " \\\\"


def spread_csv(table: Spread) -> str:
    """Return the table as CSV, a line per row, checkpoint and column: shares in [0, 1], published in %."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["row", "checkpoint", "column", "mean", "low", "high", "seeds", "n", "published", "difference"]
    )
    writer.writerows(_csv_lines(table))
    return file.getvalue()


def _csv_lines(table: Spread) -> Iterator[list[object]]:
    for row in table.rows:
        for column, share in row.shares.items():
            ours = [share.mean, share.low, share.high, share.seeds, share.n]
            theirs, difference = row.published.get(column), row.difference(column)
            yield [
                row.label,
                row.checkpoint,
                column,
                *ours,
                *("" if v is None else v for v in (theirs, difference)),
            ]


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
        courses = {kind: [_course(one) for one in values[kind]] for kind in ("steps", "eps")}
        return Spread(**{**values, "rows": rows, **courses})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f'"{file}" is damaged: it is not a table; run the same reproduce again') from error


def _course(values: dict[str, Any]) -> Course:
    return Course(**{**values, "shares": [Share(**share) for share in values["shares"]]})
