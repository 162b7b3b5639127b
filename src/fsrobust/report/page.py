"""A page as plain values: everything that is computed, before a template gives it a form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fsrobust.evaluate import wilson
from fsrobust.report import ahead, words
from fsrobust.report.entries import Cast, Entry
from fsrobust.report.figures import Line, ball_radius, eps_figure, iterations_figure
from fsrobust.report.pictures import Picture, data_uri, vector
from fsrobust.report.rungs import Rungs, rungs
from fsrobust.report.sections import RunPart, run_part
from fsrobust.report.spread_part import TablePart
from fsrobust.report.tables import Cell, Table, accuracy_table, as_csv, heading, worst_case
from fsrobust.report.verdict import state
from fsrobust.report.winners import Contest, contests


@dataclass(frozen=True, eq=False)
class Tile:
    """What a hurried reader takes along: right under every attack, under none, and whether to trust it."""

    entry: Entry
    worst: Cell
    natural: Cell
    verdict: str


@dataclass(frozen=True, eq=False)
class Page:
    """All that a report shows."""

    title: str
    subtitle: str
    summary: Sequence[str]
    tiles: Sequence[Tile]
    table: Table
    published: Sequence[str]
    csv: str
    strict_gap: str
    attacks: Sequence[tuple[str, str]]
    shared: Sequence[Picture]
    missing: Sequence[str]
    runs: Sequence[RunPart]
    limits: Sequence[str]
    winners: Sequence[Contest]
    tables: Sequence[TablePart]
    rungs: Sequence[Rungs]


def build_page(who: Cast, tables: Sequence[TablePart] = ()) -> Page:
    """Return the page on some runs, and on tables that were reproduced."""
    entries = who.entries
    table = accuracy_table(
        {entry.label: entry.evaluation.outcome for entry in entries},
        {entry.label: entry.run.published(entry.evaluation) for entry in entries},
    )
    shared, missing = _shared(entries)
    return Page(
        title=_title(who),
        subtitle=_subtitle(entries),
        summary=ahead.summary(entries)
        or ["No evaluation of these runs' weights is on record: there is no number to show."],
        tiles=[_tile(entry) for entry in entries],
        table=table,
        published=_sources(entries),
        csv=data_uri(as_csv(table).encode(), "text/csv"),
        strict_gap=words.strict_gap(table),
        attacks=words.attacks_in_words(entries),
        shared=shared,
        missing=missing,
        runs=[run_part(run, label, style, entries) for run, label, style in who.runs],
        limits=words.limits(entries) if entries else [],
        winners=contests(entries),
        tables=tables,
        rungs=rungs(entries),
    )


def _tile(entry: Entry) -> Tile:
    outcome = entry.evaluation.outcome
    return Tile(
        entry,
        worst_case(outcome),
        accuracy_table({"": outcome}).rows[0].cells["natural"],
        state(entry.evaluation),
    )


def _title(who: Cast) -> str:
    if len(who.runs) == 1:
        return who.runs[0][0].title
    return who.common or f"{len(who.runs)} models side by side"


def _subtitle(entries: Sequence[Entry]) -> str:
    """Return when, and with which version, the numbers were made."""
    records = [record for entry in entries for record in entry.evaluation.records.values()]
    if not records:
        return "No evaluation on record"
    dates = sorted(record["created"][:10] for record in records)
    versions = sorted({str(record["provenance"].get("fsrobust")) for record in records})
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"Evaluated {when} with fsrobust {words.listed(versions)}"


def _sources(entries: Sequence[Entry]) -> list[str]:
    """Return where published numbers stand, one sentence per source."""
    sources: dict[str, list[str]] = {}
    for entry in entries:
        if entry.run.published(entry.evaluation):
            sources.setdefault((entry.run.config or {})["published"]["source"], []).append(entry.label)
    return [f"Published numbers beside {words.listed(who)}: {source}." for source, who in sources.items()]


def _shared(entries: Sequence[Entry]) -> tuple[list[Picture], list[str]]:
    """Return the figures that all entries share, and sentences on who is missing from them."""
    pictures: list[Picture] = []
    missing: list[str] = []
    for norm in sorted({entry.evaluation.norm for entry in entries}):
        with_curve = [e for e in entries if e.evaluation.norm == norm and e.evaluation.curve is not None]
        if with_curve:
            pictures.append(_eps_picture(with_curve, norm))
    _note(missing, entries, lambda e: e.evaluation.curve is not None, "accuracy against eps was not recorded")
    longest = _longest(entries)
    if longest is not None:
        pictures.append(_iterations_picture([e for e in entries if longest in e.evaluation.paths], longest))
        _note(
            missing,
            entries,
            lambda e: longest in e.evaluation.paths,
            f"{heading(longest)} was not run, so its steps are not shown",
        )
    elif entries:
        missing.append("No attack with several steps is on record, so accuracy against steps is not shown.")
    return pictures, missing


def _note(missing: list[str], entries: Sequence[Entry], has: Callable[[Entry], bool], what: str) -> None:
    without = [entry.label for entry in entries if not has(entry)]
    if without:
        missing.append(f"{words.listed(without)}: {what}.")


def _eps_picture(entries: Sequence[Entry], norm: str) -> Picture:
    lines, texts = [], []
    for entry in entries:
        curve = entry.evaluation.curve
        assert curve is not None
        lines.append(Line(curve.eps, curve.accuracy, curve.n, entry.style))
        texts.append(
            f"{entry.label} from {_right(curve.accuracy[0], curve.n)} "
            f"to {_right(curve.accuracy[-1], curve.n)}"
        )
    radii = sorted({ball_radius(norm, entry.evaluation.eps) for entry in entries})
    sizes = words.listed(sorted({words.count(line.n) for line in lines}))
    caption = (
        f"Accuracy against the size of the perturbation: PGD-100 at each radius, strict count, n = {sizes} "
        "images per model; bands are 95 % intervals. The dotted line is the eps of the table. The curve must "
        "fall to 0 % where every image is within reach."
    )
    return vector(
        eps_figure(lines, norm=norm, eps=radii), f"Accuracy against eps: {'; '.join(texts)}.", caption
    )


def _right(share: float, n: int) -> str:
    return words.share(share, wilson(round(share * n), n), n)


def _longest(entries: Sequence[Entry]) -> str | None:
    """Return the attack with the most steps that any entry met, of equals the one that most met."""
    met: dict[str, list[int]] = {}
    for entry in entries:
        for name, path in entry.evaluation.paths.items():
            met.setdefault(name, []).append(len(path))
    return max(met, key=lambda name: (max(met[name]), len(met[name]), name), default=None)


def _iterations_picture(entries: Sequence[Entry], name: str) -> Picture:
    lines, texts = [], []
    for entry in entries:
        path, n = entry.evaluation.paths[name], entry.evaluation.outcome.n
        lines.append(Line(list(range(len(path))), path, n, entry.style))
        texts.append(f"{entry.label} from {_right(path[0], n)} to {_right(path[-1], n)}")
    sizes = words.listed(sorted({words.count(line.n) for line in lines}))
    title = heading(name)
    caption = (
        f"Accuracy at each step of {title}, n = {sizes} images per model; bands are 95 % intervals. A curve "
        "that still falls at its end asks for a longer attack."
    )
    return vector(iterations_figure(lines), f"Accuracy at each step of {title}: {'; '.join(texts)}.", caption)
