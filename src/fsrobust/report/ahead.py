"""Who withstands more, in words: what the images show of one model against another, and what they leave open."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fsrobust.evaluate.aligned import only, shared
from fsrobust.evaluate.stats import Duel, primary
from fsrobust.evaluate.trust import UNTRUSTED, doubt
from fsrobust.evaluate.wording import ALPHA, p_text
from fsrobust.report.entries import Entry, comparable
from fsrobust.report.tables import Cell, heading, percent, signed, standing, worst_case
from fsrobust.report.verdict import state
from fsrobust.report.words import SPACE, ball_in_words, count, listed, sample_in_words, share


def summary(entries: Sequence[Entry]) -> list[str]:
    """Return the story of a page in a few sentences: what was tried, what withstood it, what differs."""
    sentences = []
    for group in comparable(entries):
        if len(group) == 1:
            sentences.append(_alone(group[0], *_setting(group[0])))
        else:
            sentences += _compared(*on_equal_terms(group))
    return sentences


def on_equal_terms(group: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Return entries as if they had met no attacks but those that all of them met, and the titles of the others.

    Who met fewer attacks would else look the better for it.
    """
    met, others = shared([entry.evaluation.outcome for entry in group])
    equal = [
        replace(entry, evaluation=replace(entry.evaluation, outcome=only(entry.evaluation.outcome, met)))
        for entry in group
    ]
    return equal, [heading(name) for name in others]


def _setting(entry: Entry) -> tuple[str, str]:
    one = entry.evaluation
    return sample_in_words(one.record), ball_in_words(one.norm, one.eps)


def _compared(group: Sequence[Entry], others: Sequence[str]) -> list[str]:
    sample, ball = _setting(group[0])
    if not group[0].evaluation.outcome.attacks:
        return [
            f"All were shown the same {sample}, but no attack is on record for all of them: nothing says which one "
            "withstands more."
        ]
    ranked = sorted(  # of equals the one first that attacks can judge
        group,
        key=lambda entry: (
            -worst_case(entry.evaluation.outcome).accuracy,
            state(entry.evaluation) == UNTRUSTED,
        ),
    )
    cells = [worst_case(entry.evaluation.outcome) for entry in ranked]
    sentences = [_together(ranked, cells, sample, ball), *_differences(ranked, cells)]
    if others:
        sentences.append(
            f"This is by the attacks that all of them met, without {listed(others)}. The large numbers below count "
            "whatever a model met: they do not compare."
        )
    return sentences


def _alone(entry: Entry, sample: str, ball: str) -> str:
    outcome = entry.evaluation.outcome
    cell = worst_case(outcome)
    clean = share(outcome.accuracy("natural"), outcome.interval("natural"), outcome.n)
    bad = f" That number is {UNTRUSTED}: see the signs below." if state(entry.evaluation) == UNTRUSTED else ""
    return (
        f"Of {sample}, {share(cell.accuracy, cell.interval, cell.n)} are still classified correctly by "
        f"{entry.name} when {ball}, whatever the attacks below tried; without an attack it is {clean}.{bad}"
    )


def _together(ranked: Sequence[Entry], cells: Sequence[Cell], sample: str, ball: str) -> str:
    """Return the shares of some entries, of many only the first and the last."""
    few = len(ranked) <= 4
    robust, clean = [], []
    for entry, cell in zip(ranked, cells, strict=True):
        outcome = entry.evaluation.outcome
        robust.append(f"{share(cell.accuracy, cell.interval, cell.n)} by {entry.name}")
        clean.append(share(outcome.accuracy("natural"), outcome.interval("natural"), outcome.n))
    what = "these shares are" if few else f"from {robust[-1]} to {robust[0]} are"
    start = f"All were shown the same {sample}. When {ball}, {what} still classified correctly, whatever the "
    start += "attacks that all of them met tried"
    if not few:
        return f"{start}."
    order = "Without an attack it is, in the same order, "
    return f"{start}: {listed(robust)}. {order}{listed(clean)}."


def _differences(ranked: Sequence[Entry], cells: Sequence[Cell]) -> list[str]:
    """Return what the images say of the most robust entry that attacks can judge, and each one behind it."""
    top = next((k for k, one in enumerate(ranked) if state(one.evaluation) != UNTRUSTED), len(ranked) - 1)
    sentences = []
    for place in range(top):
        name, behind = ranked[place].name, [entry.name for entry in ranked[place + 1 :]]
        sentences.append(f"On paper {name} comes before {listed(behind)}, but {doubt(name, UNTRUSTED)}")
    if top == len(ranked) - 1:
        return sentences
    if not same_images(ranked):
        return [*sentences, *_by_intervals(ranked[top:], cells[top:])]
    fought = primary([standing(entry.evaluation.outcome) for entry in ranked])
    own = {place - top: duel for (first, place), duel in fought.items() if first == top}
    return [*sentences, *_by_test(ranked[top:], cells[top:], own, len(fought))]


def _by_test(
    ranked: Sequence[Entry], cells: Sequence[Cell], fought: Mapping[int, Duel], pairs: int
) -> list[str]:
    """Return what the primary test says of the most robust entry and each other one."""
    best, images = ranked[0].name, f"{count(cells[0].n)} images"
    leads = {ranked[place].name: duel for place, duel in fought.items()}
    ahead = {label: duel for label, duel in leads.items() if duel.adjusted_p <= ALPHA}
    level = {label: duel for label, duel in leads.items() if duel.adjusted_p > ALPHA}
    holm = f" (Holm's adjustment for {pairs} pairs)" if pairs > 1 else ""
    by = f"by the exact McNemar test{holm}, chance in the choice of images"
    sentences = []
    if level:
        sentences.append(
            f"These {images} alone do not show that {best} withstands more than {_leads(level)}: {by} could make "
            "such a difference."
        )
    if ahead:
        sentences.append(
            f"{best} withstands more of the same {images} than {_leads(ahead)}: {by} hardly makes such a difference."
        )
        sentences += _doubts(ranked[0])
    return sentences


def _doubts(best: Entry) -> list[str]:
    """Return what its diagnosis, or the want of one, says against the lead of an entry."""
    caution = doubt(best.name, state(best.evaluation))
    return [caution] if caution else []


def same_images(entries: Sequence[Entry]) -> bool:
    """Return whether entries hold verdicts on the same samples in the same order, which makes them pairs."""
    ids = [entry.evaluation.outcome.ids for entry in entries]
    return all(np.array_equal(ids[0], other) for other in ids)


def lead(duel: Duel) -> str:
    """Return by how much somebody is ahead on the same images, "4.2 points, 95 % interval 2.9 to 5.5".

    >>> from fsrobust.evaluate.stats import Paired
    >>> lead(Duel(Paired(40, 5, 15, 40), 0.0414)).replace(SPACE, " ")
    '10.0 points, 95 % interval 1.2 to 18.4'
    """
    n, (low, high) = duel.pairs.n, duel.pairs.interval()
    low_text, high_text = (signed(100 * end, n).lstrip("+±") for end in (low, high))
    points = percent(duel.pairs.difference, n)
    return f"{points}{SPACE}points, 95{SPACE}% interval {low_text} to {high_text}"


def _leads(duels_of: Mapping[str, Duel]) -> str:
    """Return who is behind, and by how much: of many only the least and the most."""
    if len(duels_of) <= 3:
        return listed(
            [f"{label} (by {lead(d)}, p{SPACE}{p_text(d.adjusted_p)})" for label, d in duels_of.items()]
        )
    gaps = sorted(duels_of.values(), key=lambda duel: duel.pairs.difference)
    n, p_values = gaps[0].pairs.n, [duel.adjusted_p for duel in gaps]
    least, most = (percent(duel.pairs.difference, n) for duel in (gaps[0], gaps[-1]))
    return (
        f"{listed(list(duels_of))} (by {least} to {most}{SPACE}points, "
        f"p{SPACE}{p_text(min(p_values))} to {p_text(max(p_values))})"
    )


def _by_intervals(ranked: Sequence[Entry], cells: Sequence[Cell]) -> list[str]:
    """Return what the entries' own intervals say where the images are not the same."""
    best, top = ranked[0], cells[0].interval
    others = list(zip(ranked[1:], cells[1:], strict=True))
    below = [entry.name for entry, cell in others if cell.interval.high < top.low]
    unclear = [entry.name for entry, cell in others if cell.interval.high >= top.low]
    sentences = []
    if unclear:
        sentences.append(
            f"These {count(cells[0].n)} images alone do not show that {best.name} withstands more "
            f"than {listed(unclear)}: the intervals overlap."
        )
    if below:
        sentences.append(f"{best.name} withstands more than {listed(below)}: the intervals do not overlap.")
        sentences += _doubts(best)
    return sentences
