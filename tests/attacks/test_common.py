"""Checks that every row of ATTACKS must pass; a new attack gets them with its row."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import (
    APGD,
    ATTACKS,
    FAB,
    L2,
    Attack,
    Ball,
    Cascade,
    Linf,
    NAttack,
    Square,
    make_attack,
    make_ball,
    perturb,
)
from fsrobust.types import InputError
from tests.helpers import half_space

LONG = "autoattack-plus"
NAMES = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == LONG else name for name in ATTACKS]
)
SMOOTHING = {"ti-fgsm", "mi-di-ti-fgsm", "square"}
"""Rows that move pixels together: they cannot follow weights that are white noise."""
BALLS = pytest.mark.parametrize("ball", [Linf(0.1), L2(0.8)], ids=["linf", "l2"])


def row(name: str, ball: Ball) -> Attack:
    """Return a row of ATTACKS, at a budget that a test can wait for."""
    return shorter(make_attack(name, ball))


def shorter(attack: Attack) -> Attack:
    """Return an attack with fewer queries where it has thousands."""
    if isinstance(attack, Cascade):
        return replace(attack, stages=tuple(replace(s, attack=shorter(s.attack)) for s in attack.stages))
    if isinstance(attack, NAttack | APGD | FAB):
        return replace(attack, steps=20)
    return replace(attack, queries=100) if isinstance(attack, Square) else attack


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Five images of 3 × 8 × 8, some pixels on the edge of the range, and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, 3, 8, 8, generator=generator).mul(1.2).sub(0.1).clamp(0, 1)
    return x, torch.tensor([0, 1, 2, 3, 0])


@NAMES
@BALLS
def test_stays_in_the_ball_and_in_range(
    name: str, ball: Linf | L2, small_net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """Images move, by no more than eps and float32's rounding, and stay in [0, 1]; the input is untouched.

    What is wrong when clean, and what an attack gave up, may be left as it is.
    """
    x, y = batch
    before = x.clone()
    adversarial = perturb(row(name, ball), small_net, x, y)
    moved = ball.distance(adversarial, x)
    with torch.no_grad():
        right, standing = (small_net(images).argmax(1) == y for images in (x, adversarial))
    assert (moved[right & ~standing] > 0).all()
    assert right.any()
    assert (moved <= ball.eps * (1 + 1e-6) + 1e-6).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not adversarial.requires_grad
    assert torch.equal(x, before)


@NAMES
def test_same_seed_same_bits_whatever_the_order(
    name: str, small_net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """Reversing the batch reverses the result: noise follows ids, not places; torch's generator rests."""
    x, y = batch
    ids, state = torch.tensor([3, 1, 4, 15, 9]), torch.get_rng_state()
    attack = row(name, Linf(0.1))
    forth = perturb(attack, small_net, x, y, ids=ids, seed=5)
    back = perturb(attack, small_net, x.flip(0), y.flip(0), ids=ids.flip(0), seed=5).flip(0)
    # batches of one size give the same sums, but for where a sample's row lies in the product
    assert torch.allclose(forth, back, atol=1e-6)
    assert torch.equal(forth, perturb(attack, small_net, x, y, ids=ids, seed=5))
    assert torch.equal(state, torch.get_rng_state())


@NAMES
def test_a_batch_of_one_equals_its_place_in_a_batch(
    name: str, small_net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """A sample attacked alone becomes what it becomes among others, up to steps that rounding decides."""
    x, y = batch
    ids, attack = torch.arange(5), row(name, Linf(0.1))
    together = perturb(attack, small_net, x, y, ids=ids)
    alone = perturb(attack, small_net, x[3:4], y[3:4], ids=ids[3:4])
    equal = (together[3:4] - alone).abs() < 1e-6
    assert equal.float().mean() > 0.98  # a sign of a gradient near zero may differ


@NAMES
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_wins_and_loses_at_a_known_distance(name: str, norm: str) -> None:
    """A plane at distance 0.03 is not crossed with 0.9 of it as radius, and is with 1.1; by random search, with 20."""
    distance = 0.03
    model, x, y = half_space(norm, distance, smooth=name in SMOOTHING)
    for factor, crossed in ((0.9, False), (20.0 if name == "square" else 1.1, True)):
        adversarial = perturb(row(name, make_ball(norm, factor * distance)), model, x, y)
        fooled = model(adversarial).argmax(1) != y
        assert bool(fooled.all()) if crossed else not bool(fooled.any())


@NAMES
def test_eps_zero_changes_nothing(name: str, small_net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """In a ball of radius 0 the attacked image is the image."""
    x, y = batch
    assert torch.equal(perturb(row(name, Linf(0.0)), small_net, x, y), x)


@NAMES
def test_is_a_value(name: str) -> None:
    """Two of one row are equal, hash alike, and say their settings."""
    one, other = make_attack(name, Linf(0.1)), make_attack(name, Linf(0.1))
    assert one == other
    assert hash(one) == hash(other)
    assert "eps=0.1" in repr(one)
    assert one != make_attack(name, Linf(0.2))


def test_unknown_names_are_refused_with_the_nearest() -> None:
    """A name that no row has ends in the nearest one that some row has."""
    with pytest.raises(InputError, match='did you mean "pgd20"'):
        make_attack("pdg20", Linf(0.1))
