"""Attacks against implementations that are not ours, and against a real network on real images."""

import importlib.metadata
import importlib.resources
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fsrobust.attacks import L2, PGD, Linf, make_attack, perturb
from fsrobust.attacks.losses import LOSSES
from fsrobust.plugin import load_authors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # foolbox is older than the warnings of today's numpy and eagerpy
    import foolbox


def _net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 4)).eval()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(16, 3, 8, 8, generator=generator), torch.arange(16) % 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pgd_is_foolbox_pgd(norm: str) -> None:
    """From the same start, 20 steps end in foolbox's images, in both norms."""
    model, (x, y) = _net(), _batch()
    ball = Linf(0.05) if norm == "linf" else L2(0.5)
    foolbox_pgd = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    theirs_attack = foolbox_pgd(abs_stepsize=ball.eps / 10, steps=20, random_start=False)
    ours = perturb(PGD(ball, steps=20, step_size=ball.eps / 10), model, x, y)
    fmodel = foolbox.models.pytorch.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = theirs_attack.run(fmodel, x, foolbox.criteria.Misclassification(y), epsilon=ball.eps)
    # float32 roundings of 20 steps; a sign that flips on one would differ by 0.01
    assert (ours - theirs).abs().max() < 2e-6
    assert (ours - x).abs().max() > 0.04


def test_losses_are_the_formulas() -> None:
    """Cross-entropy, margin and C&W's f₆ with κ = 50 equal their formulas in float64, loop by loop."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, generator=generator, dtype=torch.float64) * 30
    y = torch.randint(0, 5, (20,), generator=generator)
    for i, (z, k) in enumerate(zip(logits.numpy(), y.tolist(), strict=True)):
        wrong = max(value for j, value in enumerate(z) if j != k)
        expected = {
            "ce": np.log(np.exp(z - z[k]).sum()),
            "margin": wrong - z[k],
            "cw": -max(z[k] - wrong + 50, 0),
        }
        for name, value in expected.items():
            assert LOSSES[name](logits, y)[i].item() == pytest.approx(value, rel=1e-12, abs=1e-12)


def _foolbox_cifar10() -> tuple[Tensor, Tensor]:
    """Return the first 20 test images of CIFAR-10, which foolbox carries as cifar10_NN_LABEL.png."""
    folder = Path(str(importlib.resources.files("foolbox") / "data"))
    files = sorted(folder.glob("cifar10_*.png"))
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    labels = [int(file.stem.split("_")[2]) for file in files]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)


@pytest.mark.slow
def test_a_real_network_on_real_images() -> None:
    """An undefended CIFAR-10 ResNet-18 is right on 20 of 20 images, and on none under PGD-20 at 8/255."""
    files = importlib.metadata.files("pyautoattack") or []
    weights = next(file for file in files if file.name == "model_test.pt").locate()
    model = load_authors(Path(str(weights)), "resnet18", classes=10)
    x, y = _foolbox_cifar10()
    assert len(x) == 20
    assert int((model(x).argmax(1) == y).sum()) == 20
    adversarial = perturb(make_attack("pgd20", Linf(8 / 255)), model, x, y)
    assert int((model(adversarial).argmax(1) == y).sum()) == 0
