"""Signs of masked gradients: each control bears the sign it was built for, an honest network bears none."""

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.controls import Decoy, Wrapped, one_hot_levels, quantise, random_shift
from fsrobust.attacks import Linf
from fsrobust.evaluate import Diagnosis, Sign, diagnose, evidence
from fsrobust.evaluate.diagnose import LEAST, SIGNS, _look, detectable
from fsrobust.evaluate.evidence import Evidence
from fsrobust.evaluate.stats import wilson
from fsrobust.report.signs import signs_text
from fsrobust.train import fit
from fsrobust.types import InputError
from tests.evaluate.test_engine import natural_net, samples
from tests.runs import at, digits, net, short

BALL = Linf(0.1)


@functools.cache
def honest_net() -> nn.Module:
    """Return a short adversarial training's network."""
    model = net(width=8)
    fit(model, digits(1000), objective=at(), train=short(epochs=8, lr=0.05))
    return model.eval()


def look(name: str, model: nn.Module, *, count: int = 60) -> Sign:
    """Return one sign, with nothing run that it does not need."""
    x, y = samples(count)
    found = Evidence.of(model.eval(), x, y, ids=torch.arange(count), ball=BALL)
    return _look(name, SIGNS[name], found)


class _Neighbours(nn.Module):
    """A network that looks at the whole batch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images relative to their mean over the batch."""
        logits: Tensor = self.net(x - 0.1 * x.mean(0, keepdim=True))
        return logits


CONTROLS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "gradient killer": ("vanishing gradients", lambda n: Wrapped(n, before=lambda x: x.detach() + 0 * x)),
    "detached": ("vanishing gradients", lambda n: Wrapped(n, before=lambda x: x.detach())),
    "8-bit rounding": ("vanishing gradients", lambda n: Wrapped(n, before=lambda x: quantise(x, 255))),
    "argmax levels": ("vanishing gradients", lambda n: Wrapped(n, before=one_hot_levels)),
    "logits × 1000": ("vanishing gradients", lambda n: Wrapped(n, after=lambda z: 1000 * z)),
    "softmax head": ("probabilities for logits", lambda n: Wrapped(n, after=lambda z: z.softmax(1))),
    "dropout left on": (
        "random outputs",
        lambda n: Wrapped(n, before=lambda x: F.dropout(x, 0.2, training=True)),
    ),
    "random shift": ("random outputs", lambda n: Wrapped(n, before=random_shift)),
    "looks at the batch": ("batch-dependent outputs", _Neighbours),
    "random shift, far from 0": (
        "random outputs",
        lambda n: Wrapped(n, before=random_shift, after=lambda z: z + 3e4),
    ),
    "looks at the batch, far from 0": (
        "batch-dependent outputs",
        lambda n: Wrapped(_Neighbours(n), after=lambda z: z + 3e4),
    ),
    "killer, unbounded": (
        "not 0 % unbounded",
        lambda n: Wrapped(n, before=lambda x: x.detach() + 0 * x),
    ),
    "decoy": ("noise does as well", lambda n: Decoy(n, 64)),
    "noise in the gradient": (
        "gradients that lead nowhere",
        lambda n: Wrapped(n, before=lambda x: x + 0.01 * ((900 * x).sin() - (900 * x).sin().detach())),
    ),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_bears_its_sign(control: str) -> None:
    """The defence is found out by the sign it was built to bear, with a share and an interval to show for it."""
    name, spoil = CONTROLS[control]
    sign = look(name, spoil(natural_net()))
    assert sign.found
    assert sign.hits > 0
    assert sign.interval is not None
    assert sign.interval.low > sign.threshold


@pytest.mark.parametrize("name", ["random outputs", "batch-dependent outputs"])
def test_rounding_is_no_randomness(name: str) -> None:
    """Logits far from 0 lose bits, which differ with the shape of the batch."""
    sign = look(name, Wrapped(natural_net(), after=lambda z: z + 3e4))
    assert (sign.found, sign.hits) == (False, 0)


class _Valley(nn.Module):
    """Two classes by one number: how far all pixels have moved up from a half, in units of the radius.

    Class 1 wins where ``margin`` is positive; it is linear between the given points.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        super().__init__()
        self.points = points

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 2]."""
        s = (x.flatten(1).mean(1) - 0.5) / BALL.eps
        score = torch.full_like(s, self.points[0][1])
        for (a, low), (b, high) in itertools.pairwise(self.points):
            inside = (s >= a) & (s < b) if b < self.points[-1][0] else s >= a
            score = torch.where(inside, low + (s - a) / (b - a) * (high - low), score)
        return torch.stack([torch.zeros_like(s), score], 1)


def traps(name: str, model: nn.Module, x: Tensor) -> Sign:
    """Return one sign of a network on images that are all of class 0."""
    y = torch.zeros(len(x), dtype=torch.long)
    found = Evidence.of(model.eval(), x, y, ids=torch.arange(len(x)), ball=BALL)
    assert len(found) == len(x)
    return _look(name, SIGNS[name], found)


def grey(count: int) -> Tensor:
    """Return images of 2 × 2 pixels in the middle of the range."""
    return torch.full((count, 1, 2, 2), 0.5)


def test_many_steps_that_stop_before_a_valley() -> None:
    """One step of the whole radius jumps over a valley in which 20 short ones stay: "more steps are weaker"."""
    model = _Valley((0, -2), (0.3, -1), (0.8, -3), (0.95, 1), (9, 2))
    sign = traps("more steps are weaker", model, grey(40))
    assert (sign.found, sign.hits) == (True, 40)
    assert traps("more steps are weaker", _Valley((0, -2), (0.8, 1), (9, 2)), grey(40)).found is False


def test_a_larger_ball_whose_steps_are_too_long() -> None:
    """Class 1 wins in a gap that steps of a tenth of the radius meet, and steps twice as long pass over."""
    model = _Valley((0, -3), (0.85, -1), (0.9, 1), (0.95, -0.5), (9, -0.1))
    sign = traps("a larger ball is safer", model, grey(40))
    assert (sign.found, sign.hits) == (True, 40)
    assert traps("a larger ball is safer", _Valley((0, -2), (0.8, 1), (9, 2)), grey(40)).found is False


class _TwoHills(nn.Module):
    """Class 1 wins at the top of one of two hills; from the clean image every path leads up the other."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 2]: by the first two pixels, of which both have to be on the right side."""
        pair = (x.flatten(1)[:, :2] - 0.5) / BALL.eps
        score = torch.where((pair > 0.02).all(1), 3 * pair.amin(1) - 2, -3 - pair.sum(1))
        return torch.stack([torch.zeros_like(score), score], 1)


def test_a_start_elsewhere_finds_the_other_hill() -> None:
    """A quarter of the starts lie on the right side; a longer attack that begins there shows it: "not converged"."""
    sign = traps("not converged", _TwoHills(), grey(120))
    assert sign.found
    assert sign.hits < 60
    assert traps("not converged", _Valley((0, -2), (0.8, 1), (9, 2)), grey(40)).found is False


def test_a_surrogate_that_knows_the_way() -> None:
    """The model's gradients point the wrong way, another network's do not: "transfer beats direct"."""
    honest = natural_net()
    x, y = samples(60)
    found = Evidence.of(
        Wrapped(honest, before=lambda x: 2 * x.detach() - x).eval(),
        x,
        y,
        ids=torch.arange(60),
        ball=BALL,
        surrogates={"honest": honest},
    )
    sign = _look("transfer beats direct", SIGNS["transfer beats direct"], found)
    assert sign.found
    assert sign.hits > 10


def test_a_random_network_is_not_said_to_look_at_the_batch() -> None:
    """Its logits are others the second time, whatever else is in the batch; that is one sign, not two."""
    noisy = Wrapped(natural_net(), before=lambda x: x + 0.1 * torch.rand_like(x))
    assert look("random outputs", noisy).found
    sign = look("batch-dependent outputs", noisy)
    assert sign.found is None
    assert "random" in sign.meaning


def test_what_cannot_be_told_is_not_counted() -> None:
    """Rises below the rounding of the logits are neither kept nor broken promises, and the verdict says so."""
    sign = look("gradients that lead nowhere", Wrapped(natural_net(), before=lambda x: x.detach() + 0 * x))
    assert sign.found is None
    unseen = tuple(
        replace(sign, name=name, found=None if index < 2 else False) for index, name in enumerate(SIGNS)
    )
    assert "cannot be told" in Diagnosis(unseen, 60).verdict
    assert Diagnosis(unseen, 60).state == "inconclusive"


@pytest.mark.parametrize(
    "name",
    ["random outputs", "batch-dependent outputs", "probabilities for logits", "vanishing gradients",
     "gradients that lead nowhere", "noise does as well", "more steps are weaker", "a larger ball is safer",
     "not 0 % unbounded"],
)  # fmt: skip
def test_an_honest_network_bears_none(name: str) -> None:
    """An adversarially trained network without tricks."""
    sign = look(name, honest_net())
    assert sign.found is False
    assert sign.n >= LEAST


@pytest.mark.slow
def test_the_verdict_on_honest_and_spoilt_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All signs together: no sign found on the one, not to be trusted on the other, and the reasons are given."""
    monkeypatch.setattr(evidence, "QUERIES", 100)
    x, y = samples(60)
    honest = diagnose(honest_net(), x, y, ball=BALL)
    assert honest.state == "no sign found", honest.verdict
    assert "would have been seen" in honest.verdict
    spoilt = diagnose(Wrapped(natural_net(), before=lambda x: quantise(x, 255)).eval(), x, y, ball=BALL)
    assert spoilt.state == "not to be trusted"
    assert {"vanishing gradients", "black box beats white box"} <= {sign.name for sign in spoilt.found}
    json.dumps(spoilt.summary(), allow_nan=False)
    assert "Verdict: not to be trusted because" in signs_text(spoilt.summary())


def test_few_samples_are_inconclusive() -> None:
    """Nothing found among ten samples says nothing, and the verdict says so."""
    signs = tuple(Sign(name, False, 0, 10, 0.05, wilson(0, 10), "") for name in SIGNS)
    few = Diagnosis(signs, 10)
    assert few.state == "inconclusive"
    assert "at least 30" in few.verdict


@pytest.mark.parametrize("n", [30, 100, 1000])
@pytest.mark.parametrize("threshold", [0.01, 0.05])
def test_what_can_be_detected(n: int, threshold: float) -> None:
    """The least share that finds a sign: one hit fewer does not."""
    hits = round(detectable(n, threshold) * n)
    assert wilson(hits, n).low > threshold
    assert wilson(hits - 1, n).low <= threshold


def test_a_network_that_is_always_wrong_is_refused() -> None:
    """Of a network that classifies nothing right nothing can be said."""
    x, y = samples(8)
    wrong = (natural_net()(x).argmax(1) + 1) % 10
    with pytest.raises(InputError, match="gets all 8 wrong"):
        diagnose(natural_net(), x, wrong, ball=BALL)
    assert len(y) == 8


@pytest.mark.parametrize("name", ["20 steps", "Auto-PGD"])
def test_who_else_is_attacked_changes_no_verdict(name: str) -> None:
    """A sign attacks only those whose fate it tells; each of them falls or stands as among all."""
    x, y = samples(40)
    found = Evidence.of(honest_net(), x, y, ids=torch.arange(40), ball=Linf(0.2), batch=16)
    everyone = found._fallen(name)
    some = np.arange(len(found)) % 3 == 1
    assert 0 < (everyone & some).sum() < some.sum()
    np.testing.assert_array_equal(found._fallen(name, among=some), everyone & some)
    assert not found._fallen(name, among=~(some | ~some)).any()
