"""How balls and attacks are written down."""

import json

import pytest

from fsrobust.attacks import PGD, Linf, describe_ball, format_eps
from fsrobust.evaluate.store import describe_attack
from fsrobust.records import digest_of


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.5, "0.5"), (0.0, "0"), (1.0, "1"), (1 / 3, "85/255")],
)
def test_radii_are_written_as_the_field_does(eps: float, text: str) -> None:
    """Multiples of 0.1/255 as fractions, round decimals as they are."""
    assert format_eps(eps) == text
    assert describe_ball(Linf(eps)) == {"norm": "linf", "eps": text}


def test_attacks_are_described_in_plain_values() -> None:
    """The description survives JSON, names the type, and tells two settings apart."""
    described = describe_attack(PGD(Linf(0.1), steps=3, step_size=0.05, random_start=True, restarts=2))
    assert json.loads(json.dumps(described)) == described
    assert (described["type"], described["restarts"]) == ("PGD", 2)
    other = describe_attack(PGD(Linf(0.1), steps=3, step_size=0.05, random_start=True))
    assert digest_of(described) != digest_of(other)
