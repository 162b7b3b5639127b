"""Auto-PGD against its reference implementation, and against what its schedule promises."""

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import L2, Linf, perturb
from fsrobust.attacks.apgd import APGD, checkpoints
from fsrobust.attacks.balls import Ball
from fsrobust.attacks.losses import LOSSES, TARGETED, kth_wrong
from fsrobust.attacks.probe import Probe, under_attack
from fsrobust.attacks.witness import Witness
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.attacks.conftest import RADII
from tests.attacks.oracles import NORMS, Counting


def _shared_start(monkeypatch: pytest.MonkeyPatch, attack: APGD, seed: int) -> None:
    """Let the reference's random start be ours: it asks torch for one tensor of the images' shape."""
    noise = Noise.of(torch.arange(1000), seed, attack.family).fold(attack.loss, attack.target or 0, 0)

    def uniform(shape: Any, *_: object, **__: object) -> Tensor:
        return noise.select(torch.arange(shape[0])).uniform(tuple(shape[1:]))

    def normal(shape: Any, *_: object, **__: object) -> Tensor:
        return noise.select(torch.arange(shape[0])).normal(tuple(shape[1:]))

    monkeypatch.setattr(torch, "rand", uniform)
    monkeypatch.setattr(torch, "randn", normal)


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """The reference implementation's module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("pyautoattack.autopgd_base")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr 1", "dlr 3"])
@pytest.mark.parametrize("ball", [Linf(RADII["linf"]), L2(RADII["l2"])], ids=["linf", "l2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fools_whom_the_reference_fools(
    loss: str,
    ball: Ball,
    seed: int,
    reference: Any,
    robust_net: tuple[nn.Module, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the same start, on 200 samples: one-sided differences of 1 at most, as many queries per survivor."""
    model, x, y = robust_net
    kind, _, k = loss.partition(" ")
    attack = APGD(ball, kind, target=int(k) if k else None)
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    ours = perturb(attack, model, x, y, seed=seed)
    with torch.no_grad():
        fooled = model(ours).argmax(1) != y
    assert 0.3 * len(y) < int((~fooled).sum()) < 0.95 * len(y)

    counting = Counting(model)
    theirs = _their_attack(reference, counting, attack)
    with under_attack(model):
        _shared_start(monkeypatch, attack, seed)
        if k:
            theirs.y_target = kth_wrong(model(x), y, int(k))
        counting.forwards = 0
        _, acc, _, adversarial = theirs.attack_single_run(x, y)
        monkeypatch.undo()
        beaten = model(adversarial).argmax(1) != y
    assert torch.equal(beaten, ~acc.bool())
    assert int((fooled & ~beaten).sum()) <= 1
    assert int((beaten & ~fooled).sum()) <= 1

    survivors = ~fooled & ~beaten
    forwards, backwards = _cost(attack, model, x[survivors], y[survivors], seed)
    # one of some twenty may fall, and cost less, where sums of another batch tip it
    assert 0.9 * counting.forwards / len(y) < forwards < 1.05 * counting.forwards / len(y)
    assert 0.9 * counting.forwards / len(y) < backwards < 1.05 * counting.forwards / len(y)


def _their_attack(reference: Any, model: nn.Module, attack: APGD) -> Any:
    make = reference.APGDAttack_targeted if attack.target else reference.APGDAttack
    made = make(
        model, n_iter=attack.steps, norm=NORMS[attack.ball.norm], eps=attack.ball.eps, seed=0, device="cpu"
    )
    made.loss = "dlr-targeted" if attack.target else attack.loss
    made.init_hyperparam(torch.zeros(1, 3, 8, 8))
    return made


def _cost(attack: APGD, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> tuple[float, float]:
    """Return forward and backward samples of the search itself, per sample."""
    with under_attack(model):
        probe = Probe(model, Witness(attack.ball, x, y))
        attack.run(probe, x, y, Noise.of(torch.arange(len(x)), seed, attack.family))
    return probe.forwards / len(x), probe.backwards / len(x)


def test_checkpoints_are_the_papers() -> None:
    """Windows of 22, 19, 16, 13, 10, 7 and then 6 of 100 steps; a single step has its own."""
    windows = [window for _, window in checkpoints(100)]
    assert windows[:8] == [22, 19, 16, 13, 10, 7, 6, 6]
    assert [step for step, _ in checkpoints(1)] == [0]


def test_losses_are_the_formulas(generator: torch.Generator) -> None:
    """DLR and targeted DLR equal their formulas, loop by loop, in float64; with 2 and 3 classes they adapt."""
    for classes in (2, 3, 4, 10):
        z = torch.randn(30, classes, generator=generator, dtype=torch.float64) * 5
        y = torch.randint(0, classes, (30,), generator=generator)
        target = kth_wrong(z, y, 1)
        for i in range(30):
            row = z[i].tolist()
            ordered = sorted(row, reverse=True)
            wrong = max(v for j, v in enumerate(row) if j != int(y[i]))
            own = row[int(y[i])]
            third = ordered[2] if classes > 2 else None
            fourth = ordered[3] if classes > 3 else third
            expected = wrong - own if third is None else (wrong - own) / (ordered[0] - third + 1e-12)
            assert LOSSES["dlr"](z, y)[i].item() == pytest.approx(expected, rel=1e-9)
            aimed = row[int(target[i])] - own
            if third is not None and fourth is not None:
                aimed /= ordered[0] - (third + fourth) / 2 + 1e-12
            assert TARGETED["dlr"](z, y, target)[i].item() == pytest.approx(aimed, rel=1e-9)


def test_the_kth_wrong_class(generator: torch.Generator) -> None:
    """Sorted by logit, the true class left out wherever it stands; too large a k is refused."""
    z = torch.randn(20, 5, generator=generator)
    y = torch.randint(0, 5, (20,), generator=generator)
    for k in range(1, 5):
        for i in range(20):
            wrong = sorted((v, j) for j, v in enumerate(z[i].tolist()) if j != int(y[i]))
            assert int(kth_wrong(z, y, k)[i]) == wrong[-k][1]
    with pytest.raises(InputError, match="from 1 to 4"):
        kth_wrong(z, y, 5)


def test_won_samples_leave_the_batch(small_net: nn.Module) -> None:
    """What is fooled at the start costs one query each way, not a hundred."""
    x, y = torch.rand(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64)
    y = (small_net(x).argmax(1) + 1) % 4  # wrong from the outset
    probe = Probe(small_net, Witness(Linf(0.1), x, y))
    with under_attack(small_net):
        APGD(Linf(0.001)).run(probe, x, y, Noise.of(torch.arange(8), 0, "apgd"))
    assert probe.forwards < 3 * 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, 'Unknown loss "hinge"'),
        ({"loss": "ce", "target": 1}, 'Unknown targeted loss "ce"'),
        ({"steps": 0}, "steps and target ≥ 1"),
        ({"loss": "dlr", "target": 0}, "steps and target ≥ 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    """Each is refused where it is written, not when it runs."""
    with pytest.raises(InputError, match=message):
        APGD(Linf(0.1), **settings)
