"""Whatever changes what a network answers changes its fingerprint; what does not, does not."""

import copy
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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
        self.norm = nn.BatchNorm1d(3)
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


class Levels:
    """An object that is no module: a defence's settings."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, x: Tensor) -> Tensor:
        """Round."""
        return (x * self.count).round() / self.count


class Slotted:
    """The same without a dictionary."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


def _inner(weight: float) -> nn.Module:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.constant_(layer.weight, weight)
    return layer


def _backward(factor: float) -> Callable[[nn.Module], object]:
    def hook(_module: nn.Module, given: Any, _gradients: object) -> Any:
        return (given[0] * factor,)

    return lambda net: net.register_full_backward_hook(hook)


def _before_backward(factor: float) -> Callable[[nn.Module], object]:
    def hook(_module: nn.Module, given: Any) -> Any:
        return (given[0] * factor,)

    return lambda net: net.register_full_backward_pre_hook(hook)


def _unset(net: nn.Module) -> None:
    net.register_forward_hook(lambda _m, _i, output: output if len(output) else later)
    if not net.training:
        later: object = None


def _knots(net: Any) -> None:
    """Give a network objects that hold each other and the network."""
    one, other = Levels(1), Levels(2)
    one.other, other.other, one.net = other, one, net  # type: ignore[attr-defined]
    net.knot = one


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
    "namespace": _set("args", SimpleNamespace(levels=None)),
    "another value in it": _set("args", SimpleNamespace(levels=3)),
    "object": _set("purify", Levels(3)),
    "another setting of it": _set("purify", Levels(4)),
    "slots": _set("purify", Slotted(3)),
    "another value in them": _set("purify", Slotted(4)),
    "object deep inside": _set("plan", {"steps": [(1, Levels(3))]}),
    "another deep inside": _set("plan", {"steps": [(1, Levels(4))]}),
    "objects that hold each other": _knots,
    "bound method": _set("act", Levels(3).__call__),
    "bound to another": _set("act", Levels(4).__call__),
    "array": _set("levels", np.array([1.0])),
    "other numbers in it": _set("levels", np.array([9.0])),
    "numbers of another type in it": _set("levels", np.array([1.0], np.float32)),
    "set of tuples": _set("cells", {(1, 2)}),
    "another tuple in it": _set("cells", {(1, 3)}),
    "random state": _set("draws", np.random.default_rng(1)),
    "another": _set("draws", np.random.default_rng(2)),
    "network outside the state": _set("others", [_inner(1)]),
    "other weights in it": _set("others", [_inner(2)]),
    "backward hook": _backward(0.0),
    "another backward hook": _backward(2.0),
    "hook before backward": _before_backward(0.0),
    "another hook before backward": _before_backward(2.0),
    "hook over a variable never set": _unset,
    "setting of a layer": lambda net: setattr(net.norm, "eps", 10.0),
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


ALTERATIONS: dict[str, Callable[[Any], object]] = {
    "norm": lambda net: setattr(net.get_submodule("net.bn1"), "eps", 10.0),
    "stride": lambda net: setattr(net.get_submodule("net.conv1"), "stride", (2, 2)),
    "padding": lambda net: setattr(net.get_submodule("net.conv1"), "padding", (0, 0)),
    "dilation": lambda net: setattr(net.get_submodule("net.conv1"), "dilation", (2, 2)),
    "layer": lambda net: net.net.add_module("bn1", nn.Identity()),
    "what a layer does": lambda net: setattr(
        net.get_submodule("net.conv1"), "_conv_forward", lambda x, *_: x * 0
    ),
    "stages": lambda net: net.net.stages.pop(),
    "places": lambda net: setattr(net, "at", ()),
    "backward hook": _backward(0.0),
    "hook before backward": _before_backward(0.0),
    "forward hook": _hooked(2.0),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_a_network_of_ours_that_was_altered_counts_by_its_code(what: str) -> None:
    """Also by a setting of a layer of torch's; what decides nothing in eval mode alters nothing."""
    ours = create_model("resnet_small", classes=10, width=4, fsr="paper")
    ours.train()(torch.rand(2, 3, 8, 8)).sum().backward()
    ours.eval().requires_grad_(requires_grad=False)
    setattr(ours.get_submodule("net.bn1"), "momentum", 0.5)  # noqa: B010 - of any module
    assert "code_sha256" not in identify(ours)
    ALTERATIONS[what](ours)
    assert "code_sha256" in identify(ours)


NET = """
import {package}.helper
from {package} import other
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        from .late import shift
        return {package}.helper.squash(self.head(x.flatten(1))) * other.scale() + shift
"""
FILES = {
    "net.py": NET,
    "helper.py": "from {package}.deep.inner import K\ndef squash(z):\n    return z * K\n",
    "deep/__init__.py": "",
    "deep/inner.py": "K = 1.0\n",
    "other.py": "import os\nSCALE = float(os.environ.get('FSR_TEST_SCALE', 1))\ndef scale():\n    return SCALE\n",
    "late.py": "shift = 0.0\n",
    "unrelated.py": "x = 1\n",
    "__init__.py": "",
}


def packaged(folder: Path, package: str, **more: str) -> object:
    """Return the fingerprint of the code of a package's network, some of whose files have a line more."""
    for name, text in FILES.items():
        file = folder / package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(package=package) + more.get(name, ""))
    torch.manual_seed(0)
    try:
        return identify(importlib.import_module(f"{package}.net").Net())["code_sha256"]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def test_helpers_count_however_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that the network's imports lead to, also from inside a function; not one that they do not."""
    seen = {}
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for number, name in enumerate(["", *FILES]):
        folder = tmp_path / str(number)
        monkeypatch.syspath_prepend(folder)
        seen[name] = packaged(folder, "fsr_test_package", **{name: "# edited\n"})
    assert seen.pop("unrelated.py") == seen[""]
    assert len(set(seen.values())) == len(seen)


def test_values_of_a_helper_s_globals_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files, but a constant that was read from the environment."""
    monkeypatch.syspath_prepend(tmp_path)
    one = packaged(tmp_path, "fsr_test_package")
    monkeypatch.setenv("FSR_TEST_SCALE", "2")
    assert packaged(tmp_path, "fsr_test_package") != one


def test_an_installed_package_counts_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files do not; where they lie is what tells."""
    site, name = tmp_path / "site-packages", "fsr_test_package"
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    said = {"__init__.py": "__version__ = '1'"}
    before = packaged(site, name, **said)
    assert packaged(site, name, **said, **{"helper.py": "# edited"}) == before
    assert packaged(site, name, **{"__init__.py": "__version__ = '2'"}) != before


@pytest.mark.slow
def test_another_process_finds_the_same() -> None:
    """Also with other hashes of texts: no fingerprint knows an address or an order of chance."""
    code = (
        "from tests.evaluate.test_identity import CHANGES, identify, made\n"
        "for what, change in CHANGES.items():\n"
        "    net = made(); change(net); print(what, identify(net))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1
    assert len(told.pop().splitlines()) == len(CHANGES)
