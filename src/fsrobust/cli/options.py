"""Options and outputs that commands share."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fsrobust.seeding import LARGEST_SEED
from fsrobust.types import InputError

if TYPE_CHECKING:
    from fsrobust.train.control import Stopwatch

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where official files lie (else FSROBUST_DATA, else download)."),
]
DataName = Annotated[
    str | None,
    typer.Option("--data", help="A row of `data list`, npz:FILE or folder:PATH instead of the recipe's."),
]
Init = Annotated[
    str | None,
    typer.Option(help="Start from trained weights: RUN, FILE or pkg.module:factory."),
]
Attach = Annotated[
    list[str] | None,
    typer.Option(help="Layer of the network for the plug-in; repeat it, or a,b."),
]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Resize a folder's images to squares of so many pixels; a run keeps its own."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; the first GPU if there is one.")]
Seed = Annotated[
    int,
    typer.Option(
        min=-LARGEST_SEED,
        max=LARGEST_SEED,
        help="What all noise and the choice of samples depend on: a whole number, below 2^63.",
    ),
]
Target = Annotated[str, typer.Argument(help="A run directory, a weights file, or pkg.module:factory.")]
Checkpoint = Annotated[str, typer.Option(help="Of a run: last or best.")]
Norm = Annotated[str | None, typer.Option(help="linf or l2; the run's own by default, else linf.")]
Eps = Annotated[str | None, typer.Option(help="Radius, as 8/255; the run's own by default, else 8/255.")]
Limit = Annotated[int, typer.Option(min=1, help="How many test samples, drawn by the seed.")]
CurveSamples = Annotated[int, typer.Option(min=0, help="Samples for accuracy against eps; 0: no curve.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples attacked at once; found by itself.")]
Precision = Annotated[
    str, typer.Option(help="Of the search: auto, fp32 or bf16. Verdicts are in fp32 always.")
]
TimeLimit = Annotated[
    str | None, typer.Option(help="Stop after 90s, 25m, 1h30m, and go on when called again.")
]


def stopwatch(time_limit: str | None) -> "Stopwatch":
    """Return a clock that began just now and has the limit of --time-limit, or none."""
    from fsrobust.progress import parse_duration
    from fsrobust.train.control import Stopwatch

    return Stopwatch(None if time_limit is None else parse_duration(time_limit))


def _writable(path: Path | None) -> Path | None:
    """Refuse a place where nothing can be written, before anything is read or computed."""
    if path is None:
        return None
    there = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
    why = None
    if there != path and not there.is_dir():
        why = f'"{there}" is a file'
    elif not os.access(there, os.W_OK):
        why = f'"{there}" may not be written'
    if why:
        raise InputError(f'Expected a place to write for --out, but got "{path}": {why}; choose another')
    return path


def _writable_folder(path: Path | None) -> Path | None:
    if path is not None and path.exists() and not path.is_dir():
        raise InputError(f'Expected a folder for --out, but got the file "{path}"; choose another')
    return _writable(path)


def _writable_file(path: Path | None) -> Path | None:
    """Return where a file is to go: of a link, which somebody named, what it leads to."""
    if path is None:
        return None
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.is_dir():
        raise InputError(f'Expected a file for --out, but got the folder "{path}"; name a file in it')
    if os.path.lexists(path) and not path.is_file():  # a plain file would take its place
        raise InputError(f'Expected a file for --out, but "{path}" is a device, a pipe or a circle of links')
    return _writable(path)


def out_folder(text: str) -> Any:
    """Return the option --out of a command that writes a folder."""
    return typer.Option("--out", callback=_writable_folder, help=text)


def out_file(text: str) -> Any:
    """Return the option --out of a command that writes a file."""
    return typer.Option("-o", "--out", callback=_writable_file, help=text)


def console(*, quiet: bool) -> Console:
    """Return where progress goes: stderr, or nowhere."""
    return Console(stderr=True, quiet=quiet)


def say_stopped(why: str, folder: Path, *, as_json: bool) -> None:
    """Say that an evaluation stopped, and how it goes on."""
    if as_json:
        print_json({"folder": str(folder), "stopped": why})
        return
    typer.echo(f"Stopped: {why}. What is done is on record in {folder / 'eval'}; go on with the same command")


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(values, ensure_ascii=False))
