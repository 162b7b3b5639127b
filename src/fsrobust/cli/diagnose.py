"""fsrobust diagnose: signs that a robust accuracy is owed to attacks that fail."""

from pathlib import Path
from typing import Annotated

import typer

from fsrobust.cli.options import (
    Batch,
    Checkpoint,
    DataName,
    DataRoot,
    Device,
    Eps,
    ImageSize,
    Json,
    Limit,
    Norm,
    Seed,
    Target,
    TimeLimit,
    console,
    out_folder,
    print_json,
    say_stopped,
    stopwatch,
)


def diagnose(
    target: Target,
    data: DataName = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    eps: Eps = None,
    norm: Norm = None,
    checkpoint: Checkpoint = "last",
    limit: Limit = 200,
    batch: Batch = None,
    seed: Seed = 0,
    out: Annotated[Path | None, out_folder("Where the record goes; the run itself by default.")] = None,
    device: Device = None,
    time_limit: TimeLimit = None,
    as_json: Json = False,
) -> None:
    """Look for signs of masked gradients, each with value, threshold and what it means; keep a record."""
    from fsrobust.evaluate.stopping import Stopped
    from fsrobust.evaluate.study import carry_out_diagnosis
    from fsrobust.progress import ConsoleReporter
    from fsrobust.recipes import execute
    from fsrobust.report.signs import signs_text

    watch = stopwatch(time_limit)
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
        try:
            found = carry_out_diagnosis(
                study, batch=batch, progress=reporter.attack, say=reporter.say, stop=watch.stop_reason
            )
        except Stopped as stopped:
            say_stopped(str(stopped), study.folder, as_json=as_json)
            return
    if as_json:
        print_json({"stopped": None, **{key: found[key] for key in ("state", "verdict", "n", "signs")}})
        return
    typer.echo(signs_text(found))
