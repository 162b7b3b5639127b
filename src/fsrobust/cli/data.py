"""fsrobust data …: what data sets there are, and how to get them."""

import typer

from fsrobust.cli.options import Json, print_json

data_app = typer.Typer(help="Data sets: what there is, and how to get it.", no_args_is_help=True)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the data sets that have a name."""
    from fsrobust.data import DATASETS

    if as_json:
        rows = {n: {"title": s.title, "classes": s.classes} for n, s in DATASETS.items()}
        print_json({"datasets": rows})
        return
    for name, spec in DATASETS.items():
        typer.echo(f"{name:<16}{spec.title} ({spec.classes} classes)")
    typer.echo("synthetic:NAME  made-up images of a set's shape and classes, to try things out")
    typer.echo("npz:FILE        your own arrays")
    typer.echo("folder:PATH     your own images, train/CLASS/… and test/CLASS/…")


@data_app.command("fetch")
def data_fetch(name: str, as_json: Json = False) -> None:
    """Download a data set, check it, and unpack it into the cache."""
    from fsrobust.data import fetch

    folder = fetch(name, quiet=as_json)
    print_json({"folder": str(folder)}) if as_json else typer.echo(f"{name}: {folder}")
