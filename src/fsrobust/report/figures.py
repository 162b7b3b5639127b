"""Curves as SVG: the same input gives the same bytes, and nothing of it depends on a screen or a clock.

No name that users chose enters a figure: runs are told apart by colour and marker, which the page explains.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from fsrobust.attacks import Ball, make_ball
from fsrobust.evaluate import wilson

SIZE: Final = (5.4, 3.5)  # inches; a page shows it at about 1:1
INK: Final = "#1f2933"
GREY: Final = "#7b8794"
FONTS: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LOOK: Final[Any] = {  # newer matplotlibs type the keys one by one
    "svg.hashsalt": "fsrobust",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # measured in the font that matplotlib brings, named anew below
    "font.size": 10,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "text.color": INK,
}
NORMS: Final = {"linf": "L∞", "l2": "L2"}
"""Norms as mathematics writes them."""


@dataclass(frozen=True)
class Style:
    """How a run looks in every figure: a colour that colour-blind readers can tell apart, and a marker."""

    color: str
    marker: str


# Okabe and Ito's palette, the light ones last
STYLES: Final = (
    Style("#0072b2", "o"),
    Style("#d55e00", "s"),
    Style("#009e73", "^"),
    Style("#cc79a7", "D"),
    Style("#3a3a3a", "v"),
    Style("#e69f00", "P"),
    Style("#56b4e9", "X"),
)


def style(place: int) -> Style:
    """Return the style of the run at a place; colours come round again, with other markers."""
    count = len(STYLES)
    return Style(STYLES[place % count].color, STYLES[(place + place // count) % count].marker)


@dataclass(frozen=True)
class Line:
    """A run's accuracies in [0, 1] at some places, each measured on n samples."""

    places: Sequence[float]
    accuracy: Sequence[float]
    n: int
    style: Style


def _svg(draw: Callable[[Axes], None], *, size: tuple[float, float] = SIZE) -> str:
    return as_svg(lambda figure: draw(figure.add_subplot()), size=size)


def as_svg(draw: Callable[[Figure], None], *, size: tuple[float, float]) -> str:
    """Return what ``draw`` puts on a fresh figure, as SVG without dates, document type or metadata."""
    with mpl.rc_context(_LOOK):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    before, _, rest = text.partition("<metadata>")
    text = before + rest.partition("</metadata>")[2] if rest else text
    return text.replace("'DejaVu Sans'", FONTS)


def accuracy_axis(axes: Axes) -> None:
    """Label shares of images from 0 to 100 %."""
    axes.set_ylim(-2, 102)
    axes.set_yticks([0, 20, 40, 60, 80, 100])
    axes.set_ylabel("classified right (%)")


def _band(axes: Axes, places: Sequence[float], line: Line) -> None:
    """Draw the 95 % Wilson interval around a line."""
    ends = np.array([wilson(round(share * line.n), line.n) for share in line.accuracy]) * 100
    color = line.style.color
    axes.fill_between(places, ends[:, 0], ends[:, 1], color=color, alpha=0.15, linewidth=0)


def eps_figure(lines: Sequence[Line], *, norm: str, eps: Sequence[float]) -> str:
    """Return accuracy against the ball's radius; ``eps`` are the radii of the table, marked.

    Radii double from step to step, so the axis is logarithmic above the smallest one and linear below it.
    """
    radii = sorted({round(place, 9) for line in lines for place in line.places})
    in_255 = _in_255(eps)

    def draw(axes: Axes) -> None:
        smallest = next((r for r in radii if r > 0), 1.0)
        axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=1.0)
        for radius in eps:
            axes.axvline(radius, color=GREY, linewidth=1, linestyle=(0, (2, 3)))
        for line in lines:
            shares = [100 * share for share in line.accuracy]
            axes.plot(line.places, shares, color=line.style.color, marker=line.style.marker)
            _band(axes, line.places, line)
        ticks = _thinned(radii)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        texts = [f"{tick * 255:.3g}" if in_255 else f"{tick:.3g}" for tick in ticks]
        axes.xaxis.set_major_formatter(FixedFormatter(texts))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"radius eps of the {NORMS.get(norm, norm)} ball{', in 255ths' if in_255 else ''}")
        accuracy_axis(axes)

    return _svg(draw)


def _in_255(eps: Sequence[float]) -> bool:
    """Return whether radii are whole 255ths, as "8/255" is and 0.15 is not."""
    return bool(eps) and all(radius > 0 and abs(radius * 255 - round(radius * 255)) < 1e-6 for radius in eps)


def _thinned(radii: Sequence[float]) -> list[float]:
    """Return the radii whose labels have room beside each other on a logarithmic axis."""
    kept: list[float] = []
    for radius in radii:
        if not kept or kept[-1] == 0 or radius / kept[-1] > 1.45:
            kept.append(radius)
    return kept


def iterations_figure(lines: Sequence[Line]) -> str:
    """Return accuracy against the steps of an attack, its last image at the end."""

    def draw(axes: Axes) -> None:
        for line in lines:
            shares = [100 * share for share in line.accuracy]
            every = max(1, len(line.places) // 10)
            marker, color = line.style.marker, line.style.color
            axes.plot(line.places, shares, color=color, marker=marker, markevery=every)
            _band(axes, line.places, line)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.margins(x=0.02)
        axes.set_xlabel("steps of the attack")
        accuracy_axis(axes)

    return _svg(draw)


LOSS_TERMS: Final = ("loss", "classification", "separation", "recalibration")
ACCURACIES: Final = {
    "train_accuracy": "training images, as trained on",
    "validation_natural": "validation, clean",
    "validation_robust": "validation, attacked",
}
_DASHES: Final = ("-", (0, (5, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.5)))
_SHADES: Final = ("", "#323f4b", "#52606d", "#7b8794")


def loss_figure(rows: Sequence[Mapping[str, Any]], run: Style) -> str | None:
    """Return the terms of the loss per epoch, None where no row has any."""
    terms = [term for term in LOSS_TERMS if any(term in row for row in rows)]
    if terms == ["loss", "classification"]:  # natural training and AT: they are one and the same
        terms = ["loss"]
    if not terms:
        return None

    def draw(axes: Axes) -> None:
        for term, dash, shade in zip(terms, _DASHES, _SHADES, strict=False):
            label = "loss, all terms" if term == "loss" and len(terms) > 1 else term
            _history(axes, rows, term, color=shade or run.color, linestyle=dash, label=label)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("loss, mean of the epoch")
        _epoch_axis(axes, rows)

    return _svg(draw, size=(SIZE[0], SIZE[1] + 0.3))


def training_figure(rows: Sequence[Mapping[str, Any]], run: Style) -> str | None:
    """Return training and validation accuracy per epoch, None where no row has any."""
    names = [name for name in ACCURACIES if any(name in row for row in rows)]
    if not names:
        return None
    looks = {
        "train_accuracy": ("#9aa5b1", "-"),
        "validation_natural": (run.color, (0, (5, 2))),
        "validation_robust": (run.color, "-"),
    }

    def draw(axes: Axes) -> None:
        for name in names:
            color, dash = looks[name]
            _history(axes, rows, name, color=color, linestyle=dash, label=ACCURACIES[name], scale=100)
        accuracy_axis(axes)
        _epoch_axis(axes, rows)

    return _svg(draw, size=(SIZE[0], SIZE[1] + 0.3))


def _history(
    axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, *, scale: float = 1, **look: object
) -> None:
    known = [(row["epoch"], scale * row[name]) for row in rows if name in row]
    marker = "o" if len(known) == 1 else None
    axes.plot(*zip(*known, strict=True), marker=marker, **look)  # type: ignore[arg-type]


def learning_rate_drops(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the epochs that began with a lower learning rate than the one before; a curve, ever falling, has none.

    >>> learning_rate_drops([{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.1}, {"epoch": 3, "lr": 0.01}])
    [3]
    """
    known = [row for row in rows if "lr" in row]
    drops = [b["epoch"] for a, b in pairwise(known) if b["lr"] < a["lr"]]
    return drops if len(drops) <= max(3, len(known) // 2) else []


def _epoch_axis(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Label epochs, mark where the learning rate fell, and put the legend below everything."""
    for place, epoch in enumerate(learning_rate_drops(rows)):
        label = "learning rate lowered" if place == 0 else None
        axes.axvline(epoch - 0.5, color=GREY, linewidth=1, linestyle=(0, (2, 3)), label=label)
    axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.legend(loc="outside lower center", ncols=2)


def mask_figure(histogram: NDArray[np.int64], run: Style) -> str:
    """Return how often the mask takes each value, on clean and on attacked images: counts [2, bins]."""
    shares = 100 * histogram / np.maximum(histogram.sum(1, keepdims=True), 1)
    edges = np.linspace(0, 1, histogram.shape[1] + 1)

    def draw(axes: Axes) -> None:
        axes.stairs(shares[0], edges, fill=True, color="#cbd2d9", label="clean")
        axes.stairs(shares[1], edges, color=run.color, linewidth=1.6, label="attacked")
        axes.set_ylim(_floor(shares), 110)  # first, or an empty histogram has no scale
        axes.set_yscale("log")
        ticks = [tick for tick in (0.001, 0.01, 0.1, 1, 10, 100) if tick >= axes.get_ylim()[0]]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("value of the mask: 0 non-robust, 1 robust")
        axes.set_ylabel("share of units (%), logarithmic")
        axes.set_xlim(0, 1)
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        figure.legend(loc="outside lower center", ncols=2)

    return _svg(draw, size=(SIZE[0], SIZE[1] + 0.1))


def _floor(shares: NDArray[np.float64]) -> float:
    """Return the power of ten below the smallest share there is."""
    smallest = shares[shares > 0].min(initial=1.0)
    return float(10.0 ** np.floor(np.log10(smallest * 0.999)))


def ball_radius(norm: str, eps: str) -> float:
    """Return a radius that was written as "8/255" or "0.15"."""
    numerator, _, denominator = eps.partition("/")
    ball: Ball = make_ball(norm, float(numerator) / float(denominator or 1))
    return ball.eps
