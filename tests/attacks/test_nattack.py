"""N-Attack: its step against the formula, what it asks, when it stops, and a plane it has to find by scores."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import L2, Ball, Linf, NAttack, Probe, make_attack, make_ball, perturb, search
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.helpers import half_space, images

ATTACK = NAttack(Linf(0.05), steps=4, population=30)


class Blind(nn.Module):
    """Scores without a gradient, counted."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits without their graph."""
        self.asked += len(x)
        with torch.no_grad():
            logits: Tensor = self.net(x.detach())
        return logits


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.4)], ids=["linf", "l2"])
def test_a_step_is_the_papers(ball: Ball, small_net: nn.Module) -> None:
    """Three steps by hand, sample by sample and draw by draw, in float64: the images it shows are these."""
    model, x = small_net.double(), images(3).double()
    with torch.no_grad():
        y = model(x).argmax(1)
    attack = NAttack(ball, steps=3, population=25, sigma=0.2, step_size=0.5)
    noise = Noise.of(torch.arange(3), 7, "nattack")
    shown: list[Tensor] = []

    class Watching:
        def __call__(self, rows: Tensor | None, x: Tensor, logits: Tensor) -> None:
            del rows, logits
            shown.append(x)

        def won(self, rows: Tensor | None) -> Tensor:
            del rows
            return torch.zeros(3, dtype=torch.bool)

    last = attack.run(Probe(model, Watching()), x, y, noise)
    assert torch.equal(last, shown[-1])
    assert len(shown) == 3
    for n in range(3):
        mu = torch.atanh(2 * x[n].clamp(1 / 510, 1 - 1 / 510) - 1)
        for step in range(3):
            # 25 draws come as 20 and 5
            draws = [noise.fold(step).fold(first).normal((m, 3, 8, 8))[n] for first, m in ((0, 20), (20, 5))]
            eps = torch.cat(draws).double()
            candidates = torch.stack(
                [ball.project((1 + (mu + 0.2 * e).tanh())[None] / 2, x[n : n + 1])[0] for e in eps]
            )
            with torch.no_grad():
                z = model(candidates)
            right = z[:, y[n]]
            loss = torch.stack([row[torch.arange(4) != y[n]].max() for row in z]) - right
            torch.testing.assert_close(shown[step][n], candidates[loss.argmax()], rtol=0, atol=1e-9)
            standardised = (loss - loss.mean()) / (loss - loss.mean()).square().mean().sqrt()
            mu = mu + 0.5 / (25 * 0.2) * sum(a * e for a, e in zip(standardised, eps, strict=True))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_plane_is_found_by_scores(norm: str) -> None:
    """Without a gradient to be had, a plane within the ball is crossed, one beyond it never."""
    plane, x, y = half_space(norm, 0.03)
    model = Blind(plane)
    for factor, crossed in ((0.9, False), (1.15, True)):
        attack = NAttack(make_ball(norm, factor * 0.03), steps=20)
        found = search(attack, model, x, y, ids=torch.arange(len(x)))
        assert found.fooled_any.tolist() == found.fooled_last.tolist() == [crossed] * len(x)
        assert found.backwards == 0


def test_queries_are_counted_and_end_with_the_search() -> None:
    """Population + 1 a step and sample while it is searched, then the verdicts; the model counts the same."""
    plane, x, y = half_space("linf", 0.03)
    model = Blind(plane)
    short = replace(ATTACK, ball=Linf(0.01))
    found = search(short, model, x, y, ids=torch.arange(6))
    assert found.forwards == 6 * (4 * 31 + 2)
    assert model.asked == found.forwards + 1  # one more, to learn the number of classes
    near = search(short, model, x, 1 - y, ids=torch.arange(6))  # wrong labels: won at once
    assert len(near.path) == 1
    assert near.forwards == 6 * (31 + 2)
    assert near.fooled_last.all()


def test_samples_leave_when_they_are_won() -> None:
    """Of planes at two distances the near ones leave first: the far ones' queries are theirs alone."""
    _, x, y = half_space("linf", 0.005)
    plane, far, y_far = half_space("linf", 0.03)
    x, y = torch.cat([x[:3], far[3:]]), torch.cat([y[:3], y_far[3:]])
    attack = NAttack(Linf(0.02), steps=15, population=100)
    found = search(attack, plane, x, y, ids=torch.arange(6))
    assert found.fooled_any.tolist() == [True] * 3 + [False] * 3
    won_at = torch.stack(found.path).int().argmax(0)[:3]
    asked = int((won_at + 1).sum()) + 3 * 15
    assert found.forwards >= asked * 101
    assert found.forwards <= asked * 101 + 6 * 4  # and verdicts
    alone = search(attack, plane, x[3:], y[3:], ids=torch.arange(3, 6))
    torch.testing.assert_close(alone.last, found.last[3:], rtol=0, atol=1e-6)


def test_pixels_at_the_end_of_the_range_can_be_moved() -> None:
    """Black and white lie infinitely far out behind a tanh: here an image of nothing else is fooled."""
    plane, _, _ = half_space("linf", 0.03)
    x = (plane.weight.detach() > 0).float()[None]
    with torch.no_grad():
        y = plane(x).argmax(1)
    attack = NAttack(Linf(0.7), steps=300, population=40, step_size=0.1)
    assert search(attack, plane, x, y, ids=torch.arange(1)).fooled_any.all()


def test_a_flat_model_moves_no_mean() -> None:
    """Where all draws score alike there is nothing to standardise: no NaN, and the search ends in the ball."""

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0])

    x = images(2)
    adversarial = perturb(ATTACK, Flat(), x, torch.tensor([0, 0]))
    assert torch.isfinite(adversarial).all()
    assert ATTACK.ball.distance(adversarial, x).max() <= 0.05 + 1e-6


def test_the_budget_is_the_literatures() -> None:
    """Population 300, σ 0.1, step 0.02, up to 500 steps."""
    attack = make_attack("nattack", Linf(8 / 255))
    assert attack == NAttack(Linf(8 / 255), steps=500, step_size=0.02, population=300, sigma=0.1)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"population": 1}, {"sigma": 0.0}, {"step_size": math.nan}], ids=str
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """The message shows the whole attack."""
    with pytest.raises(InputError, match=r"Expected .* but got NAttack\(ball=Linf"):
        NAttack(Linf(0.1), **wrong)  # type: ignore[arg-type]
