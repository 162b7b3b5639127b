"""Whatever changes what a network answers changes its fingerprint; what does not, does not."""

import copy
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsrobust.evaluate import Subject
from fsrobust.evaluate.identity import identify
from fsrobust.plugin import FSR, attach, create_model
from tests import foreign

SOURCE = """
import torch
from torch import nn

SCALE = {scale}

def squash(x):
    return x.tanh() * SCALE

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        return squash(self.head(x.flatten(1)))
"""


class Tempered(nn.Module):
    """A head with settings that neither its state nor its repr shows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.temperature = 1.0
        self.shift = torch.zeros(3)
        self.options = {"mode": [1, 2]}
        self.register_buffer("mask", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return scaled and shifted scores."""
        mask = self.get_buffer("mask")
        logits: Tensor = self.head(x.flatten(1)) * mask / self.temperature + self.shift
        return logits


def made() -> Tempered:
    """Return the same network each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tempered()


def _set(name: str, value: object) -> Callable[[Any], None]:
    return lambda net: setattr(net, name, value)


def _bound(net: nn.Module, factor: float) -> None:
    net.forward = lambda x: net.head(x.flatten(1)) * factor  # type: ignore[operator]


def _hooked(factor: float) -> Callable[[nn.Module], object]:
    return lambda net: net.register_forward_hook(lambda _m, _i, output: output * factor)


def _holds_itself(net: Any) -> None:
    net.ring = [1]
    net.ring.append(net.ring)


CHANGES: dict[str, Callable[[Any], object]] = {
    "weight": lambda net: net.head.weight.data.mul_(2),
    "attribute": _set("temperature", 100.0),
    "tensor attribute": _set("shift", torch.ones(3)),
    "nested attribute": lambda net: net.options["mode"].append(3),
    "buffer outside the state": lambda net: net.mask.zero_(),
    "forward of its own": partial(_bound, factor=2.0),
    "another constant in it": partial(_bound, factor=3.0),
    "hook": _hooked(2.0),
    "another constant in the hook": _hooked(3.0),
    "partial": _set("act", partial(torch.clamp, min=0.0)),
    "another argument of it": _set("act", partial(torch.clamp, min=0.5)),
    "attribute that holds itself": _holds_itself,
    "attribute of a part": lambda net: setattr(net.head, "gain", 2),
}


def test_every_change_is_another_model() -> None:
    """No two of the changed networks, nor the unchanged one, are taken for each other."""
    seen = {"nothing": identify(made())}
    for what, change in CHANGES.items():
        net = made()
        change(net)
        seen[what] = identify(net)
    identities = {str(identity) for identity in seen.values()}
    assert len(identities) == len(seen)


PROMPT = """
from torch import nn
MEAN = (0.4, 0.5)
class Net(nn.Module):
    temperature = 1.0
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
    @staticmethod
    def squash(x):
        return x.tanh()
    @property
    def gain(self):
        return 2.0
    def forward(self, x, *, shift=0.0):
        return self.squash(self.head(x.flatten(1) - MEAN[0])) * self.gain / self.temperature + shift
"""
EDITS = {
    "class attribute": ("temperature = 1.0", "temperature = 9.0"),
    "default": ("shift=0.0", "shift=0.1"),
    "static method": ("x.tanh()", "x.sigmoid()"),
    "property": ("return 2.0", "return 3.0"),
    "global": ("MEAN = (0.4, 0.5)", "MEAN = (0.5, 0.5)"),
    "constant": ("x.flatten(1)", "x.flatten(0)"),
}


def test_what_is_typed_at_a_prompt_counts_too() -> None:
    """Without a source file every part of a class does: attributes, defaults, wrapped functions, globals it names."""

    def typed(code: str) -> object:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(code, "<prompt>", "exec"), namespace)
        torch.manual_seed(0)
        return identify(namespace["Net"]())["code_sha256"]

    assert typed(PROMPT) == typed(PROMPT)
    assert len({typed(PROMPT), *(typed(PROMPT.replace(*edit)) for edit in EDITS.values())}) == 1 + len(EDITS)


def test_a_network_counts_as_what_it_was_when_it_was_handed_over() -> None:
    """Also where every pass leaves a mark in it: a second process that has asked nothing yet finds the same key."""

    class Counting(Tempered):
        def forward(self, x: Tensor) -> Tensor:
            self.temperature += 1
            return super().forward(x)

    first, second = Counting(), Counting()
    second.load_state_dict(first.state_dict())
    asked, fresh = Subject(first, "a network"), Subject(second, "a network")
    first(torch.rand(2, 4))
    assert asked.identity == fresh.identity
    assert Subject(first, "a network").identity != fresh.identity


def test_modes_and_passes_change_nothing() -> None:
    """Eval mode, frozen parameters, gradients and another process's addresses are not part of a model."""
    net = foreign.resnet()
    before = identify(net)
    net.train()
    net(torch.rand(2, 3, 32, 32)).sum().backward()
    net.eval().requires_grad_(requires_grad=False)
    twin = foreign.resnet()
    twin.load_state_dict(net.state_dict())
    after = identify(net)
    assert before["code_sha256"] == after["code_sha256"] == identify(twin)["code_sha256"]
    assert before["model"] == after["model"]


def test_an_edited_file_is_another_model(tmp_path: Path) -> None:
    """Also where a helper or a constant of the module changed, and the class did not."""

    def load(scale: int) -> nn.Module:
        file = tmp_path / f"net{scale}" / "net.py"
        file.parent.mkdir()
        file.write_text(SOURCE.format(scale=scale))
        spec = importlib.util.spec_from_file_location("net", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        net: nn.Module = module.Net()
        return net

    one, two = identify(load(1)), identify(load(2))
    assert one["weights_sha256"] == two["weights_sha256"]
    assert one["code_sha256"] != two["code_sha256"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_dtype(dtype: torch.dtype) -> None:
    """Half precision has a fingerprint too; float32's is that of its bytes."""
    assert len(str(identify(made().to(dtype))["weights_sha256"])) == 64


def test_a_network_of_ours_is_its_configuration() -> None:
    """No code is looked at, unless it was changed; a guarded foreign network is foreign."""
    ours = create_model("resnet_small", classes=10, width=4, fsr="paper")
    assert set(identify(ours)) == {"weights_sha256", "model"}
    hooked, softened = (copy.deepcopy(ours) for _ in "ab")
    hooked.register_forward_hook(lambda _m, _i, output: output / 100)
    next(part for part in softened.modules() if isinstance(part, FSR)).tau = 5.0
    altered = [identify(net)["code_sha256"] for net in (hooked, softened)]
    assert len(set(altered)) == 2
    guarded = attach(foreign.resnet(), at="layer2", classes=3)
    assert "code_sha256" in identify(guarded)
