"""Accuracies from bits: six images whose every verdict is written down."""

import json

import numpy as np
import pytest

from fsrobust.evaluate import Outcome, wilson
from fsrobust.evaluate.outcome import Bits
from fsrobust.types import InputError


def bits(text: str) -> Bits:
    """Return bools from "x" (true) and "." (false)."""
    return np.array([letter == "x" for letter in text])


#            0: right, withstands all     1: right, fooled on the way by a, not at its end
#            2: right, fooled by a        3: right, fooled by b only
#            4: wrong, repaired by a      5: wrong, stays wrong
OUTCOME = Outcome(
    ids=np.arange(6),
    natural_correct=bits("xxxx.."),
    attacked={"a": bits("xxxxxx"), "b": bits("xxxxxx")},
    fooled_last={"a": bits("..x..x"), "b": bits("...xxx")},
    fooled={"a": bits(".xx.xx"), "b": bits("...xxx")},
)


def test_the_papers_count_lets_a_repaired_image_in() -> None:
    """The paper's accuracy asks only for the last image: 0, 1, 3 and the repaired 4 count under a."""
    assert OUTCOME.accuracy("natural") == 4 / 6
    assert OUTCOME.accuracy("a") == 4 / 6
    assert OUTCOME.accuracy("b") == 3 / 6
    assert OUTCOME.correct("a").tolist() == bits("xx.xx.").tolist()


def test_the_strict_count_does_not() -> None:
    """Strict asks for right when clean and at every iterate: 0 and 3 under a; 0, 1 and 2 under b."""
    assert OUTCOME.strict("a") == 2 / 6
    assert OUTCOME.strict("b") == 3 / 6
    assert OUTCOME.correct("a", strict=True).tolist() == bits("x..x..").tolist()
    assert OUTCOME.strict("natural") == 4 / 6


def test_the_ensemble_asks_for_all_and_for_clean() -> None:
    """Right when clean and under all: 0 and 1 by the paper's count, 0 by the strict one; never a repaired."""
    assert OUTCOME.survivors(["a", "b"]).tolist() == bits("xx....").tolist()
    assert OUTCOME.ensemble() == OUTCOME.ensemble(["b", "a"]) == 2 / 6
    assert OUTCOME.ensemble(strict=True) == 1 / 6
    assert OUTCOME.ensemble(["a"]) == 3 / 6  # 0, 1 and 3: the repaired 4 was wrong when clean


def test_intervals_are_those_of_the_counts() -> None:
    """One name gives the interval of its accuracy, several that of their ensemble, strict or not."""
    assert OUTCOME.interval("a") == wilson(4, 6)
    assert OUTCOME.interval("a", strict=True) == wilson(2, 6)
    assert OUTCOME.interval(["a", "b"]) == wilson(2, 6)
    assert OUTCOME.interval(["a"]) == wilson(3, 6)


def test_the_summary_holds_the_same_numbers() -> None:
    """The summary is plain JSON and repeats each accuracy and interval."""
    summary = json.loads(json.dumps(OUTCOME.summary()))
    assert summary["n"] == 6
    assert set(summary["accuracy"]) == {"natural", "a", "b"}
    assert summary["accuracy"]["a"] == {
        "accuracy": 4 / 6,
        "interval": list(wilson(4, 6)),
        "strict": 2 / 6,
    }
    assert summary["all"]["accuracy"] == 2 / 6
    assert summary["all"]["strict"] == 1 / 6
    assert summary["all"]["interval"] == list(wilson(2, 6))


def partial(attacked: str) -> Outcome:
    """Return an outcome whose second attack left some samples out."""
    return Outcome(
        ids=np.arange(4),
        natural_correct=bits("xxx."),
        attacked={"a": bits("xxxx"), "b": bits(attacked)},
        fooled_last={"a": bits("x..x"), "b": bits(".x.x")},
        fooled={"a": bits("x..x"), "b": bits(".x.x")},
    )


@pytest.mark.parametrize("ask", ["accuracy", "strict", "interval"])
def test_a_partial_attack_has_no_accuracy(ask: str) -> None:
    """The accuracy of an attack that left a sample out is refused, and the message says how many it took."""
    with pytest.raises(InputError, match="attacked 2 of 4 samples"):
        getattr(partial(".xx."), ask)("b")


def test_leaving_out_what_is_wrong_anyway_costs_the_strict_count_nothing() -> None:
    """A sample that is wrong when clean needs no attack for the strict count; for the paper's it does."""
    outcome = partial("xxx.")
    assert outcome.strict("b") == 2 / 4
    with pytest.raises(InputError, match="attacked 3 of 4"):
        outcome.accuracy("b")


def test_an_unknown_attack_is_refused() -> None:
    """A name that is not in the outcome is answered with those that are."""
    with pytest.raises(InputError, match="natural, a, b"):
        OUTCOME.accuracy("c")
    assert OUTCOME.attacks == ("a", "b")
    assert OUTCOME.n == 6
