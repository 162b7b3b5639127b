"""Outcomes of several models brought to the same samples and the same attacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fsrobust.attacks import SUITES
from fsrobust.evaluate.joined import base_name
from fsrobust.evaluate.outcome import Bits, Outcome
from fsrobust.types import InputError

Count = Literal["paper", "strict"]
COUNTS: Final[tuple[Count, ...]] = ("paper", "strict")
ENSEMBLE: Final = "ensemble"
"""The paper's four white-box attacks together."""
ALL: Final = "all"
"""All attacks together that every side met."""


@dataclass(frozen=True)
class Column:
    """What can be asked of every outcome: ``correct`` returns bool [N], who counts as right."""

    name: str
    count: Count
    correct: Callable[[Outcome], Bits]


def align(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[str]]:
    """Return the outcomes on the samples that all of them hold, by ascending id, and a note if any lacks some.

    Raises:
        InputError: no sample in common, or an id that comes twice.
    """
    common = np.unique(outcomes[0].ids)
    for outcome in outcomes:
        if len(np.unique(outcome.ids)) < outcome.n:
            raise InputError("Expected ids that tell samples apart, but some come more than once")
        common = np.intersect1d(common, outcome.ids)
    if len(common) == 0:
        raise InputError(
            "Expected outcomes on the same samples, but no id is in all of them; evaluate with the same --data, "
            "--limit and --seed"
        )
    notes = []
    if any(outcome.n > len(common) for outcome in outcomes):
        sizes = ", ".join(f"{outcome.n:,}" for outcome in outcomes)
        notes.append(
            f"Only the {len(common):,} samples that all sides hold are compared; they hold {sizes}, in order."
        )
    return [_select(outcome, common) for outcome in outcomes], notes


def _select(outcome: Outcome, ids: NDArray[np.int64]) -> Outcome:
    order = np.argsort(outcome.ids)
    places = order[np.searchsorted(outcome.ids, ids, sorter=order)]
    parts = {
        part: {name: bits[places] for name, bits in getattr(outcome, part).items()}
        for part in ("attacked", "fooled_last", "fooled")
    }
    return replace(outcome, ids=ids, natural_correct=outcome.natural_correct[places], **parts)


def shared(outcomes: Sequence[Outcome]) -> tuple[list[str], list[str]]:
    """Return the attacks that all outcomes met, in the order they ran, and the others."""
    met = [name for name in outcomes[0].attacks if all(name in outcome.attacks for outcome in outcomes)]
    return met, sorted({name for outcome in outcomes for name in outcome.attacks} - set(met))


def only(outcome: Outcome, names: Sequence[str]) -> Outcome:
    """Return an outcome as if no other attacks than these had been run."""
    attacked, last, fooled = (
        {name: bits[name] for name in names}
        for bits in (outcome.attacked, outcome.fooled_last, outcome.fooled)
    )
    return replace(outcome, attacked=attacked, fooled_last=last, fooled=fooled)


def columns(outcomes: Sequence[Outcome]) -> tuple[list[Column], list[str]]:
    """Return natural, each attack that all outcomes met, the paper's four if these are among them, and all together.

    By either count; what would be the same twice comes once. The notes say which attacks are missing, and why.
    """
    met, others = shared(outcomes)
    notes = [f"Not compared, as not every side met it: {', '.join(others)}."] if others else []
    found = []
    for count in COUNTS:
        whole = []
        for name in met:
            reason = _why_not(outcomes, name, count)
            if reason:
                notes.append(f"Left out of the {count} count: {reason}.")
            else:
                whole.append(name)
        found += [_single(name, count) for name in ("natural", *whole)]
        four = SUITES["whitebox"]
        if set(four) <= set(whole):
            found.append(_together(ENSEMBLE, [name for name in whole if base_name(name) in four], count))
        if len(whole) > 1 and set(whole) != set(four):
            found.append(_together(ALL, whole, count))
    return found, notes


def _why_not(outcomes: Sequence[Outcome], name: str, count: Count) -> str | None:
    try:
        for outcome in outcomes:
            outcome.correct(name, strict=count == "strict")
    except InputError as error:
        return str(error)
    return None


def _single(name: str, count: Count) -> Column:
    return Column(name, count, lambda outcome: outcome.correct(name, strict=count == "strict"))


def _together(name: str, attacks: Sequence[str], count: Count) -> Column:
    def correct(outcome: Outcome) -> Bits:
        # further columns of these attacks, which not every side has, would speak against who has them
        return only(outcome, attacks).survivors(attacks, strict=count == "strict")

    return Column(name, count, correct)
