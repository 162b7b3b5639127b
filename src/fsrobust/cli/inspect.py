"""fsrobust compare, doctor, estimate: what is known before and after the work, without doing it."""

from pathlib import Path
from typing import Annotated

import typer

from fsrobust.cli.options import DataName, DataRoot, Device, Json, Seed, print_json


def compare(
    a: Annotated[str, typer.Argument(help="A run or audit directory; several seeds' as DIR,DIR,DIR.")],
    b: Annotated[str, typer.Argument(help="What to compare it with, in the same order.")],
    checkpoint: Annotated[str, typer.Option(help="last or best.")] = "last",
    as_json: Json = False,
) -> None:
    """Compare the records of two runs on the same samples: differences, intervals, exact McNemar test."""
    from fsrobust.report.versus import versus, versus_text

    sides = [[Path(part.strip()) for part in side.split(",") if part.strip()] for side in (a, b)]
    made = versus(*sides, checkpoint=checkpoint)
    print_json(made.summary()) if as_json else typer.echo(versus_text(made))


def doctor(
    target: Annotated[str, typer.Argument(help="A run directory, a weights file, or pkg.module:factory.")],
    data: DataName = None,
    data_root: DataRoot = None,
    checkpoint: Annotated[str, typer.Option(help="last or best.")] = "last",
    limit: Annotated[int, typer.Option(min=1, help="How many test samples, drawn by the seed.")] = 256,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Look a model over before anything runs; exit 1 if a check fails."""
    from fsrobust.recipes.execute import find_target, pick_device, plan_study
    from fsrobust.recipes.inspect import examine

    study = plan_study(
        find_target(target, checkpoint=checkpoint),
        data=data,
        root=data_root,
        limit=limit,
        seed=seed,
        device=pick_device(device),
    )
    found = examine(study)
    print_json(found.summary()) if as_json else typer.echo(str(found))
    if found.status == "fail":
        raise typer.Exit(1)
