"""Read a table off what its cells have on record; nothing is run."""

from collections.abc import Iterator, Mapping, Sequence

from fsrobust.attacks import SUITES
from fsrobust.data import Portion
from fsrobust.evaluate import Outcome, read_outcome, read_records
from fsrobust.recipes.paper import PaperTable
from fsrobust.recipes.plan import SIZES, Cell, Scale, columns
from fsrobust.recipes.row import CHECKPOINTS
from fsrobust.records import read_config
from fsrobust.report.evaluations import Record
from fsrobust.report.gain import gain_of
from fsrobust.report.portions import WITHHELD, portion_of
from fsrobust.report.results import read_run
from fsrobust.report.spread import Course, Share, Spread, SpreadRow, share_of, spread
from fsrobust.report.weights import GONE, UNKNOWN, fingerprints
from fsrobust.types import InputError

_Found = Sequence[tuple[Cell, list[Record]]]
"""Cells of a row with the records that one of their checkpoints has."""


def read_table(table: PaperTable, cells: Sequence[Cell], scale: Scale) -> Spread:
    """Return mean and spread over the seeds of every row that has a record, for either checkpoint.

    Published numbers stand beside the last, at full scale, where its data are the whole set, or nearly; what they
    lack is noted.
    """
    heads, rows = columns(table, cells), []
    courses: dict[str, list[Course]] = {"steps": [], "eps": []}
    ensembles: dict[str, dict[str, dict[int, Outcome]]] = {checkpoint: {} for checkpoint in CHECKPOINTS}
    data = _Portions()
    for row in dict.fromkeys(cell.row for cell in cells):
        done = [cell for cell in cells if cell.row == row and cell.state == "done"]
        there = [(cell, attack_records(cell), fingerprints(cell.folder)) for cell in done]
        for checkpoint in CHECKPOINTS:
            met = [(cell, _met(cell, records, weights, checkpoint)) for cell, records, weights in there]
            shares = _shares(met, heads)
            if not shares:
                continue
            whole = data.take(met)
            published = (
                table.published.get(row, {}) if scale == "full" and checkpoint == "last" and whole else {}
            )
            rows.append(SpreadRow(row, checkpoint, shares, dict(published)))
            ensembles[checkpoint][row] = _ensembles(met)
            if table.name == "FigS2":
                for kind, found in _courses(done, row, checkpoint):
                    courses[kind].append(found)
    gains = [gain_of(outcomes, checkpoint) for checkpoint, outcomes in ensembles.items()]
    return Spread(
        name=table.name,
        title=f"{table.name}: {table.title}",
        note=" ".join(filter(None, [SIZES[scale].note, *data.remarks(published=scale == "full")])) or None,
        evidence=scale != "smoke",
        columns=heads,
        rows=rows,
        gain=table.gain if scale == "full" and data.whole else None,
        gains=[gain for gain in gains if gain is not None],
        steps=courses["steps"],
        eps=courses["eps"],
    )


class _Portions:
    """How much of their data set a table's cells rest on, row by row."""

    def __init__(self) -> None:
        self.found: dict[str | None, Portion] = {}

    def take(self, cells: _Found) -> bool:
        """Take in some cells, and return whether published numbers speak of their data."""
        portions = [
            portion_of(records[-1], configuration(cell), drawn=cell.images)
            for cell, records in cells
            if records
        ]
        known = [found for found in portions if found is not None]
        self.found |= {found.remark: found for found in known}
        return all(found.comparable for found in known)

    @property
    def whole(self) -> bool:
        """Whether published numbers speak of the data of all cells so far."""
        return all(found.comparable for found in self.found.values())

    def remarks(self, *, published: bool) -> list[str]:
        """Return sentences on what the data lack, and that numbers were ``published`` but not of such data."""
        remarks = [remark for remark in self.found if remark is not None]
        return [*remarks, *([WITHHELD] if published and not self.whole else [])]


def configuration(cell: Cell) -> Record:
    """Return a cell's configuration.

    Raises:
        InputError: it is damaged; the message says what to do.
    """
    try:
        return read_config(cell.folder)
    except InputError as error:
        raise InputError(f"{error}; {_again(cell)}") from error


def _ensembles(cells: _Found) -> dict[int, Outcome]:
    """Return the outcome that has all of the paper's white-box attacks, by seed, where there is one."""
    return {
        cell.run.train.seed: outcome
        for cell, met in cells
        for count in dict.fromkeys(cell.attacks.values())
        for outcome in _outcomes(cell, met, count)
        if set(outcome.attacks) >= set(SUITES["whitebox"])
    }


def _shares(cells: _Found, heads: Sequence[str]) -> dict[str, Share]:
    """Return each column's share; attacks on another number of samples have outcomes of their own."""
    found: dict[str, Share] = {}
    counts = dict.fromkeys(n for cell, _ in cells for n in cell.attacks.values())
    for count in counts:
        outcomes = [outcome for cell, met in cells for outcome in _outcomes(cell, met, count)]
        if outcomes:
            met = set(outcomes[0].attacks)
            can = [
                h
                for h in heads
                if h in met or h == "natural" or (h == "ensemble" and met >= set(SUITES["whitebox"]))
            ]
            found = spread(outcomes, can) | found
    return {head: found[head] for head in heads if head in found}


def _outcomes(cell: Cell, met: Sequence[Record], count: int | None) -> Iterator[Outcome]:
    wanted = [name for name, n in cell.attacks.items() if n == count]
    records = [record for record in met if record["name"] in wanted]
    if {record["name"] for record in records} == set(wanted):
        yield read_outcome(cell.folder, records)


def attack_records(cell: Cell) -> list[Record]:
    """Return the records of a cell's attacks, oldest first.

    Raises:
        InputError: one is damaged; the message says what to do.
    """
    try:
        return [record for record in read_records(cell.folder) if record["kind"] == "attack"]
    except InputError as error:  # left out, a seed would be missing from the table and nobody would know
        raise InputError(f"{error}; {_again(cell)}") from error


def _met(cell: Cell, there: Sequence[Record], weights: Mapping[str, str], checkpoint: str) -> list[Record]:
    """Return those of a checkpoint's weights, on as many samples as were planned.

    They may go by the other checkpoint's name: where the best epoch was the last, the same weights have one record.
    Where the weights are not kept, their name is all there is.
    """
    named = [record for record in there if record["checkpoint"] == checkpoint and planned(cell, record)]
    digest = weights.get(checkpoint)
    if digest in (None, GONE, UNKNOWN):
        return named
    found = [record for record in there if record["weights_sha256"] == digest and planned(cell, record)]
    if named and not found:
        raise InputError(
            f'What is on record in "{cell.folder}" is of other weights than its {checkpoint} checkpoint: {_again(cell)}'
        )
    return found


def _again(cell: Cell) -> str:
    return f'remove "{cell.folder / "done"}" and run the same command again'


def planned(cell: Cell, record: Record) -> bool:
    """Return whether a record is of an attack that a cell is to meet, on as many samples."""
    limit, of = cell.attacks.get(record["name"], 0), record["data"]["of"]
    return bool(record["data"]["n"] == (of if limit is None else min(limit, of)))


def _courses(cells: Sequence[Cell], row: str, checkpoint: str) -> Iterator[tuple[str, Course]]:
    """Yield accuracy against the steps of PGD-100 and against eps, over seeds, for figure S2."""
    found = [
        one
        for cell in cells
        for one in read_run(cell.folder).evaluations
        if one.curve is not None and one.checkpoint == checkpoint and "pgd100" in one.paths
    ]
    if found:
        n = found[0].outcome.n
        paths = zip(*(one.paths["pgd100"] for one in found), strict=True)
        shares = [share_of(list(at), n) for at in paths]
        yield "steps", Course(row, checkpoint, list(range(len(shares))), shares)
        curves = [one.curve for one in found if one.curve is not None]
        at_each = zip(*(curve.accuracy for curve in curves), strict=True)
        yield (
            "eps",
            Course(row, checkpoint, curves[0].eps, [share_of(list(at), curves[0].n) for at in at_each]),
        )
