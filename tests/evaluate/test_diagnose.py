"""Signs of masked gradients: each control bears the sign it was built for, an honest network bears none."""

import functools
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.controls import Wrapped, one_hot_levels, quantise, random_shift
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


@pytest.mark.parametrize(
    "name",
    ["random outputs", "batch-dependent outputs", "probabilities for logits", "vanishing gradients",
     "gradients that lead nowhere", "more steps are weaker", "a larger ball is safer", "not 0 % unbounded"],
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
