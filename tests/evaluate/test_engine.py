"""Running attacks over a data set: the counts are those one makes by hand, whatever the batches."""

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import L2, Linf, NAttack, make_attack, perturb
from fsrobust.data.batches import pixels
from fsrobust.evaluate import evaluate
from fsrobust.evaluate.curves import eps_attack, eps_curve, radii
from fsrobust.evaluate.engine import GALLERY, predict_all, run_attack
from fsrobust.evaluate.masks import mask_pictures
from fsrobust.train import Natural, fit
from fsrobust.types import InputError
from tests.helpers import guarded, half_space, images
from tests.runs import digits, net, short

BALL = Linf(0.1)


@functools.cache
def natural_net() -> nn.Module:
    """Return a network that naturally trained digits in a few epochs; tests leave it as it is."""
    model = net(width=8)
    fit(model, digits(600), objective=Natural(), train=short(epochs=4, lr=0.1))
    return model.eval()


def samples(count: int = 40) -> tuple[Tensor, Tensor]:
    """Return test digits as pixels, and their labels."""
    data = digits(count, "test")
    return pixels(data.images), data.labels


@pytest.mark.parametrize("name", ["fgsm", "pgd20", "cw", "pgd10"])
def test_evaluate_is_perturb_and_a_count(name: str) -> None:
    """Verdicts on the last iterate are those of attacking and predicting by hand."""
    model, (x, y) = natural_net(), samples()
    outcome = evaluate(model, x, y, ball=BALL, attacks=[name], seed=3)
    with torch.no_grad():
        natural = model(x).argmax(1) == y
        x_adv = perturb(make_attack(name, BALL), model, x, y, seed=3)
        fooled = model(x_adv).argmax(1) != y
    assert outcome.natural_correct.tolist() == natural.tolist()
    assert outcome.fooled_last[name].tolist() == fooled.tolist()
    assert outcome.attacked[name].all()
    assert outcome.ids.tolist() == list(range(len(x)))
    assert outcome.accuracy("natural") > 0.5
    assert outcome.accuracy(name) < outcome.accuracy("natural")


def test_evaluation_does_not_depend_on_the_batch() -> None:
    """In batches of 7, 16 or all at once, with a random start, the verdicts are the same."""
    model, (x, y) = natural_net(), samples()
    wholes = evaluate(model, x, y, ball=BALL, attacks=["pgd10", "pgd20"])
    for batch in (7, 16):
        parts = evaluate(model, x, y, ball=BALL, attacks=["pgd10", "pgd20"], batch=batch)
        for name in parts.attacks:
            # equal but for float32 sums of another batch shape: 1 sample of these 40 may tip
            assert (parts.fooled[name] != wholes.fooled[name]).sum() <= 1
            assert (parts.fooled_last[name] != wholes.fooled_last[name]).sum() <= 1


def test_evaluation_does_not_depend_on_order_but_on_ids() -> None:
    """A sample's start follows its id: reversed with their ids, verdicts are reversed."""
    model, (x, y) = natural_net(), samples()
    ids = torch.arange(100, 100 + len(x))
    forward = evaluate(model, x, y, ball=BALL, attacks=["pgd10"], ids=ids)
    back = evaluate(model, x.flip(0), y.flip(0), ball=BALL, attacks=["pgd10"], ids=ids.flip(0))
    assert (forward.fooled_last["pgd10"] != back.fooled_last["pgd10"][::-1]).sum() <= 1
    assert back.ids.tolist() == ids.flip(0).tolist()
    found = [run_attack(make_attack("pgd10", BALL), model, x, y, ids=i).last for i in (ids, ids, ids + 1)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_what_is_wrong_when_clean_counts_as_fooled() -> None:
    """``fooled`` holds every natural error and every last iterate's; it never shrinks with the attack."""
    model, (x, y) = natural_net(), samples(360)
    outcome = evaluate(model, x, y, ball=Linf(0.02), attacks=["fgsm", "pgd10"])
    wrong = ~outcome.natural_correct
    assert wrong.any()
    for name in outcome.attacks:
        assert not (wrong & ~outcome.fooled[name]).any()
        assert not (outcome.fooled_last[name] & ~outcome.fooled[name]).any()
        assert outcome.strict(name) <= outcome.accuracy(name)


@pytest.mark.parametrize("name", ["fgsm", "pgd20", "pgd10"])
def test_a_ball_of_radius_zero_is_natural_accuracy(name: str) -> None:
    """With eps = 0 nothing moves: every verdict is the natural one, exactly."""
    model, (x, y) = natural_net(), samples()
    outcome = evaluate(model, x, y, ball=Linf(0.0), attacks=[name])
    assert outcome.fooled_last[name].tolist() == (~outcome.natural_correct).tolist()
    assert outcome.fooled[name].tolist() == (~outcome.natural_correct).tolist()


def test_one_attacks_result() -> None:
    """Cost in samples, a path that begins clean and ends at the last iterate, and the first few pictures."""
    model, (x, y) = natural_net(), samples(30)
    calls: list[tuple[str, int, int]] = []
    result = run_attack(
        make_attack("pgd20", BALL),
        model,
        x,
        y,
        ids=torch.arange(30),
        batch=20,
        name="pgd20",
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("pgd20", 20, 30), ("pgd20", 30, 30)]
    assert result.backwards == 20 * 30
    assert result.forwards >= 21 * 30
    assert len(result.path) == 21
    assert result.path[0] == pytest.approx((predict_all(model, x) == y.numpy()).mean())
    assert result.path[-1] == pytest.approx(1 - result.fooled_last.mean())
    assert result.last.shape == (GALLERY, 1, 8, 8)
    assert (np.abs(result.last - x[:GALLERY].numpy()) <= 0.1 + 1e-6).all()
    assert (result.fooled_last == (result.predicted != y.numpy())).all()


def test_batches_whose_searches_end_at_different_steps_share_a_path() -> None:
    """Three samples near a plane are won at once, three are not: the path goes on to the longest search's end."""
    plane, far, y = half_space("linf", 0.03)
    x = torch.cat([half_space("linf", 0.001)[1][:3], far[3:]])
    attack, ids = NAttack(Linf(0.02), steps=6, population=60), torch.arange(6)
    parts = run_attack(attack, plane, x, y, ids=ids, batch=3)
    assert parts.fooled_any.tolist() == [True] * 3 + [False] * 3
    assert len(parts.path) == 6 + 1
    assert parts.path == run_attack(attack, plane, x, y, ids=ids, batch=6).path
    assert parts.path[-1] == 0.5


def test_no_samples_are_refused() -> None:
    """Of no samples there is no accuracy."""
    with pytest.raises(InputError, match="at least one sample"):
        evaluate(natural_net(), torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), ball=BALL)


def test_an_unknown_attack_is_refused_before_anything_runs() -> None:
    """A wrong name ends in a sentence at once, not after the attacks before it."""
    called: list[str] = []
    x, y = samples(4)
    with pytest.raises(InputError, match='did you mean "pgd20"'):
        evaluate(
            natural_net(),
            x,
            y,
            ball=BALL,
            attacks=["fgsm", "pgd2"],
            progress=lambda n, _d, _t: called.append(n),
        )
    assert called == []


@pytest.mark.parametrize("ball", [Linf(8 / 255), Linf(0.15), Linf(1.0), L2(0.5)])
def test_radii_begin_at_zero_and_reach_everything(ball: Linf | L2) -> None:
    """Radii rise, hold the ball's own, and end where every image is within reach (Linf) or far out (L2)."""
    found = radii(ball)
    assert found[0] == 0.0
    assert found == sorted(set(found))
    assert ball.eps in found
    assert found[-1] == (1.0 if isinstance(ball, Linf) else 8.0)


@pytest.mark.parametrize("eps", [8 / 255, 0.5, 1.0])
def test_the_curves_attack_can_cross_its_ball(eps: float) -> None:
    """100 steps reach well beyond the radius; far balls begin at random."""
    attack = eps_attack(Linf(eps))
    assert attack.steps == 100
    assert attack.steps * attack.step_size >= 2.5 * eps
    assert attack.random_start == (eps > 16 / 255)


def test_a_natural_network_falls_to_nothing() -> None:
    """Accuracy against eps begins at the natural one, falls, and is 0 where everything is reachable."""
    x, y = samples(30)
    curve = eps_curve(natural_net(), x, y, ball=BALL, ids=torch.arange(30))
    natural = float((predict_all(natural_net(), x) == y.numpy()).mean())
    assert curve.accuracy[0] == pytest.approx(natural)
    assert curve.n == 30
    assert curve.eps == radii(BALL)
    # PGD finds no minimum for certain: one sample of 30 may come back between neighbours
    assert all(b <= a + 1.01 / 30 for a, b in zip(curve.accuracy, curve.accuracy[1:], strict=False))
    assert curve.accuracy[-1] <= 1 / 30


def test_mask_pictures_are_of_the_mask() -> None:
    """Maps are the mask's mean over channels; the histogram counts every unit; a bare network has none."""
    model, x = guarded(), images(5)
    pictures = mask_pictures(model, x, 0.5 * x)
    assert pictures is not None
    mask = model.parts(x).mask[-1].detach()
    np.testing.assert_allclose(pictures["natural"], mask.mean(1).numpy(), atol=1e-6)
    assert pictures["histogram"].sum(axis=1).tolist() == [mask.numel()] * 2
    assert pictures["attacked"].shape == pictures["natural"].shape
    assert str(pictures["position"]) == "layer3"
    assert mask_pictures(net(), x[:, :1], x[:, :1]) is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((4,), 10), r"labels in \[0, 10\)"),
        (torch.zeros(4, dtype=torch.int32), "int64 labels"),
        (torch.zeros(4, 1, dtype=torch.int64), "one label and id per image"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_labels_that_do_not_fit_are_refused_first(labels: Tensor, message: str) -> None:
    """Before a pilot's cross-entropy fails on them."""
    x, _ = samples(4)
    with pytest.raises(InputError, match=message):
        evaluate(natural_net(), x, labels, ball=BALL, attacks=["fgsm"])


def test_a_network_without_gradients_can_be_judged_by_scores() -> None:
    """Square asks for none; PGD says why it cannot."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = natural_net()((x.detach() * 255).round() / 255)
            return logits

    x, y = samples(6)
    outcome = evaluate(Rounded().eval(), x, y, ball=Linf(0.3), attacks=["square"])
    assert outcome.strict("square") < outcome.accuracy("natural")
    with pytest.raises(InputError, match="by gradient"):
        evaluate(Rounded().eval(), x, y, ball=BALL, attacks=["fgsm"])
