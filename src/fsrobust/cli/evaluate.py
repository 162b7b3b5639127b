"""fsrobust evaluate: attack a model, keep a record per attack."""

from pathlib import Path
from typing import Annotated

import typer

from fsrobust.cli.options import (
    Batch,
    Checkpoint,
    CurveSamples,
    DataName,
    DataRoot,
    Device,
    Eps,
    ImageSize,
    Json,
    Limit,
    Norm,
    Precision,
    Seed,
    Target,
    TimeLimit,
    console,
    out_folder,
    print_json,
    say_stopped,
    stopwatch,
)


def evaluate(
    target: Target,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="whitebox, autoattack, adaptive, blackbox, or names: fgsm,pgd20. By default the first three, "
            "and then a diagnosis, as fsrobust diagnose makes it."
        ),
    ] = None,
    data: DataName = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    eps: Eps = None,
    norm: Norm = None,
    checkpoint: Checkpoint = "last",
    limit: Limit = 1000,
    curve_samples: CurveSamples = 100,
    batch: Batch = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    surrogate: Annotated[
        str | None,
        typer.Option(help="RUN, FILE or pkg.module:factory whose gradients attacks take instead."),
    ] = None,
    shards: Annotated[int, typer.Option(min=1, help="Processes side by side; under torchrun, its own.")] = 1,
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Keep the attacked images, float32, as adversarial.npz.")
    ] = False,
    out: Annotated[Path | None, out_folder("Where records go; the run itself by default.")] = None,
    device: Device = None,
    time_limit: TimeLimit = None,
    as_json: Json = False,
) -> None:
    """Attack a model and keep a record per attack; what is on record is not run again."""
    from fsrobust.evaluate import carry_out
    from fsrobust.evaluate.stopping import Stopped
    from fsrobust.evaluate.study import carry_out_diagnosis
    from fsrobust.progress import ConsoleReporter
    from fsrobust.recipes import asked, execute
    from fsrobust.recipes.inspect import warnings_of
    from fsrobust.recipes.sharding import Sharded, share_out
    from fsrobust.report import comparison_table

    watch = stopwatch(time_limit)
    if attacks is not None:
        asked.expand_attacks(attacks)  # a wrong name is refused before anything is read
    plan = {
        "data": data,
        "root": data_root,
        "image_size": image_size,
        "norm": norm,
        "eps": eps,
        "limit": limit,
        "seed": seed,
        "precision": precision,
        "out": out,
        "device": execute.pick_device(device),
        "surrogate": surrogate,
    }
    study = execute.plan_study(execute.find_target(target, checkpoint=checkpoint), **plan)  # type: ignore[arg-type]
    names, left_out = asked.attacks_for(study.subject.model, attacks)
    with ConsoleReporter(console(quiet=as_json)) as reporter:
        reporter.say(f"{study.announce()}: {', '.join(names)}")
        for warning in (*left_out, *asked.remarks(names, study), *warnings_of(study)):
            reporter.say(warning)
        work = Sharded(target, checkpoint, plan, tuple(names), batch, save_images, watch.deadline)
        told = {"batch": batch, "progress": reporter.attack, "say": reporter.say, "stop": watch.stop_reason}
        try:
            if not share_out(work, study, shards):
                return
            outcome = carry_out(study, names, curve_samples=curve_samples, images=save_images, **told)  # type: ignore[arg-type]
            # the whole judgement, unless one asked for less
            signs = carry_out_diagnosis(study, **told) if attacks is None else None  # type: ignore[arg-type]
        except Stopped as stopped:
            say_stopped(str(stopped), study.folder, as_json=as_json)
            return
    verdict = {"verdict": signs["verdict"]} if signs else {}
    if as_json:
        print_json({"folder": str(study.folder), "stopped": None, **outcome.summary(), **verdict})
        return
    typer.echo(comparison_table({study.subject.source: outcome}))
    if signs:
        typer.echo(f"\nVerdict: {signs['verdict']}")
    typer.echo(f"\nRecords: {study.folder / 'eval'}\nNext: fsrobust report {study.folder}")
