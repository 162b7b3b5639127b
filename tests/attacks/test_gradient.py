"""FGSM, PGD and C&W against literal loops, closed forms and the settings of the literature."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import ATTACKS, PGD, SUITES, Ball, Linf, make_attack, make_ball, perturb
from fsrobust.attacks.losses import LOSSES
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.helpers import half_space, images

Y = torch.tensor([0, 1, 2, 3, 0, 1])


def ascent(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> list[Tensor]:
    """PGD as the paper writes it: step, project, clamp; every iterate, the start first."""
    iterates = [start]
    for _ in range(attack.steps):
        x_adv = iterates[-1].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(LOSSES[attack.loss](model(x_adv), y).sum(), x_adv)
        eps, step = attack.ball.eps, attack.step_size
        if attack.ball.norm == "linf":
            delta = (x_adv.detach() + step * gradient.sign() - x).clamp(-eps, eps)
        else:
            length = gradient.flatten(1).norm(dim=1)[:, None, None, None]
            delta = x_adv.detach() + step * gradient / length - x
            delta = delta * (eps / delta.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
        iterates.append((x + delta).clamp(0, 1))
    return iterates


def test_fgsm_is_one_exact_step(small_net: nn.Module) -> None:
    """FGSM is x + eps · sign(∂CE/∂x), clamped to [0, 1]: the same bits as written by hand."""
    x = images(6)
    leaf = x.clone().requires_grad_(True)
    F.cross_entropy(small_net(leaf), Y, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    expected = (x + 8 / 255 * leaf.grad.sign()).clamp(0, 1)
    ours = perturb(make_attack("fgsm", Linf(8 / 255)), small_net, x, Y)
    # (x + eps) − x is rounded once before it is added again
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-7)


# DLR is constant where the true class is third: the loop below would divide by a gradient of 0
@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"dlr"}))
@pytest.mark.parametrize("ball", [make_ball("linf", 0.05), make_ball("l2", 0.5)], ids=["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_is_the_papers_loop(
    loss: str,
    ball: Ball,
    small_net: nn.Module,
    *,
    random_start: bool,
) -> None:
    """With any loss, in both balls, from x or a random start, five steps are the loop written by hand."""
    attack = PGD(ball, steps=5, step_size=ball.eps / 3, loss=loss, random_start=random_start)
    x, noise = images(6), Noise.of(torch.arange(6), 9, "pgd").fold(0)
    start = ball.sample(x, noise) if random_start else x
    expected = ascent(attack, small_net, x, Y, start)[-1]
    # L2's sums may be grouped otherwise; L∞'s signs agree or differ by whole steps
    torch.testing.assert_close(perturb(attack, small_net, x, Y, seed=9), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("random_start", "restarts"), [(False, 1), (True, 1), (True, 3)])
def test_a_plane_is_crossed_beyond_its_distance_only(
    loss: str,
    norm: str,
    *,
    random_start: bool,
    restarts: int,
) -> None:
    """With the plane at a known distance d, eps = 0.9 d never wins and eps = 1.1 d always does."""
    distance = {"linf": 0.03, "l2": 0.5}[norm]
    model, x, y = half_space(norm, distance)
    for factor, won in ((0.9, False), (1.1, True)):
        ball = make_ball(norm, factor * distance)
        attack = PGD(ball, 20, ball.eps / 5, loss=loss, random_start=random_start, restarts=restarts)
        fooled = model(perturb(attack, model, x, y)).argmax(1) != y
        assert fooled.tolist() == [won] * len(y)


def first_queries(attack: PGD, seed: int, ids: Tensor) -> Tensor:
    """Return the image at which an attack first asks for a gradient: its start."""
    model, x, y = half_space("linf", 0.03)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda _m, inputs: seen.append(inputs[0].detach()) if torch.is_grad_enabled() else None
    )
    perturb(attack, model, x, y, ids=ids, seed=seed)
    return seen[0]


def test_starts_depend_on_seed_and_id_alone() -> None:
    """Attacks of one family share their starts whatever their length; seeds and ids give others."""
    ids = torch.arange(6)
    short = PGD(Linf(0.02), 1, 0.01, random_start=True)
    long = PGD(Linf(0.02), 7, 0.002, loss="cw", random_start=True)
    start = first_queries(short, 0, ids)
    assert torch.equal(first_queries(long, 0, ids), start)
    assert torch.equal(first_queries(short, 0, ids.flip(0)).std(0) > 0, torch.ones(3, 8, 8, dtype=torch.bool))
    for other in (first_queries(short, 1, ids), first_queries(short, 0, ids + 6)):
        assert (other != start).float().mean() > 0.99


def test_a_sample_keeps_the_first_restart_that_fooled() -> None:
    """Of three restarts each sample keeps the first whose last iterate fooled, else the third; by hand."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 4)).eval()
    ball, x = Linf(0.03), images(64, seed=5)
    attack = PGD(ball, steps=1, step_size=0.01, random_start=True, restarts=3)
    y = model(x).argmax(1)
    noise = Noise.of(torch.arange(64), 0, "pgd")
    last = [ascent(attack, model, x, y, ball.sample(x, noise.fold(k)))[-1] for k in range(3)]
    fooled = [model(each).argmax(1) != y for each in last]
    assert not torch.equal(fooled[0], fooled[1])  # the restarts differ in what they fool
    expected = torch.where(fooled[1][:, None, None, None], last[1], last[2])
    expected = torch.where(fooled[0][:, None, None, None], last[0], expected)
    torch.testing.assert_close(perturb(attack, model, x, y), expected, rtol=0, atol=1e-6)


def test_the_settings_are_the_papers() -> None:
    """At 8/255: FGSM one step of eps; PGD and C&W steps of 0.8/255 from x; PGD-10 trains with 2/255."""
    ball, step = Linf(8 / 255), pytest.approx(0.8 / 255)
    settings: dict[str, object] = {}
    for name in ATTACKS:
        attack = make_attack(name, ball)
        if isinstance(attack, PGD):
            settings[name] = (
                attack.steps,
                attack.step_size,
                attack.loss,
                attack.random_start,
                attack.restarts,
            )
    papers: dict[str, object] = {
        "fgsm": (1, pytest.approx(8 / 255), "ce", False, 1),
        "pgd20": (20, step, "ce", False, 1),
        "pgd100": (100, step, "ce", False, 1),
        "cw": (30, step, "cw", False, 1),
        "pgd10": (10, pytest.approx(2 / 255), "ce", True, 1),
    }
    assert {name: settings[name] for name in papers} == papers


def test_suites_name_attacks() -> None:
    """Every name in a suite is a row of ATTACKS, once."""
    for names in SUITES.values():
        assert set(names) <= set(ATTACKS)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"steps": -1}, {"step_size": -0.1}, {"step_size": math.nan}, {"restarts": 0}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """No steps, no restarts, a negative step and NaN are refused, and the message shows the whole attack."""
    settings = {"steps": 5, "step_size": 0.1} | wrong
    with pytest.raises(
        InputError, match=r"steps, restarts ≥ 1, step_size and jitter ≥ 0, but got PGD\(ball=Linf"
    ):
        PGD(Linf(0.1), **settings)  # type: ignore[arg-type]


def test_an_unknown_loss_is_answered_with_the_nearest() -> None:
    """A misspelt loss names the nearest known."""
    with pytest.raises(InputError, match='Unknown loss "margn"; did you mean "margin"'):
        PGD(Linf(0.1), 1, 0.1, loss="margn")


def test_restarts_need_a_random_start() -> None:
    """Restarts that are all alike would only look like five attacks: refused."""
    with pytest.raises(InputError, match="random_start"):
        PGD(Linf(0.1), 1, 0.1, restarts=5)
