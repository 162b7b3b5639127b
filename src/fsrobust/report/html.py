"""The report: one HTML file that needs nothing but itself, written from what runs left on disk."""

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fsrobust.records import write_bytes
from fsrobust.report import words
from fsrobust.report.entries import cast, unique_folders
from fsrobust.report.figures import NORMS
from fsrobust.report.page import Page, build_page
from fsrobust.report.results import read_run
from fsrobust.report.tables import NOT_RUN, TITLES, percent, signed, span
from fsrobust.types import InputError


def report(runs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one self-contained page on some run or audit directories, and return where it is.

    The same records give the same bytes. Nothing is run: what was never recorded is said to be missing.

    Raises:
        InputError: no directory, or one that holds neither a run nor records.
    """
    folders = unique_folders(runs)
    if not folders:
        raise InputError("Expected at least one run directory to report on, but got none")
    page = build_page(cast([read_run(folder) for folder in folders]))
    out = Path(out)
    write_bytes(out, render(page).encode())
    return out


def render(page: Page) -> str:
    """Return a page as HTML; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("fsrobust.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    template = environment.get_template("report.html.j2")
    return template.render(
        page=page,
        words=words,
        titles=TITLES,
        norms=NORMS,
        not_run=NOT_RUN,
        percent=percent,
        span=span,
        signed=signed,
    )


def _unbroken(text: str) -> str:
    """Return a text whose intervals, "79–87", stay on one line."""
    return re.sub(r"(?<=\d)–(?=\d)", "\N{WORD JOINER}–\N{WORD JOINER}", text)
