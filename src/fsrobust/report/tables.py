"""Accuracies as tables: pure functions of outcomes, for a terminal, for Markdown, and for a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fsrobust.attacks import ATTACKS, SUITES
from fsrobust.evaluate import Interval, Outcome, wilson
from fsrobust.evaluate.joined import base_name
from fsrobust.types import InputError

TITLES: Final = {
    "natural": "Natural",
    "fgsm": "FGSM",
    "pgd10": "PGD-10",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "cw": "C&W",
    "di-fgsm": "DI-FGSM",
    "ti-fgsm": "TI-FGSM",
    "mi-di-ti-fgsm": "MI-DI-TI-FGSM",
    "nattack": "N-Attack",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "square": "Square",
    "autoattack": "AutoAttack",
    "autoattack-plus": "AutoAttack+",
    "autoattack-rand": "AutoAttack, random",
    "adaptive": "Adaptive",
    "ensemble": "Ensemble",
    "all": "All attacks",
}
"""How columns are headed; an attack that is not here goes by its own name, see ``heading``."""

NOT_RUN: Final = "not run"


def heading(column: str) -> str:
    """Return how a column is headed.

    >>> heading("pgd20"), heading("pgd20 (bf16 search)"), heading("mine")
    ('PGD-20', 'PGD-20 (bf16 search)', 'mine')
    """
    base = base_name(column)
    return TITLES.get(base, base) + column[len(base) :]


def in_order(names: Iterable[str]) -> list[str]:
    """Return attacks in the order of ``ATTACKS``, the columns of one beside each other, and the others behind."""
    known = {name: place for place, name in enumerate(ATTACKS)}
    return sorted(names, key=lambda name: (known.get(base_name(name), len(known)), name))


@dataclass(frozen=True)
class Cell:
    """An accuracy in [0, 1] on n samples, by the paper's count and strictly; ``published`` is in %."""

    accuracy: float
    interval: Interval
    strict: float
    strict_interval: Interval
    n: int
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the published accuracy, in percentage points."""
        return None if self.published is None else 100 * self.accuracy - self.published


@dataclass(frozen=True)
class Row:
    """A run's cells by column; ``gaps`` says why a column is empty."""

    label: str
    n: int
    cells: Mapping[str, Cell]
    gaps: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows of accuracies over common columns."""

    columns: Sequence[str]
    rows: Sequence[Row]


def accuracy_table(
    outcomes: Mapping[str, Outcome], published: Mapping[str, Mapping[str, float]] | None = None
) -> Table:
    """Return the table of some outcomes, by label; ``published`` accuracies are in %, by label and column.

    Columns: natural, each attack that any of them met, "ensemble" (right when clean and under all four of
    the paper's white-box attacks), and "all" (… under all that ran) unless those are the four everywhere.
    """
    met = {name for outcome in outcomes.values() for name in outcome.attacks}
    columns = ["natural", *in_order(met)]
    together = {label: _ensembles(outcome) for label, outcome in outcomes.items()}
    odd = any(set(outcome.attacks) != set(SUITES["whitebox"]) for outcome in outcomes.values())
    columns += ["ensemble"] * any("ensemble" in names for names in together.values()) + ["all"] * odd
    rows = []
    for label, outcome in outcomes.items():
        theirs = (published or {}).get(label, {})
        cells, gaps = {}, {}
        for column in columns:
            names = together[label].get(column, column)
            try:
                cells[column] = _cell(outcome, names, theirs.get(column))
            except InputError as error:
                wanted = {names} if isinstance(names, str) else set(names)
                gaps[column] = str(error) if wanted <= set(outcome.attacks) else NOT_RUN
        rows.append(Row(label, outcome.n, cells, gaps))
    return Table(columns, rows)


def _ensembles(outcome: Outcome) -> dict[str, list[str]]:
    """Return which attacks make the ensemble columns of an outcome."""
    paper, ran = list(SUITES["whitebox"]), list(outcome.attacks)
    return {"all": ran} | ({"ensemble": paper} if set(paper) <= set(ran) else {})


def _cell(outcome: Outcome, names: str | list[str], published: float | None) -> Cell:
    natural = names == "natural"
    accuracy = outcome.accuracy(names) if isinstance(names, str) else outcome.ensemble(names)
    if natural:
        strict, strict_interval = accuracy, outcome.interval("natural")
    else:
        parts = [names] if isinstance(names, str) else names
        strict = outcome.ensemble(parts, strict=True)
        strict_interval = outcome.interval(parts, strict=True)
    return Cell(accuracy, outcome.interval(names), strict, strict_interval, outcome.n, published)


def worst_case(outcome: Outcome) -> Cell:
    """Return the share right when clean and at every step of every attack on record, as both counts.

    A sample that an attack did not visit counts as withstanding that one: see ``unvisited``.
    """
    survivors = int(standing(outcome).sum())
    share, interval = survivors / outcome.n, wilson(survivors, outcome.n)
    return Cell(share, interval, share, interval, outcome.n)


def unvisited(outcome: Outcome) -> dict[str, int]:
    """Return, by attack, how many samples it did not visit that nothing else fooled either, if any."""
    left = standing(outcome)
    counts = {name: int((left & ~visited).sum()) for name, visited in outcome.attacked.items()}
    return {name: count for name, count in counts.items() if count}


def standing(outcome: Outcome) -> NDArray[np.bool_]:
    """Return bool [N]: right when clean and at every step of every attack on record."""
    left = outcome.natural_correct.copy()
    for fooled in outcome.fooled.values():
        left &= ~fooled
    return left


def percent(share: float, n: int) -> str:
    """Return a share in %, with as many decimals as n samples can carry.

    >>> percent(0.8433, 300), percent(0.4822, 10_000)
    ('84.3', '48.22')
    """
    return f"{100 * share:.{2 if n >= 10_000 else 1}f}"


def span(interval: Interval, n: int) -> str:
    """Return an interval in %, "80.1–88.0"."""
    return f"{percent(interval.low, n)}–{percent(interval.high, n)}"


def signed(points: float, n: int) -> str:
    """Return a difference in percentage points with its sign.

    >>> signed(-0.314, 300), signed(0.0, 300)
    ('−0.3', '±0.0')
    """
    text = f"{abs(points):.{2 if n >= 10_000 else 1}f}"
    return f"{'±' if float(text) == 0 else '+' if points > 0 else '−'}{text}"


def comparison_table(outcomes: Mapping[str, Outcome]) -> str:
    """Return the table of some outcomes as lines for a terminal."""
    return as_text(accuracy_table(outcomes))


def as_text(table: Table) -> str:
    """Return a table as aligned lines: a run's accuracies, their intervals, and the strict accuracies."""
    heads = [heading(column) for column in table.columns]
    lines = [["accuracy in %", "n", *heads]]
    for row in table.rows:
        cells = [row.cells.get(column) for column in table.columns]
        lines += [
            [row.label, str(row.n), *(percent(c.accuracy, c.n) if c else "–" for c in cells)],
            ["  95 % interval", "", *(span(c.interval, c.n) if c else "" for c in cells)],
            ["  strict", "", *(percent(c.strict, c.n) if c else "" for c in cells)],
        ]
        if any(c and c.published is not None for c in cells):
            lines.append(["  published", "", *(_against(c) for c in cells)])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of texts as columns: the first to the left, the others to the right."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    joined = [
        "  ".join(
            [line[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in joined)


def _against(cell: Cell | None) -> str:
    if cell is None or cell.published is None or cell.difference is None:
        return ""
    return f"{cell.published:g} ({signed(cell.difference, cell.n)})"


def as_markdown(table: Table) -> str:
    """Return a table as Markdown: "84.3 (79.8–88.0), strict 84.0; published 48.22 (+0.31)"."""
    heads = ["Accuracy in % (95 % interval)", "n", *(heading(c) for c in table.columns)]
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    for row in table.rows:
        cells = [(column, row.cells.get(column)) for column in table.columns]
        lines.append([row.label, str(row.n), *(_markdown_cell(column, cell) for column, cell in cells)])
    return "\n".join(f"| {' | '.join(_flat(text) for text in line)} |" for line in lines)


def _markdown_cell(column: str, cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{percent(cell.accuracy, cell.n)} ({span(cell.interval, cell.n)})"
    text += "" if column == "natural" else f", strict {percent(cell.strict, cell.n)}"
    return text + (f"; published {_against(cell)}" if cell.published is not None else "")


def _flat(text: str) -> str:
    """Return a text that cannot break out of its cell."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def as_csv(table: Table) -> str:
    """Return a table as CSV, a line per run and column: shares in [0, 1], published accuracies in %."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = "run,column,n,accuracy,low,high,strict,strict_low,strict_high,published,difference"
    writer.writerow(heads.split(","))
    for row in table.rows:
        for column, c in row.cells.items():
            values = [c.n, c.accuracy, *c.interval, c.strict, *c.strict_interval, c.published, c.difference]
            writer.writerow([row.label, column, *("" if value is None else value for value in values)])
    return file.getvalue()
