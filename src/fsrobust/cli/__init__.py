"""The command line: options in, one call, a sentence or a table out. It decides nothing itself."""

import errno
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.error import URLError

import typer

from fsrobust.cli import inspect
from fsrobust.cli.data import data_app
from fsrobust.cli.diagnose import diagnose
from fsrobust.cli.evaluate import evaluate
from fsrobust.cli.options import (
    Attach,
    DataName,
    DataRoot,
    Device,
    ImageSize,
    Init,
    Json,
    Seed,
    console,
    out_file,
    out_folder,
    print_json,
)
from fsrobust.cli.reproduce import reproduce
from fsrobust.records import package_version
from fsrobust.train import TrainingError
from fsrobust.train.distributed import environment_rank, refuse_several
from fsrobust.types import InputError

UsageError: Any = typer.BadParameter.__base__
"""What the parser raises: click's own class, or that of the click which newer typers carry inside."""

_INTERRUPTED: Final = 130
"""The exit code of what Ctrl-C ended, as shells know it: 128 and the number of the signal."""

_FIRST_WORD = 5.0
"""Seconds after which a process that torchrun started, other than the first, says itself why it fails."""

app = typer.Typer(
    name="fsrobust",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.command()(evaluate)
app.command()(diagnose)
app.command()(reproduce)
app.command()(inspect.compare)
app.command()(inspect.doctor)
app.command()(inspect.estimate)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(package_version())
        raise typer.Exit
    return asked


@app.callback(epilog="fsrobust --debug COMMAND shows where an error arose.")
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train robust image classifiers and prove how robust they are."""


@app.command()
def demo(
    out: Annotated[Path, out_folder("Where the three runs and the report go.")] = Path("runs/demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make a small classifier robust, attack it, and write the proof: minutes on a laptop."""
    from fsrobust.progress import ConsoleReporter
    from fsrobust.recipes import demo as story
    from fsrobust.report import comparison_table

    refuse_several("demo")
    with ConsoleReporter(console(quiet=as_json)) as reporter:
        result = story.demo(out, seed=seed, say=reporter.say, reporter=reporter, progress=reporter.attack)
    if as_json:
        print_json(
            {
                "report": str(result.report),
                "outcomes": {k: o.summary() for k, o in result.outcomes.items()},
            }
        )
        return
    typer.echo(comparison_table(result.outcomes))
    typer.echo(f"\n{story.WHAT_IT_SHOWS}\n\nReport: {result.report.resolve()}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A row of `fsrobust recipes`.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: train.epochs=30")
    ] = None,
    out: Annotated[Path | None, out_folder("The run directory; runs/RECIPE-sSEED by default.")] = None,
    data: DataName = None,
    data_root: DataRoot = None,
    init: Init = None,
    attach: Attach = None,
    image_size: ImageSize = None,
    keep: Annotated[
        str, typer.Option(help="A folder's images: memory, disk, or auto, by their size.")
    ] = "auto",
    engine: Annotated[
        str | None, typer.Option(help="fast or reference; short for --set train.engine=…")
    ] = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    time_limit: Annotated[str | None, typer.Option(help="Checkpoint and stop after 90s, 25m, 1h30m.")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard for TensorBoard.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a recipe into a run directory; stopped at any time, --resume goes on. Under torchrun, on many GPUs."""
    from fsrobust.config import default_folder
    from fsrobust.progress import ConsoleReporter, TensorBoardReporter, parse_duration
    from fsrobust.recipes import execute, start
    from fsrobust.recipes import recipe as find
    from fsrobust.settings import override

    start.refuse_clashes(settings or [], init=init, attach=attach or [], engine=engine)
    engine_setting = [f"train.engine={engine}"] if engine else []
    run = override(find(recipe), [*(settings or []), *engine_setting])
    limit = parse_duration(time_limit) if time_limit is not None else None
    folder, where = out or default_folder(run), execute.training_device(device)
    leads = execute.leads()
    with ConsoleReporter(console(quiet=as_json or not leads)) as reporter:
        begun = start.prepare(
            run,
            data=data,
            root=data_root,
            image_size=image_size,
            keep=keep,
            init=init,
            attach=attach or [],
            device=where,
            say=reporter.say,
        )
        history = execute.train_run(
            begun.run,
            begun.data,
            model=begun.model,
            out=folder,
            device=where,
            resume=resume,
            time_limit=limit,
            reporter=TensorBoardReporter(reporter, folder / "tensorboard") if tensorboard else reporter,
        )
    if not leads:
        return
    if as_json:
        last = history.rows[-1] if history.rows else None
        print_json(
            {"run": str(folder), "best_epoch": history.best_epoch, "stopped": history.stopped, "last": last}
        )
    elif history.stopped:
        typer.echo(f"Stopped: {history.stopped}. Go on with the same command and --resume --out {folder}")
    else:
        typer.echo(f"Trained into {folder}\nNext: fsrobust evaluate {folder}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, side by side.")],
    out: Annotated[Path | None, out_file("The page; RUN/report.html by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page from the records of one or more runs."""
    from fsrobust.report import report as write

    page = write(runs, out or runs[0] / "report.html")
    print_json({"report": str(page)}) if as_json else typer.echo(f"Report: {page.resolve()}")


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes, with what to expect of each."""
    from fsrobust.recipes import RECIPES

    lines = {name: (make.__doc__ or "").strip().splitlines()[0] for name, make in RECIPES.items()}
    if as_json:
        print_json({"recipes": lines})
        return
    for name, line in lines.items():
        typer.echo(f"{name:<26}{line}")


def main() -> None:
    """Run the command line; exit 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    sys.exit(run([a for a in arguments if a != "--debug"], debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command and return its exit code; ``debug`` lets tracebacks through."""
    try:
        code = app(arguments, standalone_mode=False, prog_name="fsrobust")
    except typer.Exit as done:
        return int(done.exit_code)
    except UsageError as error:
        # help, as shown for a bare command, is an error without a message
        return _fail(error.format_message(), 2) if str(error) else 2
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return _fail(*_explained(error))
    if code == _INTERRUPTED:  # so the parser, too, returns it, in silence
        return _fail("Interrupted; what was written before is whole, and the same command goes on", code)
    return code if isinstance(code, int) else 0


_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNUSABLE: Final = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)
"""What is wrong with a path that somebody named; anything else is the machine's failure."""


def _explained(error: Exception) -> tuple[str, int]:
    """Return a sentence for users, and the exit code; --debug has the traceback for us."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, TrainingError):
        return str(error), 1
    if isinstance(error, OSError):
        return _of_the_disk(error)
    if isinstance(error, MemoryError):
        return "Memory ran out; what is on disk is whole. Fewer or smaller images may fit", 1
    return f"{type(error).__name__}: {error} (--debug shows where)", 1


def _of_the_disk(error: OSError) -> tuple[str, int]:
    """Return a sentence on what a file system or a network refused, and the exit code."""
    if isinstance(error, URLError | ConnectionError | TimeoutError) and not error.filename:
        return f"The network failed: {error}; try again", 1
    if not error.filename and error.errno not in (*_FULL, errno.EROFS, errno.EIO):
        return f"{type(error).__name__}: {error} (--debug shows where)", 1
    what = error.strerror or str(error)
    where = f'"{error.filename}": {what}' if error.filename else what
    if error.errno in _FULL:
        return f"Could not write {where}; nothing before it is lost. Make room and run the same again", 1
    if error.errno in _UNUSABLE:
        return f"Cannot use {where}; choose another place", 2
    return f"Could not read or write {where}; what was written before is whole", 1


def _fail(sentence: str, code: int) -> int:
    """Say what went wrong, in one line, whatever a file or a library put into it."""
    plain = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in sentence)
    if environment_rank()[0] != 0:
        # of processes that all say the same the first one is enough: when it ends, torchrun ends the others
        time.sleep(_FIRST_WORD)
    typer.echo(f"fsrobust: {' '.join(plain.split())}", err=True)
    return code
