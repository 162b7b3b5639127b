"""The plug-in's losses against their formulas in numpy's float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fsrobust.plugin import Parts, most_likely_wrong, recalibration_loss, separation_loss
from tests.helpers import guarded, images

Matrix = NDArray[np.float64]
B, K = 5, 4
Y = torch.tensor([0, 1, 2, 3, 0])


def logits(seed: int) -> Tensor:
    """Return B × K scores of a seed."""
    return 3 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed))


def parts(points: int = 1, *, main: Tensor | None = None) -> Parts:
    """Return parts with other scores in every place."""
    return Parts(
        logits=logits(0) if main is None else main,
        robust=[logits(10 + k) for k in range(points)],
        nonrobust=[logits(20 + k) for k in range(points)],
        recalibrated=[logits(30 + k) for k in range(points)],
        mask=[torch.full((B, 2, 3, 3), 0.5) for _ in range(points)],
    )


def cross_entropy(z: Tensor, y: Matrix | Tensor) -> float:
    """Return the mean of −log(exp z_y / Σ exp z), in float64."""
    scores: Matrix = z.double().numpy()
    chosen = scores[np.arange(len(scores)), np.asarray(y, dtype=np.int64)]
    return float(np.mean(np.log(np.exp(scores).sum(1)) - chosen))


def wrong(z: Tensor, y: Tensor) -> Matrix:
    """Return, by sorting, the best class unless it is the right one, else the second best."""
    order = np.argsort(-z.double().numpy(), axis=1)
    best: Matrix = np.where(order[:, 0] != y.numpy(), order[:, 0], order[:, 1])
    return best


@pytest.mark.parametrize("points", [1, 2, 3])
def test_the_losses_are_their_formulas(points: int) -> None:
    """L_sep = CE(f⁺, y) + CE(f⁻, y′) and L_rec = CE(f̃⁻, y), averaged over the points; float32 rounding."""
    p = parts(points)
    y_wrong = wrong(p.logits, Y)
    separation = np.mean(
        [cross_entropy(a, Y) + cross_entropy(b, y_wrong) for a, b in zip(p.robust, p.nonrobust, strict=True)]
    )
    recalibration = np.mean([cross_entropy(z, Y) for z in p.recalibrated])
    assert separation_loss(p, Y).item() == pytest.approx(separation, rel=1e-5)
    assert recalibration_loss(p, Y).item() == pytest.approx(recalibration, rel=1e-5)


@given(
    scores=st.lists(
        st.lists(st.integers(-50, 50), min_size=3, max_size=3, unique=True), min_size=1, max_size=9
    ),
    data=st.data(),
)
def test_y_prime_is_the_best_wrong_class(scores: list[list[int]], data: st.DataObject) -> None:
    """y′ is the top class where that is wrong and the second where the top is right, for any scores."""
    z = torch.tensor(scores, dtype=torch.float32)
    y = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores))))
    y_prime = most_likely_wrong(z, y)
    assert y_prime.tolist() == wrong(z, y).tolist()
    assert (y_prime != y).all()


def test_y_prime_survives_ties_and_infinities() -> None:
    """y′ is wrong even where all scores tie, and where the right class scores +∞."""
    z = torch.tensor([[1.0, 1.0, 1.0], [torch.inf, 0.0, -1.0]])
    assert (most_likely_wrong(z, torch.tensor([1, 0])) != torch.tensor([1, 0])).all()


def test_y_prime_comes_from_the_main_logits() -> None:
    """Other auxiliary logits leave y′ alone; other main logits move it, and L_sep with it."""
    p = parts()
    rotated = parts(main=p.logits.roll(1, dims=1))
    assert most_likely_wrong(p.logits, Y).tolist() != most_likely_wrong(rotated.logits, Y).tolist()
    assert separation_loss(p, Y).item() != pytest.approx(separation_loss(rotated, Y).item())
    assert recalibration_loss(p, Y).item() == recalibration_loss(rotated, Y).item()


def test_no_gradient_flows_through_y_prime() -> None:
    """L_sep moves the auxiliary logits and nothing else: no gradient reaches the main logits."""
    p = parts()
    inputs = [p.logits, p.robust[0], p.nonrobust[0], p.recalibrated[0]]
    for z in inputs:
        z.requires_grad_(True)
    main, robust, nonrobust, recalibrated = torch.autograd.grad(
        separation_loss(p, Y), inputs, materialize_grads=True
    )
    assert not main.any()
    assert not recalibrated.any()
    for gradient, z, target in (
        (robust, inputs[1], Y),
        (nonrobust, inputs[2], most_likely_wrong(p.logits, Y)),
    ):
        # ∂CE/∂z = (softmax − one-hot)/B
        expected = (z.detach().softmax(1) - torch.nn.functional.one_hot(target, K)) / B
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_half_precision_scores_are_widened() -> None:
    """float16 auxiliary logits give the float32 loss of their exact values."""
    p = parts()
    half, wide = (
        Parts(
            logits=p.logits.half().to(dtype),
            robust=[z.half().to(dtype) for z in p.robust],
            nonrobust=[z.half().to(dtype) for z in p.nonrobust],
            recalibrated=[z.half().to(dtype) for z in p.recalibrated],
            mask=p.mask,
        )
        for dtype in (torch.float16, torch.float32)
    )
    assert separation_loss(half, Y).dtype == torch.float32
    assert torch.equal(separation_loss(half, Y), separation_loss(wide, Y))
    assert torch.equal(recalibration_loss(half, Y), recalibration_loss(wide, Y))


def test_the_losses_train_the_whole_plugin() -> None:
    """The gradient of L_sep + L_rec reaches S, R, the shared head and every layer before."""
    model, y = guarded().train(), torch.tensor([0, 1, 2, 3])
    p = model.parts(images(4))
    names, weights = zip(*model.named_parameters(), strict=True)
    total = separation_loss(p, y) + recalibration_loss(p, y)
    gradients = torch.autograd.grad(total, weights, materialize_grads=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert bool(gradient.any()) == (not name.startswith("net.linear")), name
