"""Which attacks somebody asks for, and which of them a model can have."""

from collections.abc import Sequence

from torch import nn

from fsrobust.attacks import ATTACKS, SCORE_BASED, SUITES
from fsrobust.evaluate import Study
from fsrobust.evaluate.adaptive import ADAPTIVE
from fsrobust.plugin import insertion_points
from fsrobust.types import InputError, unknown_name


def attacks_for(model: nn.Module, text: str | None) -> tuple[list[str], list[str]]:
    """Return the attacks that a text asks for and a model can have, and a sentence for what is left out of them.

    Unless told otherwise a model is judged by the white box, AutoAttack, and whatever adapts to it.

    Raises:
        InputError: an unknown name.
    """
    if text is None:
        return [*SUITES["whitebox"], "autoattack", *([ADAPTIVE] if insertion_points(model) else [])], []
    return applicable(expand_attacks(text), model)


def applicable(names: Sequence[str], model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the attacks that there are for a model, and a sentence for what was left out while others remain."""
    left = [name for name in names if name != ADAPTIVE]
    if insertion_points(model) or len(left) in {0, len(names)}:
        return list(names), []
    return left, ['"adaptive" is left out: the model has no plug-in, so there is nothing to adapt to']


def remarks(names: Sequence[str], study: Study) -> list[str]:
    """Return what somebody should know who asks for these attacks, a sentence each."""
    if study.surrogate is not None and all(name in SCORE_BASED or name == ADAPTIVE for name in names):
        return [
            f"--surrogate is left aside: no attack of {', '.join(names)} takes another network's gradients"
        ]
    own = [name for name in names if name in SUITES["blackbox"] and name not in SCORE_BASED]
    if study.surrogate is not None or not own:
        return []
    return [
        f"{', '.join(own)}: with the model's own gradients; of a black box, give another network as --surrogate"
    ]


def expand_attacks(text: str) -> list[str]:
    """Return attack names from "whitebox" or "fgsm,pgd20", each once, in order.

    "adaptive" is made for the model that has the plug-in, when it is known.

    >>> expand_attacks("whitebox,pgd10")
    ['fgsm', 'pgd20', 'pgd100', 'cw', 'pgd10']

    Raises:
        InputError: an unknown name; the nearest is named.
    """
    names: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word not in SUITES and word not in ATTACKS and word != ADAPTIVE:
            raise unknown_name("attack", word, [*SUITES, *ATTACKS, ADAPTIVE])
        names += SUITES.get(word, (word,))
    if not names:
        raise InputError('Expected attacks, such as "whitebox" or "fgsm,pgd20", but got none')
    return list(dict.fromkeys(names))
