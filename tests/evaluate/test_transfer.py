"""Attacking one network and asking another: the same as by hand, and truly blind to the target."""

import functools

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import APGD, FAB, Attack, Cascade, Linf, NAttack, make_attack, perturb
from fsrobust.attacks.cascade import Stage, autoattack, stage_seed
from fsrobust.data.batches import pixels
from fsrobust.evaluate.engine import GALLERY, predict_all, run_attack
from fsrobust.evaluate.transfer import transfer_attack
from fsrobust.train import Natural, fit
from fsrobust.types import InputError
from tests.runs import digits, net, short

BALL = Linf(0.15)


@functools.cache
def trained(seed: int) -> nn.Module:
    """Return a network that naturally trained digits, of a seed of its own."""
    model = net(width=8, seed=seed)
    fit(model, digits(600), objective=Natural(), train=short(epochs=4, lr=0.1, seed=seed))
    return model.eval()


def samples(count: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Return test digits as pixels, their labels, and ids that are not their places."""
    data = digits(count, "test")
    return pixels(data.images), data.labels, torch.arange(100, 100 + count)


@pytest.mark.parametrize("name", ["pgd20", "di-fgsm", "mi-di-ti-fgsm"])
def test_it_is_perturb_on_one_and_a_count_on_the_other(name: str) -> None:
    """Verdicts are the target's on the images that ``perturb`` makes with the surrogate, in any batches."""
    surrogate, model, (x, y, ids) = trained(0), trained(1), samples()
    attack = make_attack(name, BALL)
    x_adv = perturb(attack, surrogate, x, y, ids=ids, seed=3)
    expected = model(x_adv).argmax(1)
    for batch in (None, 25):
        found = transfer_attack(attack, surrogate, model, x, y, ids=ids, seed=3, batch=batch)
        # float32 sums of another batch shape may tip a sample of these 60
        assert (found.predicted != expected.numpy()).sum() <= 1
        assert (found.fooled_last == (found.predicted != y.numpy())).all()
        assert (found.fooled_any == found.fooled_last).all()
        assert found.path == pytest.approx([1 - found.fooled_last.mean()])
        assert found.backwards == 20 * 60
        assert found.forwards == (20 + 3) * 60  # two verdicts of the surrogate, one of the target
        assert found.last.shape == (GALLERY, 1, 8, 8)
        assert found.attacked.all()


def test_it_fools_some_and_fewer_than_a_direct_attack() -> None:
    """Images made for one network cost another accuracy, but less than images made for itself."""
    surrogate, model, (x, y, ids) = trained(0), trained(1), samples()
    attack = make_attack("pgd20", BALL)
    natural = float((predict_all(model, x) == y.numpy()).mean())
    transferred = transfer_attack(attack, surrogate, model, x, y, ids=ids)
    direct = run_attack(attack, model, x, y, ids=ids)
    assert direct.path[-1] + 0.05 < transferred.path[-1] < natural - 0.05


def test_from_the_model_itself_it_is_the_direct_attack() -> None:
    """With the target as its own surrogate, last iterates and their verdicts are the direct attack's."""
    model, (x, y, ids) = trained(0), samples()
    attack = make_attack("pgd10", BALL)
    direct = run_attack(attack, model, x, y, ids=ids, seed=1, batch=60)
    found = transfer_attack(attack, model, model, x, y, ids=ids, seed=1, batch=60)
    assert (found.predicted == direct.predicted).all()
    assert (found.last == direct.last).all()


def test_the_target_is_asked_once_and_only_forward() -> None:
    """A target that counts sees each attacked image once, in eval mode, without a graph to its pixels."""
    model, (x, y, ids) = trained(1), samples(10)
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    try:
        found = transfer_attack(make_attack("pgd20", BALL), trained(0), model, x, y, ids=ids, batch=10)
    finally:
        handle.remove()
    assert [len(images) for images in seen] == [10]
    assert not seen[0].requires_grad
    assert torch.equal(seen[0], torch.from_numpy(found.last))


@pytest.mark.parametrize("attack", [NAttack(BALL, steps=10, population=20), APGD(BALL, steps=20), FAB(BALL)])
def test_a_search_that_stops_when_it_has_won_goes_on(attack: Attack) -> None:
    """Made to its end, an image still fools the surrogate itself wherever the attack that stops does."""
    surrogate, (x, y, ids) = trained(0), samples(8)
    found = transfer_attack(attack, surrogate, surrogate, x, y, ids=ids)
    direct = run_attack(attack, surrogate, x, y, ids=ids)
    assert found.fooled_last.any()
    assert found.fooled_last.tolist() == direct.fooled_any.tolist()


@pytest.mark.parametrize("attack", [APGD(BALL), autoattack(BALL)])
def test_samples_that_the_surrogate_has_wrong_are_attacked_too(attack: Attack) -> None:
    """A surrogate that swaps classes is wrong on all of them, and its images fool whoever is right all the same."""
    model, (x, y, ids) = trained(0), samples(20)

    class Swapped(nn.Module):
        """The model with its answers one class further."""

        def forward(self, images: Tensor) -> Tensor:
            """Return the logits, each a class late."""
            logits: Tensor = model(images)
            return logits.roll(1, dims=1)

    surrogate = Swapped().eval()
    assert (surrogate(x).argmax(1) != y).all()
    found = transfer_attack(attack, surrogate, model, x, y, ids=ids)
    right = (model(x).argmax(1) == y).numpy()[:GALLERY]
    assert right.sum() > 6
    assert not (found.last == x[:GALLERY].numpy()).reshape(GALLERY, -1).all(1)[right].any()


def test_a_cascade_attacks_what_its_stages_before_left() -> None:
    """No sample that a stage alone carries over is lost by the stages after it."""
    surrogate, model, (x, y, ids) = trained(0), trained(1), samples()
    two = Cascade(BALL, tuple(Stage(name, make_attack(name, BALL)) for name in ("apgd-ce", "pgd20")))
    alone = [
        transfer_attack(stage.attack, surrogate, model, x, y, ids=ids, seed=stage_seed(0), batch=60)
        for stage in two.stages
    ]
    found = transfer_attack(two, surrogate, model, x, y, ids=ids, batch=60)
    natural = predict_all(model, x) != y.numpy()
    expected = natural | alone[0].fooled_any | alone[1].fooled_any
    # float32 sums of another batch shape may tip a sample of these 60
    assert (found.fooled_any != expected).sum() <= 1
    assert found.fooled_any.sum() > natural.sum()
    assert (found.fooled_any == (predict_all(model, found.images) != y.numpy())).all()


def test_a_surrogate_of_other_classes_is_refused() -> None:
    """Labels must make sense to the surrogate."""
    with torch.random.fork_rng(devices=[]):
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x, y, ids = samples(30)
    with pytest.raises(InputError, match="3 classes"):
        transfer_attack(make_attack("fgsm", BALL), other, trained(0), x, y, ids=ids)
