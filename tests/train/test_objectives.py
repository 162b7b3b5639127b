"""Objectives against their formulas in float64, and what the training attack may see of the model."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsrobust.attacks import Linf
from fsrobust.plugin import FSR, Guarded
from fsrobust.seeding import Noise
from fsrobust.train import AT, MART, TRADES, FastAT, FSRWeights, Natural
from fsrobust.train.step import reference_step
from fsrobust.types import InputError
from tests.helpers import guarded, images, warm_up
from tests.runs import net

Y = torch.tensor([0, 1, 2, 3, 0, 2])


def cross_entropy(z: Tensor, y: NDArray[np.int64]) -> float:
    """Return the mean of log Σ exp z − z_y in float64."""
    scores: NDArray[np.float64] = z.detach().double().numpy()
    return float(np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]))


def by_formula(model: nn.Module, x: Tensor, weights: FSRWeights) -> float:
    """Return CE + λ_sep·(CE(f⁺, y) + CE(f⁻, y′)) + λ_rec·CE(f̃⁻, y) of one pass, in float64."""
    y = Y.numpy()
    if not isinstance(model, Guarded):
        return cross_entropy(model(x), y)
    parts = model.parts(x)
    ranked = np.argsort(-parts.logits.detach().double().numpy(), axis=1)
    wrong = np.where(ranked[:, 0] != y, ranked[:, 0], ranked[:, 1])
    separation = cross_entropy(parts.robust[0], y) + cross_entropy(parts.nonrobust[0], wrong)
    recalibration = cross_entropy(parts.recalibrated[0], y)
    main = cross_entropy(parts.logits, y)
    return main + weights.separation * separation + weights.recalibration * recalibration


@pytest.mark.parametrize("fsr", [True, False])
@pytest.mark.parametrize("weights", [FSRWeights(), FSRWeights(0.0, 0.0), FSRWeights(0.5, 3.0)])
def test_losses_are_their_formulas(fsr: bool, weights: FSRWeights, small_net: nn.Module) -> None:  # noqa: FBT001
    """AT judges the adversarial images, Natural the clean ones, each by its formula; float32 rounding."""
    model = warm_up(guarded() if fsr else small_net).eval()  # eval: without mask noise both see one model
    x, x_adv = images(6), 0.2 * images(6, seed=2)
    at = AT(Linf(0.1), fsr=weights).loss(model, x, x_adv, Y)
    natural = Natural(weights).loss(model, x, x_adv, Y)
    assert at.total.item() == pytest.approx(by_formula(model, x_adv, weights), rel=1e-5)
    assert natural.total.item() == pytest.approx(by_formula(model, x, weights), rel=1e-5)
    assert at.total.item() != pytest.approx(natural.total.item(), rel=3e-5)
    torch.testing.assert_close(at.logits, model(x_adv), rtol=0, atol=1e-6)
    assert not at.logits.requires_grad


def test_terms_are_the_parts_of_the_total() -> None:
    """What is shown of a loss adds up to it, and carries no graph."""
    weights = FSRWeights(0.5, 3.0)
    loss = AT(Linf(0.1), fsr=weights).loss(guarded(), images(6), images(6), Y)
    terms = loss.terms
    masks = {"mask_mean", "mask_near_0", "mask_near_1"}
    assert set(terms) == {"classification", "separation", "recalibration", *masks}
    total = terms["classification"] + 0.5 * terms["separation"] + 3.0 * terms["recalibration"]
    torch.testing.assert_close(total, loss.total.detach(), rtol=1e-6, atol=0)
    assert not any(term.requires_grad for term in terms.values())
    assert 0 < terms["mask_mean"].item() < 1
    assert terms["mask_near_0"] + terms["mask_near_1"] < 1


def test_the_weights_reach_the_gradient() -> None:
    """λ_rec = 0 leaves R's own loss out; λ_sep = λ_rec = 0 leaves the auxiliary head without a gradient."""
    model = guarded()
    AT(Linf(0.1), fsr=FSRWeights(0.0, 0.0)).loss(model, images(6), images(6), Y).total.backward()  # type: ignore[no-untyped-call]
    (point,) = model.fsr
    assert isinstance(point, FSR)
    assert point.aux.weight.grad is not None
    assert not point.aux.weight.grad.any()
    AT(Linf(0.1), fsr=FSRWeights(0.0, 1.0)).loss(model, images(6), images(6), Y).total.backward()  # type: ignore[no-untyped-call]
    assert point.aux.weight.grad.any()


def test_the_training_attack_is_the_papers() -> None:
    """PGD-10 on the cross-entropy, ε 8/255, α 2/255, uniform start, one run (Madry et al., 2018)."""
    attack = AT().attack
    assert attack.ball == Linf(8 / 255)
    assert (attack.steps, attack.step_size, attack.loss) == (10, 2 / 255, "ce")
    assert (attack.random_start, attack.restarts) == (True, 1)
    assert Natural().attack is None


def step_of(model: nn.Module, objective: AT | Natural, lr: float = 0.0) -> Any:
    """Return a reference step whose optimiser moves nothing unless told to."""
    return reference_step(model, objective, torch.optim.SGD(model.parameters(), lr=lr))


def noise(count: int = 6) -> Noise:
    """Return noise for samples 0, 1, 2 and so on."""
    return Noise.of(torch.arange(count), 0, "train")


def test_the_attack_never_sees_the_auxiliary_head() -> None:
    """Images found are the same to the bit when the head is replaced, and others when the body is."""
    model, x = warm_up(guarded()), images(6)
    objective = AT(Linf(0.1), steps=3, step_size=0.05)
    before = step_of(model, objective).attack(x, Y, noise())
    assert isinstance(model, Guarded)
    (point,) = model.fsr
    assert isinstance(point, FSR)
    with torch.no_grad():
        point.aux.weight.normal_(std=10)
    assert torch.equal(step_of(model, objective).attack(x, Y, noise()), before)
    with torch.no_grad():
        for p in model.net.linear.parameters():  # type: ignore[union-attr]
            p.neg_()
    assert not torch.equal(step_of(model, objective).attack(x, Y, noise()), before)


class Spy(nn.Module):
    """A network that notes, at each forward pass, its mode and whether weights get a gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return the inner network's logits."""
        modes = {module.training for module in self.modules()}
        assert len(modes) == 1
        self.seen.append((modes.pop(), next(self.inner.parameters()).requires_grad))
        logits: Tensor = self.inner(x)
        return logits


@pytest.mark.parametrize("start_mode", [True, False])
def test_attack_in_eval_mode_loss_in_train_mode(start_mode: bool) -> None:  # noqa: FBT001
    """Four frozen eval-mode passes of the attack, then exactly one train-mode pass: the loss's."""
    spy = Spy(net()).train(start_mode)
    step = step_of(spy, AT(Linf(0.1), steps=4, step_size=0.05))
    step(images(6, channels=1), Y, noise())
    assert spy.seen == [(False, False)] * 4 + [(True, True)]
    spy.seen.clear()
    step_of(spy, Natural())(images(6, channels=1), Y, noise())
    assert spy.seen == [(True, True)]


@pytest.mark.parametrize("objective", [AT(Linf(0.1), steps=3, step_size=0.05), Natural()])
def test_batch_statistics_move_once_a_step(objective: AT | Natural) -> None:
    """Every BatchNorm counts one batch per step, and its mean is that of the loss's own forward pass."""
    model = net(fsr="paper")
    step = step_of(model, objective)
    for _ in range(2):
        step(images(6, channels=1), Y, noise())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 5
    assert {int(module.num_batches_tracked or 0) for module in norms} == {2}


def test_mask_noise_is_on_in_the_losss_forward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is drawn once per insertion point and step: the attack and validation see the plain mask."""
    drawn = []
    from fsrobust.plugin import module as plugin

    plain = plugin.logistic_like

    def spy(robustness: Tensor) -> Tensor:
        drawn.append(torch.is_grad_enabled())
        return plain(robustness)

    monkeypatch.setattr(plugin, "logistic_like", spy)
    model = net(fsr="paper")
    step = step_of(model, AT(Linf(0.1), steps=3, step_size=0.05))
    x = images(6, channels=1)
    found = step.attack(x, Y, noise())
    assert drawn == []
    assert torch.equal(step.attack(x, Y, noise()), found)
    step(x, Y, noise())
    assert len(drawn) == 1


def log_softmax(z: Tensor) -> NDArray[np.float64]:
    """Return logarithms of probabilities in float64."""
    scores: NDArray[np.float64] = z.detach().double().numpy()
    result: NDArray[np.float64] = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return result


def smoothed(log_p: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the cross-entropy of each sample against a target of 1 − s + s/K for y and s/K for the others."""
    count, classes = log_p.shape
    target = np.full((count, classes), share / classes)
    target[np.arange(count), Y.numpy()] += 1 - share
    result: NDArray[np.float64] = -(target * log_p).sum(1)
    return result


SMOOTHED: dict[str, tuple[Any, Any]] = {
    "natural": (Natural, lambda p, _q, s: smoothed(p, s).mean()),
    "at": (AT, lambda _p, q, s: smoothed(q, s).mean()),
    "fast-at": (FastAT, lambda _p, q, s: smoothed(q, s).mean()),
    "trades": (TRADES, lambda p, q, s: smoothed(p, s).mean() + 6 * divergence(p, q).mean()),
    "mart": (MART, lambda p, q, s: mart(p, q, s)),
}
"""By name: the objective, and its loss from logarithms of clean and adversarial probabilities and the share."""


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(p ‖ q) of each sample from logarithms."""
    result: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(1)
    return result


def mart(p: NDArray[np.float64], q: NDArray[np.float64], share: float) -> float:
    """Return MART's loss with hard labels but in the cross-entropy."""
    wrong = np.exp(q)
    wrong[np.arange(len(q)), Y.numpy()] = 0
    doubt = 1 - np.exp(p)[np.arange(len(p)), Y.numpy()]
    boosted = smoothed(q, share) - np.log(1.0001 - wrong.max(1))
    return float((boosted + 5 * divergence(p, q) * doubt).mean())


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_labels_are_smoothed_in_the_classification_term_alone(
    name: str, share: float, small_net: nn.Module
) -> None:
    """Each loss is its formula with the smoothed cross-entropy and everything else hard; float32 rounding."""
    kind, formula = SMOOTHED[name]
    model, x, x_adv = warm_up(small_net).eval(), images(6), images(6, seed=2)
    loss = kind(label_smoothing=share).loss(model, x, x_adv, Y)
    expected = formula(log_softmax(model(x)), log_softmax(model(x_adv)), share)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [Natural, AT, FastAT, TRADES, MART])
def test_fsrs_losses_and_the_attack_keep_hard_labels(kind: Any) -> None:
    """Of a guarded model's terms smoothing changes the classification alone; the attack is the same value."""
    model, x, x_adv = warm_up(guarded()).eval(), images(6), images(6, seed=2)
    hard, soft = kind(), kind(label_smoothing=0.2)
    terms, others = (each.loss(model, x, x_adv, Y).terms for each in (hard, soft))
    differing = {name for name in terms if not torch.equal(terms[name], others[name])}
    assert differing == {"classification"}
    assert {"separation", "recalibration"} < set(terms)
    assert hard.attack == soft.attack


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("kind", [Natural, AT, FastAT, TRADES, MART])
def test_shares_that_are_none_are_refused(kind: Any, share: float) -> None:
    """Smoothing is in [0, 1)."""
    with pytest.raises(InputError, match=r"objective\.label_smoothing in \[0, 1\)"):
        kind(label_smoothing=share)
