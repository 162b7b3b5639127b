"""Who wins where: under each attack the most accurate run, and whether the images show it to be ahead of the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fsrobust.attacks import SUITES
from fsrobust.evaluate.outcome import Bits, Outcome
from fsrobust.evaluate.stats import Duel, duels
from fsrobust.evaluate.trust import UNTRUSTED
from fsrobust.evaluate.wording import ALPHA
from fsrobust.report import words
from fsrobust.report.ahead import lead, on_equal_terms, same_images
from fsrobust.report.entries import Entry, comparable
from fsrobust.report.tables import Cell, accuracy_table
from fsrobust.report.verdict import state


@dataclass(frozen=True)
class Winner:
    """The best of some runs in a column, and in words whether chance alone may have put it there."""

    column: str
    best: str
    cell: Cell
    verdict: str


@dataclass(frozen=True)
class Contest:
    """Runs that met the same samples in the same ball, who of them is best where, and what "all" leaves out."""

    sample: str
    winners: Sequence[Winner]
    left_out: Sequence[str]


@dataclass(frozen=True, eq=False)
class _Field:
    """Who met a column, the best first: ``best`` of them share the first place."""

    column: str
    entries: Sequence[Entry]
    cells: Sequence[Cell]
    best: int


def contests(entries: Sequence[Entry]) -> list[Contest]:
    """Return a contest for each group of at least two comparable entries."""
    return [_contest(group) for group in comparable(entries) if len(group) > 1]


def _contest(group: Sequence[Entry]) -> Contest:
    equal, left_out = on_equal_terms(group)
    fields = list(_fields(group, equal))
    first = group[0].evaluation
    sample = f"{words.sample_in_words(first.record)}; {words.ball_in_words(first.norm, first.eps)}"
    verdicts = _verdicts(same_images(group), fields)
    return Contest(sample, [*map(_winner, fields, verdicts)], left_out)


def _fields(group: Sequence[Entry], equal: Sequence[Entry]) -> Iterator[_Field]:
    """Yield each column that at least two entries met; "all" is of what ``equal`` met, the same for everybody."""
    table, together = (
        accuracy_table({entry.label: entry.evaluation.outcome for entry in some}) for some in (group, equal)
    )
    for column in table.columns:
        whole = column == "all"
        if whole and not equal[0].evaluation.outcome.attacks:
            continue
        rows = zip(equal, together.rows, strict=True) if whole else zip(group, table.rows, strict=True)
        met = [(entry, row.cells[column]) for entry, row in rows if column in row.cells]
        met.sort(key=lambda one: -one[1].accuracy)
        if len(met) > 1:
            entries, cells = zip(*met, strict=True)
            yield _Field(column, entries, cells, [cell.accuracy for cell in cells].count(cells[0].accuracy))


def _winner(field: _Field, verdict: str) -> Winner:
    best = field.entries[: field.best]
    labels = [entry.label for entry in best]
    bad = [entry.label for entry in best if state(entry.evaluation) == UNTRUSTED]
    if bad and field.column != "natural":
        verdict = f"nothing shown: attacks failed on {words.listed(bad)} for the wrong reasons ({UNTRUSTED})"
    return Winner(field.column, words.listed(labels), field.cells[0], verdict)


def _verdicts(paired: bool, fields: Sequence[_Field]) -> list[str]:  # noqa: FBT001
    """Return for each column what is to be said of its best: by paired tests where all met the same images.

    Holm's adjustment is over every pair in every column of the group.
    """
    if not paired:
        return [_by_intervals(field) for field in fields]
    bits = [[right(entry.evaluation.outcome, field.column) for entry in field.entries] for field in fields]
    return [_by_test(field, fought) for field, fought in zip(fields, duels(bits), strict=True)]


def right(outcome: Outcome, column: str) -> Bits:
    """Return bool [N]: who is right in a column of ``accuracy_table``, by the paper's count."""
    if column == "all":
        return outcome.survivors(outcome.attacks)
    return outcome.survivors(SUITES["whitebox"]) if column == "ensemble" else outcome.correct(column)


def _by_test(field: _Field, fought: dict[tuple[int, int], Duel]) -> str:
    ahead: list[str] = []
    level: list[str] = []
    for place in range(field.best, len(field.entries)):
        # of several that share the first place, the one that is least surely ahead
        duel = max((fought[top, place] for top in range(field.best)), key=lambda one: one.adjusted_p)
        side = ahead if duel.adjusted_p <= ALPHA else level
        side.append(f"{field.entries[place].label} (by {lead(duel)})")
    return _joined("ahead of", ahead, "not shown to be ahead of", level)


def _by_intervals(field: _Field) -> str:
    top = field.cells[0].interval
    others = list(zip(field.entries, field.cells, strict=True))[field.best :]
    above = [entry.label for entry, cell in others if cell.interval.high < top.low]
    level = [entry.label for entry, cell in others if cell.interval.high >= top.low]
    return _joined("interval apart from that of", above, "interval overlaps that of", level)


def _joined(won: str, above: Sequence[str], drawn: str, level: Sequence[str]) -> str:
    parts = [f"{won} {words.listed(above)}"] if above else []
    parts += [f"{drawn} {words.listed(level)}"] if level else []
    return "; ".join(parts) or "all are equal"
