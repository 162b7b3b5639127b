"""The adaptive attack: Auto-PGD through every view of the plug-in that hides its gradients less."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from torch import nn

from fsrobust.attacks import APGD, Attack, Ball, Cascade, Stage, make_attack
from fsrobust.attacks.cascade import TARGETS
from fsrobust.attacks.compiled import is_out_of_memory
from fsrobust.attacks.probe import Query
from fsrobust.evaluate.searching import PILOTS, choose_precision
from fsrobust.plugin import insertion_points
from fsrobust.plugin.surrogates import Noisy, surrogates
from fsrobust.types import Images, InputError, Labels

ADAPTIVE: Final = "adaptive"
"""The attack's name; unlike all others it is made for one model."""
RESTARTS: Final = 5


class Surrogates(Mapping[str, Query]):
    """What a model offers an adaptive attacker to climb, by name; nothing if it has no plug-in.

    Each is a folded copy where, on the first of these images, that proves to be the same network, in bf16 where
    ``precision`` allows it and the surrogate bears it; else the surrogate itself. A copy has weights of its own: only
    the one asked for last is kept.
    """

    def __init__(
        self, model: nn.Module, x: Images, y: Labels, precision: Literal["auto", "fp32", "bf16"] = "fp32"
    ) -> None:
        self._model = model
        # what was decided for the model says nothing about its surrogates
        self._precision: Literal["auto", "fp32"] = "fp32" if precision == "fp32" else "auto"
        self._x, self._y = x[:PILOTS], y[:PILOTS]
        self._latest: tuple[str, Query] | None = None

    @functools.cached_property
    def _networks(self) -> Mapping[str, nn.Module]:
        """The surrogates themselves: made only if an attack wants any."""
        return _networks(self._model)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._networks)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._networks)

    def __getitem__(self, name: str) -> Query:
        """Return what to climb, made now unless it was asked for just before."""
        if self._latest is None or self._latest[0] != name:
            network, self._latest = self._networks[name], None
            self._latest = name, self._view(network) or network
        return self._latest[1]

    def _view(self, network: nn.Module) -> Query | None:
        """Return the copy, None where there is none that could be trusted."""
        count = len(self._x)
        while count:
            x, y = self._x[:count], self._y[:count]
            try:
                if isinstance(network, Noisy):
                    network.settle(x)
                return choose_precision(network, x, y, self._precision).view
            except Exception as error:
                if not is_out_of_memory(error):
                    return None  # whatever its code does in a copy: it can be climbed as it is
                count //= 2
        return None


def _networks(model: nn.Module) -> Mapping[str, nn.Module]:
    return surrogates(model) if insertion_points(model) else {}


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
