"""Runs against runs: from their records to a comparison, and that comparison as lines for a terminal."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fsrobust.evaluate import Comparison, compare, compare_seeds
from fsrobust.evaluate.aligned import COUNTS, shared
from fsrobust.evaluate.compare import Contrast, SeedsContrast
from fsrobust.evaluate.identity import subject_key
from fsrobust.evaluate.joined import precision_of
from fsrobust.evaluate.stats import Interval, Seeds
from fsrobust.evaluate.trust import weakest
from fsrobust.evaluate.wording import Verdicts, p_text
from fsrobust.report.entries import version
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.results import RunResults, read_run
from fsrobust.report.tables import aligned, heading, percent, signed, span
from fsrobust.report.verdict import state
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
    """A comparison of runs; ``a`` and ``b`` name the checkpoints of either side, in pairs.

    ``verdicts`` says of each what its diagnosis found, or that there is none.
    """

    a: Sequence[str]
    b: Sequence[str]
    verdicts: tuple[Sequence[str], Sequence[str]]
    setting: Setting
    comparison: Comparison
    notes: Sequence[str]

    def summary(self) -> dict[str, object]:
        """Return everything as plain values: for JSON."""
        notes = [*self.notes, *self.comparison.notes]
        about = {"a": list(self.a), "b": list(self.b), "setting": self.setting._asdict()}
        about["verdicts"] = {"a": list(self.verdicts[0]), "b": list(self.verdicts[1])}
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
        # of the same weights in other code, too: that is no other training
        if len({one.record["weights_sha256"] for one in side}) < len(side):
            raise InputError(
                "Expected trainings of different seeds, but got the same weights twice on one side"
            )
    states = [state(one) for one in evaluations]
    verdicts: Verdicts = {"A": weakest(states[:k]), "B": weakest(states[k:])}
    made = (
        compare(*outcomes, verdicts=verdicts)
        if len(side_a) == len(side_b) == 1
        else compare_seeds(outcomes[:k], outcomes[k:], verdicts=verdicts)
    )
    remarks += _searched_otherwise(evaluations)
    return Versus(names[:k], names[k:], (states[:k], states[k:]), setting, made, [*notes, *remarks])


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

    def subject(one: Evaluation) -> str:
        return subject_key(one.record)

    notes = []
    rivals: list[list[Evaluation]] = []
    for run, choice, taken in zip(runs, choices, chosen, strict=True):
        rivals.append([one for one in choice if one is not taken and subject(one) == subject(taken)])
        notes += _other_models(run, [one for one in choice if subject(one) != subject(taken)], taken)
    command = shlex.join(["fsrobust", "report", *(str(run.folder) for run in runs)])
    compared, _ = shared([one.outcome for one in chosen])
    for first in rivals[0]:
        sample = first.record["data"]["sha256"]
        same = [one.outcome for rival in rivals for one in rival if one.record["data"]["sha256"] == sample]
        more = [name for name in shared(same)[0] if name not in compared] if len(same) == len(runs) else []
        if more:
            titles = ", ".join(heading(name) for name in more)
            notes.append(f"Also on record, on {first.outcome.n:,} samples: {titles}; compared by: {command}")
    return notes


def _other_models(run: RunResults, others: Sequence[Evaluation], taken: Evaluation) -> list[str]:
    """Return sentences on the models in a folder that are not compared: other weights, or these in other code."""
    mine = taken.record["weights_sha256"]
    weights = sorted({one.record["weights_sha256"][:8] for one in others} - {mine[:8]})
    same = sorted({version(one.record) for one in others if one.record["weights_sha256"] == mine})
    notes = [f"{run.folder} also holds records of other weights: {', '.join(weights)}."] if weights else []
    if same:
        notes.append(
            f"{run.folder} also holds records of these weights as another model: {', '.join(same)}; compared is "
            f"{version(taken.record)}."
        )
    return notes


def _searched_otherwise(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a note on attacks that searched in another precision on one side than on the other."""
    first, *rest = ({name: precision_of(r) for name, r in one.records.items()} for one in evaluations)
    mixed = [name for name, used in first.items() if any(other.get(name, used) != used for other in rest)]
    if not mixed:
        return []
    return [f"Not every side was searched in the same precision: {', '.join(map(heading, mixed))}."]


def _name(run: RunResults, one: Evaluation) -> str:
    checkpoint = f", {one.checkpoint} checkpoint" if one.checkpoint else ""
    title = run.title if run.config is not None else one.record["source"]
    return f"{title} ({run.folder}{checkpoint})"


def versus_text(made: Versus) -> str:
    """Return a comparison as lines: who, on what, a table per count, the sentence, the notes."""
    sides = (("A", made.a, made.verdicts[0]), ("B", made.b, made.verdicts[1]))
    named = [(side, *pair) for side, names, states in sides for pair in zip(names, states, strict=True)]
    parts = [
        "\n".join(f"{side}: {name}; signs of masked gradients: {found}" for side, name, found in named),
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
    title = heading(row.name)
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
