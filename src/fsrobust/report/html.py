"""The report: one HTML file that needs nothing but itself, written from what runs left on disk."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fsrobust.evaluate.wording import p_text
from fsrobust.records import write_bytes
from fsrobust.report import words
from fsrobust.report.entries import cast, unique_folders
from fsrobust.report.figures import NORMS
from fsrobust.report.page import Page, build_page
from fsrobust.report.results import read_run
from fsrobust.report.spread import Spread, read_spread, write_spread
from fsrobust.report.spread_forms import natural_on_these, spread_csv, spread_latex, spread_markdown
from fsrobust.report.spread_part import TablePart, table_part
from fsrobust.report.tables import NOT_RUN, heading, percent, signed, span
from fsrobust.types import InputError

TABLE: Final = "table.json"
"""What makes a directory one of a reproduced table."""


def report(runs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one self-contained page on some run, audit or reproduction directories, and return where it is.

    The same records give the same bytes. Nothing is run: what was never recorded is said to be missing.

    Raises:
        InputError: no directory, or one that holds neither a run nor records.
    """
    folders = unique_folders(runs)
    if not folders:
        raise InputError("Expected at least one run directory to report on, but got none")
    tables = [folder for folder in folders if (folder / TABLE).is_file()]
    parts = [table_part(read_spread(folder / TABLE)) for folder in tables]
    rest = [folder for folder in folders if folder not in tables]
    out = Path(out)
    text = render(build_page(cast([read_run(f) for f in rest]), parts)) if rest else render_tables(parts)
    write_bytes(out, text.encode())
    return out


def write_table(table: Spread, folder: Path) -> None:
    """Write a table as Markdown, LaTeX, CSV, JSON, and as a page of its own with its figures, each file whole."""
    write_spread(table, folder / TABLE)
    for name, text in {
        "table.md": spread_markdown(table) + "\n",
        "table.tex": spread_latex(table),
        "table.csv": spread_csv(table),
        "table.html": render_tables([table_part(table)]),
    }.items():
        write_bytes(folder / name, text.encode())


def render(page: Page) -> str:
    """Return a page as HTML; every value is escaped."""
    return _render("report.html.j2", page=page)


def render_tables(parts: Sequence[TablePart]) -> str:
    """Return a page of reproduced tables alone; every value is escaped."""
    return _render("tables.html.j2", parts=parts)


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("fsrobust.report"),
        autoescape=True,
        finalize=_tame,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(template).render(
        **values,
        words=words,
        heading=heading,
        norms=NORMS,
        not_run=NOT_RUN,
        natural_on_these=natural_on_these,
        percent=percent,
        span=span,
        signed=signed,
        p_text=p_text,
    )


_WILD: Final = dict.fromkeys(
    [*range(32), 127, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "\N{REPLACEMENT CHARACTER}",
) | dict.fromkeys([9, 10, 13], " ")
"""Characters that control a terminal or turn the direction of the text after them."""


def _tame(value: object) -> object:
    """Return a value as it may be shown: whoever named a class is not to rearrange the page."""
    return value.translate(_WILD) if isinstance(value, str) and not isinstance(value, Markup) else value


def _unbroken(text: str) -> str:
    """Return a text whose intervals, "79–87", stay on one line."""
    return re.sub(r"(?<=\d)–(?=\d)", "\N{WORD JOINER}–\N{WORD JOINER}", text)
