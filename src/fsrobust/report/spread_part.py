"""A reproduced table as a page shows it: the table, what its numbers are, and its figures with their captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fsrobust.report.figures import STYLES, style
from fsrobust.report.gain import gain_in_words
from fsrobust.report.pictures import Picture, data_uri, vector
from fsrobust.report.spread import Course, Spread
from fsrobust.report.spread_figures import CHECKPOINTS, SWEPT, course_figure, dots_figure, sweep_figure, swept
from fsrobust.report.spread_forms import meaning, spread_csv
from fsrobust.report.tables import TITLES
from fsrobust.report.words import count

_BANDS = "Bands: standard deviation over seeds, or the 95 % interval of a single one."


@dataclass(frozen=True, eq=False)
class TablePart:
    """A table with everything that stands beside it."""

    table: Spread
    meaning: str
    gains: Sequence[str]
    csv: str
    pictures: Sequence[Picture]


def table_part(table: Spread) -> TablePart:
    """Return a table with its figures: dots with intervals, or the curves where it is one of the paper's figures."""
    pictures = [*_sweeps(table), *_courses(table.steps, "steps"), *_courses(table.eps, "eps")]
    if table.rows and not pictures:
        pictures = [_dots(table)]
    csv = data_uri(spread_csv(table).encode(), "text/csv")
    return TablePart(table, meaning(table), gain_in_words(table), csv, pictures)


def _dots(table: Spread) -> Picture:
    shown = {row.checkpoint for row in table.rows}
    legend = [(look, f"{name} checkpoint") for name, look in CHECKPOINTS.items() if name in shown]
    caption = "Each row under each attack, with its standard deviation over seeds or the 95 % interval of one seed. "
    caption += "A black bar: the paper's number. " if table.compared else ""
    caption += "Every panel has a scale of its own."
    return vector(
        dots_figure(table), f"The rows of {table.title} as dots with intervals.", caption, legend, wide=True
    )


def _sweeps(table: Spread) -> Iterator[Picture]:
    columns = [column for column in table.columns if any(column in row.shares for row in table.rows)]
    legend = [(style(place), TITLES.get(column, column)) for place, column in enumerate(columns)]
    for name in SWEPT:
        for checkpoint in (c for c in CHECKPOINTS if name in swept(table, c)):
            what = f"Accuracy against the {SWEPT[name]}, {checkpoint} checkpoint"
            caption = f"{what}; the other two settings as in the paper (τ 0.1, λ 1). {_BANDS}"
            yield vector(sweep_figure(table, name, checkpoint, columns), f"{what}.", caption, legend)


def _courses(courses: Sequence[Course], kind: str) -> Iterator[Picture]:
    axis = {"steps": "steps of PGD-100", "eps": "radius eps"}[kind]
    for checkpoint in CHECKPOINTS:
        chosen = [course for course in courses if course.checkpoint == checkpoint]
        if chosen:
            legend = [(style(place % len(STYLES)), course.label) for place, course in enumerate(chosen)]
            what = f"Accuracy against the {axis}, {checkpoint} checkpoint, n = {count(chosen[0].shares[0].n)}"
            must = {
                "steps": "A curve that still falls at its end asks for a longer attack.",
                "eps": "Dotted: the eps of the table. It must fall to 0 % where every image is within reach.",
            }[kind]
            yield vector(course_figure(chosen, kind), f"{what}.", f"{what}. {must} {_BANDS}", legend)
