"""What a search reports: verdicts, witness, path and counts, against the same loop by hand."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import L2, PGD, Ball, Linf, Probe, perturb, search
from fsrobust.attacks.losses import cross_entropy, margin
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.helpers import HalfSpace, half_space, images

# long steps in a small ball: iterates come and go over the boundary
ATTACK = PGD(Linf(0.04), steps=4, step_size=0.06, random_start=True)


def by_hand(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> list[Tensor]:
    """Return every iterate of ATTACK, the start first."""
    ball, eps = ATTACK.ball, ATTACK.ball.eps
    iterates = [ball.sample(x, Noise.of(torch.arange(len(x)), seed, "pgd").fold(0))]
    for _ in range(ATTACK.steps):
        leaf = iterates[-1].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
        delta = (leaf.detach() + ATTACK.step_size * gradient.sign() - x).clamp(-eps, eps)
        iterates.append((x + delta).clamp(0, 1))
    return iterates


def test_path_and_witness_are_those_of_the_loop() -> None:
    """path[t] is who is misclassified at the t-th query; the witness is the one that fooled by most."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 4)).eval()
    x = images(64)
    y = model(x).argmax(1)
    found = search(ATTACK, model, x, y, ids=torch.arange(64), seed=3)
    iterates = by_hand(model, x, y, seed=3)
    fooled = torch.stack([model(i).argmax(1) != y for i in iterates])
    assert torch.stack(found.path).tolist() == fooled[:-1].tolist()
    assert found.fooled_last.tolist() == fooled[-1].tolist()
    assert found.fooled_any.tolist() == fooled.any(0).tolist()
    first = fooled.int().argmax(0)
    widest = torch.stack([margin(model(i), y) for i in iterates[:-1]]).argmax(0)
    expected = torch.stack([iterates[widest[k] if fooled[:-1, k].any() else -1][k] for k in range(64)])
    # signs agree or pixels differ by whole steps
    torch.testing.assert_close(found.witness, expected, rtol=0, atol=1e-6)
    assert found.predicted.tolist() == model(found.last).argmax(1).tolist()
    assert 0 < int(fooled.any(0).sum()) < 64  # both kinds are there
    assert bool((fooled.any(0) & ~first.eq(0)).any())  # and some are first fooled on the way


@dataclass(frozen=True)
class _Wanderer:
    """An attack that finds an adversarial image, then walks home."""

    ball: Linf
    family: ClassVar[str] = "wanderer"
    cost: ClassVar[int] = 1

    def run(self, probe: Probe, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Return x, having asked about a point across the boundary."""
        del noise
        gradient, _ = probe.gradient(x, lambda logits: cross_entropy(logits, y))
        probe.logits(self.ball.ascend(x, gradient, self.ball.eps))
        probe.logits(x)
        return x


def test_an_iterate_that_fooled_is_not_forgotten() -> None:
    """Where only an iterate on the way fooled: fooled_any and not fooled_last, and the witness fools."""
    model, x, y = half_space("linf", 0.03)
    found = search(_Wanderer(Linf(0.04)), model, x, y, ids=torch.arange(len(x)))
    assert not found.fooled_last.any()
    assert found.fooled_any.all()
    assert torch.equal(found.last, x)
    assert (model(found.witness).argmax(1) != y).all()
    assert [f.tolist() for f in found.path] == [[fooled] * len(x) for fooled in (False, True, False)]


def test_an_image_misclassified_from_the_start_is_said_to_be() -> None:
    """A wrong label is fooled at the first query, before any step."""
    model, x, y = half_space("linf", 0.1)
    found = search(PGD(Linf(0.01), 3, 0.005), model, x, 1 - y, ids=torch.arange(len(x)))
    assert found.path[0].all()
    assert found.fooled_any.all()


@pytest.mark.parametrize(("steps", "restarts", "batch"), [(1, 1, 1), (5, 1, 3), (4, 3, 2)])
def test_queries_are_counted(steps: int, restarts: int, batch: int) -> None:
    """Samples × (steps · restarts + restarts − 1 looks + 2 verdicts) forward, steps · restarts backward."""
    model, x, y = half_space("linf", 0.03)
    asked: list[int] = []
    model.register_forward_pre_hook(lambda _m, inputs: asked.append(len(inputs[0])))
    attack = PGD(Linf(0.01), steps, 0.01, random_start=True, restarts=restarts)
    found = search(attack, model, x[:batch], y[:batch], ids=torch.arange(batch))
    assert found.forwards == batch * (steps * restarts + restarts - 1 + 2)
    assert found.backwards == batch * steps * restarts
    assert len(found.path) == steps * restarts + restarts - 1
    # besides what is reported, the gate asks about one image to learn the number of classes
    assert sum(asked) == found.forwards + 1


def test_shards_see_the_same_noise() -> None:
    """Any subset in any order, under its own ids, gives the same bits as the whole batch."""
    # a single short step: the start still shows in the result
    attack = PGD(Linf(0.04), steps=1, step_size=0.01, random_start=True)
    model, x, y = half_space("linf", 0.03)
    ids, kept = torch.tensor([10, 7, 8, 2, 99, 4]), torch.tensor([4, 0, 3])
    whole = search(attack, model, x, y, ids=ids, seed=1)
    part = search(attack, model, x[kept], y[kept], ids=ids[kept], seed=1)
    assert torch.equal(part.last, whole.last[kept])
    assert torch.equal(part.witness, whole.witness[kept])
    assert not torch.equal(search(attack, model, x, y, ids=ids, seed=2).witness, whole.witness)


class _Failing(nn.Module):
    """A network that fails at its n-th query."""

    def __init__(self, net: nn.Module, at: int) -> None:
        super().__init__()
        self.net, self.left = net, at

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or fail."""
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize("at", [1, 2, 4, 6])
def test_a_failure_midway_restores_the_model(at: int, small_net: nn.Module) -> None:
    """Wherever in an attack the model fails, every mode and requires_grad is as before."""
    model = _Failing(small_net.train(), at)
    small_net.get_submodule("layer1").eval()
    small_net.get_parameter("conv1.weight").requires_grad_(False)
    before = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    with pytest.raises(ArithmeticError):
        search(ATTACK, model, images(3), torch.tensor([0, 1, 2]), ids=torch.arange(3))
    assert ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]) == before


class _Hesitant(HalfSpace):
    """A plane that is seen shifted while gradients are recorded, as other kernels' roundings would."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits = super().forward(x)
        return logits + torch.tensor([40.0, 0.0]) if torch.is_grad_enabled() else logits


def test_the_witness_fools_wherever_something_did() -> None:
    """If a query's verdict does not hold on a second look, the last iterate stands in where it fools."""
    plane, x, y = half_space("linf", 0.03)
    model = _Hesitant(plane.weight.detach())
    right = y == 1
    x, y = x[right], y[right]
    found = search(PGD(Linf(0.04), 3, 0.02), model, x, y, ids=torch.arange(len(x)))
    assert found.path[0].all()
    assert found.fooled_last.all()
    with torch.no_grad():
        assert torch.equal(model(found.witness).argmax(1) != y, found.fooled_any)


class _NaN(nn.Module):
    """Finite logits whose gradient is NaN, as that of a norm at zero is; or logits that are NaN."""

    def __init__(self, *, finite: bool) -> None:
        super().__init__()
        self.finite = finite

    def forward(self, x: Tensor) -> Tensor:
        """Return the first four pixels as scores, plus √0 or NaN."""
        z = x.flatten(1)[:, :4]
        return z + ((z * 0).square().sum(1, keepdim=True).sqrt() if self.finite else torch.nan)


@pytest.mark.parametrize("ball", [Linf(0.3), L2(2.0)], ids=["linf", "l2"])
def test_nan_gradients_are_no_robustness(ball: Ball) -> None:
    """A network with finite logits and NaN gradients cannot be judged by gradient: InputError, not 100 %."""
    model, x, attack = _NaN(finite=True), images(3), PGD(ball, 2, 0.1)
    y = model(x).argmax(1)
    with pytest.raises(InputError, match="finite logits and gradients"):
        perturb(attack, model, x, y)
    with pytest.raises(InputError, match="finite logits and gradients"):
        search(attack, model, x, y, ids=torch.arange(3))


@pytest.mark.parametrize(
    "ball",
    [
        Linf(0.3),
        L2(2.0),
    ],
)
def test_nan_logits_are_the_models_fault(ball: Ball) -> None:
    """A model that gives NaN ends in InputError in either ball, not in an accusation of the attack."""
    with pytest.raises(InputError, match="finite logits"):
        search(PGD(ball, 2, 0.1), _NaN(finite=False), images(2), torch.tensor([0, 1]), ids=torch.arange(2))


class _OneScore(nn.Module):
    """A binary classifier with a single score."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 1]."""
        return x.flatten(1).sum(1, keepdim=True)


def test_a_single_score_is_no_classifier() -> None:
    """One score has an argmax that never changes: refused, or it would look perfectly robust."""
    with pytest.raises(InputError, match="two or more classes"):
        perturb(ATTACK, _OneScore(), images(2), torch.tensor([0, 0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_refused(dtype: torch.dtype, small_net: nn.Module) -> None:
    """Pixels that are 1/256 apart cannot hold a ball of 8/255: refused with the dtypes that can."""
    with pytest.raises(InputError, match="float32 or float64"):
        perturb(ATTACK, small_net.to(dtype), images(2).to(dtype), torch.tensor([0, 1]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", ["labels", "ids", "ids dtype"])
def test_labels_and_ids_are_one_number_each(wrong: str, small_net: nn.Module) -> None:
    """Columns of labels or ids, and ids that are not int64, are refused before they do harm."""
    y, ids = torch.tensor([0, 1]), torch.arange(2)
    y, ids = {
        "labels": (y[:, None], ids),
        "ids": (y, ids[:, None]),
        "ids dtype": (y, ids.int()),
    }[wrong]
    with pytest.raises(InputError, match="one label and id per image"):
        perturb(ATTACK, small_net, images(2), y, ids=ids)
