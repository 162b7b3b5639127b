"""Reports: tables and one-file HTML pages, made of records alone. No model is run."""

from collections.abc import Sequence
from pathlib import Path

from fsrobust.report.evaluations import Evaluation as Evaluation
from fsrobust.report.results import RunResults as RunResults
from fsrobust.report.results import read_run as read_run
from fsrobust.report.tables import Cell as Cell
from fsrobust.report.tables import Row as Row
from fsrobust.report.tables import Table as Table
from fsrobust.report.tables import accuracy_table as accuracy_table
from fsrobust.report.tables import as_csv as as_csv
from fsrobust.report.tables import as_markdown as as_markdown
from fsrobust.report.tables import as_text as as_text
from fsrobust.report.tables import comparison_table as comparison_table


def report(runs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one self-contained page on some run or audit directories, and return where it is.

    Raises:
        InputError: no directory, or one that holds neither a run nor records.
    """
    # pages need jinja2, matplotlib and Pillow; whoever only trains and evaluates does not
    from fsrobust.report.html import report as write

    return write(runs, out)
