"""Insertion into any network: what it does, what it leaves alone, what it refuses."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsrobust.plugin import FSR, Guarded, attach, create_model, parts_of
from fsrobust.types import InputError
from tests.helpers import fingerprint, guarded, images, warm_up


class Foreign(nn.Module):
    """A network that is not ours: nested feature extractor, one input channel, biased convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU()),
            nn.MaxPool2d(2),
            nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.ReLU()),
        )
        self.classifier = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class Pair(nn.Module):
    """A layer that yields a tuple."""

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map twice."""
        return f, f


class Unusual(nn.Module):
    """A network with layers that the plug-in cannot follow: a tuple, a 2-d output, shared, never run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.pair = Pair()
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        f, _ = self.pair(self.stem(x))
        return self.head(self.twice(self.twice(f)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "at", ["features", "features.0", "features.0.1", "features.2", ["features.0", "features.2"]]
)
def test_a_foreign_network_is_guarded(at: str | list[str]) -> None:
    """Any layer of a foreign network, however nested, takes the plug-in, whatever its channels and map."""
    net, x = Foreign().eval(), images(3, channels=1)
    model = attach(net, at=at, classes=4, init="paper", example=x[:1])
    assert model(x).shape == (3, 4)
    assert not torch.allclose(model(x), net(x))
    assert model(images(1, channels=1, size=14)).shape == (1, 4)


def test_the_identity_start_changes_no_logit() -> None:
    """By default every logit of the guarded network equals the given network's, bit for bit."""
    net = warm_up(create_model("resnet_small", classes=4, width=4).eval())
    model = attach(net, at=["layer2", "layer3"], classes=4)
    assert torch.equal(model(images(5)), net(images(5)))


def test_create_model_has_an_identity_start_too() -> None:
    """``fsr_init="identity"`` gives the logits of the network inside, bit for bit, without its hook."""
    model = create_model("resnet_small", classes=4, width=4, fsr="paper", fsr_init="identity").eval()
    assert isinstance(model, Guarded)
    bare = create_model("resnet_small", classes=4, width=4).eval()
    bare.load_state_dict(model.net.state_dict())
    assert torch.equal(model(images(5)), bare(images(5)))


def test_the_given_network_stays_as_it_is() -> None:
    """Weights, buffers, hooks, modes, gradients and outputs of the network given to attach are untouched."""
    net = warm_up(create_model("resnet_small", classes=4, width=4).eval())
    net.train()
    net.get_submodule("layer1").eval()
    modes = [m.training for m in net.modules()]
    x, before = images(3), fingerprint(net)
    model = attach(net, at="layer3", classes=4, init="paper")
    assert [m.training for m in net.modules()] == modes
    assert fingerprint(net) == before
    assert not any(m._forward_hooks for m in net.modules())
    model(x).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert not {id(p) for p in net.parameters()} & {id(p) for p in model.parameters()}
    assert fingerprint(net) == before


def test_a_failed_attach_leaves_nothing_behind() -> None:
    """After a refusal a second attempt works, so no probe hook is left on the network."""
    net = Foreign()
    with pytest.raises(InputError):
        attach(net, at=["features.0", "classifier"], classes=4, example=images(1, channels=1))
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_taken_over(training: bool) -> None:  # noqa: FBT001 - the parameter of the test
    """The plug-in is in train mode exactly if the given network is: so noise never appears unasked."""
    model = attach(create_model("resnet_small", classes=4, width=2).train(training), at="layer1", classes=4)
    assert {m.training for m in model.modules()} == {training}


def test_a_deep_copy_is_independent() -> None:
    """Changing a copy's plug-in changes the copy's logits and leaves the original's: no hook is shared."""
    model, x = guarded(), images(3)
    twin, before = copy.deepcopy(model), model(x)
    with torch.no_grad():
        for p in twin.fsr.parameters():
            p.mul_(2.0).add_(0.1)
    assert torch.equal(model(x), before)
    assert not torch.allclose(twin(x), before)
    assert not torch.allclose(twin.parts(x).logits, before)
    assert torch.equal(model.parts(x).logits, before)


def test_a_pickled_model_keeps_its_plugin() -> None:
    """torch.save of the whole module and back gives equal logits, through the loaded plug-in."""
    model, x = guarded(), images(2)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), model(x))
    with torch.no_grad():
        for p in loaded.fsr.parameters():
            p.add_(0.1)
    assert not torch.allclose(loaded(x), model(x))


def test_a_state_dict_round_trip_is_exact() -> None:
    """A fresh model with the saved tensors gives the same bits, and before it had them, others."""
    model, x = guarded(), images(3)
    twin = guarded()
    assert not torch.allclose(twin(x), model(x))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))


def test_several_insertion_points_act_in_order() -> None:
    """Parts have an entry per point, in ``at``'s order; each is what that layer's own map gives."""
    model = create_model("resnet18", classes=5, width=4, fsr=["layer4", "layer3"]).eval()
    assert isinstance(model, Guarded)
    x = images(2, size=32)
    parts = model.parts(x)
    assert [tuple(m.shape) for m in parts.mask] == [(2, 32, 4, 4), (2, 16, 8, 8)]
    for logits in (parts.robust, parts.nonrobust, parts.recalibrated):
        assert [tuple(z.shape) for z in logits] == [(2, 5), (2, 5)]
    net, (last, third) = model.net, model.fsr
    assert isinstance(last, FSR)
    assert isinstance(third, FSR)
    bare = create_model("resnet18", classes=5, width=4).eval()
    bare.load_state_dict(net.state_dict())
    f: Tensor = torch.relu(bare.get_submodule("bn1")(bare.get_submodule("conv1")(x)))
    f = bare.get_submodule("layer2")(bare.get_submodule("layer1")(f))
    f3 = third.separate(bare.get_submodule("layer3")(f))
    f4 = last.separate(bare.get_submodule("layer4")(f3.output))
    assert torch.equal(parts.mask[1], f3.mask)
    assert torch.equal(parts.mask[0], f4.mask)
    assert torch.equal(parts.nonrobust[0], f4.nonrobust)
    assert torch.equal(parts.logits, bare.get_submodule("linear")(f4.output.mean((2, 3))))


def test_parts_and_prediction_agree_bit_for_bit() -> None:
    """In eval mode ``parts(x).logits`` is ``model(x)``; asking for parts leaves no trace on the next call."""
    model, x = guarded(fsr=["layer2", "layer3"]), images(4)
    before = model(x)
    parts = model.parts(x)
    assert torch.equal(parts.logits, before)
    assert torch.equal(model(x), before)
    assert all(point.tape is None for point in model.fsr)


def test_an_exception_in_parts_leaves_no_tape() -> None:
    """If the network fails midway, the tapes are gone, and the next call works as if nothing had been."""
    model, x = guarded(fsr=["layer2", "layer3"]), images(2)
    expected = model.parts(x).logits
    failing = model.net.get_submodule("linear").register_forward_pre_hook(_fail)
    with pytest.raises(ArithmeticError):
        model.parts(x)
    failing.remove()
    assert all(point.tape is None for point in model.fsr)
    assert torch.equal(model.parts(x).logits, expected)


def _fail(_module: nn.Module, _inputs: object) -> None:
    raise ArithmeticError


def test_one_sample_is_enough() -> None:
    """A batch of one gives what the sample gives in company, up to how products are grouped (10⁻⁵)."""
    model, x = guarded(), images(3)
    torch.testing.assert_close(model(x[:1]), model(x)[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_guarded(dtype: torch.dtype) -> None:
    """A half-precision network gets a plug-in of its dtype, gives it back, and is near the float32 model.

    bfloat16 rounds at 2⁻⁸; some ten layers deep 5 % of the largest logit is generous for it, not for a bug.
    """
    wide = guarded()
    model, x = copy.deepcopy(wide).to(dtype), images(3)
    parts = model.parts(x.to(dtype))
    assert parts.mask[0].dtype == torch.float32
    assert parts.logits.dtype == parts.robust[0].dtype == dtype
    expected = wide(x)
    assert (parts.logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    narrow = attach(Foreign().to(dtype), at="features", classes=4, example=images(1, channels=1))
    assert {p.dtype for p in narrow.parameters()} == {dtype}


@pytest.mark.usefixtures("unchecked")  # as a user has it: run-time type checks cannot be traced
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_guarded_model_compiles_whole(backend: str) -> None:
    """torch.compile sees the plug-in without a graph break, and the compiled logits are the eager ones."""
    torch.compiler.reset()
    model, x = guarded(), images(2)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    # aot_eager may regroup sums in its decompositions: a few float32 roundings
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


class Sideways(nn.Module):
    """A network whose maps have their channels last, with a layer that folds windows into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.mix = nn.Linear(5, 5)
        self.windows = nn.Identity()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        f = self.mix(self.stem(x).permute(0, 2, 3, 1))
        self.windows(f.unflatten(1, (2, -1)).flatten(0, 1))
        return self.head(f.mean((1, 2)))  # type: ignore[no-any-return]


class Checkpointed(nn.Module):
    """A network that computes its body anew in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        f = checkpoint(self.body, x.requires_grad_(), use_reentrant=True)
        return self.head(f.mean((2, 3)))  # type: ignore[no-any-return]


class Uncopied(Unusual):
    """A network that cannot be copied."""

    def __deepcopy__(self, _memo: object) -> "Uncopied":
        """Refuse."""
        raise RuntimeError("leaf tensors only")


def test_losses_without_a_gradient_are_refused() -> None:
    """Reentrant checkpointing runs the layer without one: the plug-in would learn nothing of its own losses."""
    model = attach(Checkpointed(), at="body", classes=2)
    with pytest.raises(InputError, match="checkpoints activations"):
        model.parts(images(2))
    with torch.no_grad():
        assert model.parts(images(2)).logits.shape == (2, 2)


def test_replicas_of_one_process_are_refused() -> None:
    """They would share the first one's plug-in; nn.DataParallel asks each module for its replica."""
    with pytest.raises(InputError, match="use torchrun"):
        guarded(fsr="layer2")._replicate_for_data_parallel()


def test_the_plug_in_has_the_type_of_its_map() -> None:
    """A body in bf16 behind a stem in float32."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), ToHalf(), nn.Conv2d(4, 4, 3).bfloat16(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = attach(net, at="2", classes=4)
    assert {p.dtype for p in model.fsr.parameters()} == {torch.bfloat16}
    assert model(images(2)).shape == (2, 4)


class ToHalf(nn.Module):
    """A cast to bf16."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the map in bf16."""
        return x.bfloat16()


def test_a_compiled_network_is_refused() -> None:
    """Code that was compiled before it was there goes on without the plug-in."""
    inner: Any = torch.compile(create_model("resnet_small", classes=4, width=2))
    for net in (inner, nn.Sequential(inner)):
        with pytest.raises(InputError, match="compile the result"):
            attach(net, at="0.layer3", classes=4)


def test_torchscript_is_refused() -> None:
    """No hook can be set in it, wherever it is."""
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    for net, layer in ((scripted, "0"), (nn.Sequential(scripted), "0.0")):
        with pytest.raises(InputError, match="what was scripted or traced"):
            attach(net, at=layer, classes=4)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str | list[str], str]] = {
    "misspelt": (Unusual, "stm", 'Unknown layer "stm"; did you mean "stem"\\? Known: stem, pair, twice'),
    "the net itself": (Unusual, "", 'Unknown layer ""'),
    "none": (Unusual, [], "one or more different layers"),
    "the same twice": (Unusual, ["stem", "stem"], "one or more different layers"),
    "a tuple": (Unusual, "pair", 'layer "pair" to yield one NCHW tensor, but it yields a tuple'),
    "2-d": (
        Unusual,
        "head",
        'layer "head" to yield an NCHW tensor of 1 images, but it yields shape \\[1, 2\\]',
    ),
    "runs twice": (Unusual, "twice", 'layer "twice" to run once in a forward pass, but it ran 2 times'),
    "never runs": (Unusual, "unused", 'layer "unused" to run once in a forward pass, but it ran 0 times'),
    "channels last": (Sideways, "mix", r"grows with the image: \[1, 32, 32, 5\].* \[1, 64, 32, 5\]"),
    "windows": (Sideways, "windows", r"an NCHW tensor of 1 images, but it yields shape \[2, 16, 32, 5\]"),
    "not to be copied": (Uncopied, "stem", "can be copied, but got: leaf tensors only"),
    "another image": (
        Foreign,
        "features",
        "runs on images of shape \\[1, 3, 32, 32\\].*give attach an example",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_layers_are_refused(case: str) -> None:
    """What the plug-in cannot follow is an InputError that says what was met, and where the choice is."""
    make, at, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        attach(make(), at=at, classes=2)


def test_attach_refuses_before_it_copies_modes() -> None:
    """A network that fails on the example gets its modes back."""
    net = Foreign().train()
    net.features[0].eval()
    modes = [m.training for m in net.modules()]
    with pytest.raises(InputError):
        attach(net, at="features", classes=4)
    assert [m.training for m in net.modules()] == modes


def test_a_guarded_network_can_be_guarded_again() -> None:
    """A second attach adds a point; the first plug-in still acts in the copy, and is seen there first."""
    once, x = guarded(fsr="layer2"), images(2)
    again = attach(once, at="net.layer3", classes=4)
    assert torch.equal(again(x), once(x))
    masks = again.parts(x).mask
    assert torch.equal(masks[0], once.parts(x).mask[0])
    assert len(masks) == 2


def test_a_wrapped_plug_in_is_seen() -> None:
    """A network around a guarded one, such as its normalisation, and a plug-in that is a layer itself."""
    inner, x = guarded(fsr=["layer2", "layer3"]), images(3)
    wrapped = nn.Sequential(nn.Sequential(nn.Identity(), inner))
    ours, theirs = parts_of(wrapped, x), inner.parts(x)
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(a, b) for a, b in zip(ours.recalibrated, theirs.recalibrated, strict=True))
    bare = nn.Sequential(
        nn.Conv2d(3, 4, 3), FSR(4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    assert parts_of(bare.eval(), x).mask[0].shape[1] == 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong", [{"tau": 0.0}, {"tau": float("nan")}, {"init": "identiy"}, {"classes": 0}], ids=str
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """A τ of 0, a misspelt start (which would silently be the paper's) and no classes at all are refused."""
    net, settings = create_model("resnet_small", classes=4, width=2), {"classes": 4} | wrong
    with pytest.raises(InputError, match="Expected"):
        attach(net, at="layer3", **settings)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_the_number_of_classes_must_be_the_networks() -> None:
    """An auxiliary head for other classes than the network's would fail in the first loss: refused at once."""
    with pytest.raises(InputError, match=r"logits of shape \[1, 10\], but the network gives \[1, 4\]"):
        attach(create_model("resnet_small", classes=4, width=2), at="layer3", classes=10)
