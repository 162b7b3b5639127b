"""A table over seeds in every form it is printed in: Markdown, LaTeX, CSV, and sentences on what its numbers are."""

import csv
import io
from collections.abc import Iterator, Sequence

from fsrobust.report.gain import gain_in_words
from fsrobust.report.spread import Share, Spread, SpreadRow
from fsrobust.report.tables import NOT_RUN, TITLES, percent, signed


def meaning(table: Spread) -> str:
    """Return what a table's numbers are, in sentences."""
    seeds = {row.seeds for row in table.rows}
    parts = ["Accuracy in %"]
    parts += ["mean ± standard deviation over seeds"] if max(seeds, default=0) > 1 else []
    parts += ["one seed with its 95 % Wilson interval"] if 1 in seeds else []
    text = ", ".join(parts) + "."
    if table.compared:
        text += " Beside it: the paper's number, and ours less the paper's."
    return " ".join([text, *_on_fewer(table)])


def _on_fewer(table: Spread) -> Iterator[str]:
    """Yield sentences on columns that met fewer samples than the others of their row."""
    fewer = {
        name: sorted({row.shares[name].n for row in table.rows if own_n(row, name)})
        for name in table.columns
        if any(own_n(row, name) for row in table.rows)
    }
    if not fewer:
        return
    counts = (
        f"{TITLES.get(name, name)} on {' or '.join(f'{n:,}' for n in ns)}" for name, ns in fewer.items()
    )
    yield f"{', '.join(counts)} of the samples: not to be held against columns on all of them."
    if any(natural_on_these(row, name) is not None for row in table.rows for name in fewer):
        yield "In square brackets: the natural accuracy on just those."


def own_n(row: SpreadRow, column: str) -> int | None:
    """Return on how many samples a column rests where those are not the row's, None where they are."""
    share = row.shares.get(column)
    return share.n if share is not None and share.n != row.n else None


def natural_on_these(row: SpreadRow, column: str) -> str | None:
    """Return the natural accuracy in % on a column's samples where those are not the row's, if it is known."""
    share = row.shares.get(column)
    if share is None or share.natural is None or own_n(row, column) is None or column == "natural":
        return None
    return percent(share.natural, share.n)


def _n_of(table: Spread, column: str) -> int | None:
    """Return the n that a column's head must give: one that its cells have in common and some row has not."""
    counts = {row.shares[column].n for row in table.rows if column in row.shares}
    return counts.pop() if len(counts) == 1 and any(own_n(row, column) for row in table.rows) else None


def _cell_n(table: Spread, row: SpreadRow, column: str) -> int | None:
    """Return the n that a cell must give: one that is neither its row's nor in the head of its column."""
    return None if _n_of(table, column) else own_n(row, column)


def spread_markdown(table: Spread) -> str:
    """Return the table as Markdown, its note and what the numbers are above it."""
    lines = [f"**{table.title}**", ""]
    lines += [table.note, ""] if table.note else []
    if not table.rows:
        return "\n".join([*lines, "No row is finished yet."])
    lines += [" ".join([meaning(table), *gain_in_words(table)]), ""]
    body = [_heads(table, "{}, n = {:,}"), ["---", "---", *["--:"] * (len(table.columns) + 2)]]
    body += [
        [
            row.label,
            row.checkpoint,
            str(row.seeds),
            str(row.n),
            *(_text(table, row, c) for c in table.columns),
        ]
        for row in table.rows
    ]
    return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in body)])


def _heads(table: Spread, with_n: str) -> list[str]:
    """Return the heads of all columns; ``with_n`` is the form of one whose n is not the rows'."""
    heads = ["row", "checkpoint", "seeds", "n"]
    for column in table.columns:
        title, n = TITLES.get(column, column), _n_of(table, column)
        heads.append(title if n is None else with_n.format(title, n))
    return heads


def _text(table: Spread, row: SpreadRow, column: str) -> str:
    if column not in row.shares:
        return NOT_RUN
    share, difference = row.shares[column], row.difference(column)
    natural, n = natural_on_these(row, column), _cell_n(table, row, column)
    text = share.text + (f" [{natural}]" if natural else "") + (f", n = {n:,}" if n else "")
    if difference is None:
        return text
    return f"{text}; {row.published[column]:.2f}, {signed(difference, share.n)}"


def spread_latex(table: Spread) -> str:
    """Return the table as a LaTeX tabular (booktabs), the paper's numbers and the differences under ours.

    Comments above it say what the numbers are: they are for its caption.
    """
    sentences = [table.title, *([table.note] if table.note else [])]
    sentences += [meaning(table), *gain_in_words(table)] if table.rows else []
    lines = [f"% {' '.join(sentence.split())}" for sentence in sentences]
    lines += [
        f"\\begin{{tabular}}{{ll{'r' * (len(table.columns) + 2)}}}",
        "\\toprule",
        _latex_line(_heads(table, "{} ($n = {}$)")),
        "\\midrule",
    ]
    for row in table.rows:
        cells = [_latex_cell(table, row, column) for column in table.columns]
        lines.append(_latex_line([row.label, row.checkpoint, str(row.seeds), str(row.n), *cells]))
        if row.published:
            lines.append(
                _latex_line(["", "paper", "", "", *(_latex_published(row, c) for c in table.columns)])
            )
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_cell(table: Spread, row: SpreadRow, column: str) -> str:
    if column not in row.shares:
        return "--"
    natural, n = natural_on_these(row, column), _cell_n(table, row, column)
    text = _latex_share(row.shares[column]) + (f" [${natural}$]" if natural else "")
    return f"{text}, $n = {n}$" if n else text


def _latex_share(share: Share) -> str:
    mean = percent(share.mean, share.n)
    if share.seeds > 1:
        return f"${mean} \\pm {percent(share.high - share.mean, share.n)}$"
    return f"${mean}$ (${percent(share.low, share.n)}$--${percent(share.high, share.n)}$)"


def _latex_published(row: SpreadRow, column: str) -> str:
    difference = row.difference(column)
    return "" if difference is None else f"${row.published[column]:.2f}$ (${difference:+.2f}$)"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cell.replace("&", "\\&").replace("_", "\\_") for cell in cells) + " \\\\"


def spread_csv(table: Spread) -> str:
    """Return the table as CSV, a line per row, checkpoint and column: shares in [0, 1], published in %.

    ``natural`` is the natural accuracy on the line's own n samples.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "row",
            "checkpoint",
            "column",
            "mean",
            "low",
            "high",
            "seeds",
            "n",
            "published",
            "difference",
            "natural",
        ]
    )
    writer.writerows(_csv_lines(table))
    return file.getvalue()


def _csv_lines(table: Spread) -> Iterator[list[object]]:
    for row in table.rows:
        for column, share in row.shares.items():
            ours = [share.mean, share.low, share.high, share.seeds, share.n]
            rest = (row.published.get(column), row.difference(column), share.natural)
            yield [row.label, row.checkpoint, column, *ours, *("" if v is None else v for v in rest)]
