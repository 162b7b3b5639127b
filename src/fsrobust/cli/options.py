"""Options and outputs that commands share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where official files lie (else FSROBUST_DATA, else download)."),
]
DataName = Annotated[
    str | None,
    typer.Option("--data", help="A row of `data list`, npz:FILE or folder:PATH instead of the recipe's."),
]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Resize a folder's images to squares of so many pixels; a run keeps its own."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; the first GPU if there is one.")]
Seed = Annotated[int, typer.Option(help="What all noise and the choice of samples depend on.")]


def console(*, quiet: bool) -> Console:
    """Return where progress goes: stderr, or nowhere."""
    return Console(stderr=True, quiet=quiet)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(values, ensure_ascii=False))
