"""Models by name, and files of other people's weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fsrobust.models import MODELS, architecture
from fsrobust.plugin import FSR, Guarded, create_model, load_authors
from fsrobust.types import InputError
from tests.helpers import images, warm_up

State = dict[str, Tensor]


def authors_names(model: nn.Module) -> State:
    """Return the state dict under the names of the authors' code."""
    names = {
        "fsr.0.separation.": "separation.sep_net.",
        "fsr.0.recalibration.": "recalibration.rec_net.",
        "fsr.0.aux.": "aux.0.",
    }
    state = {}
    for name, value in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name.removeprefix("net.")] = value
    return state


def resnet(*, fsr: str | None = "paper", classes: int = 5, channels: int = 2) -> nn.Module:
    """Return a narrow ResNet-18 in eval mode."""
    return warm_up(
        create_model("resnet18", classes=classes, channels=channels, width=3, fsr=fsr).eval(),
        channels=channels,
        size=32,
    )


WRAPPED: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "state_dict": lambda state: {"state_dict": state, "epoch": 100, "acc": 0.5},
    "net": lambda state: {"net": state},
    "model": lambda state: {"model": state},
    "state_dict of module.": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("fsr", ["paper", None])
def test_every_usual_wrapping_is_understood(wrapper: str, fsr: str | None, tmp_path: Path) -> None:
    """The authors' layout and a plain CIFAR ResNet's load from every usual wrapping, with equal logits.

    Width, channels and the presence of the plug-in are read off the file.
    """
    model, file = resnet(fsr=fsr), tmp_path / "weights.pth"
    torch.save(WRAPPED[wrapper](authors_names(model)), file)
    loaded = load_authors(file, "resnet18", classes=5)
    x = images(2, channels=2, size=32)
    assert not loaded.training
    assert isinstance(loaded, Guarded) == (fsr == "paper")
    assert torch.equal(loaded(x), model(x))


def broken(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Return files that are no weights of a five-class ResNet-18, with what is to be said of each."""
    good = authors_names(resnet())
    missing = {name: value for name, value in good.items() if name != "layer3.0.conv1.weight"}
    contents: dict[str, tuple[object, str]] = {
        "other names": ({"features.0.weight": torch.zeros(1)}, "authors' layout.*features.0.weight"),
        "one missing": (missing, "does not fit resnet18 with 5 classes.*layer3.0.conv1.weight"),
        "one too many": (good | {"extra": torch.zeros(1)}, "does not fit resnet18.*extra"),
        "a list": ([torch.zeros(1)], "to hold a state dict, but got list"),
        "numbers": ({"conv1.weight": 1.0}, "to hold a state dict"),
        "empty": ({}, "authors' layout"),
    }
    cases = {}
    for name, (content, message) in contents.items():
        file = tmp_path / f"{name}.pth"
        torch.save(content, file)
        cases[name] = (file, message)
    for name, text in (("text", b"not a zip"), ("nothing", b"")):
        (tmp_path / name).write_bytes(text)
        cases[name] = (tmp_path / name, "not a state dict that torch can load safely")
    cases["absent"] = (tmp_path / "absent.pth", "there is no")
    cases["a folder"] = (tmp_path, "there is no")
    return cases


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    """Whatever is wrong with a file, the error is an InputError that names the file's fault."""
    for file, message in broken(tmp_path).values():
        with pytest.raises(InputError, match=message):
            load_authors(file, "resnet18", classes=5)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickled module, which would run code when loaded, is refused and not unpickled."""
    file = tmp_path / "model.pth"
    torch.save(resnet(), file)
    with pytest.raises(InputError, match="load safely"):
        load_authors(file, "resnet18", classes=5)


def test_the_number_of_classes_must_fit(tmp_path: Path) -> None:
    """Weights for five classes are refused when ten are asked for, and the message says so."""
    file = tmp_path / "five.pth"
    torch.save(authors_names(resnet()), file)
    with pytest.raises(InputError, match=r"does not fit resnet18 with 10 classes.*linear\.weight"):
        load_authors(file, "resnet18", classes=10)


@pytest.mark.parametrize("name", MODELS)
def test_the_paper_place_is_the_architectures(name: str) -> None:
    """``fsr="paper"`` is the layer of the architecture's row; layers and lists of them mean themselves."""
    place = architecture(name).fsr_at
    other = "layer2" if name.endswith(("18", "small")) else "block2"
    for fsr, at in (("paper", (place,)), (other, (other,)), ([other, "paper"], (other, place))):
        model = create_model(name, classes=2, width=1 if name == "vgg16" else 2, fsr=fsr)
        assert isinstance(model, Guarded)
        assert model.at == at
        assert len(model.fsr) == len(at)


def test_options_reach_the_plugin() -> None:
    """τ given to create_model is the plug-in's τ."""
    model = create_model("resnet_small", classes=2, width=2, fsr="paper", tau=0.7)
    assert isinstance(model, Guarded)
    assert isinstance(model.fsr[0], FSR)
    assert model.fsr[0].tau == 0.7


def test_width_none_is_the_usual_width() -> None:
    """``width=None`` and no width at all both mean the architecture's own."""
    for model in (
        create_model("resnet_small", classes=2),
        create_model("resnet_small", classes=2, width=None),
    ):
        assert len(model.get_parameter("conv1.weight")) == architecture("resnet_small").width


def test_an_unknown_layer_is_answered_with_the_nearest() -> None:
    """A misspelt layer name is refused with the nearest and with all there are."""
    with pytest.raises(InputError, match='Unknown layer "layer9"; did you mean "layer'):
        create_model("resnet_small", classes=2, width=2, fsr="layer9")
