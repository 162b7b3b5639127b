"""The signs of a diagnosis as text."""

from collections.abc import Mapping
from typing import Any


def signs_text(record: Mapping[str, Any]) -> str:
    """Return a line per sign, what the found ones mean, and the verdict.

    >>> sign = {"name": "random outputs", "found": False, "hits": 0, "n": 9, "threshold": 0.0,
    ...         "interval": [0.0, 0.3], "meaning": ""}
    >>> print(signs_text({"signs": [sign], "verdict": "inconclusive"}))
    no       random outputs                   0/9     0.0–30.0 %  found above 0.0 %
    <BLANKLINE>
    Verdict: inconclusive
    """
    lines = []
    for sign in record["signs"]:
        state = {True: "FOUND", False: "no", None: "not run"}[sign["found"]]
        if sign["interval"] is None:
            lines.append(f"{state:<9}{sign['name']:<32}{sign['meaning']}")
            continue
        low, high = (100 * end for end in sign["interval"])
        share = f"{sign['hits']}/{sign['n']}"
        span = f"{low:.1f}–{high:.1f} %"
        lines.append(
            f"{state:<9}{sign['name']:<31}{share:>5}{span:>15}  found above {100 * sign['threshold']:.1f} %"
        )
        if sign["found"]:
            lines.append(f"{'':<9}{sign['meaning']}")
    return "\n".join([*lines, "", f"Verdict: {record['verdict']}"])
