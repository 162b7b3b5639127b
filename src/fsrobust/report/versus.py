"""Runs against runs: from their records to a comparison, and that comparison as lines for a terminal."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fsrobust.evaluate import Comparison, compare, compare_seeds
from fsrobust.evaluate.aligned import COUNTS, shared
from fsrobust.evaluate.compare import Contrast, SeedsContrast, p_text
from fsrobust.evaluate.stats import Interval, Seeds
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.results import RunResults, read_run
from fsrobust.report.tables import TITLES, aligned, percent, signed, span
from fsrobust.types import InputError


class Setting(NamedTuple):
    """What two evaluations must share to be compared: the data, of ``of`` samples in all, and the ball."""

    data: str
    split: str
    of: int
    norm: str
    eps: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.split} samples of {self.data} ({self.of:,} in all), {self.norm}, eps {self.eps}"


@dataclass(frozen=True)
class Versus:
    """A comparison of runs; ``a`` and ``b`` name the checkpoints of either side, in pairs."""

    a: Sequence[str]
    b: Sequence[str]
    setting: Setting
    comparison: Comparison
    notes: Sequence[str]

    def summary(self) -> dict[str, object]:
        """Return everything as plain values: for JSON."""
        notes = [*self.notes, *self.comparison.notes]
        about = {"a": list(self.a), "b": list(self.b), "setting": self.setting._asdict()}
        return {**about, **self.comparison.summary(), "notes": notes}


def versus(side_a: Sequence[Path], side_b: Sequence[Path], *, checkpoint: str = "last") -> Versus:
    """Compare the records of one run or audit directory a side, or of several seeds' a side, pair by pair.

    Audits of files and factories have no checkpoints; all that they hold counts.

    Raises:
        InputError: no directory, no records of that checkpoint, none in the same ball on the same data, or
            the same weights as two seeds.
    """
    runs = [read_run(folder) for folder in (*side_a, *side_b)]
    offers = [_offers(run, checkpoint) for run in runs]
    setting, notes = _common(runs, offers)
    evaluations, remarks = _same_samples([offer[setting] for offer in offers])
    names = [_name(run, one) for run, one in zip(runs, evaluations, strict=True)]
    remarks += _passed_over(runs, [offer[setting] for offer in offers], evaluations)
    remarks += [f"{run.folder}: {remark}" for run in runs for remark in run.on_verdicts]
    outcomes, k = [one.outcome for one in evaluations], len(side_a)
    for side in (evaluations[:k], evaluations[k:]):
        if len({one.record["weights_sha256"] for one in side}) < len(side):
            raise InputError(
                "Expected trainings of different seeds, but got the same weights twice on one side"
            )
    alone = len(side_a) == len(side_b) == 1
    made = compare(*outcomes) if alone else compare_seeds(outcomes[:k], outcomes[k:])
    return Versus(names[:k], names[k:], setting, made, [*notes, *remarks])


def _offers(run: RunResults, checkpoint: str) -> dict[Setting, list[Evaluation]]:
    """Return a run's evaluations of a checkpoint by what they are comparable in."""
    found: dict[Setting, list[Evaluation]] = {}
    for one in run.evaluations:
        if one.checkpoint in (checkpoint, None):
            data = one.record["data"]
            setting = Setting(data["name"], data["split"], data["of"], one.norm, one.eps)
            found.setdefault(setting, []).append(one)
    if not found:
        because = f" ({' '.join(run.on_verdicts)})" if run.on_verdicts else ""
        raise InputError(
            f'Expected records of the {checkpoint} checkpoint in "{run.folder}", but there are none{because}; '
            f"run: fsrobust evaluate {run.folder} --checkpoint {checkpoint}"
        )
    return found


def _common(
    runs: Sequence[RunResults], offers: Sequence[dict[Setting, list[Evaluation]]]
) -> tuple[Setting, list[str]]:
    """Return the first setting that all runs were evaluated in, and a note if there are others."""
    common = [setting for setting in offers[0] if all(setting in offer for offer in offers)]
    if not common:
        held = "; ".join(
            f"{run.folder}: {', '.join(map(str, offer))}" for run, offer in zip(runs, offers, strict=True)
        )
        raise InputError(f"Expected records on the same data in the same ball, but got {held}")
    others = [str(setting) for setting in common[1:]]
    return common[0], [f"Also on record, not compared here: {'; '.join(others)}."] if others else []


def _same_samples(choices: Sequence[Sequence[Evaluation]]) -> tuple[list[Evaluation], list[str]]:
    """Return one evaluation per run, all of the same samples if possible; else a note that says they are not."""

    def samples(one: Evaluation) -> str:
        return str(one.record["data"]["sha256"])

    for first in choices[0]:
        same = [[one for one in choice if samples(one) == samples(first)] for choice in choices]
        if all(same):
            return [found[0] for found in same], []
    return [choice[0] for choice in choices], [
        "The records are of different draws of samples, which are matched by id: that an id means the same image "
        "everywhere rests on the data having the same name and size."
    ]


def _passed_over(
    runs: Sequence[RunResults], choices: Sequence[Sequence[Evaluation]], chosen: Sequence[Evaluation]
) -> list[str]:
    """Return sentences on what is on record in the same setting, but is not compared."""

    def weights(one: Evaluation) -> str:
        return str(one.record["weights_sha256"])

    notes = []
    rivals: list[list[Evaluation]] = []
    for run, choice, taken in zip(runs, choices, chosen, strict=True):
        rivals.append([one for one in choice if one is not taken and weights(one) == weights(taken)])
        others = sorted({weights(one)[:8] for one in choice if weights(one) != weights(taken)})
        if others:
            notes.append(f"{run.folder} also holds records of other weights: {', '.join(others)}.")
    command = shlex.join(["fsrobust", "report", *(str(run.folder) for run in runs)])
    compared, _ = shared([one.outcome for one in chosen])
    for first in rivals[0]:
        sample = first.record["data"]["sha256"]
        same = [one.outcome for rival in rivals for one in rival if one.record["data"]["sha256"] == sample]
        more = [name for name in shared(same)[0] if name not in compared] if len(same) == len(runs) else []
        if more:
            titles = ", ".join(TITLES.get(name, name) for name in more)
            notes.append(f"Also on record, on {first.outcome.n:,} samples: {titles}; compared by: {command}")
    return notes


def _name(run: RunResults, one: Evaluation) -> str:
    checkpoint = f", {one.checkpoint} checkpoint" if one.checkpoint else ""
    title = run.title if run.config is not None else one.record["source"]
    return f"{title} ({run.folder}{checkpoint})"


def versus_text(made: Versus) -> str:
    """Return a comparison as lines: who, on what, a table per count, the sentence, the notes."""
    parts = [
        "\n".join(f"{side}: {name}" for side, names in (("A", made.a), ("B", made.b)) for name in names),
        f"{made.comparison.n:,} {made.setting}",
    ]
    parts += [_table(made.comparison, count) for count in COUNTS]
    return "\n\n".join([*parts, made.comparison.sentence, "\n".join([*made.notes, *made.comparison.notes])])


def _table(made: Comparison, count: str) -> str:
    rows = [row for row in made.rows if row.count == count]
    heads = [f"{'strict' if count == 'strict' else 'paper’s'} count, in %", "A", "B", "B − A"]
    heads += ["95 % interval", *(["only A", "only B"] if made.seeds == 1 else []), "p", "adjusted p"]
    return aligned([heads, *(_line(row, made.n) for row in rows)])


def _line(row: Contrast | SeedsContrast, n: int) -> list[str]:
    title = TITLES.get(row.name, row.name)
    if isinstance(row, Contrast):
        sides = [
            f"{percent(s, n)} ({span(i, n)})" for s, i in ((row.a, row.a_interval), (row.b, row.b_interval))
        ]
        counts = [str(row.only_a), str(row.only_b)]
        difference, interval, p = signed(100 * row.difference, n), row.interval, row.p
    else:
        sides, counts = [_spread(side, n) for side in (row.a, row.b)], []
        sd = percent(row.difference.sd, n)
        difference, interval, p = (
            f"{signed(100 * row.difference.mean, n)} ± {sd}",
            row.difference.interval,
            row.difference.p,
        )
    return [title, *sides, difference, _ends(interval, n), *counts, p_text(p), p_text(row.adjusted_p)]


def _spread(made: Seeds, n: int) -> str:
    return f"{percent(made.mean, n)} ± {percent(made.sd, n)}"


def _ends(interval: Interval, n: int) -> str:
    if math.isnan(interval.low):
        return "–"
    return f"{signed(100 * interval.low, n)} to {signed(100 * interval.high, n)}"
