"""Our networks with the plug-in, and our attacks on them, against what the authors' code computed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fsrobust.attacks import Linf, make_attack, perturb
from fsrobust.plugin import Guarded, load_authors

GOLDEN = Path(__file__).parents[1] / "golden"
GAIN = {"resnet18": 0.9, "vgg16": 1.0, "wrn34_10": 1.0}


def authors_weights(network: str) -> dict[str, Tensor]:
    """Return the state dict that the formula in tests/golden/README.md describes."""
    listing = json.loads((GOLDEN / "authors_state_dict.json").read_text())[network]
    return {name: _fill(name, shape, k, GAIN[network]) for k, (name, shape) in enumerate(listing)}


def _fill(name: str, shape: list[int], k: int, gain: float) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    size = math.prod(shape)
    i = np.arange(size, dtype=np.float64)
    v = np.sin(0.7 * i + 0.13 * (k % 97) + 0.001 * i * ((k % 7) + 1))
    if name.endswith("running_var"):
        v = 1 + v / 2
    elif name.endswith("running_mean"):
        v = v / 10
    elif len(shape) == 1:
        v = 1 + v / 5 if name.endswith("weight") else v / 20
    else:
        v = v * gain * math.sqrt(2 / (size / shape[0]))
    return torch.from_numpy(v.astype(np.float32)).view(shape)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """The authors' arrays."""
    with np.load(GOLDEN / "authors.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def made(network: str, folder: Path) -> Guarded:
    """Return a network with the formula's weights, saved under the authors' names, loaded as users load theirs."""
    file = folder / f"{network}.pth"
    torch.save(authors_weights(network), file)
    loaded = load_authors(file, network, classes=10)
    file.unlink()  # some are large
    assert isinstance(loaded, Guarded)
    return loaded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    """ResNet-18."""
    return made("resnet18", tmp_path_factory.mktemp("authors"))


@pytest.mark.parametrize("network", ["vgg16", pytest.param("wrn34_10", marks=pytest.mark.slow)])
def test_the_other_networks_equal_the_authors(
    network: str, golden: dict[str, Tensor], tmp_path: Path
) -> None:
    """Logits, auxiliary logits and mask of VGG16 and WRN-34-10; no entry of theirs is left out but the unused."""
    ours = made(network, tmp_path)
    theirs = [name for name, _ in json.loads((GOLDEN / "authors_state_dict.json").read_text())[network]]
    assert len(ours.state_dict()) == len([name for name in theirs if not name.startswith("sub_block1.")])
    with torch.no_grad():
        parts = ours.parts(golden["x"])
        assert_equal_scores(ours(golden["x"]), golden[f"{network}/logits"])
    for part in ("robust", "nonrobust", "recalibrated"):
        assert_equal_scores(getattr(parts, part)[0], golden[f"{network}/{part}"])
    torch.testing.assert_close(parts.mask[0], golden[f"{network}/mask"], rtol=1e-4, atol=1e-4)


def assert_equal_scores(ours: Tensor, theirs: Tensor) -> None:
    """Compare scores: 10⁻⁵ of the largest, some 20 layers of float32 sums in another order of summation."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_every_entry_of_the_authors_file_has_a_place(model: Guarded) -> None:
    """The authors' names and ours map one to one: nothing of theirs is ignored, nothing of ours fresh."""
    assert len(model.state_dict()) == len(authors_weights("resnet18"))


def test_logits_equal_the_authors(model: Guarded, golden: dict[str, Tensor]) -> None:
    """Main logits agree with the authors' network, by prediction and by parts."""
    with torch.no_grad():
        assert_equal_scores(model(golden["x"]), golden["resnet18/logits"])
        assert_equal_scores(model.parts(golden["x"]).logits, golden["resnet18/logits"])


@pytest.mark.parametrize("part", ["robust", "nonrobust", "recalibrated"])
def test_auxiliary_logits_equal_the_authors(model: Guarded, golden: dict[str, Tensor], part: str) -> None:
    """The shared head's logits of f⁺, f⁻ and f̃⁻ agree with the authors' network."""
    with torch.no_grad():
        (ours,) = getattr(model.parts(golden["x"]), part)
    assert_equal_scores(ours, golden[f"resnet18/{part}"])


def test_the_mask_equals_the_authors(model: Guarded, golden: dict[str, Tensor]) -> None:
    """The deterministic mask agrees unit by unit; 1/τ makes a 10⁻⁶ of r a 2.5·10⁻⁶ of m."""
    with torch.no_grad():
        (mask,) = model.parts(golden["x"]).mask
    torch.testing.assert_close(mask, golden["resnet18/mask"], rtol=1e-5, atol=1e-5)
    assert mask.min() < 0.1
    assert mask.max() > 0.9


@pytest.mark.parametrize("attack", ["fgsm", "pgd20", "cw"])
def test_adversarial_images_equal_the_authors(model: Guarded, golden: dict[str, Tensor], attack: str) -> None:
    """At least 99.9 % of the pixels of the authors' adversarial images are ours: both took the same path.

    A sign of a gradient that is zero up to rounding may differ, so not all of them must be.
    """
    x, y, theirs = golden["x"], golden["resnet18/attack_y"], golden[f"resnet18/{attack}"]
    ours = perturb(make_attack(attack, Linf(8 / 255)), model, x, y)
    equal = (ours - theirs).abs() < 1e-6  # pixels are multiples of a step of 3·10⁻³, rounded to 6·10⁻⁸
    assert equal.float().mean() >= 0.999
    assert (theirs - x).abs().mean() > 2 / 255  # the authors' images are far from the clean ones
