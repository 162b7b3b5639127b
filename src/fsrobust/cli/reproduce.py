"""fsrobust reproduce: a table of the paper, ours beside theirs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fsrobust.cli.options import DataRoot, Device, Json, console, print_json


def reproduce(
    table: Annotated[str, typer.Argument(help="S1 … S7, FigS1, FigS2, main, main-svhn")],
    scale: Annotated[
        str, typer.Option(help="full: the paper's size; small: CPU minutes a row; smoke: seconds.")
    ] = "full",
    rows: Annotated[str | None, typer.Option(help="Some rows, as at,at+fsr; all by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per row, with seeds 0, 1, …")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    out: Annotated[Path, typer.Option(help="Where runs, records and tables go.")] = Path("runs/reproduce"),
    time_limit: Annotated[str | None, typer.Option(help="Stop after 90s, 25m, 1h30m.")] = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train and attack every row of a table, and print it beside the published numbers; killed, it goes on."""
    from fsrobust.progress import ConsoleReporter, parse_duration
    from fsrobust.recipes import reproduce as work
    from fsrobust.recipes.execute import pick_device
    from fsrobust.recipes.paper import paper_table
    from fsrobust.report.spread import spread_csv, spread_latex, spread_markdown

    chosen = paper_table(table)
    names = [row.strip() for row in rows.split(",") if row.strip()] if rows else None
    cells = work.plan(chosen, scale=scale, out=out, rows=names, seeds=seeds)  # type: ignore[arg-type]
    if dry_run:
        plan = [
            {"row": cell.row, "seed": cell.run.train.seed, "state": cell.state, "folder": str(cell.folder)}
            for cell in cells
        ]
        if as_json:
            print_json({"table": table, "cells": plan})
            return
        for cell in plan:
            typer.echo(f"{cell['row']:<18}seed {cell['seed']}  {cell['state']:<6}{cell['folder']}")
        return
    with ConsoleReporter(console(quiet=as_json)) as reporter:
        made = work.reproduce(
            chosen,
            scale=scale,  # type: ignore[arg-type]
            out=out,
            rows=names,
            seeds=seeds,
            root=data_root,
            device=pick_device(device),
            time_limit=parse_duration(time_limit) if time_limit else None,
            reporter=reporter,
            progress=reporter.attack,
            say=reporter.say,
        )
    folder = out / f"{table}-{scale}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "table.md": spread_markdown(made) + "\n",
        "table.tex": spread_latex(made),
        "table.csv": spread_csv(made),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    if as_json:
        print_json({"folder": str(folder), **asdict(made)})
        return
    typer.echo(spread_markdown(made))
    typer.echo(f"\nAlso as Markdown, LaTeX and CSV: {folder}")
