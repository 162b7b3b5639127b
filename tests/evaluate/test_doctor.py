"""The doctor: a healthy network has no sign, and each fault shows as its own."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.data.batches import pixels
from fsrobust.evaluate import doctor
from fsrobust.evaluate.checks import CHECKS
from fsrobust.evaluate.doctor import Checkup
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import digits, learnt, net

pytestmark = pytest.mark.usefixtures("unchecked")  # what a user meets, not what our annotations say


def healthy(fsr: str | None = None) -> nn.Module:
    """Return a copy of the trained network, to do harm to."""
    return copy.deepcopy(learnt(fsr))


def samples(count: int = 120) -> tuple[Tensor, Tensor]:
    """Return test digits in [0, 1] and their labels."""
    data = digits(count, "test")
    return pixels(data.images), data.labels


def examine(model: nn.Module, count: int = 120) -> Checkup:
    """Return what the doctor finds on test digits."""
    return doctor(model, *samples(count), classes=10)


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_a_healthy_network_has_no_sign(fsr: str | None) -> None:
    """Ours pass every check, with and without the plug-in, and every check is made."""
    model = healthy(fsr)
    found = examine(model)
    assert {sign.name: sign.status for sign in found.signs} == dict.fromkeys(CHECKS, "ok"), str(found)
    assert (found.status, found.unjudged, found.failed) == ("ok", {}, [])


class Around(nn.Module):
    """A network with something done to its images and to its scores."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Any] | None = None
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = healthy(), before, after
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """Return what ``after`` makes of the scores."""
        scores = self.net(self.before(x) if self.before else x)
        return self.after(scores) if self.after else scores


@dataclass
class Packed:
    """An output as some libraries have it."""

    logits: Tensor


class Stubborn(nn.Module):
    """A network whose batch norms ignore eval(), as some fine-tuning code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = healthy(), nn.Dropout(0.0)

    def train(self, mode: bool = True) -> "Stubborn":  # noqa: FBT001, FBT002 - torch's
        """Switch all but one module."""
        super().train(mode)
        self.drop.training = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.net(self.drop(x))
        return out


def batch_statistics() -> nn.Module:
    """Return the network without running statistics: it normalises across the batch in eval mode."""
    model = healthy()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
    return model


def two_devices() -> nn.Module:
    """Return the network with a parameter elsewhere, which nothing uses."""
    model = healthy()
    model.extra = nn.Parameter(torch.zeros(1, device="meta"))
    return model


def with_nan() -> nn.Module:
    """Return the network with one weight that is not a number."""
    model = healthy()
    with torch.no_grad():
        model.get_parameter("linear.weight")[0, 0] = torch.nan
    return model


def fewer_classes() -> nn.Module:
    """Return the network without its last three scores."""
    return Around(after=lambda scores: scores[:, :7])


def mixed_types() -> nn.Module:
    """Return the network with a weight in double precision, which nothing uses."""
    model = healthy()
    model.extra = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    return model


def fresh() -> nn.Module:
    """Return a network that has learnt nothing."""
    return net(seed=1).eval()


def raising(x: Tensor) -> Tensor:
    """Fail, as a network for larger images does."""
    raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied\n{x.shape}")


def own_moments(x: Tensor) -> Tensor:
    """Undo the normalisation by the mean and deviation of the test digits."""
    reference = samples()[0]
    return x * reference.std(correction=0) + reference.mean()


def noisy(scores: Tensor) -> Tensor:
    """Add noise, as a randomised defence does."""
    return scores + torch.randn_like(scores)


def towards_three(scores: Tensor) -> Tensor:
    """Raise one score above all others."""
    return scores + 1e3 * F.one_hot(torch.tensor(3), 10)


@dataclass(frozen=True)
class Fault:
    """A network with one fault, the sign it must show, and what else that fault may bring about."""

    make: Callable[[], nn.Module]
    sign: str
    status: str
    brings: frozenset[str] = frozenset()


LOST = frozenset({"accuracy", "normalisation", "constant"})

FAULTS = {
    "train mode": Fault(lambda: healthy().train(), "train mode", "warn"),
    "ignores eval": Fault(Stubborn, "train mode", "fail"),
    "two devices": Fault(two_devices, "devices", "fail"),
    "half precision": Fault(lambda: healthy().to(torch.bfloat16), "dtype", "fail"),
    "mixed types": Fault(mixed_types, "dtype", "fail"),
    "raises": Fault(lambda: Around(before=raising), "forward", "fail"),
    "tuple": Fault(lambda: Around(after=lambda s: (s, s.mean())), "output", "fail"),
    "dataclass": Fault(lambda: Around(after=Packed), "output", "fail"),
    "dictionary": Fault(lambda: Around(after=lambda s: {"logits": s}), "output", "fail"),
    "one score": Fault(lambda: Around(after=lambda s: s[:, :1]), "output", "fail", LOST | {"classes", "gradient"}),
    "text": Fault(lambda: Around(after=str), "output", "fail"),
    "NaN": Fault(with_nan, "finite scores", "fail"),
    "too few classes": Fault(fewer_classes, "classes", "fail"),
    "too many classes": Fault(lambda: Around(after=lambda s: F.pad(s, (0, 5), value=-9.0)), "classes", "warn"),
    "softmax": Fault(lambda: Around(after=lambda s: s.softmax(1)), "logits", "fail"),
    "log-softmax": Fault(lambda: Around(after=lambda s: s.log_softmax(1)), "logits", "warn"),
    "noise": Fault(lambda: Around(after=noisy), "determinism", "fail"),
    "batch statistics": Fault(batch_statistics, "batch", "fail", LOST),
    "squeeze": Fault(lambda: Around(after=lambda s: s.squeeze()), "batch", "fail"),
    "far from 0": Fault(lambda: Around(after=lambda s: s + 3e4), "logits", "warn"),
    "far from 0 and noisy": Fault(
        lambda: Around(after=lambda s: noisy(s) + 3e4), "determinism", "fail", frozenset({"logits"})
    ),
    "constant": Fault(lambda: Around(after=lambda s: s * 0 + 1), "constant", "fail", LOST | {"gradient"}),
    "one class": Fault(lambda: Around(after=towards_three), "constant", "warn", LOST | {"gradient"}),
    "no gradient": Fault(lambda: Around(after=lambda s: s.detach()), "gradient", "fail"),
    "rounding": Fault(lambda: Around(before=lambda x: (x * 16).round() / 16), "gradient", "fail"),
    "NaN gradient": Fault(lambda: Around(before=lambda x: x + 0 * (x * 0).sqrt()), "gradient", "fail"),
    "saturated": Fault(lambda: Around(after=lambda s: s * 1e4), "gradient", "fail"),
    "own moments": Fault(lambda: Around(before=own_moments), "normalisation", "fail", LOST),
    "0 to 255": Fault(lambda: Around(before=lambda z: z / 255), "normalisation", "fail", LOST),
    "learnt nothing": Fault(fresh, "accuracy", "fail", LOST),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows_as_its_own_sign(name: str) -> None:
    """The sign has its status, an explanation and a remedy; beyond what the fault brings about all is well."""
    fault = FAULTS[name]
    found = examine(fault.make())
    signs = {sign.name: sign for sign in found.signs}
    assert signs[fault.sign].status == fault.status, str(found)
    assert signs[fault.sign].explanation
    assert signs[fault.sign].remedy == CHECKS[fault.sign].remedy
    others = {sign.name for sign in found.signs if sign.status != "ok"} - {fault.sign}
    assert others <= fault.brings, str(found)
    assert set(signs) | set(found.unjudged) == set(CHECKS)
    json.dumps(found.summary())


def test_every_check_is_met_by_a_fault() -> None:
    """No check is without a network that fails it; that of pixels has its own test below."""
    assert {fault.sign for fault in FAULTS.values()} | {"pixels"} == set(CHECKS)


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (lambda x: x * 255, "fail", "not in [0, 1]"),
        (lambda x: (x * 255).to(torch.uint8), "fail", "uint8"),
        (lambda x: x * 2 - 1, "fail", "-1 to 1"),
        (lambda x: x * torch.nan, "fail", "nan"),
        (lambda x: x / 255, "warn", "twice"),
    ],
)
def test_images_of_another_range_are_a_sign(
    change: Callable[[Tensor], Tensor], status: str, text: str
) -> None:
    """Bytes, 0 to 255, normalised, NaN and nearly black images are seen, and the value says what they are."""
    x, y = samples()
    found = next(s for s in doctor(healthy(), change(x), y).signs if s.name == "pixels")
    assert found.status == status
    assert text in f"{found.value} {found.explanation}"


def test_the_best_input_is_named() -> None:
    """For a network of normalised inputs the sign names the transformation and both accuracies."""
    for name, fault in {"the data's own mean and std": "own moments", "0 to 255": "0 to 255"}.items():
        found = next(s for s in examine(FAULTS[fault].make()).signs if s.name == "normalisation")
        assert found.value == name
        assert "as " + name in found.explanation


class Hostile(nn.Module):
    """A module that raises whatever it is told to, wherever it can."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def train(self, mode: bool = True) -> "Hostile":  # noqa: FBT001, FBT002 - torch's
        """Raise, or switch."""
        if self.where == "train":
            raise RuntimeError("no modes here")
        return super().train(mode)

    def forward(self, x: Tensor) -> Any:
        """Raise, or return something odd."""
        nothing: dict[str, Tensor] = {}
        odd: dict[str, Callable[[], Any]] = {
            "train": lambda: x.flatten(1),
            "nothing": lambda: None,
            "key": lambda: nothing["missing"],
            "empty": lambda: x.new_zeros(0, 10),
            "integers": lambda: x.flatten(1).long(),
            "type": lambda: nn.Linear,
            "recursion": lambda: self(x),
            "alone": lambda: x.flatten(1) if len(x) > 1 else nothing["alone"],
        }
        return odd[self.where]()


@pytest.mark.parametrize(
    "where", ["train", "nothing", "key", "empty", "integers", "type", "recursion", "alone"]
)
def test_it_survives_any_module(where: str) -> None:
    """Whatever a module raises or returns becomes a failed check with the message, never an exception."""
    found = examine(Hostile(where), 30)
    assert found.status == "fail"
    assert set(CHECKS) == {sign.name for sign in found.signs} | set(found.unjudged)
    if where == "key":
        assert any("KeyError: 'missing'" in sign.explanation for sign in found.signs)
    assert str(found).count("\n") >= len(CHECKS) - 1


def test_it_leaves_the_model_as_it_was() -> None:
    """Weights, statistics, modes, gradients, requires_grad and the caller's random numbers stay."""
    model = healthy("paper").train()
    model.get_submodule("net" if hasattr(model, "net") else "").eval()
    before, modes = fingerprint(model), [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    examine(model)
    assert torch.equal(torch.rand(3), expected)
    assert fingerprint(model) == before
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_few_images_are_said_to_be_few() -> None:
    """Of five images nobody can say whether accuracy is at chance: a warning, no failure."""
    found = next(s for s in examine(healthy(), 5).signs if s.name == "accuracy")
    assert (found.status, "too few" in found.explanation) == ("warn", True)
    assert found.remedy == "take more (--limit)"


def test_what_is_no_patient_is_refused() -> None:
    """No module, images that are none, labels that are not theirs: errors of the caller, not of a model."""
    x, y = samples(10)

    def calls() -> Iterator[Callable[[], object]]:
        yield lambda: doctor(len, x, y)  # type: ignore[arg-type]
        yield lambda: doctor(healthy(), x[0], y)
        yield lambda: doctor(healthy(), x, y[:3])
        yield lambda: doctor(healthy(), x, y.float())
        yield lambda: doctor(healthy(), x[:0], y[:0])

    for call in calls():
        with pytest.raises(InputError, match="Expected"):
            call()
