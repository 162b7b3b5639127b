"""The plug-in against a literal transcription of the paper's equations."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.plugin import FSR
from tests.helpers import warm_up


def nets(module: FSR) -> tuple[nn.Sequential, nn.Sequential]:
    """Return S and R."""
    assert module.separation is not None
    return module.separation, module.recalibration


def plugin(channels: int = 6, classes: int = 3, **options: float) -> FSR:
    """Return an FSR in eval mode whose BatchNorms are not at their start."""
    module = FSR(channels, classes, **options)  # type: ignore[arg-type]
    for net in nets(module):
        warm_up(net.eval(), channels=channels)
    return module.eval()


def literal(module: FSR, f: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The paper, term by term: f⁺ = m⊗f, f⁻ = (1−m)⊗f, f̃⁻ = f⁻ + (1−m)⊗R(f⁻), f̃ = f⁺ + f̃⁻."""
    plus, minus = mask * f, (1 - mask) * f
    recalibrated = minus + (1 - mask) * module.recalibration(minus)

    def aux(g: Tensor) -> Tensor:
        return F.linear(g.mean((2, 3)), module.aux.weight, module.aux.bias)

    return {
        "output": plus + recalibrated,
        "robust": aux(plus),
        "nonrobust": aux(minus),
        "recalibrated": aux(recalibrated),
    }


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (1, 6, 4, 4), (3, 6, 5, 2), (2, 6, 9, 9)])
def test_it_is_the_papers_equations(shape: tuple[int, ...]) -> None:
    """Output and all three auxiliary logits equal the literal f⁺ + f̃⁻, for any batch and map size.

    float64 leaves only the last digits of a differently grouped sum: 10⁻¹².
    """
    module = plugin().double()
    f = torch.randn(shape, dtype=torch.float64)
    mask = torch.sigmoid(nets(module)[0](f) / 0.1)
    separated = module.separate(f)
    expected = literal(module, f, mask)
    torch.testing.assert_close(separated.mask, mask, rtol=1e-12, atol=1e-12)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(separated, name), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(module(f), expected["output"], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(module(f), f)


def test_the_noisy_mask_obeys_the_same_equations() -> None:
    """In train mode too, all five outputs come from one and the same mask."""
    module = plugin().double().train()
    for net in nets(module):
        net.eval()  # the transcription runs R again: running statistics keep R the same function
    f = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    separated = module.separate(f)
    assert not torch.allclose(separated.mask, torch.sigmoid(nets(module)[0](f) / 0.1))
    for name, value in literal(module, f, separated.mask).items():
        torch.testing.assert_close(getattr(separated, name), value, rtol=1e-12, atol=1e-12)


def test_both_views_agree_bit_for_bit() -> None:
    """``forward`` and ``separate`` give one output, bit for bit, in eval mode."""
    module, f = plugin(), torch.randn(2, 6, 4, 4)
    assert torch.equal(module(f), module.separate(f).output)


def test_tau_reaches_the_mask() -> None:
    """A hundred times larger τ moves every mask towards ½; the weights being equal."""
    sharp, soft = plugin(tau=0.1), plugin(tau=10.0)
    soft.load_state_dict(sharp.state_dict())
    f = torch.randn(2, 6, 4, 4)
    far = [(module.separate(f).mask - 0.5).abs() for module in (sharp, soft)]
    assert (far[1] < far[0]).all()


def test_noise_is_for_training_only() -> None:
    """Two passes differ in train mode, and agree bit for bit in eval mode without touching torch's stream."""
    module, f = plugin(), torch.randn(2, 6, 4, 4)
    before = torch.get_rng_state()
    assert torch.equal(module(f), module(f))
    assert torch.equal(module.separate(f).mask, module.separate(f).mask)
    assert torch.equal(torch.get_rng_state(), before)
    module.train()
    assert not torch.equal(module.separate(f).mask, module.separate(f).mask)


def test_the_identity_start_is_exact() -> None:
    """With R's last convolution at zero the output is f, bit for bit, in eval and in train mode."""
    module = FSR(6, 3, init="identity")
    f = torch.randn(2, 6, 4, 4)
    assert torch.equal(module.train()(f), f)
    assert torch.equal(module.eval()(f), f)


def test_the_identity_start_can_learn() -> None:
    """At the identity start a gradient reaches R's last convolution, so the start is no dead end."""
    module = FSR(6, 3, init="identity")
    module(torch.randn(2, 6, 4, 4)).square().sum().backward()
    last = module.recalibration[-1].weight
    assert isinstance(last, nn.Parameter)
    assert last.grad is not None
    assert last.grad.any()


def test_both_nets_are_as_described() -> None:
    """S and R are Conv-BN-ReLU-Conv-BN-ReLU-Conv, 3 × 3 without bias, C → 64 → 64 → C, nothing after."""
    module = FSR(10, 3)
    for net in nets(module):
        kinds = [type(layer) for layer in net]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2 + [nn.Conv2d]
        convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
        assert [tuple(c.weight.shape) for c in convolutions] == [
            (64, 10, 3, 3),
            (64, 64, 3, 3),
            (10, 64, 3, 3),
        ]
        assert all(c.bias is None for c in convolutions)


def test_gradients_equal_finite_differences() -> None:
    """∂(output, three auxiliary logits)/∂f by autograd equals finite differences in float64."""
    module = plugin(channels=3).double()

    def outputs(f: Tensor) -> tuple[Tensor, ...]:
        s = module.separate(f)
        return s.output, s.robust, s.nonrobust, s.recalibrated

    f = torch.randn(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, (f,))
    assert torch.autograd.gradcheck(module, (f,))


def test_weights_gradients_equal_finite_differences() -> None:
    """The same for the weights of S's and R's last convolutions and of the auxiliary head."""
    module = plugin(channels=2).double()
    f = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    names = ("separation.6.weight", "recalibration.6.weight", "aux.weight")

    def outputs(*weights: Tensor) -> tuple[Tensor, ...]:
        twin = copy.deepcopy(module)
        for name, weight in zip(names, weights, strict=True):
            parent, leaf = name.rsplit(".", 1)
            layer = twin.get_submodule(parent)
            delattr(layer, leaf)
            setattr(layer, leaf, weight)
        s = twin.separate(f)
        return s.output, s.robust, s.nonrobust, s.recalibrated

    weights = [module.get_parameter(name).detach().clone().requires_grad_(True) for name in names]
    assert torch.autograd.gradcheck(outputs, tuple(weights), fast_mode=True)


def test_losses_on_the_parts_reach_every_parameter() -> None:
    """In train mode all weights of S, R and the auxiliary head get a gradient: none is dead."""
    module = FSR(6, 3).train()
    s = module.separate(torch.randn(8, 6, 4, 4))
    weights = torch.randn(3, 8, 3)
    total = s.output.square().sum()
    total = total + sum(
        (w * z).sum() for w, z in zip(weights, (s.robust, s.nonrobust, s.recalibrated), strict=True)
    )
    total.backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_the_mask_float32(dtype: torch.dtype) -> None:
    """A half-precision plug-in takes and gives its dtype, but the mask's arithmetic stays in float32."""
    module = plugin().to(dtype)
    f = torch.randn(2, 6, 4, 4).to(dtype)
    separated = module.separate(f)
    assert separated.mask.dtype == torch.float32
    assert separated.output.dtype == separated.robust.dtype == module(f).dtype == dtype
    wide = copy.deepcopy(module).float().separate(f.float())
    # r keeps 8 (bfloat16) or 11 bits; the mask turns an error δ of r into at most δ/(4τ) = 2.5 δ,
    # and |r| < 1 here: 2.5 · 2⁻⁷ for bfloat16, several roundings deep
    assert wide.mask.logit().abs().max() * 0.1 < 1
    bound = {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    assert (separated.mask - wide.mask).abs().max() < bound
    assert (separated.output.float() - wide.output).abs().max() < bound * f.float().abs().max()


def test_the_nonrobust_part_is_not_rounded_away_in_bf16() -> None:
    """Where m is 0.9989, f⁻ = (1 − m)⊗f is 0.0011⊗f; as f − m⊗f in bf16 it would be 0.0039⊗f or nothing.

    Seen through an auxiliary head that is the identity, on a feature map of ones.
    """
    module = FSR(3, 3).eval()
    with torch.no_grad():
        module.aux.weight.copy_(torch.eye(3))
        module.aux.bias.zero_()
    nets(module)[0].register_forward_hook(lambda _m, _i, output: torch.full_like(output, 0.68))
    nets(module)[1].register_forward_hook(lambda _m, _i, output: torch.zeros_like(output))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        separated = module.separate(torch.ones(2, 3, 4, 4, dtype=torch.bfloat16))
    share = 1 / (1 + torch.tensor(6.8).exp())
    torch.testing.assert_close(separated.nonrobust.float(), share.expand(2, 3), rtol=0.01, atol=0)
    torch.testing.assert_close(separated.recalibrated.float(), share.expand(2, 3), rtol=0.01, atol=0)
