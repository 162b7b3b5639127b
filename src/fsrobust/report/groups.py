"""The stages of a cascade by kind, told from their names."""

import re
from collections.abc import Iterator, Sequence


def group_stages(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of stages that climb the same surrogate, or that differ in a number only.

    >>> group_stages(["apgd-ce", "apgd-t 1", "apgd-t 2", "joint/apgd-ce 0", "joint/apgd-t 1"])
    {'apgd-ce': [0], 'apgd-t': [1, 2], 'joint': [3, 4]}
    """
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        surrogate, slash, _ = name.partition("/")
        groups.setdefault(surrogate if slash else re.sub(r" \d+$", "", name), []).append(place)
    return groups


def cascade_in_words(names: Sequence[str]) -> str:
    """Return the stages of a cascade as prose.

    >>> cascade_in_words(["apgd-ce", "apgd-t 1", "apgd-t 2"])
    '3 attacks in a row, each on what the ones before left: apgd-ce, apgd-t (2)'
    """
    return f"{len(names)} attacks in a row, each on what the ones before left: {', '.join(_counted(names))}"


def _counted(names: Sequence[str]) -> Iterator[str]:
    for title, places in group_stages(names).items():
        through = "through " if "/" in names[places[0]] else ""
        yield f"{through}{title}{f' ({len(places)})' if len(places) > 1 else ''}"
