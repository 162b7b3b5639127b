"""Attack against attack: of the samples that one fools, how many does each other one fool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fsrobust.evaluate import Outcome
from fsrobust.evaluate.outcome import Bits
from fsrobust.report.tables import heading


@dataclass(frozen=True)
class Meeting:
    """``both`` of the ``of`` samples that a row's attack fooled, and the column's visited, the column's fooled."""

    both: int
    of: int

    @property
    def share(self) -> float | None:
        """The part of them in [0, 1]; None of nobody."""
        return self.both / self.of if self.of else None


@dataclass(frozen=True)
class OverlapRow:
    """An attack: how many right samples it fooled, how many of these no other one did, and each other one."""

    title: str
    fooled: int
    alone: int
    meetings: Sequence[Meeting | None]


@dataclass(frozen=True)
class OverlapPart:
    """The matrix, for ``n`` samples that are right without an attack."""

    n: int
    titles: Sequence[str]
    rows: Sequence[OverlapRow]


def victims(outcome: Outcome) -> dict[str, Bits]:
    """Return bool [N] per attack: right when clean, and fooled at some step."""
    return {name: fooled & outcome.natural_correct for name, fooled in outcome.fooled.items()}


def overlap_part(outcome: Outcome) -> OverlapPart | None:
    """Return who fools whom, None where there is but one attack.

    A sample that an attack did not visit says nothing of it, and is left out of its column.
    """
    fooled = victims(outcome)
    if len(fooled) < 2:
        return None
    titles = [heading(name) for name in fooled]
    rows = [_row(name, fooled, outcome.attacked) for name in fooled]
    return OverlapPart(int(outcome.natural_correct.sum()), titles, rows)


def _row(name: str, fooled: Mapping[str, Bits], attacked: Mapping[str, Bits]) -> OverlapRow:
    mine = fooled[name]
    times = np.sum(list(fooled.values()), axis=0)
    meetings = [
        None
        if other == name
        else Meeting(int((mine & theirs).sum()), int((mine & (attacked[other] | theirs)).sum()))
        for other, theirs in fooled.items()
    ]
    return OverlapRow(heading(name), int(mine.sum()), int((mine & (times == 1)).sum()), meetings)
