"""The adaptive attack: Auto-PGD through every view of the plug-in that hides its gradients less."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from torch import nn

from fsrobust.attacks import APGD, Attack, Ball, Cascade, Stage, make_attack
from fsrobust.attacks.cascade import TARGETS
from fsrobust.attacks.probe import Query
from fsrobust.plugin import Guarded
from fsrobust.plugin.surrogates import surrogates
from fsrobust.types import InputError

ADAPTIVE: Final = "adaptive"
"""The attack's name; unlike all others it is made for one model."""
RESTARTS: Final = 5


def surrogates_of(model: nn.Module) -> Mapping[str, Query]:
    """Return the views that a model offers an adaptive attacker, by name; none if it has no plug-in."""
    return surrogates(model) if isinstance(model, Guarded) else {}


def adaptive(ball: Ball, names: Iterable[str]) -> Cascade:
    """Return a cascade over the surrogates of these names: Auto-PGD with five restarts and at nine targets each.

    The model itself is asked about every image on the way; what fools a surrogate alone fools nobody.

    Raises:
        InputError: there is no surrogate.
    """
    stages = tuple(stage for name in names for stage in _through(name, ball))
    if not stages:
        raise InputError(
            'Expected a model with the plug-in for the attack "adaptive", but got one that has nothing to adapt to'
        )
    return Cascade(ball, stages)


def _through(name: str, ball: Ball) -> Iterator[Stage]:
    for restart in range(RESTARTS):
        yield Stage(f"{name}/apgd-ce {restart}", APGD(ball, restart=restart), name)
    for k in range(1, TARGETS + 1):
        yield Stage(f"{name}/apgd-t {k}", APGD(ball, "dlr", target=k), name, classes=k + 1)


def find_attack(name: str, ball: Ball, model: nn.Module) -> Attack:
    """Return an attack by name; "adaptive" is made for the model.

    Raises:
        InputError: no such attack, or a model that offers nothing to adapt to.
    """
    return adaptive(ball, surrogates_of(model)) if name == ADAPTIVE else make_attack(name, ball)
