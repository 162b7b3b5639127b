"""What adaptive attacks climb: copies that are faster, and the same networks."""

import jaxtyping
import pytest
import torch
from torch import nn

from fsrobust.attacks import Linf, make_attack
from fsrobust.attacks.losses import cross_entropy
from fsrobust.attacks.probe import Probe
from fsrobust.attacks.view import FrozenView
from fsrobust.evaluate.adaptive import climbs_surrogates, find_attack, surrogates_of
from fsrobust.plugin import surrogates
from tests.helpers import guarded, images, warm_up

BALL = Linf(0.05)


@pytest.mark.parametrize("shapes", ["checked", "unchecked"])
def test_surrogates_are_climbed_on_folded_copies(shapes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six: logits and gradients of the copy are the surrogate's own, noise that branches late included."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", shapes == "unchecked")
    model, x = guarded(), images(6)
    warm_up(model)
    model.eval()
    y = model(x).argmax(1)
    made, fast = surrogates(model), surrogates_of(model, x, y)
    assert list(fast) == list(made)
    for name, network in made.items():
        view = fast[name]
        assert isinstance(view, FrozenView), name
        assert view.folded, name
        slow, quick = (Probe(ask).gradient(x, lambda z: cross_entropy(z, y)) for ask in (network, view))
        torch.testing.assert_close(quick[1], slow[1], rtol=0, atol=1e-4 * float(slow[1].abs().max()))
        torch.testing.assert_close(quick[0], slow[0], rtol=0, atol=1e-3 * float(slow[0].abs().max()))


def test_only_adaptive_attacks_climb_surrogates() -> None:
    """Nothing is made for others, nor for a network without the plug-in."""
    assert climbs_surrogates(find_attack("adaptive", BALL, guarded()))
    for name in ("pgd20", "autoattack"):
        assert not climbs_surrogates(make_attack(name, BALL))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert surrogates_of(net, torch.rand(2, 3, 2, 2), torch.tensor([0, 1])) == {}
