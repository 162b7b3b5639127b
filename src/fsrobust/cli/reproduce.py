"""fsrobust reproduce: a table of the paper, ours beside theirs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fsrobust.cli.options import DataRoot, Device, Json, TimeLimit, console, out_folder, print_json, stopwatch
from fsrobust.types import InputError


def reproduce(
    table: Annotated[str, typer.Argument(help="S1 … S7, FigS1, FigS2, main, main-svhn")],
    scale: Annotated[
        str, typer.Option(help="full: the paper's size; small: CPU minutes a row; smoke: seconds.")
    ] = "full",
    rows: Annotated[str | None, typer.Option(help="Some rows, as at,at+fsr; all by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs per row, with seeds 0, 1, …")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")
    ] = False,
    out: Annotated[Path, out_folder("Where runs, records and tables go.")] = Path("runs/reproduce"),
    time_limit: TimeLimit = None,
    ray: Annotated[
        str | None, typer.Option(help='Make cells on a Ray cluster: its HOST:PORT, "auto", or "local".')
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of a cell, with --ray; 1.")] = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train and attack every row of a table, and print it beside the published numbers; killed, it goes on."""
    from fsrobust.progress import ConsoleReporter
    from fsrobust.recipes import cluster, reproduce
    from fsrobust.recipes.budget import draw_up
    from fsrobust.recipes.cell import Place
    from fsrobust.recipes.execute import pick_device
    from fsrobust.recipes.paper import paper_table
    from fsrobust.recipes.plan import finished, plan
    from fsrobust.recipes.table import read_table
    from fsrobust.report.html import write_table
    from fsrobust.report.spread_forms import spread_markdown
    from fsrobust.train.distributed import refuse_several

    refuse_several("reproduce")
    chosen = paper_table(table)
    names = None if rows is None else [row.strip() for row in rows.split(",") if row.strip()]
    if names == []:  # which is not to ask for all of them
        raise InputError(f'Expected --rows as at,at+fsr, but got "{rows}"; leave it out for all rows')
    _refuse_clashes(ray=ray, cpus=cpus, device=device)
    watch = stopwatch(time_limit)
    place = Place(data_root, pick_device(device), watch.deadline)
    cells = plan(chosen, scale=scale, out=out, rows=names, seeds=seeds)  # type: ignore[arg-type]  # checked there
    budget = draw_up(cells, place.device, limit=watch.limit)
    if dry_run:
        print_json({"table": table, **budget.describe()}) if as_json else typer.echo(budget.text())
        return
    with ConsoleReporter(console(quiet=as_json)) as reporter:
        failed = reproduce.make_cells(
            cells,
            place,
            reporter,
            budget=budget,
            cluster=cluster.Cluster(ray, cpus or 1) if ray else None,
            beside=finished(chosen, scale=scale, out=out),  # type: ignore[arg-type]
        )
    # what was asked for before and is done stands in the table, too
    done, folder = finished(chosen, scale=scale, out=out), out / f"{chosen.name}-{scale}"  # type: ignore[arg-type]
    try:
        made = read_table(chosen, done or cells, scale)  # type: ignore[arg-type]
    except InputError as error:
        raise reproduce.all_in_one([*failed, error]) from error
    write_table(made, folder)
    if as_json:
        print_json({"folder": str(folder), **asdict(made)})
    else:
        typer.echo(spread_markdown(made))
        typer.echo(f"\nAlso as a page, Markdown, LaTeX and CSV: {folder}")
    if failed:
        raise reproduce.all_in_one(failed)


def _refuse_clashes(*, ray: str | None, cpus: int | None, device: str | None) -> None:
    if cpus is not None and ray is None:
        raise InputError("Expected --ray with --cpus, which says how many a cell takes of a cluster")
    if device is not None and ray is not None:
        raise InputError(
            "Expected one of two, but got --device and --ray, whose nodes choose; leave --device out"
        )
