"""AutoAttack's version for random networks: gradients and verdicts are those of the mean of several draws."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, Ball, Linf, Stage, make_attack, search
from fsrobust.attacks.base import drawing
from fsrobust.attacks.cascade import DRAWS, Cascade, autoattack_rand
from fsrobust.attacks.probe import Probe
from fsrobust.evaluate.engine import run_attack
from fsrobust.evaluate.transfer import transfer_attack
from fsrobust.seeding import Noise
from tests.attacks.conftest import RADII
from tests.attacks.oracles import NORMS, Counting
from tests.attacks.test_apgd import reference as reference

BALL = Linf(RADII["linf"])


class Draws(nn.Module):
    """A linear network whose weights are another row of ``weights`` [D, K, P] at each query."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.turn = weights, count()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the next draw."""
        return x.flatten(1) @ self.weights[next(self.turn) % len(self.weights)].T


class Noisy(nn.Module):
    """A network that looks at its images through Gaussian noise."""

    def __init__(self, net: nn.Module, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma = net, sigma

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of another noise each time."""
        logits: Tensor = self.net(x + self.sigma * torch.randn_like(x))
        return logits


@dataclass(frozen=True)
class Idle:
    """An attack that returns what it is given."""

    ball: Ball
    family: ClassVar[str] = "idle"
    cost: ClassVar[int] = 1

    def run(self, _probe: Probe, x: Tensor, _y: Tensor, _noise: Noise) -> Tensor:
        """Return the images."""
        return x


class Moody(nn.Module):
    """A network that answers with its runner-up one time in ten, whatever the image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, those of some samples with the first two classes exchanged."""
        logits: Tensor = self.net(x)
        top = logits.topk(2).indices
        moody = logits.scatter(1, top, logits.gather(1, top.flip(1)))
        return torch.where(torch.rand(len(x), 1) < 0.1, moody, logits)


def test_a_gradient_is_the_mean_over_the_draws(generator: torch.Generator) -> None:
    """Of a linear network's cross-entropy: Wᵀ(softmax − onehot) for each draw; answers are mean probabilities."""
    weights = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    x = torch.rand(2, 1, 2, 2, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 2])
    probe = Probe(Draws(weights), draws=5)
    gradient, logits = probe.gradient(x, lambda z: nn.functional.cross_entropy(z, y, reduction="none"))
    p = torch.einsum("bp,dkp->dbk", x.flatten(1), weights).softmax(2)
    expected = torch.einsum("dbk,dkp->bp", p - nn.functional.one_hot(y, 3), weights) / 5
    torch.testing.assert_close(gradient.flatten(1), expected)
    torch.testing.assert_close(logits.exp(), p.mean(0))
    torch.testing.assert_close(probe.logits(x).exp(), p.mean(0))
    assert (probe.forwards, probe.backwards) == (20, 10)


@pytest.mark.slow
def test_draws_of_what_is_not_random_change_nothing(robust_net: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Whom the cascade fools with 4 draws it fools with one, but for a sample that rounding tips."""
    model, x, y = robust_net
    plain = replace(autoattack_rand(BALL), draws=1)
    ids = torch.arange(60)
    one, four = (
        search(cascade, model, x[:60], y[:60], ids=ids).fooled_any
        for cascade in (plain, replace(plain, draws=4))
    )
    assert int((one ^ four).sum()) <= 1


def test_a_lucky_draw_is_no_verdict(robust_net: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Thirty looks at a network that errs at random fool nearly all samples; the mean of its answers none."""
    model, x, y = robust_net
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y, ids = x[right][:40], y[right][:40], torch.arange(40)
    tiny = Linf(1e-6)
    single = Cascade(tiny, (Stage("apgd-ce", APGD(tiny, steps=30)),))
    with drawing(0, x.device):
        by_luck = search(single, Moody(model), x, y, ids=ids).path
    assert torch.stack(by_luck).any(0).float().mean() > 0.9
    assert not search(replace(single, draws=DRAWS), Moody(model), x, y, ids=ids).fooled_any.any()


def test_draws_are_seeded_whatever_the_attack(robust_net: tuple[nn.Module, Tensor, Tensor]) -> None:
    """One draw a query, too: the same attack on the same batch sees the same network twice, a torch seed aside."""
    model, x, y = robust_net
    ids, noisy = torch.arange(40), Noisy(model, 0.1)

    def attacked(seed: int) -> Tensor:
        found = search(make_attack("pgd20", BALL), noisy, x[:40], y[:40], ids=ids, seed=seed)
        return torch.stack([found.fooled_last, found.fooled_any, *found.path])

    torch.manual_seed(1)
    once = attacked(0)
    torch.manual_seed(2)
    assert torch.equal(attacked(0), once)
    assert not torch.equal(attacked(1), once)


def test_a_stage_leaves_alone_what_the_ones_before_it_fooled(
    robust_net: tuple[nn.Module, Tensor, Tensor],
) -> None:
    """A second stage that finds nothing changes no image that the first one fooled with, and no clean one."""
    model, x, y = robust_net
    x, y, ids = x[:24], y[:24], torch.arange(24)
    climb, idle = Stage("apgd-ce", APGD(BALL, steps=10)), Stage("idle", Idle(BALL))
    one, two = (
        search(Cascade(BALL, stages, draws=3), model, x, y, ids=ids) for stages in ((climb,), (climb, idle))
    )
    assert one.fooled_last.any()
    assert torch.equal(one.fooled_last, two.fooled_last)


def test_the_same_seed_draws_the_same(robust_net: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Two evaluations of a random network agree image by image; another seed draws otherwise."""
    model, x, y = robust_net
    short = Cascade(BALL, (Stage("apgd-ce", APGD(BALL, steps=3)),), draws=4)
    noisy = Noisy(model, 0.3)
    first, second, other = (
        run_attack(short, noisy, x[:12], y[:12], ids=torch.arange(12), seed=seed, batch=12)
        for seed in (0, 0, 1)
    )
    assert (first.fooled_any == second.fooled_any).all()
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)


def test_a_random_network_is_asked_several_times_about_what_another_made(
    robust_net: tuple[nn.Module, Tensor, Tensor],
) -> None:
    """A transfer's verdicts are by the mean of the draws, too: the same with the same seed, and at random by one."""
    model, x, y = robust_net
    short = Cascade(BALL, (Stage("apgd-ce", APGD(BALL, steps=2)),), draws=8)
    moody = Moody(model)
    first, second = (
        transfer_attack(short, model, moody, x[:40], y[:40], ids=torch.arange(40)).predicted for _ in "ab"
    )
    assert (first == second).all()
    assert (
        first
        == model(transfer_attack(short, model, model, x[:40], y[:40], ids=torch.arange(40)).images)
        .argmax(1)
        .numpy()
    ).all()


@pytest.fixture
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_seeded")
def test_fools_as_many_as_the_reference(
    robust_net: tuple[nn.Module, Tensor, Tensor],
    reference: object,
) -> None:
    """Judged alike, by the mean of 200 draws, ours and theirs leave about as many of 50 samples standing.

    The searches differ in what they remember as best, and the draws are not shared: 4 are allowed.
    """
    model, x, y = robust_net
    noisy = Noisy(model, 0.05)
    x, y, ids = x[:50], y[:50], torch.arange(50)
    attack = make_attack("autoattack-rand", BALL)
    assert isinstance(attack, Cascade)
    ours = search(attack, noisy, x, y, ids=ids).witness

    counting = Counting(noisy)
    theirs = reference.APGDAttack(  # type: ignore[attr-defined]
        counting, n_iter=100, norm=NORMS["linf"], eps=BALL.eps, seed=0, device="cpu", eot_iter=DRAWS
    )
    beaten = x.clone()
    for loss in ("ce", "dlr"):
        theirs.loss = loss
        theirs.init_hyperparam(x)
        _, accuracy, _, adversarial = theirs.attack_single_run(x, y)
        beaten = torch.where(
            ((beaten == x).flatten(1).all(1) & ~accuracy.bool())[:, None, None, None], adversarial, beaten
        )
    assert float((beaten - x).abs().max()) <= BALL.eps + 1e-6
    judge = Probe(noisy, draws=200)
    standing = [int((judge.logits(images).argmax(1) == y).sum()) for images in (ours, beaten)]
    assert 8 <= standing[0] <= 42
    assert abs(standing[0] - standing[1]) <= 4
