"""Figures of a table over seeds: its rows as dots with intervals, figure S1 as curves, figure S2's two panels."""

from collections.abc import Callable, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from fsrobust.report.figures import GREY, INK, SIZE, Style, accuracy_axis, as_svg, style
from fsrobust.report.spread import Course, Share, Spread, SpreadRow
from fsrobust.report.tables import TITLES

CHECKPOINTS: Final = {"last": style(0), "best": style(1)}
"""How a checkpoint looks where a figure shows both."""
SWEPT: Final = {"tau": "temperature τ", "lambda_sep": "λ of separation", "lambda_rec": "λ of recalibration"}
_CENTRE: Final = "tau=0.1"
"""The row where the sweeps meet: tau 0.1 with both weights 1."""


def dots_figure(table: Spread) -> str:
    """Return a panel per column: each row's accuracy at both checkpoints with its interval, and the paper's."""
    labels = list(dict.fromkeys(row.label for row in table.rows))
    columns = [column for column in table.columns if any(column in row.shares for row in table.rows)]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for column, axes in zip(columns, panels, strict=True):
            for row in table.rows:
                _dot(axes, row, column, labels.index(row.label))
            axes.set_title(TITLES.get(column, column), fontsize=10)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10], min_n_ticks=2))
        panels[0].yaxis.set_major_locator(FixedLocator(range(len(labels))))
        panels[0].yaxis.set_major_formatter(FixedFormatter(labels))
        figure.supxlabel("classified right (%)", fontsize=10, color=INK)

    return as_svg(draw, size=(1.3 + 1.35 * len(columns), 1.2 + 0.34 * len(labels)))


def _dot(axes: Axes, row: SpreadRow, column: str, place: int) -> None:
    if column in row.shares:
        share, look = row.shares[column], CHECKPOINTS[row.checkpoint]
        height = place + (0.15 if row.checkpoint == "best" else -0.15)
        axes.plot(
            [100 * share.low, 100 * share.high], [height] * 2, color=look.color, linewidth=2, alpha=0.45
        )
        axes.plot(100 * share.mean, height, color=look.color, marker=look.marker)
    if column in row.published:
        axes.plot(
            row.published[column], place - 0.15, color=INK, marker="|", markersize=11, markeredgewidth=1.6
        )


def swept(table: Spread, checkpoint: str) -> list[str]:
    """Return which settings the table's rows sweep: those with at least two values."""
    return [name for name in SWEPT if len(_points(table, name, checkpoint)) > 1]


def sweep_figure(table: Spread, name: str, checkpoint: str, columns: Sequence[str]) -> str:
    """Return accuracy against a setting's values, one line per column, evenly spaced as the values are not."""
    points = _points(table, name, checkpoint)

    def draw(axes: Axes) -> None:
        for place, column in enumerate(columns):
            known = [(x, row.shares[column]) for x, (_, row) in enumerate(points) if column in row.shares]
            _line(axes, [x for x, _ in known], [share for _, share in known], style(place))
        axes.xaxis.set_major_locator(FixedLocator(range(len(points))))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value, _ in points]))
        axes.margins(x=0.06)
        axes.set_xlabel(SWEPT[name])
        axes.set_ylabel("classified right (%)")  # the scale is the data's: a sweep moves by a few points

    return as_svg(_alone(draw), size=SIZE)


def _points(table: Spread, name: str, checkpoint: str) -> list[tuple[float, SpreadRow]]:
    """Return a sweep's values with their rows, in order; the weights pass through the row that has both at 1."""
    found = []
    for row in table.rows:
        key, _, value = row.label.partition("=")
        if row.checkpoint != checkpoint:
            continue
        if key == name:
            found.append((float(value), row))
        elif row.label == _CENTRE:
            found.append((1.0, row))
    return sorted(found, key=lambda point: point[0])


def course_figure(courses: Sequence[Course], kind: str) -> str:
    """Return accuracy against the steps of an attack, or against eps ("eps"), one line per row."""

    def draw(axes: Axes) -> None:
        for place, course in enumerate(courses):
            xs = range(len(course.places)) if kind == "eps" else course.places
            _line(axes, list(xs), course.shares, style(place))
        if kind == "eps":
            radii = courses[0].places
            axes.xaxis.set_major_locator(FixedLocator(range(len(radii))))
            axes.xaxis.set_major_formatter(FixedFormatter([f"{255 * radius:.3g}" for radius in radii]))
            axes.axvline(
                3, color=GREY, linewidth=1, linestyle=(0, (2, 3))
            )  # radii: 0, ¼, ½ of the ball's, and it
            axes.set_xlabel("radius eps, in 255ths")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("steps of PGD-100")
        accuracy_axis(axes)

    return as_svg(_alone(draw), size=SIZE)


def _line(axes: Axes, places: Sequence[float], shares: Sequence[Share], look: Style) -> None:
    every = max(1, len(places) // 10)
    means = [100 * share.mean for share in shares]
    axes.plot(places, means, color=look.color, marker=look.marker, markevery=every)
    ends = [100 * share.low for share in shares], [100 * share.high for share in shares]
    axes.fill_between(places, *ends, color=look.color, alpha=0.13, linewidth=0)


def _alone(draw: Callable[[Axes], None]) -> Callable[[Figure], None]:
    return lambda figure: draw(figure.add_subplot())
