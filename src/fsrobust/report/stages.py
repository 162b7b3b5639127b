"""A cascade taken apart: which stage was given how many samples, whom it fooled, and where the time went."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsrobust.report import words
from fsrobust.report.evaluations import Evaluation, Record
from fsrobust.report.groups import group_stages
from fsrobust.report.tables import heading


@dataclass(frozen=True)
class StageRow:
    """A stage, or a row of them: ``share`` is its part of the cascade's seconds, ``whom`` the ids that it fooled."""

    name: str
    count: int
    attacked: int
    fooled: int
    passes: int
    seconds: float
    share: float
    whom: str


@dataclass(frozen=True)
class CascadePart:
    """A cascade in a sentence, by surrogate or by kind of attack, and stage by stage."""

    attack: str
    sentence: str
    heading: str
    groups: Sequence[StageRow]
    stages: Sequence[StageRow]


def cascades(one: Evaluation) -> list[CascadePart]:
    """Return every cascade whose record says what its stages did."""
    return [_part(name, record, one) for name, record in one.records.items() if record.get("stages")]


def without_stages(one: Evaluation) -> list[str]:
    """Return the cascades whose record does not say what its stages did."""
    return [
        name
        for name, record in one.records.items()
        if record["attack"].get("type") == "Cascade" and not record.get("stages")
    ]


def _part(name: str, record: Record, one: Evaluation) -> CascadePart:
    stages: Sequence[dict[str, Any]] = record["stages"]
    fooled_by, ids = one.fooled_by.get(name), one.outcome.ids
    groups = group_stages([stage["name"] for stage in stages])
    total = sum(stage["seconds"] for stage in stages)
    by_surrogate = any("/" in stage["name"] for stage in stages)
    return CascadePart(
        attack=heading(name),
        sentence=_sentence(record, one, fooled_by),
        heading="Gradients of" if by_surrogate else "Attack",
        groups=[_row(title, places, stages, total, (fooled_by, ids)) for title, places in groups.items()],
        stages=[_row(s["name"], [k], stages, total, (fooled_by, ids)) for k, s in enumerate(stages)],
    )


def _row(
    title: str,
    places: Sequence[int],
    stages: Sequence[dict[str, Any]],
    total: float,
    verdicts: tuple[NDArray[np.int16] | None, NDArray[np.int64]],
) -> StageRow:
    mine = [stages[place] for place in places]
    seconds = sum(stage["seconds"] for stage in mine)
    fooled_by, ids = verdicts
    whom = [] if fooled_by is None else ids[np.isin(fooled_by, [place + 1 for place in places])].tolist()
    return StageRow(
        name=title,
        count=len(mine),
        attacked=mine[0]["attacked"],
        fooled=sum(stage["fooled"] for stage in mine),
        passes=sum(stage["forwards"] + stage["backwards"] for stage in mine),
        seconds=seconds,
        share=seconds / total if total else 0.0,
        whom=words.some(whom),
    )


def _sentence(record: Record, one: Evaluation, fooled_by: NDArray[np.int16] | None) -> str:
    stages, n = record["stages"], one.outcome.n
    wrong = n - int(one.outcome.natural_correct.sum())
    fooled = sum(stage["fooled"] for stage in stages)
    text = (
        f"Of {words.count(n)} samples {words.count(wrong)} were wrong without an attack, {words.count(fooled)} fell "
        f"to {len(stages)} stages, {words.count(n - wrong - fooled)} stand. A stage meets only what the ones before "
        "it left, so the first ones fool most: that a late one fools few does not make it weak."
    )
    return text if fooled_by is not None else f"{text} Which stage fooled which sample is not on record."
