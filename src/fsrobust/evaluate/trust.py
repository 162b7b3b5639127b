"""What a diagnosis leaves of a lead: who is ahead because attacks fail there for the wrong reasons is not ahead."""

from collections.abc import Iterable
from typing import Final

UNTRUSTED: Final = "not to be trusted"
SOUND: Final = "no sign found"
NO_DIAGNOSIS: Final = "no diagnosis on record"
_OPEN: Final = "inconclusive"


def weakest(states: Iterable[str]) -> str:
    """Return the verdict that stands for several: a claim rests on all of them, so on the worst.

    >>> weakest(["no sign found", "no diagnosis on record", "inconclusive"])
    'no diagnosis on record'
    """
    found = set(states)
    order = (UNTRUSTED, NO_DIAGNOSIS, _OPEN)
    return next((state for state in order if state in found), SOUND if found <= {SOUND} else _OPEN)


def doubt(who: str, state: str) -> str:
    """Return a sentence on what keeps the lead of ``who`` from being one; empty where no sign was found."""
    if state == SOUND:
        return ""
    if state == UNTRUSTED:
        return (
            f"{who} is not to be trusted: attacks failed on it for other reasons than its robustness, so nothing here "
            "says who withstands more."
        )
    looked = "was never diagnosed" if state == NO_DIAGNOSIS else "has an inconclusive diagnosis"
    return f"But {who} {looked}: attacks may have failed on it for the wrong reasons."
