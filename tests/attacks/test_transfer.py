"""DI-, TI- and MI-FGSM: their three changes in closed form and by hand, and PGD where nothing is changed."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsrobust.attacks import L2, PGD, Ball, Linf, TransferPGD, make_attack, perturb, search
from fsrobust.attacks.transfer import SMALLEST, gaussian, shrink, smooth
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.helpers import images

BALLS = pytest.mark.parametrize("ball", [Linf(0.05), L2(0.5)], ids=["linf", "l2"])
Y = torch.tensor([0, 1, 2, 3, 0, 1])


@BALLS
def test_without_its_changes_it_is_pgd(ball: Ball, small_net: nn.Module) -> None:
    """No diversity, a kernel of one pixel, no momentum: PGD without a random start, bit for bit."""
    x = images(6)
    plain = perturb(PGD(ball, 7, ball.eps / 4), small_net, x, Y, seed=2)
    assert torch.equal(perturb(TransferPGD(ball, 7, ball.eps / 4), small_net, x, Y, seed=2), plain)
    for change in ({"diversity": 1.0}, {"kernel": 5}, {"momentum": 1.0}):
        changed = TransferPGD(ball, 7, ball.eps / 4, **change)
        assert not torch.equal(perturb(changed, small_net, x, Y, seed=2), plain)


def gradient_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return ∂ Σ CE / ∂x."""
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), Y, reduction="sum"), leaf)
    return gradient


@BALLS
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_it_is_the_loop_of_the_papers(ball: Ball, kernel: int, small_net: nn.Module) -> None:
    """It is g ← μ·g + (W ∗ ∇)/‖W ∗ ∇‖₁, sample by sample, pixel by pixel of the kernel; in float64."""
    model, x, μ = small_net.double(), images(6).double(), 0.7
    attack = TransferPGD(ball, steps=4, step_size=ball.eps / 3, kernel=kernel, momentum=μ)
    x_adv, g, r = x, torch.zeros_like(x), kernel // 2
    bell = [math.exp(-0.5 * (3 * (k - r) / max(r, 1)) ** 2) for k in range(kernel)]
    for _ in range(attack.steps):
        padded = F.pad(gradient_of(model, x_adv), (r, r, r, r))
        smoothed = sum(
            bell[i] * bell[j] * padded[:, :, i : i + 8, j : j + 8]
            for i in range(kernel)
            for j in range(kernel)
        )
        assert isinstance(smoothed, Tensor)
        for n in range(6):
            g[n] = μ * g[n] + smoothed[n] / smoothed[n].abs().sum()
            step = g[n].sign() if ball.norm == "linf" else g[n] / g[n].norm()
            delta = x_adv[n] + attack.step_size * step - x[n]
            if ball.norm == "linf":
                delta = delta.clamp(-ball.eps, ball.eps)
            else:
                delta = delta * min(1.0, ball.eps / float(delta.norm()))
            x_adv = x_adv.index_copy(0, torch.tensor([n]), (x[n] + delta).clamp(0, 1)[None])
    # float32 holds the kernel: 10⁻⁷ of the gradient; signs agree or differ by whole steps
    torch.testing.assert_close(perturb(attack, model, x, Y), x_adv, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 5, 7])
def test_kernels_are_shares(width: int) -> None:
    """A kernel sums to 1, is symmetric, peaks in its middle; a constant gradient stays, the border apart."""
    kernel = gaussian(width)
    assert kernel.shape == (width, width)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0))
    assert kernel.argmax().item() == width * width // 2
    smoothed, r = smooth(torch.ones(2, 3, 9, 9), width), width // 2
    torch.testing.assert_close(smoothed[:, :, r : 9 - r, r : 9 - r], torch.ones(2, 3, 9 - 2 * r, 9 - 2 * r))
    assert bool((smoothed[:, :, 0, 0] < 0.99).all()) == (width > 1)


def test_smoothing_spreads_one_pixel_and_no_channel() -> None:
    """A gradient of one pixel of one channel becomes the kernel around it, in that channel alone."""
    gradient = torch.zeros(2, 3, 9, 9)
    gradient[1, 2, 4, 5] = 2.0
    expected = torch.zeros_like(gradient)
    expected[1, 2, 2:7, 3:8] = 2 * gaussian(5)
    torch.testing.assert_close(smooth(gradient, 5), expected)


@pytest.mark.parametrize(("to", "left", "above"), [(29, 0, 3), (30, 1, 0), (31, 1, 1), (32, 0, 0)])
def test_whole_sizes_are_interpolate_and_pad(to: int, left: int, above: int) -> None:
    """Where size and place fall on whole pixels, it is torch's bilinear resize, padded with zeros."""
    x = images(3, size=32)
    spare = max(32 - to, 1)
    size, place = torch.full((3,), to / 32), torch.tensor([[above / spare, left / spare]]).expand(3, 2)
    resized = F.interpolate(x, size=(to, to), mode="bilinear", align_corners=False)
    expected = F.pad(resized, (left, 32 - to - left, above, 32 - to - above))
    # coordinates near 32 carry roundings of 32·2⁻²⁴, a few of them
    torch.testing.assert_close(shrink(x, size, place), expected, rtol=0, atol=2e-5)


def test_any_size_is_an_affine_grid() -> None:
    """For real sizes and places, not square, it is torch's grid_sample along an affine grid."""
    x = torch.rand(4, 2, 9, 14)
    size, place = 0.9 + 0.1 * torch.rand(4), torch.rand(4, 2)
    theta = torch.zeros(4, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
    # from −1 to 1 across the canvas, the image's middle lies at (1 − size)(2·place − 1)
    theta[:, :, 2] = -((1 - size) / size)[:, None] * (2 * place.flip(1) - 1)
    grid = F.affine_grid(theta, [4, 2, 9, 14], align_corners=False)
    expected = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(shrink(x, size, place), expected, rtol=0, atol=1e-5)


def test_a_ramp_stays_a_ramp() -> None:
    """Bilinear interpolation follows a plane exactly: pixel j of the new image is a·((j + ½ − start)/size − ½)."""
    ramp = torch.arange(10, dtype=torch.float64).expand(2, 1, 10, 10)
    size, place = torch.tensor([0.9, 0.95], dtype=torch.float64), torch.tensor([[0.5, 0.0], [0.2, 1.0]])
    out = shrink(ramp, size, place.double())
    for n, start in ((0, 0.0), (1, 0.05 * 10)):
        source = (torch.arange(10, dtype=torch.float64) + 0.5 - start) / size[n] - 0.5
        inside = (source >= 0) & (source <= 9)
        assert inside.sum() >= 9
        torch.testing.assert_close(out[n, 0, 5, inside], source[inside], rtol=0, atol=1e-12)
        assert (out[n, 0, 5, (source <= -1) | (source >= 10)] == 0).all()


def test_a_shrunk_image_is_an_image() -> None:
    """Pixels stay in [0, 1], a size of 1 changes no bit, and black stays around: light is lost, never made."""
    x = images(64).round()  # only 0 and 1: any overshoot shows
    size, place = SMALLEST + (1 - SMALLEST) * torch.rand(64), torch.rand(64, 2)
    out = shrink(x, size, place)
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6
    assert (shrink(torch.ones_like(x), size, place).mean((1, 2, 3)) <= 1).all()
    assert torch.equal(shrink(x, torch.ones(64), place), x)


def test_the_gradient_is_taken_through_the_shrinking() -> None:
    """Autograd through the shrinking equals finite differences in float64, for several sizes and places."""
    size, place = torch.tensor([0.9, 0.97], dtype=torch.float64), torch.rand(2, 2, dtype=torch.float64)
    x = torch.rand(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: shrink(v, size, place), (x,))


def queried(attack: TransferPGD, model: nn.Module, x: Tensor, ids: Tensor, seed: int) -> list[Tensor]:
    """Return the images at which the attack asked for gradients."""
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(
        lambda _m, inputs: seen.append(inputs[0].detach()) if torch.is_grad_enabled() else None
    )
    perturb(attack, model, x, torch.zeros_like(ids), ids=ids, seed=seed)
    handle.remove()
    return seen


def test_each_sample_and_step_has_a_transform_of_its_own(small_net: nn.Module) -> None:
    """Half of the queries are of the image itself; the others differ by sample, step and seed, not by place."""
    x, ids = images(1).expand(200, 3, 8, 8).contiguous(), torch.arange(200)
    attack = TransferPGD(Linf(0.0), steps=3, step_size=0.0, diversity=0.5)
    steps = queried(attack, small_net, x, ids, 0)
    for images_then in steps:
        changed = (images_then != x).flatten(1).any(1)
        assert 70 < int(changed.sum()) < 130  # 200 coins: 100 ± 4 sd of 7.1
        assert len({image.numpy().tobytes() for image in images_then[changed]}) == int(changed.sum())
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], queried(attack, small_net, x, ids, 1)[0])
    back = queried(attack, small_net, x, ids.flip(0), 0)
    assert torch.equal(back[0].flip(0), steps[0])
    # the transform is the one that the noise names
    u = Noise.of(ids, 0, "transfer").fold(0).uniform((4,))
    size = torch.where(u[:, 0] < 0.5, 0.9 + 0.1 * u[:, 1], 1.0)
    torch.testing.assert_close(steps[0], shrink(x, size, u[:, 2:]), rtol=0, atol=1e-6)


def test_what_is_said_of_a_shrunk_image_decides_nothing(small_net: nn.Module) -> None:
    """With diversity the last iterate alone is judged; every gradient is counted all the same."""
    x = images(6)
    found = search(make_attack("di-fgsm", Linf(0.1)), small_net, x, Y, ids=torch.arange(6))
    assert found.path == []
    assert torch.equal(found.fooled_any, found.fooled_last)
    assert found.backwards == 20 * 6
    assert found.forwards == (20 + 2) * 6
    assert len(search(make_attack("ti-fgsm", Linf(0.1)), small_net, x, Y, ids=torch.arange(6)).path) == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"step_size": -1.0},
        {"diversity": 1.1},
        {"kernel": 2},
        {"kernel": -1},
        {"momentum": math.nan},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """The message shows the whole attack."""
    settings = {"steps": 5, "step_size": 0.1} | wrong
    with pytest.raises(InputError, match=r"Expected .* but got TransferPGD\(ball=Linf"):
        TransferPGD(Linf(0.1), **settings)  # type: ignore[arg-type]
