"""The adaptive attack: Auto-PGD through every view of the plug-in that hides its gradients less."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from torch import nn

from fsrobust.attacks import APGD, Attack, Ball, Cascade, Stage, make_attack
from fsrobust.attacks.cascade import TARGETS
from fsrobust.attacks.probe import Query
from fsrobust.evaluate.searching import PILOTS, choose_precision
from fsrobust.plugin import Guarded
from fsrobust.plugin.surrogates import surrogates
from fsrobust.types import Images, InputError, Labels

ADAPTIVE: Final = "adaptive"
"""The attack's name; unlike all others it is made for one model."""
RESTARTS: Final = 5


def surrogates_of(
    model: nn.Module, x: Images, y: Labels, precision: Literal["auto", "fp32", "bf16"] = "fp32"
) -> Mapping[str, Query]:
    """Return what a model offers an adaptive attacker to climb, by name; nothing if it has no plug-in.

    Each is a folded copy in ``precision`` where, on the first of these images, that proves to be the same network.
    """
    few = x[:PILOTS], y[:PILOTS]
    return {
        name: choose_precision(network, *few, precision).view or network
        for name, network in _networks(model).items()
    }


def _networks(model: nn.Module) -> Mapping[str, nn.Module]:
    return surrogates(model) if isinstance(model, Guarded) else {}


def climbs_surrogates(attack: Attack) -> bool:
    """Return whether an attack has to be given surrogates."""
    return isinstance(attack, Cascade) and any(stage.surrogate for stage in attack.stages)


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
    return adaptive(ball, _networks(model)) if name == ADAPTIVE else make_attack(name, ball)
