"""VGG16, wide and pre-activation ResNets: size and cost in closed form, first weights, refusals."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fsrobust.models import ModelConfig, architecture
from fsrobust.plugin import FSR, Guarded, build, create_model
from fsrobust.types import InputError
from tests.helpers import images


def parameters(model: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module) -> int:
    """Return multiply-adds of convolutions and products for one image of 32 pixels, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    ("name", "count", "millions", "plugin", "plugin_millions"),
    [
        ("vgg16", 15_253_578, 313.7, 1_259_018, 20.1),
        ("wrn34_10", 46_160_474, 6_658.9, 1_555_210, 99.1),
    ],
)
def test_networks_have_the_published_size_and_cost(
    name: str, count: int, millions: float, plugin: int, plugin_millions: float
) -> None:
    """Parameters to the last one, multiply-adds to 0.1 million, without and with the plug-in."""
    plain, guarded = (create_model(name, classes=10, fsr=fsr) for fsr in (None, "paper"))
    assert parameters(plain) == count
    assert parameters(guarded) - parameters(plain) == plugin
    cost = multiply_adds(plain)
    assert round(cost / 1e6, 1) == millions
    assert round((multiply_adds(guarded) - cost) / 1e6, 1) == plugin_millions


def test_preactivation_resnet18_differs_from_resnet18_in_norms_only() -> None:
    """No norm after the stem and the three 1×1 shortcuts, one at the end, a block's first norm before its width.

    ResNet-18 has norms of 64 at the stem, 2 · (64 + 64 + 128 + 128 + 256 + 256 + 512 + 512) in blocks and
    128 + 256 + 512 at shortcuts; here the first norm of a widening block has half its channels.
    """
    ours, plain = (parameters(create_model(name, classes=10)) for name in ("preact_resnet18", "resnet18"))
    assert plain - ours == 2 * (64 + (128 + 256 + 512) + (64 + 128 + 256) - 512)
    assert ours == 11_172_170 - 0


def test_wrn28_10_has_its_published_size() -> None:
    """36,479,194 parameters, as Zagoruyko and Komodakis (2016) report 36.5 million."""
    assert parameters(create_model("wrn28_10", classes=10)) == 36_479_194


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", ["preact_resnet18", "wrn28_10"])
def test_both_stems_one_channel_and_any_classes(name: str, stem: str) -> None:
    """Grey images of 64 pixels and three classes go through either stem."""
    model = create_model(name, classes=3, channels=1, width=2, stem=stem, fsr="paper").eval()  # type: ignore[arg-type]
    assert model(images(2, size=64)[:, :1]).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "at", "width", "shape"),
    [
        ("vgg16", "block4", 0.125, (64, 4, 4)),
        ("vgg16", "block3", 0.125, (32, 8, 8)),
        ("wrn34_10", "final", 1, (64, 8, 8)),
        ("wrn34_10", "block2", 1, (32, 16, 16)),
        ("preact_resnet18", "final", 4, (32, 4, 4)),
        ("preact_resnet18", "layer3", 4, (16, 8, 8)),
    ],
)
def test_the_plugin_sits_where_it_is_put(name: str, at: str, width: float, shape: tuple[int, ...]) -> None:
    """After VGG's fourth block and before its pool; after WRN's last norm and ReLU; or at any other stage."""
    model = create_model(name, classes=10, width=width, fsr=at).eval()
    assert isinstance(model, Guarded)
    (mask,) = model.parts(images(1, size=32)).mask
    assert tuple(mask.shape[1:]) == shape
    assert architecture(name).fsr_at in dict(model.net.named_modules())


def spread(weight: torch.Tensor) -> float:
    """Return the standard deviation of a weight."""
    return float(weight.detach().std())


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_first_weights_follow_the_papers_code(init: str) -> None:
    """VGG and WRN draw the plug-in's weights as they draw their own; the identity start stays one.

    With some 10⁴ and more draws a standard deviation is off by less than 3 %.
    """
    vgg = create_model("vgg16", classes=10, width=0.5, fsr="paper", fsr_init=init)  # type: ignore[arg-type]
    wrn = create_model("wrn28_10", classes=10, width=4, fsr="paper", fsr_init=init)  # type: ignore[arg-type]
    for model in (vgg, wrn):
        assert isinstance(model, Guarded)
        (point,) = model.fsr
        assert isinstance(point, FSR)
        for convolution in (model.net.get_submodule("block2")[0], point.separation[0]):  # type: ignore[index]
            if isinstance(convolution, nn.Conv2d):
                expected = math.sqrt(2 / (9 * convolution.out_channels))
                assert spread(convolution.weight) == pytest.approx(expected, rel=0.03)
        last = point.recalibration[-1]
        assert isinstance(last, nn.Conv2d)
        assert (not last.weight.any()) == (init == "identity")
        assert not point.aux.bias.any()
    linear = vgg.get_submodule("net.classifier.0")
    assert isinstance(linear, nn.Linear)
    assert spread(linear.weight) == pytest.approx(0.01, rel=0.03)


def test_a_widening_block_shares_its_norm_with_the_shortcut() -> None:
    """By hand: conv2(relu(bn2(conv1(g)))) + shortcut(g) with g = relu(bn1(f)); else the input itself beside."""
    from fsrobust.models.preact import PreActBlock

    f = images(2, channels=4)
    for channels_out, stride in ((4, 1), (6, 2)):
        block = PreActBlock(4, channels_out, stride).eval()
        g = block.bn1(f).relu()
        beside = f if block.shortcut is None else block.shortcut(g)
        expected = block.conv2(block.bn2(block.conv1(g)).relu()) + beside
        torch.testing.assert_close(block(f), expected)
        assert (block.shortcut is None) == (channels_out == 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("vgg16", 10, width=1, stem="imagenet"), 'Expected stem "cifar" for vgg16'),
        (ModelConfig("resnet18", 10, width=2.5), "whole number of channels, but got 2.5"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(config: ModelConfig, message: str) -> None:
    """One sentence."""
    with pytest.raises(InputError, match=message):
        build(config)
