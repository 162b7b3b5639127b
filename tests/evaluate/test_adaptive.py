"""What adaptive attacks climb: copies that are faster, and the same networks."""

from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import L2, Linf
from fsrobust.attacks.losses import cross_entropy
from fsrobust.attacks.probe import Probe, under_attack
from fsrobust.attacks.view import FrozenView
from fsrobust.evaluate import adaptive, evaluate
from fsrobust.evaluate.adaptive import Surrogates
from fsrobust.evaluate.evidence import Evidence, searches
from fsrobust.evaluate.searching import choose_precision
from fsrobust.plugin import Guarded, attach, surrogates
from fsrobust.plugin.surrogates import Noisy
from fsrobust.types import InputError
from tests.helpers import guarded, images, warm_up


def prepared() -> tuple[Guarded, Tensor, Tensor]:
    """Return a guarded network with norms of its own, images, and the classes that it gives them."""
    model, x = guarded(), images(6)
    warm_up(model)
    model.eval()
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("shapes", ["checked", "unchecked"])
def test_surrogates_are_climbed_on_folded_copies(shapes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six: logits and gradients of the copy are the surrogate's own, noise that branches late included.

    With annotations of shapes checked, as in these tests, no draw can branch late.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", shapes == "unchecked")
    model, x, y = prepared()
    made, fast = surrogates(model), Surrogates(model, x, y)
    assert list(fast) == list(made)
    for name, network in made.items():
        view = fast[name]
        assert isinstance(view, FrozenView), name
        assert view.folded, name
        assert fast[name] is view
        slow, quick = (Probe(ask).gradient(x, lambda z: cross_entropy(z, y)) for ask in (network, view))
        torch.testing.assert_close(quick[1], slow[1], rtol=0, atol=1e-4 * float(slow[1].abs().max()))
        torch.testing.assert_close(quick[0], slow[0], rtol=0, atol=1e-3 * float(slow[0].abs().max()))
        if isinstance(view.model, Noisy):
            assert isinstance(view._copy, Noisy)
            assert view._copy.late is view.model.late is (shapes == "unchecked")


def test_one_copy_is_kept_at_a_time() -> None:
    """Copies have weights of their own; what was asked for before the last is made again."""
    fast = Surrogates(*prepared())
    first = fast["joint"]
    assert fast["joint"] is first
    assert fast["transfer"] is not first
    assert fast["joint"] is not first


def test_logits_of_copies_in_bf16_are_float32() -> None:
    """Rounded logits would hide small gains: every head is wide, those of a sum and of a mean too."""
    model, x, _ = prepared()
    for name, network in surrogates(model).items():
        view = FrozenView(network, dtype=torch.bfloat16)
        with under_attack(network):
            assert view(x).dtype == torch.float32, name
        assert not view.notes


def test_each_surrogate_has_to_bear_bf16_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was found of the model, a copy in bf16 is tried like any other: asked for is "auto"."""
    asked, plain = list[object](), choose_precision

    def choose(network: nn.Module, x: Tensor, y: Tensor, precision: Any) -> object:
        asked.append(precision)
        return plain(network, x, y, precision)

    monkeypatch.setattr(adaptive, "choose_precision", choose)
    model, x, y = prepared()
    kinds: tuple[Any, ...] = ("fp32", "auto", "bf16")
    for precision in kinds:
        Surrogates(model, x, y, precision)["joint"]
    assert asked == ["fp32", "auto", "auto"]


def test_memory_for_fewer_pilots_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the trial does not fit, half of its images are tried; where not one fits, there is no copy."""
    model, x, y = prepared()
    tried, plain, fits = list[int](), choose_precision, 2

    def choose(network: nn.Module, x: Tensor, y: Tensor, precision: Any) -> object:
        tried.append(len(x))
        if len(x) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(network, x, y, precision)

    monkeypatch.setattr(adaptive, "choose_precision", choose)
    assert isinstance(Surrogates(model, x, y)["joint"], FrozenView)
    assert tried == [6, 3, 1]
    fits = 0
    assert isinstance(Surrogates(model, x, y)["joint"], nn.Module)


class _PerImage(nn.Module):
    """Standardises each image by code that no channels-last image passes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return images of mean 0."""
        return x - x.view(len(x), -1).mean(1)[:, None, None, None]


def test_what_fails_in_a_copy_is_climbed_as_it_is() -> None:
    """A network that cannot be copied into another memory order can be diagnosed all the same."""
    layers = [_PerImage(), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = attach(nn.Sequential(*layers, nn.Linear(8, 3)), at="2", classes=3, init="paper").eval()
    x = images(4)
    y = model(x).argmax(1)
    found = Evidence.of(model, x, y, ids=torch.arange(4), ball=Linf(0.01))
    for name in surrogates(model):
        # repeating images for the draws of "noisy" puts them into the one order that this network bears
        assert isinstance(found.surrogates[name], nn.Module) == (name != "noisy"), name
    assert found.only_transferred is not None


def test_inside_inference_mode() -> None:
    """A caller's inference mode takes no copy away."""
    model, x, y = prepared()
    with torch.inference_mode():
        found = Evidence.of(model, x, y, ids=torch.arange(6), ball=Linf(0.01))
        assert isinstance(found.surrogates["joint"], FrozenView)
        assert found.view is not None


def test_no_samples_are_refused() -> None:
    """In the sentence of every attack."""
    model, x, y = prepared()
    with pytest.raises(InputError, match="at least one sample"):
        evaluate(model, x[:0], y[:0], ball=Linf(0.01), attacks=["adaptive"])


def test_networks_without_the_plug_in_offer_nothing() -> None:
    """And large images in L2 are diagnosed with the largest ball that there is."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert list(Surrogates(net, torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))) == []
    assert searches(L2(1.0), torch.rand(1, 3, 600, 600))["unbounded"].ball.eps == 1000
