"""Comparisons of verdicts that are written down, and what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from fsrobust.attacks import SUITES
from fsrobust.evaluate import Outcome, compare, compare_seeds
from fsrobust.evaluate.compare import CHECKPOINTS_ONLY, Contrast, SeedsContrast
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.stats import Paired, holm
from fsrobust.types import InputError


def outcome(
    *, seed: int, robust: float, n: int = 400, attacks: tuple[str, ...] = ("fgsm", "pgd20")
) -> Outcome:
    """Return verdicts of a made-up model: natural accuracy 0.9, each attack fools all but ``robust``."""
    rng = np.random.default_rng(seed)
    natural = rng.random(n) < 0.9
    last = {name: rng.random(n) >= robust for name in attacks}
    return Outcome(
        ids=np.arange(n) * 3,
        natural_correct=natural,
        attacked={name: np.ones(n, bool) for name in attacks},
        fooled_last=last,
        fooled={name: bits | ~natural for name, bits in last.items()},
    )


def row(a: Outcome, b: Outcome, name: str, count: str = "strict") -> Contrast:
    """Return a row of their comparison."""
    found = compare(a, b).row(name, count)  # type: ignore[arg-type]
    assert isinstance(found, Contrast)
    return found


def right(one: Outcome, name: str, count: str) -> Bits:
    """Return who counts, by the outcome's own words."""
    strict = count == "strict"
    if name == "all":
        return one.survivors(["fgsm", "pgd20"], strict=strict)
    return one.correct(name, strict=strict)


@pytest.mark.parametrize("count", ["paper", "strict"])
@pytest.mark.parametrize("name", ["natural", "fgsm", "pgd20", "all"])
def test_each_row_is_that_of_the_bits(name: str, count: str) -> None:
    """Accuracies, discordant counts and p are those of the outcomes' bits; p as statsmodels has it."""
    a, b = outcome(seed=0, robust=0.5), outcome(seed=1, robust=0.6)
    made = row(a, b, name, count)
    bits_a, bits_b = right(a, name, count), right(b, name, count)
    assert (made.a, made.b) == (bits_a.mean(), bits_b.mean())
    assert made.difference == pytest.approx(bits_b.mean() - bits_a.mean(), abs=1e-12)
    assert (made.only_a, made.only_b) == ((bits_a & ~bits_b).sum(), (bits_b & ~bits_a).sum())
    table = [[0, made.only_a], [made.only_b, 0]]
    assert made.p == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-12)
    assert made.bootstrap == Paired.of(bits_a, bits_b).bootstrap(seed=0)
    assert made.a_interval.low < made.a < made.a_interval.high
    assert made.adjusted_p >= made.p


def test_samples_are_matched_by_id() -> None:
    """In another order the comparison is the same; of a part, only the common samples count, said aloud."""
    a, b = outcome(seed=0, robust=0.5), outcome(seed=1, robust=0.6)
    whole = compare(a, b)
    assert compare(a, shuffled(b, np.random.default_rng(0).permutation(400))).rows == whole.rows
    part = compare(a, shuffled(b, np.arange(100, 300)))
    assert part.n == 200
    assert "Only the 200 samples" in part.notes[0]
    assert part.rows == compare(shuffled(a, np.arange(100, 300)), shuffled(b, np.arange(100, 300))).rows


def shuffled(one: Outcome, places: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Outcome:
    """Return an outcome on some of its samples, in that order."""
    parts = {
        part: {name: bits[places] for name, bits in getattr(one, part).items()}
        for part in ("attacked", "fooled_last", "fooled")
    }
    return replace(one, ids=one.ids[places], natural_correct=one.natural_correct[places], **parts)


def test_the_sentence_says_who_is_ahead() -> None:
    """A true gap of 20 points is named with its side, its exchange with the other; no gap is called none."""
    weak, strong = outcome(seed=0, robust=0.4), outcome(seed=1, robust=0.6)
    assert "B is ahead by" in compare(weak, strong).sentence
    assert "A is ahead by" in compare(strong, weak).sentence
    assert "No difference is shown" in compare(weak, outcome(seed=2, robust=0.4)).sentence
    for text in ("all attacks together", "400 samples", "Exact McNemar test"):
        assert text in compare(weak, strong).sentence
    assert [compare(*pair).ahead for pair in ((weak, strong), (strong, weak), (weak, weak))] == [
        "B",
        "A",
        None,
    ]


@pytest.mark.parametrize("attacks", [1, 5, 7])
def test_more_attacks_hide_no_loss(attacks: int) -> None:
    """2 against 12 discordant of 1,000 have p = 0.013, however many attacks say the same; these stay adjusted."""
    n, names = 1000, [*SUITES["whitebox"], "square", "apgd-ce", "fab"][:attacks]
    every, a = np.ones(n, bool), np.arange(n) < 500
    b = a.copy()
    b[:2], b[500:512] = False, True
    sides = [
        Outcome(np.arange(n), every, dict.fromkeys(names, every), fooled, fooled)
        for fooled in (dict.fromkeys(names, ~a), dict.fromkeys(names, ~b))
    ]
    made = compare(*sides)
    assert made.ahead == "B"
    assert "B is ahead by 1.0 points" in made.sentence
    primary = [one for one in made.rows if one.count == "strict"][-1]
    assert isinstance(primary, Contrast)
    assert primary.adjusted_p == primary.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    besides = [one for one in made.rows if one.count == "strict"][:-1]
    raw = [one.p for one in besides if isinstance(one, Contrast)]
    assert [one.adjusted_p for one in besides] == holm(raw)


@pytest.mark.parametrize(
    ("state", "said", "ahead"),
    [
        ("not to be trusted", "so nothing here says who withstands more", None),
        ("inconclusive", "But B has an inconclusive diagnosis", "B"),
        ("no diagnosis on record", "But B was never diagnosed", "B"),
    ],
)
def test_who_cannot_be_attacked_is_not_ahead(state: str, said: str, ahead: str | None) -> None:
    """The diagnosis of the side ahead decides what the sentence says, over seeds as well; the other side's does not."""
    weak, strong = standing(500, 501, 499), standing(700, 702, 701)
    for made in (
        compare(weak[0], strong[0], verdicts={"A": "no sign found", "B": state}),
        compare_seeds(weak, strong, verdicts={"A": "no sign found", "B": state}),
    ):
        assert made.ahead == ahead
        assert said in made.sentence
        assert ("is ahead" in made.sentence) == (ahead is not None)
    other = compare(weak[0], strong[0], verdicts={"A": state, "B": "no sign found"})
    assert other.sentence == compare(weak[0], strong[0]).sentence


def test_it_says_that_checkpoints_are_no_methods() -> None:
    """Every comparison of two says so, and what several looks do to a p-value; one attack has but two rows."""
    notes = compare(outcome(seed=0, robust=0.5), outcome(seed=1, robust=0.5)).notes
    assert CHECKPOINTS_ONLY in notes
    assert "three seeds" in CHECKPOINTS_ONLY
    assert any("Holm" in note for note in notes)


def test_what_only_one_side_met_is_not_compared() -> None:
    """Attacks of one side, and partial attacks by the paper's count, are left out and named."""
    a = outcome(seed=0, robust=0.5, attacks=("fgsm", "cw"))
    b = outcome(seed=1, robust=0.5, attacks=("fgsm", "pgd20"))
    made = compare(a, b)
    assert {r.name for r in made.rows} == {"natural", "fgsm"}
    assert "cw, pgd20" in made.notes[0]
    partial = replace(b, attacked={**b.attacked, "fgsm": b.natural_correct})
    made = compare(a, partial)
    assert [(r.name, r.count) for r in made.rows] == [
        ("natural", "paper"),
        ("natural", "strict"),
        ("fgsm", "strict"),
    ]
    assert any("paper count" in note and "partial" in note for note in made.notes)


def test_the_ensemble_is_of_the_four_and_all_is_of_all() -> None:
    """Only the paper's four make an ensemble; all together come once, whether they are the four or more."""
    four = SUITES["whitebox"]
    for attacks, together in {
        ("fgsm", "pgd20"): ["all"],
        four: ["ensemble"],
        (*four, "square"): ["ensemble", "all"],
    }.items():
        a, b = (outcome(seed=seed, robust=0.9, attacks=attacks) for seed in (0, 1))
        made = compare(a, b)
        assert [r.name for r in made.rows if r.count == "strict"] == ["natural", *attacks, *together]
        shares = {name: row(a, b, name).a for name in together}
        assert shares.get("ensemble", 0.0) == (a.ensemble(four, strict=True) if four[-1] in attacks else 0.0)
        assert shares.get("all", a.ensemble(strict=True)) == a.ensemble(strict=True)
        assert "all attacks together" in made.sentence


def test_a_comparison_is_plain_values() -> None:
    """The summary survives JSON and holds every row, the sentence and the notes."""
    made = compare(outcome(seed=0, robust=0.5), outcome(seed=1, robust=0.6))
    summary = json.loads(json.dumps(made.summary()))
    assert summary["rows"][3]["only_a"] == made.rows[3].only_a  # type: ignore[union-attr]
    assert (summary["sentence"], summary["n"]) == (made.sentence, 400)


def test_seeds_are_paired() -> None:
    """Mean ± sd of either side over seeds, and the paired differences, by the outcomes' own accuracies."""
    side_a = [outcome(seed=s, robust=0.5) for s in range(3)]
    side_b = [outcome(seed=s + 10, robust=0.62) for s in range(3)]
    made = compare_seeds(side_a, side_b)
    found = made.row("pgd20", "paper")
    assert isinstance(found, SeedsContrast)
    a, b = ([one.accuracy("pgd20") for one in side] for side in (side_a, side_b))
    assert found.a.mean == pytest.approx(np.mean(a))
    assert found.b.sd == pytest.approx(np.std(b, ddof=1))
    assert found.difference.mean == pytest.approx(np.mean(b) - np.mean(a))
    assert found.difference.sd == pytest.approx(np.std(np.subtract(b, a), ddof=1))
    assert "mean ± sd of 3 seeds" in made.sentence
    assert CHECKPOINTS_ONLY not in made.notes
    json.dumps(made.summary())
    two = compare_seeds(side_a[:2], side_b[:2])
    assert any("at least three" in note for note in two.notes)


def standing(*counts: int, n: int = 1000) -> list[Outcome]:
    """Return outcomes of which the first so many samples stand under one attack, all being right when clean."""
    made = []
    for count in counts:
        fooled = {"fgsm": np.arange(n) >= count}
        every = np.ones(n, bool)
        made.append(Outcome(np.arange(n), every, {"fgsm": every}, fooled, fooled))
    return made


def test_ten_samples_are_no_certainty() -> None:
    """Without a discordant sample the bootstrap is a point; sentence and interval know how few ten are."""
    made = compare(*standing(5, 5, n=10))
    found = made.row("fgsm")
    assert isinstance(found, Contrast)
    assert found.bootstrap == (0.0, 0.0)
    assert found.interval == Paired(5, 0, 0, 5).interval()
    assert "No difference is shown: B less A is +0.0 points (95 % interval -16.7 to +16.7)." in made.sentence


def test_an_interval_that_leaves_out_0_is_explained_where_the_test_shows_nothing() -> None:
    """0 against 5 discordant of 100, p = 0.062: Newcombe's interval, and a word on which of both decides."""
    text = compare(*standing(50, 55, n=100)).sentence
    assert "B less A is +5.0 points (95 % interval +0.3 to +9.6)." in text
    assert "The interval alone would leave out 0, but the test decides." in text
    assert "the test decides" not in compare(*standing(50, 51, n=100)).sentence


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_differences_are_no_certainty(seeds: int) -> None:
    """One sample of 1,000 more with every seed has no spread: nobody is ahead, and there is no p."""
    made = compare_seeds(standing(*range(500, 500 + seeds)), standing(*range(501, 501 + seeds)))
    assert f"Undecided: B less A is +0.1 points with each of the {seeds} seeds" in made.sentence
    assert "no spread to judge by" in made.sentence
    assert "p:" not in made.sentence
    found = made.row("fgsm")
    assert isinstance(found, SeedsContrast)
    assert np.isnan([found.adjusted_p, found.difference.p]).all()
    assert json.loads(json.dumps(made.summary(), allow_nan=False))["rows"][-1]["adjusted_p"] is None


def test_two_seeds_put_nobody_ahead() -> None:
    """Even with p < 0.05; the same with a third seed does."""
    a, b = standing(500, 500, 500), standing(700, 702, 701)
    two, three = compare_seeds(a[:2], b[:2]), compare_seeds(a, b)
    found = two.row("fgsm")
    assert isinstance(found, SeedsContrast)
    assert found.difference.p < 0.05
    assert "Undecided, 2 seeds being too few to judge by: B less A is +20.1 points" in two.sentence
    assert "ahead" not in two.sentence
    assert "B is ahead by 20.1 points" in three.sentence


def test_a_row_without_a_p_makes_no_other_one_smaller() -> None:
    """Natural accuracy does not differ here, so it has no p; Holm still counts it as a row beside the primary one."""
    made = compare_seeds(standing(500, 500, 500), standing(700, 702, 701))
    natural, found, primary = made.row("natural"), made.row("fgsm", "paper"), made.row("fgsm")
    assert isinstance(natural, SeedsContrast)
    assert isinstance(found, SeedsContrast)
    assert isinstance(primary, SeedsContrast)
    assert np.isnan(natural.adjusted_p)
    assert found.adjusted_p == pytest.approx(2 * found.difference.p)
    assert primary.adjusted_p == primary.difference.p


def test_what_cannot_be_compared_is_refused() -> None:
    """No common sample, an id that comes twice, unequal seeds, an unknown row: each with a sentence."""
    a, b = outcome(seed=0, robust=0.5), outcome(seed=1, robust=0.5)
    with pytest.raises(InputError, match="no id is in all"):
        compare(a, replace(b, ids=b.ids + 1))
    with pytest.raises(InputError, match="more than once"):
        compare(a, replace(b, ids=b.ids // 6))
    with pytest.raises(InputError, match="got 2 and 1"):
        compare_seeds([a, b], [a])
    with pytest.raises(InputError, match="at least 2"):
        compare_seeds([a], [b])
    with pytest.raises(InputError, match='"square"'):
        compare(a, b).row("square")
