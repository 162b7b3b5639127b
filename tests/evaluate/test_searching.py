"""How to search: bf16 only where it finds its way, batches that fit, and the same verdicts either way."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import Linf
from fsrobust.attacks.probe import under_attack
from fsrobust.attacks.view import FrozenView, multiplies_bf16
from fsrobust.data.batches import pixels
from fsrobust.evaluate import evaluate
from fsrobust.evaluate.searching import choose_batch, choose_precision, in_batches
from fsrobust.train import fit
from fsrobust.types import InputError
from tests.runs import at, digits, net, short

# the package's own name is that of a function in fsrobust, so `import … as` would find the function
searching = importlib.import_module("fsrobust.evaluate.searching")


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    """Return a network after a short adversarial training."""
    model = net(width=8, fsr="paper")
    fit(model, digits(600), objective=at(), train=short(epochs=6, lr=0.05))
    return model.eval()


def pilots(count: int = 32) -> tuple[Tensor, Tensor]:
    """Return test digits."""
    data = digits(count, "test")
    return pixels(data.images), data.labels


def test_fp32_is_a_folded_copy(robust: nn.Module) -> None:
    """Its logits are the model's but for float32's rounding."""
    found = choose_precision(robust, *pilots(), "fp32")
    assert (found.precision, found.why) == ("fp32", None)
    assert isinstance(found.view, FrozenView)
    x, _ = pilots()
    with under_attack(robust), torch.no_grad():
        assert torch.allclose(found.view(x), robust(x), atol=1e-4)
    assert found.view.folded


def test_a_copy_that_is_another_network_is_not_searched(robust: nn.Module) -> None:
    """A network whose copy does not do what it does is searched itself, and the reason is said."""

    class Singular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.sign = robust, 1.0

        def __deepcopy__(self, _memo: object) -> "Singular":
            made = Singular()
            made.sign = -1.0
            return made

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.sign * self.net(x)
            return logits

    found = choose_precision(Singular().eval(), *pilots(), "fp32")
    assert found.view is None
    assert "the network itself" in str(found.why)


def test_a_network_that_bears_bf16_is_searched_in_it(
    robust: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auto takes bf16 where the device multiplies it, fp32 elsewhere; asked for, bf16 is taken anywhere."""
    monkeypatch.setattr(searching, "multiplies_bf16", lambda _device: True)
    assert choose_precision(robust, *pilots(), "auto").precision == "bf16"
    monkeypatch.setattr(searching, "multiplies_bf16", lambda _device: False)
    assert choose_precision(robust, *pilots(), "auto").precision == "fp32"
    asked = choose_precision(robust, *pilots(), "bf16")
    assert (asked.precision, asked.why) == ("bf16", None)


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_a_network_that_hides_from_bf16_is_searched_in_fp32(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Of a function too steep for 8 bits bf16 gradients are noise; auto sees it, however large the logits."""

    class Fine(nn.Module):
        """A wave so short that bf16 loses its phase."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.last = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(torch.sin(self.first(x.flatten(1)) * 2000))
            return factor * logits

    monkeypatch.setattr(searching, "multiplies_bf16", lambda _device: True)
    torch.manual_seed(0)
    found = choose_precision(Fine().eval(), *pilots(), "auto")
    assert found.precision == "fp32"
    assert found.why is not None
    assert "agree" in found.why
    torch.manual_seed(0)
    forced = choose_precision(Fine().eval(), *pilots(), "bf16")
    assert forced.precision == "bf16"
    assert str(forced.why).startswith("WARNING: bf16 gradients agree with fp32 in only")


def test_nothing_to_agree_on_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose gradients are all zero has not shown that it bears bf16."""
    monkeypatch.setattr(searching, "multiplies_bf16", lambda _device: True)
    last = nn.Linear(64, 10)
    nn.init.zeros_(last.weight)
    flat = nn.Sequential(nn.Flatten(), last).eval()
    assert choose_precision(flat, *pilots(), "auto").precision == "fp32"


def test_a_network_without_bf16_is_searched_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that refuses half precision is no reason to fail."""

    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            f = self.first(x.flatten(1))
            if f.dtype != torch.float32:
                raise TypeError("float32 only")
            logits: Tensor = self.last(f)
            return logits

    monkeypatch.setattr(searching, "multiplies_bf16", lambda _device: True)
    found = choose_precision(Strict().eval(), *pilots(), "auto")
    assert found.precision == "fp32"
    assert "float32 only" in str(found.why)


@pytest.mark.usefixtures("unchecked")
def test_another_precision_is_refused(robust: nn.Module) -> None:
    """The sentence names the three there are."""
    with pytest.raises(InputError, match='"auto", "fp32" or "bf16", but got "fp8"'):
        choose_precision(robust, *pilots(), "fp8")  # type: ignore[arg-type]


@pytest.mark.skipif(not multiplies_bf16(torch.device("cpu")), reason="emulated bf16 is slow")
def test_verdicts_hardly_depend_on_the_precision_of_the_search(robust: nn.Module) -> None:
    """FGSM, PGD and C&W on 360 digits: no accuracy is more than 2 samples off, by either count."""
    data = digits(360, "test")
    x, y = pixels(data.images), data.labels
    names = ["fgsm", "pgd20", "cw"]
    exact, near = (
        evaluate(robust, x, y, ball=Linf(0.1), attacks=names, precision=precision)
        for precision in ("fp32", "bf16")
    )
    for name in names:
        assert abs(exact.accuracy(name) - near.accuracy(name)) <= 2 / 360
        assert abs(exact.strict(name) - near.strict(name)) <= 2 / 360
    assert 0.1 < exact.accuracy("pgd20") < exact.accuracy("natural")


def test_the_verdict_is_the_models_whatever_the_view_says(robust: nn.Module) -> None:
    """A view that calls every image fooled convinces nobody."""
    from fsrobust.attacks import make_attack, search

    x, y = pilots()
    y = robust(x).argmax(1)

    def liar(images: Tensor) -> Tensor:
        return -100 * nn.functional.one_hot(y, 10) + images.flatten(1).sum(1, keepdim=True) * 0

    class View:
        def __call__(self, x: Tensor) -> Tensor:
            return liar(x)

        def refresh(self) -> None:
            """Nothing to take over."""

    found = search(make_attack("pgd20", Linf(0.0)), robust, x, y, ids=torch.arange(len(x)), view=View())
    assert not found.fooled_any.any()
    assert bool(torch.stack(found.path).all())


def run(most: int, count: int, batch: int) -> tuple[list[slice], list[str]]:
    """Work through ``count`` samples where no more than ``most`` fit at once."""
    said: list[str] = []

    def work(part: slice) -> Any:
        if part.stop - part.start > most:
            torch.empty(2**60)
        return np.arange(part.start, part.stop)

    parts = list(in_batches(work, count, batch, said.append))
    assert np.concatenate([done for _, done in parts]).tolist() == list(range(count))
    return [part for part, _ in parts], said


def test_batches_halve_when_memory_runs_out() -> None:
    """Every sample is done once, in order; each halving is said."""
    parts, said = run(most=5, count=23, batch=16)
    assert max(part.stop - part.start for part in parts) == 4
    assert said == [f"out of memory: {n} samples at once from here on" for n in (8, 4)]


def test_a_sample_that_does_not_fit_is_an_error() -> None:
    """There is no batch of half a sample."""
    with pytest.raises(InputError, match="Not even one sample"):
        run(most=0, count=3, batch=2)


def test_the_batch_shrinks_with_the_memory(robust: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a power of two, the largest at ease, and one sample at least."""
    x, _ = pilots()
    sizes = []
    for free in (1e15, 2e7, 1.0):
        monkeypatch.setattr(searching, "free_memory", lambda _device, free=free: free)
        sizes.append(choose_batch(robust, x))
    assert sizes[0] == 256
    assert 1 < sizes[1] < 256
    assert sizes[1] & (sizes[1] - 1) == 0
    assert sizes[2] == 1
