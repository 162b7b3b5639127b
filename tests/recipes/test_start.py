"""A training starts from trained weights, ours or a factory's, with the plug-in where it was asked for."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fsrobust.config import Run
from fsrobust.data import load_dataset
from fsrobust.plugin import Guarded, config_of, create_model
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import find_target, train_run
from fsrobust.recipes.networks import find_network
from fsrobust.recipes.start import prepare, refuse_clashes
from fsrobust.records import read_json, write_bytes
from fsrobust.settings import override
from fsrobust.train import TrainConfig, load
from fsrobust.train.checkpoint import weights_bytes
from fsrobust.types import InputError
from tests import foreign
from tests.helpers import fingerprint, images, warm_up
from tests.images import make_folder

FACTORY = "tests.foreign:resnet"
CPU = torch.device("cpu")


def short(name: str, **changes: int) -> Run:
    """Return a recipe cut to two epochs of a one-step attack."""
    run = recipe(name)
    train = TrainConfig(epochs=2, batch=16, lr=0.01, augment="none", engine="reference", **changes)  # type: ignore[arg-type]
    return replace(run, train=train, objective=replace(run.objective, steps=1))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes of images of one's own, 16 × 16."""
    folder = make_folder(tmp_path_factory.mktemp("own"), classes=foreign.CLASSES, train=14, test=3, size=16)
    return f"folder:{folder}"


def digits_file(tmp_path: Path, *, fsr: str | None = None) -> tuple[Path, nn.Module]:
    """Return a weights file of a small network for digits, and the network, far from its first weights."""
    model = create_model("resnet_small", classes=10, channels=1, width=4, fsr=fsr)
    warm_up(model, channels=1).eval()
    write_bytes(tmp_path / "weights.safetensors", weights_bytes(model))
    return tmp_path / "weights.safetensors", model


@pytest.mark.parametrize(
    ("name", "attach", "at"),
    [
        ("digits-at", (), ()),
        ("digits-at", ("layer2",), ("layer2",)),
        ("digits-at", ("layer2, layer3",), ("layer2", "layer3")),
        ("digits-at-fsr", (), ("layer3",)),
        ("digits-at-fsr", ("layer1", "layer2"), ("layer1", "layer2")),
        ("finetune-at-fsr", (), ("layer3",)),  # where the paper's plug-in belongs in that network
    ],
)
def test_our_weights_are_taken_over(
    tmp_path: Path, name: str, attach: tuple[str, ...], at: tuple[str, ...]
) -> None:
    """The network is that of the file; the plug-in goes where it was asked for and changes no logit."""
    file, model = digits_file(tmp_path)
    start = prepare(recipe(name), data="digits", init=str(file), attach=attach)
    x = images(5, channels=1)
    with torch.no_grad():
        torch.testing.assert_close(start.model.eval()(x), model(x), rtol=0, atol=0)
    config = config_of(start.model)
    assert config == start.run.model
    assert config is not None
    assert (config.fsr, config.width, start.run.published) == (at, 4, None)
    assert isinstance(start.model, Guarded) == bool(at)


def test_what_it_started_from_is_on_record(tmp_path: Path) -> None:
    """Source and SHA-256 of the first weights, as anybody can compute it; the plug-in's seed is the run's."""
    file, model = digits_file(tmp_path)
    run = short("digits-at-fsr")
    start = prepare(run, init=str(file))
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.numpy().tobytes())
    assert start.run.init is not None
    assert (start.run.init.source, start.run.init.sha256) == (str(file), digest.hexdigest())
    torch.rand(3)
    assert fingerprint(prepare(run, init=str(file)).model) == fingerprint(start.model)
    train_run(start.run, start.data, model=start.model, out=tmp_path / "run", device=CPU)
    written = read_json(tmp_path / "run" / "config.json")
    assert written["init"] == {"source": str(file), "sha256": digest.hexdigest(), "shape": [1, 8, 8]}
    assert isinstance(load(tmp_path / "run"), Guarded)


def test_a_plug_in_that_is_there_stays(tmp_path: Path) -> None:
    """Weights with the plug-in keep it as trained; a second one is refused, with both options named."""
    file, model = digits_file(tmp_path, fsr="layer2")
    start = prepare(recipe("digits-at-fsr"), init=str(file))
    assert fingerprint(start.model) == fingerprint(model)
    assert start.run.model.fsr == ("layer2",)
    with pytest.raises(InputError, match=r"--attach layer3 and --init .*after layer2 already"):
        prepare(recipe("digits-at-fsr"), init=str(file), attach=["layer3"])


def test_settings_of_a_plug_in_that_is_there_are_refused(tmp_path: Path) -> None:
    """It keeps those that it was trained with, which may be said again."""
    file, _ = digits_file(tmp_path, fsr="layer2")
    run = recipe("digits-at-fsr")
    with pytest.raises(InputError, match=r"--set model\.tau=0\.5 and --init .* was trained with 0\.1"):
        prepare(override(run, ["model.tau=0.5"]), init=str(file))
    assert prepare(override(run, ["model.tau=0.1"]), init=str(file)).run.model.tau == 0.1


def test_a_title_names_what_was_put_in(tmp_path: Path, own: str) -> None:
    """Data, weights and layers that a recipe has of its own are named; those that it asks for are not."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "guarded").mkdir()
    plain, guarded = (
        digits_file(tmp_path / n, fsr=f)[0] for n, f in (("plain", None), ("guarded", "layer2"))
    )

    def title(name: str, **put_in: Any) -> str:
        return prepare(recipe(name), **put_in).run.title

    assert title("digits-at") == title("digits-at", data="digits") == "Digits, AT"
    assert title("digits-at", data=own) == f"Digits, AT with data={own}"
    assert title("digits-at", attach=["layer1"]) == "Digits, AT with model.fsr=layer1"
    assert title("digits-at", init=str(plain)) == f"Digits, AT with init={plain}"
    assert title("digits-at", init=str(guarded)) == f"Digits, AT with init={guarded}, model.fsr=layer2"
    assert title("finetune-at", init=str(plain), data="digits") == "Fine-tuning, AT"
    assert title("finetune-at", init=str(guarded), data="digits") == "Fine-tuning, AT with model.fsr=layer2"
    assert title("finetune-at-fsr", init=str(plain), data="digits") == "Fine-tuning, AT + FSR"


def test_layers_of_the_recipes_own_network() -> None:
    """Without weights, --attach says where the recipe's network has the plug-in; no number is published of that."""
    run = replace(recipe("cifar10-resnet18-at-fsr"), data="synthetic:cifar10")
    assert prepare(run, attach=["layer4"]).run.published is not None
    start = prepare(run, attach=["layer3"])
    assert isinstance(start.model, Guarded)
    assert (start.model.at, start.run.model.fsr, start.run.published) == (("layer3",), ("layer3",), None)


def test_a_factorys_network_is_trained_and_found_again(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are unchanged at the start; the run's weights come back through the factory, or it is said why not."""
    start = prepare(short("finetune-at-fsr", frozen_epochs=1), data=own, init=FACTORY, attach=["layer2"])
    x = images(4, size=16)
    with torch.no_grad():
        expected = find_network(FACTORY).model(x)
        torch.testing.assert_close(start.model.eval()(x), expected, rtol=0, atol=0)
    out = tmp_path / "run"
    train_run(start.run, start.data, model=start.model, out=out, device=CPU)
    assert read_json(out / "config.json")["model"]["name"] == FACTORY
    with pytest.raises(InputError, match="does not say which network"):
        load(out)
    found = find_target(str(out))
    assert fingerprint(found.subject.model) == fingerprint(start.model)
    assert not found.subject.model.training

    again = prepare(short("finetune-at"), data=own, init=str(out))
    assert fingerprint(again.model) == fingerprint(start.model)
    train_run(again.run, again.data, model=again.model, out=tmp_path / "second", device=CPU)
    second = find_target(str(tmp_path / "second"))
    assert fingerprint(second.subject.model) == fingerprint(again.model) != fingerprint(start.model)

    monkeypatch.setattr(foreign, "resnet", lambda: foreign.Net(foreign.CLASSES, width=4))
    with pytest.raises(InputError, match=f'"{FACTORY}" makes another network than'):
        find_target(str(out))
    monkeypatch.delattr(foreign, "resnet")
    with pytest.raises(InputError, match=r"holds weights of a network .* go to where its module"):
        find_target(str(out))


def test_only_the_same_weights_are_resumed(tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command goes on; other weights behind the same name, or none, are refused and named."""
    run, out = short("finetune-at"), tmp_path / "run"

    def train(start_from: str | None, *, resume: bool = True) -> None:
        begun = (
            prepare(run, data=own, init=start_from) if start_from else prepare(short("digits-at"), data=own)
        )
        train_run(begun.run, begun.data, model=begun.model, out=out, device=CPU, resume=resume)

    train(FACTORY, resume=False)
    train(FACTORY)
    before = foreign.resnet().state_dict()

    def other() -> nn.Module:
        net = foreign.Net(foreign.CLASSES)
        net.load_state_dict(before)
        return net

    monkeypatch.setattr(foreign, "resnet", other)
    with pytest.raises(InputError, match=r"another configuration \(init: sha256\)"):
        train(FACTORY)
    with pytest.raises(InputError, match="another configuration"):
        train(None)


def test_a_network_for_other_data_is_refused(tmp_path: Path, own: str) -> None:
    """Other classes or channels, of a factory or of ours: the message has both numbers."""
    with pytest.raises(InputError, match=r"logits of 3 classes.*imagenet gives \[1, 1000\]"):
        prepare(recipe("finetune-at"), data=own, init="tests.foreign:imagenet")
    file, _ = digits_file(tmp_path)
    with pytest.raises(InputError, match=r"run on images .*\[3, 16, 16\].* it failed"):
        prepare(recipe("finetune-at"), data=own, init=str(file))
    x = np.zeros((20, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=np.arange(20) % 2, x_test=x, y_test=np.arange(20) % 2)
    with pytest.raises(InputError, match=r"logits of 2 classes.*gives \[1, 10\]"):
        prepare(recipe("finetune-at"), data=f"npz:{tmp_path / 'two.npz'}", init=str(file))


def test_fine_tuning_needs_weights_and_data(tmp_path: Path) -> None:
    """Either missing is asked for by name before anything is read."""
    with pytest.raises(InputError, match="Expected --init RUN"):
        prepare(recipe("finetune-at-fsr"), data="digits")
    with pytest.raises(InputError, match="Expected --data folder:PATH"):
        prepare(recipe("finetune-at-fsr"), init=str(tmp_path))


def test_a_layer_that_was_not_asked_for_is_explained(own: str) -> None:
    """The recipe's layer is not in everybody's network: the layers there are, and the option, are named."""
    with pytest.raises(InputError, match=r'"layer4".*layer2.*choose a layer with --attach'):
        prepare(recipe("finetune-at-fsr"), data=own, init=FACTORY)
    with pytest.raises(InputError, match=r'"layer9".*layer2\.0\.conv1') as refused:
        prepare(recipe("finetune-at-fsr"), data=own, init=FACTORY, attach=["layer9"])
    assert "choose" not in str(refused.value)


def test_options_that_clash_are_both_named() -> None:
    """Two that say the same thing, or a network's settings beside a network; others pass."""
    refuse_clashes(["train.epochs=3", "model.tau=0.5"], init="x:y", attach=["layer4"], engine="fast")
    for settings, words in (
        (["model.width=4"], "--set model.width and --init"),
        (["model.fsr = layer3"], "--set model.fsr and --attach"),
        (["train.engine=fast"], "--set train.engine and --engine"),
    ):
        with pytest.raises(InputError, match=words):
            refuse_clashes(settings, init="x:y", attach=["layer4"], engine="fast")


def test_images_are_as_large_as_asked(own: str) -> None:
    """The size goes into the run, and an evaluation finds it there."""
    start = prepare(short("finetune-at"), data=own, init=FACTORY, image_size=12, keep="disk")
    assert (start.data.image_size, start.run.image_size) == ((12, 12), 12)
    assert start.data.sha256 == load_dataset(own, "train", image_size=12).sha256
