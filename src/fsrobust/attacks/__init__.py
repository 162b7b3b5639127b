"""Attacks by name, with the settings of the literature. A new attack is one file and one row of ATTACKS."""

from collections.abc import Callable
from typing import Final

from fsrobust.attacks.apgd import APGD as APGD
from fsrobust.attacks.balls import L2 as L2
from fsrobust.attacks.balls import Ball as Ball
from fsrobust.attacks.balls import Linf as Linf
from fsrobust.attacks.balls import describe_ball as describe_ball
from fsrobust.attacks.balls import format_eps as format_eps
from fsrobust.attacks.balls import make_ball as make_ball
from fsrobust.attacks.base import Attack as Attack
from fsrobust.attacks.base import Search as Search
from fsrobust.attacks.base import perturb as perturb
from fsrobust.attacks.base import search as search
from fsrobust.attacks.cascade import Cascade as Cascade
from fsrobust.attacks.cascade import Stage as Stage
from fsrobust.attacks.cascade import apgd_t, autoattack, autoattack_plus, autoattack_rand, fab_t
from fsrobust.attacks.fab import FAB as FAB
from fsrobust.attacks.gradient import PGD as PGD
from fsrobust.attacks.nattack import NAttack as NAttack
from fsrobust.attacks.probe import Probe as Probe
from fsrobust.attacks.square import Square as Square
from fsrobust.attacks.transfer import TransferPGD as TransferPGD
from fsrobust.types import unknown_name

ATTACKS: Final[dict[str, Callable[[Ball], Attack]]] = {
    # the paper's white-box settings: no random start, one run, last iterate, step eps/10
    "fgsm": lambda ball: PGD(ball, steps=1, step_size=ball.eps),
    "pgd20": lambda ball: PGD(ball, steps=20, step_size=ball.eps / 10),
    "pgd100": lambda ball: PGD(ball, steps=100, step_size=ball.eps / 10),
    "cw": lambda ball: PGD(ball, steps=30, step_size=ball.eps / 10, loss="cw"),
    # the usual training attack, also the one that picks the best checkpoint
    "pgd10": lambda ball: PGD(ball, steps=10, step_size=ball.eps / 4, random_start=True),
    # AutoAttack's members, alone and together
    "apgd-ce": APGD,
    "apgd-dlr": lambda ball: APGD(ball, "dlr"),
    "apgd-t": apgd_t,
    "fab": FAB,
    "fab-t": fab_t,
    "square": Square,
    "autoattack": autoattack,
    "autoattack-plus": autoattack_plus,
    "autoattack-rand": autoattack_rand,
    # to be carried over from a surrogate: PGD-20 with inputs that vary, gradients smoothed, momentum
    "di-fgsm": lambda ball: TransferPGD(ball, steps=20, step_size=ball.eps / 10, diversity=0.5),
    "ti-fgsm": lambda ball: TransferPGD(ball, steps=20, step_size=ball.eps / 10, kernel=5),
    "mi-di-ti-fgsm": lambda ball: TransferPGD(
        ball, steps=20, step_size=ball.eps / 10, diversity=0.5, kernel=5, momentum=1.0
    ),
    # by scores alone: up to 150,500 queries for a sample that holds out, so on a subset
    "nattack": lambda ball: NAttack(ball),
}

SUITES: Final[dict[str, tuple[str, ...]]] = {
    "whitebox": ("fgsm", "pgd20", "pgd100", "cw"),
    # without N-Attack, whose queries are for a subset
    "blackbox": ("di-fgsm", "ti-fgsm", "mi-di-ti-fgsm", "square"),
}
"""Names that stand for several attacks."""

SCORE_BASED: Final = ("square", "nattack")
"""Attacks that ask for no gradient: they need no surrogate to be black-box."""


def make_attack(name: str, ball: Ball) -> Attack:
    """Return a row of ATTACKS, on ``ball``.

    >>> make_attack("pgd20", Linf(0.5)).step_size
    0.05

    Raises:
        InputError: no such attack; the message names the nearest.
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return ATTACKS[name](ball)
