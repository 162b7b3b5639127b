"""Read a table off what its cells have on record; nothing is run."""

from collections.abc import Iterator, Sequence
from typing import Any

from fsrobust.attacks import SUITES
from fsrobust.evaluate import Outcome, read_outcome, read_records
from fsrobust.recipes.paper import PaperTable
from fsrobust.recipes.plan import SIZES, Cell, Scale, columns
from fsrobust.recipes.row import CHECKPOINTS
from fsrobust.report.results import read_run
from fsrobust.report.spread import Course, Share, Spread, SpreadRow, share_of, spread
from fsrobust.types import InputError


def read_table(table: PaperTable, cells: Sequence[Cell], scale: Scale) -> Spread:
    """Return mean and spread over the seeds of every row that has a record, for either checkpoint."""
    heads, rows = columns(table, cells), []
    courses: dict[str, list[Course]] = {"steps": [], "eps": []}
    for row in dict.fromkeys(cell.row for cell in cells):
        done = [cell for cell in cells if cell.row == row and cell.state == "done"]
        for checkpoint in CHECKPOINTS:
            shares = _shares(done, checkpoint, heads)
            if not shares:
                continue
            published = table.published.get(row, {}) if scale == "full" and checkpoint == "last" else {}
            rows.append(SpreadRow(row, checkpoint, shares, dict(published)))
            if table.name == "FigS2":
                for kind, found in _courses(done, row, checkpoint):
                    courses[kind].append(found)
    return Spread(
        name=table.name,
        title=f"{table.name}: {table.title}",
        note=SIZES[scale].note,
        evidence=scale != "smoke",
        columns=heads,
        rows=rows,
        gain=table.gain if scale == "full" else None,
        steps=courses["steps"],
        eps=courses["eps"],
    )


def _shares(cells: Sequence[Cell], checkpoint: str, heads: Sequence[str]) -> dict[str, Share]:
    """Return each column's share; attacks on another number of samples have outcomes of their own."""
    found: dict[str, Share] = {}
    counts = dict.fromkeys(n for cell in cells for n in cell.attacks.values())
    for count in counts:
        outcomes = [o for cell in cells for o in _outcomes(cell, checkpoint, count)]
        if outcomes:
            met = set(outcomes[0].attacks)
            can = [
                h
                for h in heads
                if h in met or h == "natural" or (h == "ensemble" and met >= set(SUITES["whitebox"]))
            ]
            found = spread(outcomes, can) | found
    return {head: found[head] for head in heads if head in found}


def _outcomes(cell: Cell, checkpoint: str, count: int | None) -> Iterator[Outcome]:
    wanted = [name for name, n in cell.attacks.items() if n == count]
    records = [record for record in _records(cell, checkpoint) if record["name"] in wanted]
    if {record["name"] for record in records} == set(wanted):
        yield read_outcome(cell.folder, records)


def _records(cell: Cell, checkpoint: str) -> list[dict[str, Any]]:
    """Return a checkpoint's attack records on as many samples as were planned."""
    try:
        there = [record for record in read_records(cell.folder) if record["kind"] == "attack"]
    except InputError as error:  # left out, a seed would be missing from the table and nobody would know
        raise InputError(
            f'{error}; remove "{cell.folder / "done"}" and run the same command again'
        ) from error
    found = [record for record in there if record["checkpoint"] == checkpoint and _planned(cell, record)]
    if not found and (cell.folder / "weights" / f"{checkpoint}.sha256").is_file():
        # the best epoch was the last: the same weights have one record, under the name they were first met by
        found = [record for record in there if record["checkpoint"] == "last" and _planned(cell, record)]
    return found


def _planned(cell: Cell, record: dict[str, Any]) -> bool:
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
