"""fsrobust diagnose: signs that a robust accuracy is owed to attacks that fail."""

from pathlib import Path
from typing import Annotated

import typer

from fsrobust.cli.options import (
    DataName,
    DataRoot,
    Device,
    ImageSize,
    Json,
    Seed,
    console,
    out_folder,
    print_json,
)


def diagnose(
    target: Annotated[str, typer.Argument(help="A run directory, a weights file, or pkg.module:factory.")],
    data: DataName = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    eps: Annotated[str | None, typer.Option(help="Radius, as 8/255; the run's own by default.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2; the run's own by default.")] = None,
    checkpoint: Annotated[str, typer.Option(help="last or best.")] = "last",
    limit: Annotated[int, typer.Option(min=1, help="How many test samples, drawn by the seed.")] = 200,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples attacked at once; found by itself.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, out_folder("Where the record goes; the run itself by default.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Look for signs of masked gradients, each with value, threshold and what it means; keep a record."""
    from fsrobust.evaluate.study import carry_out_diagnosis
    from fsrobust.progress import ConsoleReporter
    from fsrobust.recipes import execute
    from fsrobust.report.signs import signs_text

    study = execute.plan_study(
        execute.find_target(target, checkpoint=checkpoint),
        data=data,
        root=data_root,
        image_size=image_size,
        norm=norm,
        eps=eps,
        limit=limit,
        seed=seed,
        out=out,
        device=execute.pick_device(device),
    )
    with ConsoleReporter(console(quiet=as_json)) as reporter:
        reporter.say(study.announce())
        found = carry_out_diagnosis(study, batch=batch, progress=reporter.attack, say=reporter.say)
    if as_json:
        print_json({key: found[key] for key in ("state", "verdict", "n", "signs")})
        return
    typer.echo(signs_text(found))
