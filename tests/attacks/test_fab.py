"""FAB against closed forms and against its authors' implementation, step by step and sample by sample."""

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from fsrobust.attacks import FAB, Ball, Linf, make_ball, perturb, search
from fsrobust.attacks.projections import ORDERS, lengths
from fsrobust.types import InputError
from tests.attacks.conftest import RADII
from tests.attacks.oracles import NORMS, Counting, fooled_by_ours, fooled_by_theirs
from tests.helpers import half_space, images

BOTH = pytest.mark.parametrize("norm", NORMS)
Trained = tuple[nn.Module, Tensor, Tensor]


def theirs(model: nn.Module, ball: Ball, *, targets: int | None, steps: int = 100) -> FABAttack_PT:
    """Return the authors' attack on the first so many wrong classes, or the untargeted one."""
    return FABAttack_PT(
        model,
        norm=NORMS[ball.norm],
        eps=ball.eps,
        n_iter=steps,
        targeted=targets is not None,
        n_target_classes=targets or 9,
        device="cpu",
    )


@BOTH
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("restart", [0, 1])
def test_finds_the_minimal_distance(norm: str, target: int | None, restart: int) -> None:
    """A plane at a known distance d is crossed in a ball of 1.01 d and not in one of 0.99 d."""
    distance = {"linf": 0.03, "l2": 0.5}[norm]
    model, x, y = half_space(norm, distance)
    for factor, won in ((0.99, False), (1.01, True)):
        attack = FAB(make_ball(norm, factor * distance), target=target, restart=restart)
        fooled = model(perturb(attack, model, x, y)).argmax(1) != y
        assert fooled.tolist() == [won] * len(y)


class _Planes(nn.Module):
    """Five classes, linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(5, 192, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return (x - 0.5).flatten(1) @ self.weight.T


@BOTH
@pytest.mark.parametrize("target", [None, 1, 2, 3, 4])
def test_the_first_step_is_to_the_plane_of_the_class(norm: str, target: int | None) -> None:
    """From x it goes 1.05 times to the plane of the k-th most likely wrong class, or to the nearest plane."""
    model, order = Counting(_Planes()), ORDERS[norm]
    x = 0.45 + 0.1 * images(16)
    weight, logits = model.net.weight.detach(), model.net(x).detach()  # type: ignore[operator]
    y = logits.argmax(1)
    search(FAB(make_ball(norm, 1e-4), steps=1, target=target), model, x, y, ids=torch.arange(16))
    stepped = model.asked[3]  # after the gate's look, the clean query and that of the gradient
    for i in range(16):
        gaps, normals = logits[i] - logits[i, y[i]], weight - weight[y[i]]
        steepness = normals.abs().sum(1) if norm == "linf" else normals.norm(dim=1)
        nearest = int((gaps.abs() / steepness).nan_to_num(torch.inf).argmin())
        k = nearest if target is None else int(logits[i].argsort(descending=True)[target])
        w = normals[k]
        direction = w.sign() / w.abs().sum() if norm == "linf" else w / (w @ w)
        expected = 1.05 * -gaps[k] * direction
        # logits are of size 3, so their gap is known to 1e-6, and pixels to 1e-7
        torch.testing.assert_close((stepped[i] - x[i]).flatten(), expected, rtol=1e-4, atol=1e-6)
    assert lengths((stepped - x).flatten(1), order).max() > 1e-3


@BOTH
@pytest.mark.parametrize("targets", [None, 1])
def test_walks_the_authors_path(norm: str, targets: int | None, robust_net: Trained) -> None:
    """In a ball too small to win, eight steps ask about the images that pyautoattack asks about."""
    net, x, y = robust_net
    right = net(x).argmax(1) == y
    x, y = x[right][:50], y[right][:50]
    ours, other = Counting(net), Counting(net)
    ball = make_ball(norm, 1e-4)
    search(FAB(ball, steps=8, target=targets), ours, x, y, ids=torch.arange(50))
    theirs(other, ball, targets=targets, steps=8).perturb(x, y)
    # clean looks come first, verdicts last: one of the gate and one of ours, two or three of theirs
    walked, expected = ours.asked[2:18], other.asked[2 if targets is None else 3 :][:16]
    torch.testing.assert_close(walked[0], x)
    for mine, yours in zip(walked, expected, strict=True):
        # float32's roundings grow along a path; a ReLU or an argmax on an edge may part two of fifty
        apart = (mine - yours).flatten(1).abs().amax(1) > 1e-4
        assert apart.sum() <= 2
    assert (walked[-1] - x).abs().max() > 0.05


def disagreements(ball: Ball, targets: int | None, steps: int, samples: Trained) -> tuple[int, int]:
    """Return how many samples only ours fools, and only theirs; between 3 and 7 of 10 are fooled."""
    net, x, y = samples
    classes = [None] if targets is None else range(1, targets + 1)
    fooled = fooled_by_ours([FAB(ball, steps=steps, target=k) for k in classes], net, x, y)
    other = fooled_by_theirs(theirs(net, ball, targets=targets, steps=steps).perturb, net, x, y)
    assert 0.3 <= fooled.float().mean() <= 0.7
    return int((fooled & ~other).sum()), int((other & ~fooled).sum())


@BOTH
@pytest.mark.parametrize("targets", [1, None])
def test_fools_whom_the_authors_fool(norm: str, targets: int | None, robust_net: Trained) -> None:
    """In ten steps at most one of 60 samples is fooled by ours alone, or by theirs alone."""
    net, x, y = robust_net
    ours, other = disagreements(make_ball(norm, RADII[norm]), targets, 10, (net, x[:60], y[:60]))
    assert max(ours, other) <= 1


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("targets", "factor"), [(9, 1.0), (2, 0.9), (2, 1.1), (None, 1.0)])
def test_fools_whom_the_authors_fool_at_full_length(
    norm: str, targets: int | None, factor: float, robust_net: Trained
) -> None:
    """In a hundred steps it is at most one of 200, be the ball smaller or larger."""
    ours, other = disagreements(make_ball(norm, factor * RADII[norm]), targets, 100, robust_net)
    assert max(ours, other) <= 1


@pytest.mark.parametrize("targets", [1, None])
def test_costs_a_survivor_what_the_authors_attack_does(targets: int | None, robust_net: Trained) -> None:
    """Two forward passes a step and one backward pass per class; theirs adds one for the true class."""
    net, x, y = robust_net
    right = net(x).argmax(1) == y
    x, y, ball, steps = x[right][:4], y[right][:4], Linf(1e-4), 40
    ours, other = Counting(net), Counting(net)
    found = search(FAB(ball, steps=steps, target=targets), ours, x, y, ids=torch.arange(4))
    theirs(other, ball, targets=targets, steps=steps).perturb(x, y)
    assert not found.fooled_any.any()
    assert found.forwards == ours.forwards - 1 == pytest.approx(other.forwards, rel=0.05)
    assert found.backwards == 4 * steps * (1 if targets else 9)
    assert other.backwards == 4 * steps * (1 if targets else 10)


@BOTH
def test_later_restarts_set_out_half_eps_away(norm: str) -> None:
    """Restart 0 begins at x; others at distance eps/2, each at a place of its own that follows the id."""
    plane, x, y = half_space(norm, 0.1)
    starts = []
    for restart, ids in ((0, range(6)), (1, range(6)), (2, range(6)), (1, range(5, -1, -1))):
        model = Counting(plane)
        attack = FAB(make_ball(norm, 0.02), steps=1, target=1, restart=restart)
        search(attack, model, x, y, ids=torch.tensor(ids))
        starts.append(model.asked[2] - x)
    away = [lengths(start.flatten(1), ORDERS[norm]) for start in starts]
    assert not away[0].any()
    for distance in away[1:]:
        torch.testing.assert_close(distance, torch.full((6,), 0.01), rtol=0, atol=1e-6)
    assert not torch.allclose(starts[1], starts[2], atol=1e-3)
    torch.testing.assert_close(starts[3], starts[1].flip(0), rtol=0, atol=1e-6)


def test_without_a_class_to_aim_at_it_rests() -> None:
    """With two classes there is no second wrong one: one look at the image, which comes back."""
    model, x, y = half_space("linf", 0.03)
    found = search(FAB(Linf(0.1), target=2), model, x, y, ids=torch.arange(6))
    assert torch.equal(found.last, x)
    assert (found.forwards, found.backwards) == (3 * 6, 0)


@BOTH
def test_who_is_won_leaves_the_batch(norm: str, robust_net: Trained) -> None:
    """Batches shrink as samples are won, and who is fooled is who would be, each alone with its neighbours gone."""
    net, x, y = robust_net
    ball, model = make_ball(norm, RADII[norm]), Counting(net)
    attack = FAB(ball, steps=10, target=1, restart=1)
    found = search(attack, model, x[:40], y[:40], ids=torch.arange(40), seed=3)
    sizes = [len(batch) for batch in model.asked[2:-2]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2] < sizes[0]
    parts = [torch.arange(39, 19, -1), torch.arange(20)]
    again = [search(attack, net, x[p], y[p], ids=p, seed=3).fooled_any for p in parts]
    assert torch.equal(torch.cat([again[1], again[0].flip(0)]), found.fooled_any)
    assert (ball.distance(found.witness, x[:40]) <= ball.eps * (1 + 1e-6) + 1e-6).all()
    assert torch.equal(net(found.witness).argmax(1) != y[:40], found.fooled_any)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"target": 0}, {"restart": -1}], ids=str)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    """No steps, no class and a negative restart are refused with the whole attack."""
    with pytest.raises(InputError, match=r"steps and target ≥ 1, restart ≥ 0, but got FAB\(ball=Linf"):
        FAB(Linf(0.1), **wrong)  # type: ignore[arg-type]
