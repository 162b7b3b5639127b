"""ResNets: size and cost against the published figures, shapes, and clear refusals."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fsrobust.models import MODELS, ModelConfig, Normalize, architecture
from fsrobust.plugin import Guarded, build, config_of, create_model
from fsrobust.types import InputError
from tests.helpers import images


def parameters(model: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, size: int) -> int:
    """Return multiply-adds of convolutions and products for one image, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    flops: int = counter.get_total_flops()
    return flops // 2


def test_resnet18_has_the_published_size_and_cost() -> None:
    """ResNet-18 for ten classes: 11,173,962 parameters, 555.4 M multiply-adds at 32 pixels."""
    model = create_model("resnet18", classes=10)
    assert parameters(model) == 11_173_962
    assert round(multiply_adds(model, 32) / 1e6, 1) == 555.4


def test_the_plugin_has_the_published_size_and_cost() -> None:
    """FSR on ResNet-18 adds 1,259,018 parameters; prediction adds its six convolutions and no auxiliary head.

    At 4 × 4 units: 2 · (512·64 + 64·64 + 64·512) · 9 · 16 = 20,054,016 multiply-adds.
    """
    plain, guarded = (create_model("resnet18", classes=10, fsr=fsr) for fsr in (None, "paper"))
    assert parameters(guarded) - parameters(plain) == 1_259_018
    assert multiply_adds(guarded, 32) - multiply_adds(plain, 32) == 20_054_016


def test_the_parts_cost_one_auxiliary_head_more() -> None:
    """Asking for the parts costs three looks through one shared Linear, not another forward pass."""
    model = create_model("resnet18", classes=10, fsr="paper").eval()
    assert isinstance(model, Guarded)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.parts(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() // 2 - multiply_adds(model, 32) == 3 * 512 * 10


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [32, 64])
def test_every_model_takes_any_usual_image(name: str, size: int) -> None:
    """Each row of MODELS gives one row of finite logits per image, at 32 and 64 pixels."""
    width = min(architecture(name).width, 4)
    model = create_model(name, classes=7, width=width, fsr="paper").eval()
    logits = model(images(2, size=size))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("width", "channels", "classes"), [(1, 1, 1), (3, 1, 2), (8, 4, 100)])
def test_sizes_are_free(width: int, channels: int, classes: int) -> None:
    """Any width, number of channels and number of classes fit together, the plug-in included."""
    model = create_model("resnet18", classes=classes, width=width, channels=channels, fsr="paper").eval()
    assert model(images(2, channels=channels, size=32)).shape == (2, classes)
    assert isinstance(model, Guarded)
    assert model.fsr[0].get_submodule("aux").weight.shape == (classes, 8 * width)


def test_width_is_the_first_stages_channels() -> None:
    """``width`` counts the channels of stage 1; each later stage doubles them."""
    model = create_model("resnet18", classes=2, width=5)
    widths = [model.get_submodule(f"layer{k}.1.bn2").weight.shape for k in range(1, 5)]
    assert widths == [(5,), (10,), (20,), (40,)]


def map_size(name: str, layer: str, size: int, stem: str = "cifar") -> tuple[int, int]:
    """Return the height and width of a layer's output for square images."""
    model = build(ModelConfig(name, 2, width=2, stem=stem)).eval()  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    model(images(1, size=size))
    return seen[0].shape[2], seen[0].shape[3]


@pytest.mark.parametrize(
    ("name", "size", "stem", "side"),
    [
        ("resnet18", 32, "cifar", 4),
        ("resnet18", 64, "cifar", 8),
        ("resnet18", 224, "imagenet", 7),
        ("resnet_small", 8, "cifar", 4),
        ("resnet_small", 16, "cifar", 8),
    ],
)
def test_the_plugin_meets_a_map_of_the_right_size(name: str, size: int, stem: str, side: int) -> None:
    """The paper's place has 4 × 4 units at 32 pixels, and the small net keeps as many at 8."""
    assert map_size(name, architecture(name).fsr_at, size, stem) == (side, side)


def test_the_imagenet_stem_is_the_usual_one() -> None:
    """7 × 7 of stride 2, then a 3 × 3 max-pool of stride 2: a quarter of the image's side in stage 1."""
    model = create_model("resnet18", classes=2, width=2, stem="imagenet")
    assert model.get_submodule("conv1").weight.shape == (2, 3, 7, 7)
    assert map_size("resnet18", "layer1", 64, "imagenet") == (16, 16)
    assert map_size("resnet18", "layer1", 64, "cifar") == (64, 64)


def test_normalize_inside_equals_normalising_outside() -> None:
    """A model with ``normalize`` gives for x, bit for bit, what the bare model gives for (x − mean)/std."""
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.15)
    inside = create_model("resnet_small", classes=3, width=4, normalize=(mean, std)).eval()
    bare = create_model("resnet_small", classes=3, width=4).eval()
    bare.load_state_dict({k: v for k, v in inside.state_dict().items() if not k.startswith("normalize.")})
    x = images(3)
    outside = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(inside(x), bare(outside))
    assert not torch.equal(inside(x), bare(x))


def test_normalize_travels_with_the_weights() -> None:
    """Mean and std are buffers: saved with the model, moved with it, never trained."""
    layer = Normalize((0.5,), (0.25,))
    assert set(layer.state_dict()) == {"mean", "std"}
    assert not list(layer.parameters())
    assert layer.double().mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5, 0.5), (1.0,)), ((), ())]
)
def test_normalize_refuses_nonsense(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Unequal lengths, no channel at all and a std that is not positive are refused with both values."""
    with pytest.raises(ValueError, match="as many means as positive standard deviations"):
        Normalize(mean, std)


@pytest.mark.parametrize("field", ["classes", "channels", "width"])
def test_sizes_below_one_are_refused(field: str) -> None:
    """A size of 0 names its field and its value."""
    sizes = {"classes": 10, "channels": 3, "width": 4, field: 0}
    with pytest.raises(
        InputError, match=rf"model.{field} (to be at least 1|above 0 and below 10000), but got 0"
    ):
        create_model("resnet18", **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [0.0, -0.1, float("nan")])
def test_a_temperature_must_be_positive(tau: float) -> None:
    """τ = 0, a negative τ and NaN would make the mask meaningless: refused."""
    with pytest.raises(InputError, match="tau above 0"):
        create_model("resnet_small", classes=2, fsr="paper", tau=tau)


@pytest.mark.usefixtures("unchecked")
def test_unknown_names_are_answered_with_the_nearest() -> None:
    """A misspelt model or stem is refused with what there is."""
    with pytest.raises(InputError, match='Unknown model "resnet19"; did you mean "resnet18"'):
        create_model("resnet19", classes=10)
    with pytest.raises(InputError, match='stem "cifar" or "imagenet", but got "tiny"'):
        create_model("resnet18", classes=10, stem="tiny")  # type: ignore[arg-type]


def test_the_configuration_makes_the_same_model_again() -> None:
    """A model's ``config`` rebuilds a model that its state dict fits, with equal logits."""
    model = create_model("resnet_small", classes=3, channels=1, width=4, fsr=["layer2", "layer3"], tau=0.5)
    config = config_of(model.eval())
    assert config is not None
    assert (config.fsr, config.tau, config.channels) == (("layer2", "layer3"), 0.5, 1)
    twin = build(config).eval()
    twin.load_state_dict(model.state_dict())
    x = images(2, channels=1)
    assert torch.equal(twin(x), model(x))
    assert config_of(nn.Linear(1, 1)) is None


def test_fresh_weights_come_from_torchs_generator() -> None:
    """The same torch seed builds the same network, another seed another one."""
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(create_model("resnet_small", classes=2, width=2, fsr="paper").state_dict())
    first, again, other = ({k: v.tolist() for k, v in w.items()} for w in weights)
    assert first == again
    assert first != other


def test_gradients_reach_every_parameter() -> None:
    """No weight of the bare network is dead: each gets a gradient that is not zero."""
    model = create_model("resnet_small", classes=3, width=4).train()
    model(images(4)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fsr_init": "identiy"}, 'fsr_init "paper" or "identity", but got "identiy"'),
        ({"mask": "gumble"}, 'Unknown mask "gumble"; did you mean "gumbel"'),
        ({"normalize": ((0.5,), (0.5,))}, "3 means and deviations"),
        ({"normalize": ((0.5,) * 3, (0.5, 0.5, 0.0))}, "positive standard deviations"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    """A misspelt start or mask is not taken for the default, and normalisation fits the channels."""
    with pytest.raises(InputError, match=message):
        create_model("resnet_small", classes=2, width=2, fsr="paper", **wrong)  # type: ignore[arg-type]
