"""A table over seeds: mean ± standard deviation, or an interval for a single seed, beside published numbers."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fsrobust.attacks import SUITES
from fsrobust.evaluate import Outcome, wilson
from fsrobust.report.tables import TITLES, percent, signed


@dataclass(frozen=True)
class Share:
    """An accuracy in [0, 1] by the paper's count: mean over ``seeds``, and how far it may be off.

    ``margin`` is the standard deviation over seeds, or half the Wilson interval of a single one.
    """

    mean: float
    margin: float
    seeds: int
    n: int


@dataclass(frozen=True)
class SpreadRow:
    """A row at one checkpoint; ``published`` accuracies are in %."""

    label: str
    checkpoint: str
    shares: Mapping[str, Share]
    published: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """A table to print; ``note`` says what it cannot show."""

    title: str
    note: str | None
    columns: Sequence[str]
    rows: Sequence[SpreadRow]


def spread(outcomes: Sequence[Outcome], columns: Sequence[str]) -> dict[str, Share]:
    """Return the share of each column over outcomes of several seeds on equally many samples."""
    shares = {}
    for column in columns:
        values = [_accuracy(outcome, column) for outcome in outcomes]
        n = outcomes[0].n
        if len(values) > 1:
            margin = statistics.stdev(values)
        else:
            low, high = wilson(round(values[0] * n), n)
            margin = (high - low) / 2
        shares[column] = Share(statistics.mean(values), margin, len(values), n)
    return shares


def _accuracy(outcome: Outcome, column: str) -> float:
    return outcome.ensemble(SUITES["whitebox"]) if column == "ensemble" else outcome.accuracy(column)


def spread_markdown(table: Spread) -> str:
    """Return the table as Markdown, its note and what ± means above it."""
    seeds = max((share.seeds for row in table.rows for share in row.shares.values()), default=0)
    meaning = f"mean ± sd of {seeds} seeds" if seeds > 1 else "± half a 95 % Wilson interval, one seed"
    lines = [f"**{table.title}**", ""]
    lines += [table.note, ""] if table.note else []
    if not table.rows:
        return "\n".join([*lines, "No row is finished yet."])
    n = next(iter(table.rows[0].shares.values())).n
    lines += [f"Accuracy in %, n = {n}, {meaning}.", ""]
    heads = ["row", "checkpoint", *(TITLES.get(column, column) for column in table.columns)]
    body = [heads, ["---", "---", *["--:"] * len(table.columns)]]
    body += [
        [row.label, row.checkpoint, *(_text(row, column) for column in table.columns)] for row in table.rows
    ]
    return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in body)])


def _text(row: SpreadRow, column: str) -> str:
    share = row.shares[column]
    text = f"{percent(share.mean, share.n)} ± {percent(share.margin, share.n)}"
    if column in row.published:
        theirs = row.published[column]
        text += f" ({theirs:g}, {signed(100 * share.mean - theirs, share.n)})"
    return text


def spread_latex(table: Spread) -> str:
    """Return the table as a LaTeX tabular (booktabs)."""
    heads = ["row", "checkpoint", *(TITLES.get(column, column) for column in table.columns)]
    lines = [f"% {table.title}", *([f"% {table.note}"] if table.note else [])]
    lines += [
        f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_line(heads),
        "\\midrule",
    ]
    for row in table.rows:
        cells = [
            f"${percent(s.mean, s.n)} \\pm {percent(s.margin, s.n)}$"
            for s in (row.shares[c] for c in table.columns)
        ]
        lines.append(_latex_line([row.label, row.checkpoint, *cells]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_line(cells: Sequence[str]) -> str:
    escaped = [
        cell if cell.startswith("$") else cell.replace("&", "\\&").replace("_", "\\_") for cell in cells
    ]
    return " & ".join(escaped) + " \\\\"


def spread_csv(table: Spread) -> str:
    """Return the table as CSV, a line per row, checkpoint and column: shares in [0, 1], published in %."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "checkpoint", "column", "mean", "margin", "seeds", "n", "published"])
    writer.writerows(_csv_lines(table))
    return file.getvalue()


def _csv_lines(table: Spread) -> Iterator[list[object]]:
    for row in table.rows:
        for column, share in row.shares.items():
            theirs = row.published.get(column, "")
            yield [row.label, row.checkpoint, column, share.mean, share.margin, share.seeds, share.n, theirs]
