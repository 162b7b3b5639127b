"""The verdict on a model's robust accuracy: each sign of masked gradients, its value, and what it means."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fsrobust.evaluate import Interval
from fsrobust.evaluate.trust import NO_DIAGNOSIS as NO_DIAGNOSIS
from fsrobust.report.evaluations import Evaluation, Record
from fsrobust.report.results import RunResults
from fsrobust.report.tables import percent, span
from fsrobust.report.words import sample_in_words

STATES: Final = {True: "found", False: "not found", None: "not looked for"}


@dataclass(frozen=True)
class SignRow:
    """A sign as a page shows it: ``value`` is "3 of 24", empty where it was not looked for."""

    name: str
    found: bool | None
    state: str
    value: str
    share: str
    interval: str
    threshold: str
    meaning: str


@dataclass(frozen=True)
class VerdictPart:
    """The verdict in a word or three, in a sentence, and what it rests on."""

    state: str
    sentence: str
    sample: str
    rows: Sequence[SignRow]


def state(evaluation: Evaluation) -> str:
    """Return the verdict in a word or three, or that there is none."""
    return NO_DIAGNOSIS if evaluation.diagnosis is None else str(evaluation.diagnosis["state"])


def verdict_part(record: Record) -> VerdictPart:
    """Return a diagnosis' section; signs that were found come first, those never looked for last."""
    order = {True: 0, False: 1, None: 2}
    signs = sorted(record["signs"], key=lambda sign: order[sign["found"]])
    sample = f"{record['n']:,} right ones among {sample_in_words(record)}"
    return VerdictPart(record["state"], record["verdict"], sample, [_row(sign) for sign in signs])


def _row(sign: Mapping[str, Any]) -> SignRow:
    found, n = sign["found"], sign["n"]
    looked = sign["interval"] is not None
    return SignRow(
        name=sign["name"],
        found=found,
        state=STATES[found],
        value=f"{sign['hits']:,} of {n:,}" if looked else "",
        share=percent(sign["hits"] / n, n) if looked else "",
        interval=span(Interval(*sign["interval"]), n) if looked else "",
        threshold=f"{100 * sign['threshold']:g}",
        meaning=sign["meaning"],
    )


def command(run: RunResults, evaluation: Evaluation) -> str:
    """Return the command that would make the diagnosis of an evaluation's weights in its ball."""
    record = evaluation.record
    ball = ["--norm", evaluation.norm, "--eps", evaluation.eps]
    if run.config is None:
        source, data = record["source"], record["data"]["name"]
        target = source if ":" in source else f"PATH/{source}"  # of a file its name alone is on record
        shape = record.get("image_shape") if data.startswith("folder:") else None
        size = ["--image-size", str(shape[1])] if shape else []
        rest = [target, "--data", data, *size, *ball, "--out", str(run.folder)]
        return shlex.join(["fsrobust", "diagnose", *rest])
    own = run.config.get("evaluation") or {}
    foreign = (own.get("norm"), own.get("eps")) != (evaluation.norm, evaluation.eps)
    best = ["--checkpoint", "best"] if evaluation.checkpoint == "best" else []
    return shlex.join(["fsrobust", "diagnose", str(run.folder), *best, *(ball if foreign else [])])
