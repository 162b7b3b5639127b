"""Who wins where: under each attack the most accurate run, and whether its interval stands apart from the others'."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fsrobust.report import words
from fsrobust.report.entries import Entry
from fsrobust.report.tables import Cell, Row, accuracy_table


@dataclass(frozen=True)
class Winner:
    """The best of some runs in a column, and what the intervals say of it in words."""

    column: str
    best: str
    cell: Cell
    verdict: str


@dataclass(frozen=True)
class Contest:
    """Runs that met the same samples in the same ball, and who of them is best where."""

    sample: str
    winners: Sequence[Winner]


def contests(entries: Sequence[Entry]) -> list[Contest]:
    """Return a contest for each group of at least two comparable entries."""
    return [_contest(group) for group in words.comparable(entries) if len(group) > 1]


def _contest(group: Sequence[Entry]) -> Contest:
    table = accuracy_table({entry.label: entry.evaluation.outcome for entry in group})
    found = [winner for column in table.columns for winner in _winner(table.rows, column)]
    first = group[0].evaluation
    ball = words.ball_in_words(first.norm, first.eps)
    return Contest(f"{words.sample_in_words(first.record)}; {ball}", found)


def _winner(rows: Sequence[Row], column: str) -> Iterator[Winner]:
    met = [(row.label, row.cells[column]) for row in rows if column in row.cells]
    if len(met) < 2:
        return
    top = max(cell.accuracy for _, cell in met)
    best = [label for label, cell in met if cell.accuracy == top]
    cell = next(cell for _, cell in met if cell.accuracy == top)
    others = [(label, other) for label, other in met if other.accuracy < top]
    above = [label for label, other in others if other.interval.high < cell.interval.low]
    level = [label for label, other in others if other.interval.high >= cell.interval.low]
    yield Winner(column, words.listed(best), cell, _verdict(above, level))


def _verdict(above: Sequence[str], level: Sequence[str]) -> str:
    parts = [f"apart from that of {words.listed(above)}"] if above else []
    parts += [f"overlaps that of {words.listed(level)}"] if level else []
    return "; ".join(parts) or "all are equal"
