"""fsrobust compare, doctor, estimate: what is known before and after the work, without doing it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsrobust.cli.options import (
    Attach,
    Batch,
    Checkpoint,
    CurveSamples,
    DataName,
    DataRoot,
    Device,
    Eps,
    ImageSize,
    Init,
    Json,
    Limit,
    Norm,
    Precision,
    Seed,
    Target,
    print_json,
)
from fsrobust.types import InputError

if TYPE_CHECKING:
    from fsrobust.train.estimate import Estimate


def compare(
    a: Annotated[str, typer.Argument(help="A run or audit directory; several seeds' as DIR,DIR,DIR.")],
    b: Annotated[str, typer.Argument(help="What to compare it with, in the same order.")],
    checkpoint: Checkpoint = "last",
    as_json: Json = False,
) -> None:
    """Compare the records of two runs on the same samples: differences, intervals, exact McNemar test."""
    from fsrobust.report.versus import versus, versus_text

    sides = [[Path(part.strip()) for part in side.split(",") if part.strip()] for side in (a, b)]
    if not any(sides):
        raise InputError(
            f'Expected two runs, each DIR or DIR,DIR,DIR, but got "{a}" and "{b}"; name one on each side'
        )
    made = versus(*sides, checkpoint=checkpoint)
    print_json(made.summary()) if as_json else typer.echo(versus_text(made))


def doctor(
    target: Target,
    data: DataName = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    checkpoint: Checkpoint = "last",
    limit: Limit = 256,
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
        image_size=image_size,
        limit=limit,
        seed=seed,
        device=pick_device(device),
    )
    found = examine(study)
    print_json(found.summary()) if as_json else typer.echo(str(found))
    if found.status == "fail":
        raise typer.Exit(1)


def estimate(
    what: Annotated[str, typer.Argument(help="A recipe to train, or a target to evaluate.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Of a recipe: change a setting, train.epochs=30")
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Of a target, as for evaluate; if left out, all that evaluate does, the diagnosis included."
        ),
    ] = None,
    data: DataName = None,
    data_root: DataRoot = None,
    init: Init = None,
    attach: Attach = None,
    image_size: ImageSize = None,
    eps: Eps = None,
    norm: Norm = None,
    checkpoint: Checkpoint = "last",
    limit: Limit = 1000,
    curve_samples: CurveSamples = 100,
    batch: Batch = None,
    precision: Precision = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Predict time and memory of training a recipe or evaluating a target, from seconds of it on this machine.

    --set, --init and --attach are a recipe's; how to attack is a target's.
    """
    from fsrobust.recipes import asked, execute, inspect, recipe, start
    from fsrobust.settings import override

    place, is_target = execute.pick_device(device), inspect.is_target(what)
    of_a_recipe = {"--set": settings, "--init": init, "--attach": attach}
    of_a_target = {
        "--attacks": attacks,
        "--eps": eps,
        "--norm": norm,
        "--batch": batch,
        "--checkpoint": checkpoint != "last",
        "--limit": limit != 1000,
        "--curve-samples": curve_samples != 100,
        "--precision": precision != "auto",
    }
    _refuse(of_a_recipe if is_target else of_a_target, of="a target" if is_target else "a recipe")
    if is_target:
        study = execute.plan_study(
            execute.find_target(what, checkpoint=checkpoint),
            data=data,
            root=data_root,
            image_size=image_size,
            norm=norm,
            eps=eps,
            limit=limit,
            precision=precision,  # type: ignore[arg-type]  # checked there
            device=place,
        )
        names, left_out = asked.attacks_for(study.subject.model, attacks)
        for sentence in left_out:
            typer.echo(sentence, err=True)
        found = inspect.cost_of_study(
            study, names, curve_samples=curve_samples, diagnosis=attacks is None, batch=batch
        )
    else:
        start.refuse_clashes(settings or [], init=init, attach=attach or [], engine=None)
        begun = start.prepare(
            override(recipe(what), settings or []),
            data=data,
            root=data_root,
            image_size=image_size,
            keep="memory",
            init=init,
            attach=attach or [],
            device=place,
        )
        found = inspect.cost_of_run(begun, place)
    print_json(found.summary()) if as_json else typer.echo(_lines(found))


def _refuse(options: Mapping[str, object], *, of: str) -> None:
    """Refuse options that say nothing about what is asked for, rather than pass them over."""
    for name, given in options.items():
        if given:
            raise InputError(f"Expected options of {of}, but {name} says nothing about one; leave it out")


def _lines(found: "Estimate") -> str:
    from fsrobust.progress import duration

    def text(seconds: float) -> str:
        return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)

    lines = [f"{name:<14}{text(seconds):>10}" for name, seconds in found.parts.items()]
    if found.epochs is not None and found.epoch_seconds is not None:
        lines.append(f"{'per epoch':<14}{text(found.epoch_seconds):>10}  ({found.epochs} epochs)")
    lines.append(f"{'in all':<14}{text(found.seconds):>10}  on {found.device}")
    lines.append(f"{'peak memory':<14}{found.peak_memory_bytes / 2**20:>6,.0f} MiB")
    return "\n".join(lines)
