"""A row of a table in one sitting: train, pack the weights, evaluate exactly those, leave a folder to carry away."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from fsrobust.config import Run
from fsrobust.data import Dataset
from fsrobust.evaluate import Outcome, carry_out
from fsrobust.evaluate.engine import Progress
from fsrobust.evaluate.stopping import Stopped
from fsrobust.recipes.asked import applicable
from fsrobust.recipes.execute import find_target, plan_study, train_run
from fsrobust.records import write_bytes
from fsrobust.train import Reporter, load
from fsrobust.train.control import Stopwatch
from fsrobust.train.packing import find_packed, pack

CHECKPOINTS = ("last", "best")
DRAW: Final = 0
"""Seed of all evaluations, whatever the training's: runs of a table meet the same images, and can be compared."""
_KEPT_FOR_EVALUATION = 0.25
"""Share of the time limit that training leaves alone."""


@dataclass(frozen=True, eq=False)
class Row:
    """What a row left behind: outcomes by checkpoint; ``stopped`` says why it is not finished, if it is not."""

    folder: Path
    outcomes: dict[str, Outcome]
    stopped: str | None = None


def make_row(  # noqa: PLR0913 - what, on what, where to, how long, who watches
    run: Run,
    data: Dataset,
    *,
    work: Path,
    out: Path,
    attacks: Mapping[str, int | None],
    curve_samples: int = 200,
    root: Path | None = None,
    device: torch.device,
    time_limit: float | None = None,
    reporter: Reporter,
    progress: Progress | None = None,
    say: Callable[[str], None],
) -> Row:
    """Train ``run`` in ``work`` (or go on there), pack its weights into ``out``, and evaluate them there.

    ``out`` becomes a run directory without checkpoints: configuration, metrics, packed weights, records. Stopped
    at any time, the same call goes on; within ``time_limit`` seconds it ends, give or take a batch. ``attacks`` says
    how many test samples each draws, None for all; those of equal number meet the same samples, and have an outcome
    together.
    """
    watch = Stopwatch(time_limit)
    history = train_run(
        run,
        data,
        out=work,
        device=device,
        resume=(work / "config.json").exists(),
        time_limit=None if time_limit is None else (1 - _KEPT_FOR_EVALUATION) * time_limit,
        reporter=reporter,
    )
    if history.stopped:
        return Row(out, {}, f"training stopped: {history.stopped}")
    for name in ("config.json", "metrics.jsonl"):
        write_bytes(out / name, (work / name).read_bytes())
    outcomes: dict[str, Outcome] = {}
    try:
        for checkpoint in CHECKPOINTS:
            if checkpoint == "best" and history.best_epoch is None:
                continue
            if not find_packed(out / "weights", checkpoint):
                pack(load(work, checkpoint=checkpoint), out / "weights", checkpoint)
            for place, limit in enumerate(dict.fromkeys(attacks.values())):
                study = plan_study(
                    find_target(str(out), checkpoint=checkpoint),
                    root=root,
                    limit=limit,
                    seed=DRAW,
                    precision="auto",
                    device=device,
                )
                kept, left_out = applicable(list(attacks), study.subject.model)
                names = [name for name in kept if attacks[name] == limit]
                if not names:
                    continue
                for sentence in (study.announce(), *(left_out if place == 0 else [])):
                    say(sentence)
                title = checkpoint if place == 0 else f"{checkpoint}, {len(study.data)} samples"
                outcomes[title] = carry_out(
                    study,
                    names,
                    curve_samples=curve_samples if place == 0 else 0,
                    progress=progress,
                    say=say,
                    stop=watch.stop_reason,
                )
    except Stopped as stopped:
        return Row(out, outcomes, f"{stopped}; what is evaluated is on record")
    return Row(out, outcomes)
