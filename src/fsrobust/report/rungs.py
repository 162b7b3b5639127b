"""Models side by side under ever more attack: the strongest white box, AutoAttack, the adaptive attack, all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fsrobust.attacks import SCORE_BASED
from fsrobust.evaluate import Interval, Outcome, wilson
from fsrobust.evaluate.adaptive import ADAPTIVE
from fsrobust.evaluate.joined import base_name
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.stats import Paired, holm, primary
from fsrobust.report import words
from fsrobust.report.entries import Entry, comparable
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.tables import NOT_RUN, heading, standing
from fsrobust.report.verdict import state
from fsrobust.types import InputError

AUTOATTACKS: Final = ("autoattack-plus", "autoattack")
RUNGS: Final = {
    "natural": "No attack",
    "white box": "Strongest white box",
    "autoattack": "AutoAttack",
    "adaptive": "Adaptive",
    "all": "Worst of all",
}
NOTHING_TO_ADAPT: Final = "no plug-in to adapt to"


@dataclass(frozen=True)
class Against:
    """A model less the base on the same samples, in points.

    ``adjusted_p`` is Holm's over the table's secondary rows, and that of the primary test in the last one.
    """

    difference: float
    interval: Interval
    p: float
    adjusted_p: float


@dataclass(frozen=True)
class Step:
    """A model on a rung: ``right`` of ``n`` by the strict count, or in ``gap`` why that is not known."""

    attack: str
    right: int
    n: int
    gap: str = ""
    against: Against | None = None

    @property
    def share(self) -> float:
        """The strict accuracy in [0, 1]."""
        return self.right / self.n

    @property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        return wilson(self.right, self.n)


@dataclass(frozen=True, eq=False)
class Rungs:
    """Models that met the same samples in the same ball; each row has a step per entry, the base's first."""

    sample: str
    entries: Sequence[Entry]
    rows: Sequence[tuple[str, Sequence[Step]]]
    verdicts: Sequence[str]
    notes: Sequence[str]

    @property
    def paired(self) -> bool:
        """Whether any model is measured against the base."""
        return any(step.against for _, steps in self.rows for step in steps)


@dataclass(frozen=True, eq=False)
class _Found:
    """What is known of an entry on a rung; ``right`` is None where it is nothing, and ``gap`` says why.

    ``met`` are the attacks that it rests on: only what rests on the same ones is compared.
    """

    attack: str
    right: Bits | None
    gap: str = ""
    met: frozenset[str] = frozenset()


def rungs(entries: Sequence[Entry]) -> list[Rungs]:
    """Return a table for each group of comparable entries."""
    return [_rungs(_base_first(group)) for group in comparable(entries)]


def _base_first(group: Sequence[Entry]) -> list[Entry]:
    """Return entries with the first one that has no plug-in in front: it is what others are measured against."""
    return sorted(group, key=lambda entry: entry.evaluation.has_plugin)


def _rungs(entries: Sequence[Entry]) -> Rungs:
    found = {rung: [_find(rung, entry.evaluation) for entry in entries] for rung in RUNGS}
    pairs = {
        (rung, place): pair
        for rung, row in found.items()
        for place, pair in enumerate(_pairs(row, entries))
        if pair is not None
    }
    adjusted = _adjusted(pairs, entries)
    against = {where: _against(pair, adjusted[where]) for where, pair in pairs.items()}
    rows = [
        (RUNGS[rung], [_step(one, entries[k], against.get((rung, k))) for k, one in enumerate(row)])
        for rung, row in found.items()
    ]
    first = entries[0].evaluation
    sample = f"{words.sample_in_words(first.record)}; {words.ball_in_words(first.norm, first.eps)}"
    verdicts = [state(entry.evaluation) for entry in entries]
    return Rungs(sample, entries, rows, verdicts, list(_notes(entries)))


def _find(rung: str, one: Evaluation) -> _Found:
    outcome, ran = one.outcome, {base_name(column) for column in one.outcome.attacks}
    if rung == "natural":
        return _Found("", outcome.natural_correct)
    if rung == "all":
        met = frozenset(outcome.attacks)
        return _Found(f"{len(met)} attack{'s' * (len(met) > 1)}", standing(outcome), met=met)
    if rung == "white box":
        names: Sequence[str] = white_boxes(one)
        return _strongest(outcome, names) if names else _Found("", None, NOT_RUN)
    if rung == "autoattack":
        name = next((name for name in AUTOATTACKS if name in ran), None)
        return _strongest(outcome, [name]) if name else _Found("", None, NOT_RUN)
    if ADAPTIVE in ran:
        return _strongest(outcome, [ADAPTIVE])
    plain = isinstance(one.record["model"], dict) and not one.has_plugin
    return _Found("", None, NOTHING_TO_ADAPT if plain else NOT_RUN)


def white_boxes(one: Evaluation) -> list[str]:
    """Return the attacks that climbed the model's own gradients, single ones and targeted ones."""
    others = (*SCORE_BASED, *AUTOATTACKS, ADAPTIVE)
    own = {name: base_name(name) for name, one in one.records.items() if "gradients_of" not in one["attack"]}
    return list(dict.fromkeys(base for base in own.values() if base not in others))


def _strongest(outcome: Outcome, names: Sequence[str]) -> _Found:
    """Return whom the attack that fooled most left, in all its columns, of those that visited all samples."""
    whole: dict[str, Bits] = {}
    for name in names:
        try:
            whole[name] = outcome.survivors([name], strict=True)
        except InputError:
            continue
    if not whole:
        return _Found("", None, "did not visit every sample")
    name = min(whole, key=lambda name: int(whole[name].sum()))
    met = frozenset(column for one in whole for column in outcome.columns_of(one))
    return _Found(heading(name), whole[name], met=met)


def _pairs(row: Sequence[_Found], entries: Sequence[Entry]) -> Iterator[Paired | None]:
    base, ids = row[0].right, entries[0].evaluation.outcome.ids
    for place, one in enumerate(row):
        same = one.met == row[0].met and np.array_equal(entries[place].evaluation.outcome.ids, ids)
        yield (
            Paired.of(base, one.right) if place and same and not (base is None or one.right is None) else None
        )


def _adjusted(
    pairs: Mapping[tuple[str, int], Paired], entries: Sequence[Entry]
) -> dict[tuple[str, int], float]:
    """Return p-values: under all attacks that of the primary test, in other rows Holm's over all of these."""
    besides = {where: pair.p for where, pair in pairs.items() if where[0] != "all"}
    adjusted = dict(zip(besides, holm(list(besides.values())), strict=True))
    outcomes = [entry.evaluation.outcome for entry in entries]
    alike = [k for k, one in enumerate(outcomes) if np.array_equal(one.ids, outcomes[0].ids)]
    fought = primary([standing(outcomes[k]) for k in alike])
    for rung, place in pairs:
        if rung == "all":
            adjusted[rung, place] = fought[0, alike.index(place)].adjusted_p
    return adjusted


def _against(pair: Paired, adjusted_p: float) -> Against:
    return Against(100 * pair.difference, pair.interval(), pair.p, adjusted_p)


def _step(found: _Found, entry: Entry, against: Against | None) -> Step:
    n = entry.evaluation.outcome.n
    right = 0 if found.right is None else int(found.right.sum())
    return Step(found.attack, right, n, found.gap, against)


def _notes(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield what makes the rows unequal: attacks that only some met."""
    met: Mapping[str, set[str]] = {entry.label: set(entry.evaluation.records) for entry in entries}
    common = set.intersection(*met.values())
    for label, names in met.items():
        extra = sorted(names - common)
        if extra:
            yield (
                f"{label} met attacks that not every model here met: "
                f"{words.listed([heading(name) for name in extra])}. Under “worst of all”, who met fewer "
                "attacks looks the better for it: no difference is given between models that met different ones."
            )
