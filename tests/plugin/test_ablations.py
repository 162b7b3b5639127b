"""The paper's ablations: what each mask, separation and loss for f⁻ is, in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fsrobust.plugin import FSR, Guarded, create_model, separation_loss
from fsrobust.plugin.attach import Parts
from fsrobust.train import AT, FSRWeights, load
from fsrobust.train.checkpoint import weights_bytes
from fsrobust.types import InputError
from tests.helpers import images, warm_up


def features(count: int = 3) -> Tensor:
    """Return a feature map [count, 6, 4, 4] with signs."""
    return torch.randn(count, 6, 4, 4, generator=torch.Generator().manual_seed(5))


def point(**options: Any) -> FSR:
    """Return a plug-in for six channels."""
    torch.manual_seed(0)
    module = FSR(6, 4, **options)
    warm_up_point(module)
    return module.eval()


def first_weight(module: FSR) -> Tensor:
    """Return the weight of S's first convolution."""
    return module.get_parameter("separation.0.weight")


def warm_up_point(module: FSR) -> None:
    """Give its norms statistics of their own."""
    module.train()
    for _ in range(3):
        module(features())


@pytest.mark.parametrize(("mask", "learns"), [("binary", False), ("binary-st", True), ("gumbel", True)])
def test_a_binary_mask_is_a_step_without_a_gradient_unless_lent_one(mask: str, learns: bool) -> None:  # noqa: FBT001
    """Literal: S gets no gradient from what follows the mask. Straight-through: that of σ(r/τ)."""
    module = point(mask=mask)
    separated = module.separate(features())
    assert module.separation is not None
    r = module.separation(features())
    if mask != "gumbel":
        assert torch.equal(separated.mask, (r.sigmoid() >= 0.5).float())
    first = first_weight(module)
    total = separated.output.sum() + separated.robust.sum()
    (gradient,) = torch.autograd.grad(total, first, allow_unused=True)
    found: Tensor | None = gradient
    assert (found is not None and bool(found.any())) == learns
    if mask == "binary-st":
        soft = point(mask="gumbel")
        f = features()
        own = torch.autograd.grad(module.separate(f).mask.sum(), first)
        theirs = torch.autograd.grad(soft.separate(f).mask.sum(), first_weight(soft))
        torch.testing.assert_close(own, theirs)


def test_a_random_mask_is_half_of_the_units_and_stays() -> None:
    """The same half for every sample, in train and eval mode, and after loading; another seed, another half."""
    module = point(separation="random")
    f = features()
    mask = module.separate(f).mask
    assert mask.shape == f.shape
    assert mask[0].sum().item() == 48  # 6·4·4 / 2
    assert all(torch.equal(each, mask[0]) for each in mask)
    assert torch.equal(module.train().separate(2 * f).mask, mask)
    copy = FSR(6, 4, separation="random")
    assert not torch.equal(copy.separate(f).mask, mask)
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy.separate(f).mask, mask)


def test_a_greedy_mask_leaves_the_lowest_half_to_recalibration() -> None:
    """Of each sample, by |f|; an odd unit more is robust."""
    module, f = point(separation="greedy"), features()
    mask = module.separate(f).mask
    for each, m in zip(f.abs(), mask, strict=True):
        assert m.sum().item() == 48
        assert each[m == 0].max() <= each[m == 1].min()


def test_without_separation_everything_is_recalibrated() -> None:
    """The output is f + R(f), and there is no Separation Net."""
    module, f = point(separation="none"), features()
    torch.testing.assert_close(module(f), f + module.recalibration(f))
    assert module.separation is None
    assert not any(name.startswith("separation") for name in module.state_dict())


@pytest.mark.parametrize("separation", ["random", "greedy", "none"])
def test_a_separation_that_does_not_learn_has_no_loss(separation: str) -> None:
    """L_sep is left out whatever λ_sep; L_rec stays."""
    model = create_model("resnet_small", classes=4, width=4, fsr="paper", separation=separation)  # type: ignore[arg-type]
    y = torch.tensor([0, 1, 2])
    losses = []
    for weight in (1.0, 5.0):
        torch.manual_seed(0)
        losses.append(AT(fsr=FSRWeights(separation=weight)).loss(model, images(3), images(3), y))
    assert losses[0].total == losses[1].total
    assert "separation" not in losses[0].terms
    assert losses[0].total > losses[0].terms["classification"]


@pytest.mark.parametrize("options", [{"mask": "binary-st"}, {"separation": "random"}, {"separation": "none"}])
def test_an_ablation_comes_back_from_its_file(tmp_path: Any, options: dict[str, Any]) -> None:
    """The header names it, the state dict holds what it drew."""
    model = warm_up(create_model("resnet_small", classes=4, width=4, fsr="paper", **options)).eval()
    file = tmp_path / "weights.safetensors"
    file.write_bytes(weights_bytes(model))
    torch.testing.assert_close(load(file)(images(2)), model(images(2)), rtol=0, atol=0)


def test_several_points_share_the_losses() -> None:
    """Two points, each with its own mask; a loss is the mean over both."""
    model = create_model("resnet_small", classes=4, width=4, fsr=["layer2", "layer3"]).eval()
    assert isinstance(model, Guarded)
    parts, y = model.parts(images(3)), torch.tensor([0, 1, 2])
    single = [
        Parts(parts.logits, [parts.robust[k]], [parts.nonrobust[k]], [parts.recalibrated[k]], [parts.mask[k]])
        for k in range(2)
    ]
    mean = (separation_loss(single[0], y) + separation_loss(single[1], y)) / 2
    torch.testing.assert_close(separation_loss(parts, y), mean)


@pytest.mark.parametrize("kind", ["mispredicted", "uniform", "entropy", "average"])
def test_losses_for_the_nonrobust_part_are_their_formulas(kind: Any) -> None:
    """Sample by sample, class by class, in float64."""
    generator = torch.Generator().manual_seed(1)
    z, plus, minus = (torch.randn(5, 4, generator=generator).double() for _ in range(3))
    y = torch.tensor([0, 1, 2, 3, 1])
    parts = Parts(z, [plus], [minus], [minus], [torch.rand(5, 1, 1, 1)])
    expected = 0.0
    for k in range(5):
        label = int(y[k])
        log_plus, log_minus = plus[k].log_softmax(0), minus[k].log_softmax(0)
        others = [c for c in range(4) if c != label]
        term = {
            "mispredicted": -log_minus[max(others, key=lambda c: float(z[k, c]))],
            "uniform": -sum(log_minus[c] / 4 for c in range(4)),
            "entropy": sum(log_minus[c].exp() * log_minus[c] for c in range(4)),
            "average": -sum(log_minus[c] / 3 for c in others),
        }[kind]
        expected += float(term - log_plus[label]) / 5
    assert float(separation_loss(parts, y, nonrobust=kind)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "binry"}, 'Unknown mask "binry"; did you mean "binary"'),
        ({"separation": "rand"}, '"random"'),
    ],
)
def test_unknown_kinds_are_refused(options: dict[str, Any], message: str) -> None:
    """The nearest is named."""
    with pytest.raises(InputError, match=message):
        FSR(6, 4, **options)
