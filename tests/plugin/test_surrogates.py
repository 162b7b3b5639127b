"""Adaptive views: values and gradients against the equations, the model untouched, a planted defence undone."""

from typing import Any, Final

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import PGD, Linf, search
from fsrobust.attacks.losses import cross_entropy
from fsrobust.attacks.probe import under_attack
from fsrobust.data.batches import pixels
from fsrobust.plugin import FSR, Guarded, attach, create_model
from fsrobust.plugin.surrogates import SURROGATES, Noisy, surrogates
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.helpers import fingerprint, guarded, images, warm_up
from tests.runs import digits

POINTS: Final = ["layer2", "layer3"]
EXACT: Final = ("soft-backward", "frozen-mask", "no-residual")
"""Surrogates whose logits are the model's own."""


def model_of(**options: Any) -> Guarded:
    """Return a guarded network with norms of their own and two insertion points."""
    model = create_model("resnet_small", classes=4, width=4, fsr=POINTS, **options).eval()
    assert isinstance(model, Guarded)
    warm_up(model)
    return model


def pair(model: Guarded, name: str, **options: Any) -> tuple[FSR, nn.Module]:
    """Return the plug-in at the first point of a model, and that of a surrogate of it."""
    surrogate = surrogates(model, **options)[name]
    point = model.fsr[0]
    assert isinstance(point, FSR)
    return point, surrogate.get_submodule("fsr.0")


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of cross-entropy with respect to the pixels."""
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
    return gradient


def chain_rule(point: FSR, f: Tensor, v: Tensor, *, tau: float) -> dict[str, Tensor]:
    """Return vᵀ ∂f̃/∂f by hand: the share of the identity, of R's input, and of the mask through S, for σ(r/τ)."""
    assert point.separation is not None
    f = f.clone().requires_grad_(True)
    r = point.separation(f)
    m = torch.sigmoid(r / tau).detach().requires_grad_(True)
    u = ((1 - m) * f).detach().requires_grad_(True)
    out = point.recalibration(u)
    (v_u,) = torch.autograd.grad(out, u, (1 - m).detach() * v)
    # f̃ = f + (1 − m)·R((1 − m)·f): m stands before R and in R's input
    v_m = -v * out.detach() - v_u * f.detach()
    (through_mask,) = torch.autograd.grad(r, f, v_m * m.detach() * (1 - m.detach()) / tau)
    return {"identity": v, "residual": (1 - m.detach()) * v_u, "mask": through_mask}


@pytest.mark.parametrize(
    ("name", "tau", "shares"),
    [
        ("frozen-mask", 0.1, ("identity", "residual")),
        ("no-residual", 0.1, ("identity",)),
        ("soft-backward", 1.0, ("identity", "residual", "mask")),
        ("soft-backward", 0.5, ("identity", "residual", "mask")),
        ("transfer", 1.0, ("identity", "residual", "mask")),
    ],
)
def test_gradients_are_those_shares_of_the_chain_rule(name: str, tau: float, shares: tuple[str, ...]) -> None:
    """At a feature map the vector-Jacobian product is the sum of these shares, in float64."""
    model = model_of(tau=0.1).double()
    point, adapted = pair(model, name, **({"tau": tau} if tau >= 0.5 else {}))
    f, v = torch.randn(2, 2, 8, 4, 4, dtype=torch.float64)
    leaf = f.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(adapted(leaf), leaf, v)
    by_hand = chain_rule(point, f, v, tau=tau)
    expected = sum((by_hand[share] for share in shares), torch.zeros_like(v))
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    (own,) = torch.autograd.grad(point(leaf), leaf, v)
    assert not torch.allclose(gradient, own, rtol=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"mask": "binary"}, {"mask": "binary-st"}, {"separation": "greedy"}], ids=str
)
def test_the_exact_ones_are_the_model_forward(options: dict[str, Any]) -> None:
    """Logits are the model's, bit for bit, whatever the mask; gradients are not."""
    model, x, y = model_of(**options), images(5), torch.tensor([0, 1, 2, 3, 0])
    made = surrogates(model)
    exact = [name for name in EXACT if name in made]
    assert len(exact) >= 1
    for name in exact:
        assert torch.equal(made[name](x), model(x)), name
        assert not torch.allclose(input_gradient(made[name], x, y), input_gradient(model, x, y)), name


def test_which_there_are() -> None:
    """All six for the soft mask; without a gradient, noise or Separation Net, those that differ from the model."""
    kinds: dict[str, set[str]] = {
        "gumbel": {"joint", "soft-backward", "transfer", "frozen-mask", "noisy", "no-residual"},
        "binary": {"joint", "soft-backward", "transfer", "no-residual"},
        "binary-st": {"joint", "soft-backward", "transfer", "frozen-mask", "no-residual"},
    }
    for mask, names in kinds.items():
        assert set(surrogates(model_of(mask=mask))) == names
    for separation in ("random", "greedy", "none"):
        assert set(surrogates(model_of(separation=separation))) == {"joint", "no-residual"}


@pytest.mark.parametrize("mask", ["binary", "binary-st"])
def test_a_step_gets_a_gradient(mask: Any) -> None:
    """A binary mask is softened: backward only, or forward too, where the result is the soft model's."""
    model, x, y = model_of(mask=mask), images(3), torch.tensor([0, 1, 2])
    soft = model_of(tau=1.0)
    soft.load_state_dict(model.state_dict())
    made = surrogates(model)
    assert torch.equal(made["transfer"](x), soft(x))
    torch.testing.assert_close(input_gradient(made["transfer"], x, y), input_gradient(soft, x, y))
    step = surrogates(model)["soft-backward"].get_submodule("fsr.0")
    f = torch.randn(2, 8, 4, 4, requires_grad=True)
    own, softer = model.fsr[0], soft.fsr[0]
    assert torch.equal(step(f), own(f))
    v = torch.randn_like(f)
    torch.testing.assert_close(
        torch.autograd.grad(step(f), f, v), torch.autograd.grad(softer(f), f, v), rtol=0, atol=0
    )


def test_transfer_is_the_model_of_another_tau() -> None:
    """Its logits are, bit for bit, those of a model with τ = 1 (or as told) and the same weights."""
    model, x = model_of(), images(4)
    for tau in (0.5, 1.0):
        other = model_of(tau=tau)
        other.load_state_dict(model.state_dict())
        assert torch.equal(surrogates(model, tau=tau)["transfer"](x), other(x))
    assert not torch.allclose(surrogates(model)["transfer"](x), model(x))


def test_joint_is_a_product_of_the_heads() -> None:
    """Its softmax is (p · (Π p_f⁺ · p_f̃⁻)^(w/points))^(1/(1 + 2w)), normalised; at both points."""
    model, x = model_of().double(), images(4).double()
    parts = model.parts(x)
    product = parts.logits.softmax(1)
    for a, b in zip(parts.robust, parts.recalibrated, strict=True):
        product = product * (a.softmax(1) * b.softmax(1)) ** (0.7 / 2)
    joint = surrogates(model, weight=0.7)["joint"](x)
    mean = product ** (1 / (1 + 2 * 0.7))
    torch.testing.assert_close(joint.softmax(1), mean / mean.sum(1, keepdim=True))


def test_joint_does_not_saturate_where_heads_agree() -> None:
    """Logits no larger than the largest head's: a sum of three sure heads would leave no gradient in float32."""
    model, x = model_of(), images(8)
    with torch.no_grad():
        for name in ("net.linear.weight", "net.linear.bias", "fsr.0.aux.weight", "fsr.1.aux.weight"):
            model.get_parameter(name).mul_(100)
    parts = model.parts(x)
    largest = torch.stack([parts.logits, *parts.robust, *parts.recalibrated]).abs().amax()
    assert surrogates(model)["joint"](x).abs().amax() <= largest


@pytest.mark.parametrize("name", SURROGATES)
def test_a_wrapped_plug_in_is_adapted_to(name: str) -> None:
    """Behind a wrapper each surrogate is what it is without one, on the wrapped network's images."""
    model, x = model_of(), images(4)
    wrapped = nn.Sequential(nn.Sequential(model)).eval()
    ours, theirs = surrogates(wrapped), surrogates(model)
    assert list(ours) == list(theirs)
    torch.testing.assert_close(ours[name](x), theirs[name](x))


def test_a_model_without_a_plug_in_has_no_surrogates() -> None:
    """It is refused rather than climbed six times."""
    with pytest.raises(InputError, match="none"):
        surrogates(nn.Flatten())


def test_joint_pushes_against_every_head() -> None:
    """Climbing it costs the auxiliary heads more cross-entropy than climbing the model, and all heads together more."""
    model, x = model_of(), images(16)
    with torch.no_grad():
        for point in model.fsr:
            point.get_parameter("aux.weight").mul_(10)  # as sure of themselves as trained heads
        y = model(x).argmax(1)

    def losses(x_adv: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            parts = model.parts(x_adv)
        heads = [F.cross_entropy(z, y) for z in (*parts.robust, *parts.recalibrated)]
        return float(F.cross_entropy(parts.logits, y)), float(torch.stack(heads).mean())

    attack, ids = PGD(Linf(0.05), 10, 0.01), torch.arange(16)
    _, heads = losses(x)
    main_direct, heads_direct = losses(search(attack, model, x, y, ids=ids).last)
    joint = surrogates(model)["joint"]
    main_joint, heads_joint = losses(search(attack, model, x, y, ids=ids, surrogate=joint).last)
    assert heads_joint - heads > 1.5 * max(heads_direct - heads, 0)
    assert main_joint + heads_joint > main_direct + heads_direct


@torch.no_grad()
def by_draws(model: Guarded, x: Tensor, count: int, seed: int) -> list[Tensor]:
    """Return the logits of each draw: the noise of each point named by (seed, point, draw) is added to r."""
    each = []
    for k in range(count):
        handles = []
        for index, point in enumerate(model.fsr):
            assert isinstance(point, FSR)
            assert point.separation is not None

            def jitter(_m: nn.Module, _i: object, r: Tensor, index: int = index, k: int = k) -> Tensor:
                u = Noise.of(torch.arange(count), seed, "mask noise", index).uniform(tuple(r.shape[1:]))[k]
                return r + (u.double().log() - (1 - u.double()).log()).to(r)

            handles.append(point.separation.register_forward_hook(jitter))
        each.append(model(x))
        for handle in handles:
            handle.remove()
    return each


def noisy_of(model: Guarded, *, draws: int, seed: int) -> Noisy:
    """Return the noisy surrogate."""
    noisy = surrogates(model, draws=draws, seed=seed)["noisy"]
    assert isinstance(noisy, Noisy)
    return noisy


@pytest.mark.parametrize(
    ("at", "late"),
    [(["layer2", "layer3"], True), (["layer3"], True), (["layer2.0.conv1"], False)],
    ids=["two stages", "last stage", "inside a block"],
)
def test_noisy_is_the_mean_over_its_draws(
    at: list[str], *, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients are the mean's; what comes before the first noise is computed once where that can be.

    Annotations of shapes are not checked here: they hold the batch to be as long at the end of a network as it was.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", value=True)
    bare = create_model("resnet_small", classes=4, width=4)
    warm_up(bare)
    model = attach(bare, at=at, classes=4, init="paper", example=images(1)).double().eval()
    with torch.no_grad():  # so that the mask matters
        for point in model.fsr:
            point.get_parameter("recalibration.6.weight").mul_(30)
    x, y = images(3).double(), torch.tensor([0, 1, 2])
    noisy, each = noisy_of(model, draws=3, seed=5), by_draws(model, x, 3, 5)
    # the noise is made in float32
    torch.testing.assert_close(noisy(x), torch.stack(each).mean(0), rtol=0, atol=1e-5)
    assert float((each[0] - each[1]).abs().max()) > 3e-4
    assert noisy.late is late
    gradient = input_gradient(noisy, x, y)
    noisy.late = False
    torch.testing.assert_close(gradient, input_gradient(noisy, x, y), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(noisy(x[:1]), noisy(x)[:1])


def test_noisy_computes_the_trunk_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plug-in after the last stage the first convolution sees each image once, the plug-in its draws."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", value=True)
    model = create_model("resnet_small", classes=4, width=4, fsr="layer3").eval()
    assert isinstance(model, Guarded)
    noisy, seen = noisy_of(model, draws=8, seed=0), list[int]()
    noisy(images(2))
    first = next(layer for layer in noisy.modules() if isinstance(layer, nn.Conv2d))
    for layer in (first, noisy.get_submodule("model.fsr.0.recalibration")):
        layer.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    noisy(images(5))
    assert seen == [5, 40]


def test_noisy_is_one_function_of_the_image() -> None:
    """The same bits again without touching torch's generator; a sample alone is as in a batch; seeds differ."""
    model, x, y = model_of(), images(5), torch.tensor([0, 1, 2, 3, 0])
    noisy, state = surrogates(model)["noisy"], torch.get_rng_state()
    assert torch.equal(noisy(x), noisy(x))
    torch.testing.assert_close(noisy(x[2:3]), noisy(x)[2:3], rtol=0, atol=1e-5)
    assert torch.equal(input_gradient(noisy, x, y), input_gradient(noisy, x, y))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(surrogates(model, seed=1)["noisy"](x), noisy(x), atol=1e-4)


def test_the_model_is_untouched() -> None:
    """After making, asking and attacking all six: weights, logits, gradients, hooks and modes are as before."""
    model, x, y = model_of().train(), images(4), torch.tensor([0, 1, 2, 3])
    before, hooks = fingerprint(model), [len(m._forward_hooks) for m in model.modules()]
    with under_attack(model):
        logits, gradient = model(x), input_gradient(model, x, y)
    made = surrogates(model)
    for surrogate in made.values():
        assert not any(module.training for module in surrogate.modules())
        search(PGD(Linf(0.05), 2, 0.02), model, x, y, ids=torch.arange(4), surrogate=surrogate)
    assert fingerprint(model) == before
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    with under_attack(model):
        assert torch.equal(model(x), logits)
        assert torch.equal(input_gradient(model, x, y), gradient)


def test_weights_are_shared() -> None:
    """No surrogate holds a parameter or buffer of its own; what the model learns they know."""
    model, x = model_of(), images(2)
    tensors = {id(t) for t in (*model.parameters(), *model.buffers())}
    for name, surrogate in surrogates(model).items():
        assert {id(t) for t in (*surrogate.parameters(), *surrogate.buffers())} == tensors, name
        before = surrogate(x)
        with torch.no_grad():
            model.get_parameter("net.linear.bias").add_(1)
        share = 1 / 3 if name == "joint" else 1.0  # of one head in a mean of three
        torch.testing.assert_close(surrogate(x), before + share)


def test_the_verdict_is_the_models() -> None:
    """A surrogate that is fooled convinces nobody: fooled means that the model is, on exactly these images."""
    model, x = guarded(), images(24)
    warm_up(model)
    y = model(x).argmax(1)
    for name, surrogate in surrogates(model).items():
        found = search(PGD(Linf(0.03), 5, 0.01), model, x, y, ids=torch.arange(24), surrogate=surrogate)
        assert torch.equal(found.fooled_any, model(found.witness).argmax(1) != y), name
        assert torch.equal(found.fooled_last, model(found.last).argmax(1) != y), name


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"weight": -1.0}, {"draws": 0}], ids=str)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """One sentence names what was expected."""
    with pytest.raises(InputError, match="Expected tau and weight above 0 and at least one draw"):
        surrogates(guarded(), **wrong)


UNITS: Final = 16


class _Steps(nn.Module):
    """What the planted plug-in does, in closed form: beside f the map 1 − (1 − σ((f − ½)/τ))²."""

    tau = 1.0

    def forward(self, f: Tensor) -> Tensor:
        """Return [B, 2C, H, W]."""
        return torch.cat([f, 1 - (1 - torch.sigmoid((f - 0.5) / self.tau)) ** 2], 1)


class _BesideOnes(nn.Module):
    """The map with ones beside it: their only way to say anything is their mask."""

    def forward(self, f: Tensor) -> Tensor:
        """Return [B, 2C, H, W]."""
        return torch.cat([f, torch.ones_like(f)], 1)


class _Second(nn.Module):
    """The second half of the channels."""

    def forward(self, f: Tensor) -> Tensor:
        """Return [B, C, H, W]."""
        return f[:, UNITS:]


def _pass_through(net: nn.Module, last: Tensor) -> None:
    """Make S or R hand its input (which is not negative) to its last convolution, which maps it by ``last``."""
    convolutions = [layer for layer in net.children() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        nn.init.zeros_(layer.weight)
    with torch.no_grad():
        for layer in convolutions[:2]:
            diagonal = range(min(layer.weight.shape[:2]))
            layer.weight[diagonal, diagonal, 1, 1] = 1
        convolutions[2].weight[UNITS:, : 2 * UNITS, 1, 1] = last


def planted() -> Guarded:
    """Return a naturally trained, undefended network all of whose knowledge goes through a saturated mask.

    Trained while the mask is soft, then the mask's path is scaled up a millionfold. f̃ on the channel of ones is
    1 + (1 − m)·R((1 − m)·1) = 1 − (1 − m)², with r = f − ½: zeros and ones, and flat almost everywhere.
    """
    steps = _Steps()
    body = [nn.Conv2d(1, UNITS, 3, padding=1), nn.ReLU(), nn.Conv2d(UNITS, UNITS, 3, 2, 1), nn.ReLU()]
    head = [_Second(), nn.Flatten(), nn.Linear(UNITS * 16, 10)]
    net = nn.Sequential(*body, steps, *head)
    data = digits(600)
    x, y = pixels(data.images), data.labels
    adam = torch.optim.Adam(net.parameters(), lr=5e-3)
    for steps.tau, count in ((1.0, 60), (0.3, 30), (0.1, 30), (1e-6, 30)):
        for _ in range(count):
            adam.zero_grad()
            F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
            adam.step()
    bare = nn.Sequential(*body, _BesideOnes(), *head)
    model = attach(bare, at="4", classes=10, tau=steps.tau, init="paper", example=x[:1]).eval()
    point, eye = model.fsr[0], torch.eye(UNITS)
    _pass_through(point.get_submodule("separation"), torch.cat([eye, -0.5 * eye], 1))
    _pass_through(point.get_submodule("recalibration"), torch.cat([0 * eye, -eye], 1))
    return model


@pytest.mark.slow
def test_a_planted_defence_stands_against_pgd_and_falls_to_the_surrogates() -> None:
    """Gradients that died in the mask look like robustness to PGD-20 and PGD-100; two surrogates bring them back.

    All information goes through the mask here, so those that cut it off or leave it sharp can find nothing.
    """
    model, data = planted(), digits(100, "test")
    x, y, ids, ball = pixels(data.images), data.labels, torch.arange(100), Linf(0.2)
    natural = float((model(x).argmax(1) == y).float().mean())
    assert natural > 0.85

    def accuracy(attack: PGD, surrogate: nn.Module | None = None) -> float:
        found = search(attack, model, x, y, ids=ids, surrogate=surrogate)
        return 1 - float(found.fooled_any.float().mean())

    assert accuracy(PGD(ball, 20, 0.02)) > natural - 0.05
    assert accuracy(PGD(ball, 100, 0.005)) > natural - 0.05
    made = surrogates(model)
    for name in ("soft-backward", "transfer"):
        assert accuracy(PGD(ball, 50, 0.01), made[name]) < 0.05, name
    assert accuracy(PGD(ball, 20, 0.02), made["frozen-mask"]) > natural - 0.05
