"""What an evaluation is said to cost: queries against the records', time against a real evaluation."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fsrobust.attacks import L2, Cascade, Linf, make_attack
from fsrobust.attacks.base import draws_of
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Study, Subject, carry_out, estimate, read_records
from fsrobust.evaluate import price as pricing
from fsrobust.evaluate.adaptive import Surrogates, find_attack
from fsrobust.evaluate.curves import radii
from fsrobust.evaluate.estimate import estimate_evaluation
from fsrobust.evaluate.price import Trials, count_queries, expected_share, price_of
from fsrobust.evaluate.study import carry_out_diagnosis
from fsrobust.plugin import Guarded, surrogates
from fsrobust.recipes.inspect import cost_of_study
from fsrobust.train import estimate as calibrating
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import at, digits, learnt, net, short

BALL = Linf(0.1)


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate with as few looks as there may be."""
    for module in (calibrating, pricing):
        monkeypatch.setattr(module, "ENOUGH", 1e-9)


@pytest.mark.slow
def test_queries_are_those_on_record(tmp_path: Path) -> None:
    """Counted on the stand-in, an attack asks as often as its record of a real evaluation says, or more if it may stop.

    The records count a gradient query among the forward passes, too, and the two verdicts after a search.
    """
    fixed, stopping = ["fgsm", "pgd20", "pgd100", "cw", "pgd10", "di-fgsm"], ["apgd-ce"]
    names, n = [*fixed, *stopping], 6
    study = Study(tmp_path, Subject(learnt(), "net", None), digits(n, "test"), 360, BALL)
    carry_out(study, names)
    records = {r["name"]: r for r in read_records(tmp_path) if r["kind"] == "attack"}
    x = pixels(digits(1, "test").images)
    for name in names:
        counted = count_queries(make_attack(name, BALL), x, classes=10)
        if name in fixed:
            assert n * counted.gradients == records[name]["backwards"]
            assert n * (counted.forwards + counted.gradients + 2) == records[name]["forwards"]
        else:
            assert n * counted.gradients >= records[name]["backwards"] > 0


@pytest.mark.parametrize("ball", [Linf(1.0), L2(20.0)])
def test_no_pixels_fool_the_stand_in(ball: Linf | L2) -> None:
    """In a ball that holds every image the count is that of a withstanding sample, for colours and many classes."""
    attack = make_attack("pgd20", ball)
    assert count_queries(attack, torch.rand(1, 3, 8, 8), classes=200).gradients == 20


@pytest.mark.usefixtures("briefly")
def test_the_parts_add_up_by_queries() -> None:
    """PGD-100's hundred queries cost a multiple of FGSM's one; the curve is paid per radius."""
    x, y = pixels(digits(30, "test").images), digits(30, "test").labels
    model = learnt()
    before = fingerprint(model)
    made = estimate_evaluation(model, x, y, ball=BALL, curve_samples=10)
    assert fingerprint(model) == before
    parts = made.parts
    assert list(parts) == ["natural", "fgsm", "pgd20", "pgd100", "cw", "curve"]
    each = (parts["pgd100"] - parts["pgd20"]) / 80  # 30 samples, one gradient each
    assert parts["cw"] == pytest.approx(parts["pgd20"] + 10 * each)
    assert parts["fgsm"] == pytest.approx(parts["pgd20"] - 19 * each)
    verdicts = parts["fgsm"] - each
    curve = (len(radii(BALL)) - 1) * 10 / 30 * (100 * each + verdicts)
    assert parts["curve"] > 0.5 * curve  # priced in its own, smaller batch, where a sample costs more
    assert made.seconds == pytest.approx(sum(parts.values()))
    assert made.epoch_seconds is None


@pytest.mark.usefixtures("briefly")
def test_one_name_for_both_kinds_of_work() -> None:
    """An objective gives the cost of fit, a ball that of evaluate; both or neither are refused."""
    data = digits(60)
    trained = estimate(net(), data, objective=at(), train=short())
    assert (trained.epochs, "steps" in trained.parts) == (2, True)
    evaluated = estimate(net(), data, ball=BALL, attacks=["fgsm"])
    assert list(evaluated.parts) == ["natural", "fgsm"]
    for wrong in ({}, {"objective": at(), "ball": BALL}):
        with pytest.raises(InputError, match="one of the two"):
            estimate(net(), data, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match='did you mean "fgsm"'):
        estimate(net(), data, ball=BALL, attacks=["fgms"])


@pytest.mark.usefixtures("briefly")
def test_a_long_attack_costs_its_starts_and_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every search 3 s and 2 s for each pass, a sample that stands would cost just that, stage by stage.

    Through surrogates as well, and twenty times over for a random network; the diagnosis asks whom it asks.
    """
    monkeypatch.setattr(
        Trials,
        "_seconds",
        lambda _self, short, _count, _surrogate, draws: draws * (3 + 2 * short.cost),
    )
    x, y = pixels(digits(20, "test").images), digits(20, "test").labels
    model = net(width=4, fsr="paper").eval()
    names = ["autoattack", "adaptive", "autoattack-rand", "nattack"]
    price = price_of(model, x, y, BALL, "fp32")
    found = estimate_evaluation(model, x, y, ball=BALL, attacks=names, diagnosis=True)
    assert list(found.parts) == ["natural", *names, "diagnosis"]
    for name in names:
        attack = find_attack(name, BALL, model)
        stages = [stage.attack for stage in attack.stages] if isinstance(attack, Cascade) else [attack]
        each = draws_of(attack) * sum(3 + 2 * stage.cost for stage in stages)
        share = expected_share(attack, price.standing)
        assert found.parts[name] == pytest.approx(20 * share * each), name
    # Auto-PGD with two losses, 400 steps, 1,000 queries, and two losses through each of six surrogates
    long = 2 * 403 + 1603 + 2003 + 12 * 403
    assert found.parts["diagnosis"] == pytest.approx(20 * price.standing * long, rel=0.05, abs=1)


@pytest.mark.usefixtures("briefly")
def test_nobody_makes_surrogates_that_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of an attack on the model itself needs none of them; of the adaptive one, all."""
    made, plain = set[str](), Surrogates.__getitem__

    def get(self: Surrogates, name: str) -> object:
        made.add(name)
        return plain(self, name)

    monkeypatch.setattr(Surrogates, "__getitem__", get)
    x, y = pixels(digits(4, "test").images), digits(4, "test").labels
    model = net(width=4, fsr="paper").eval()
    assert isinstance(model, Guarded)
    estimate_evaluation(model, x, y, ball=BALL, attacks=["fgsm", "apgd-ce"])
    assert made <= {"joint"}  # these tests check types: whoever is given a mapping looks at its first entry
    estimate_evaluation(model, x, y, ball=BALL, attacks=["adaptive"])
    assert made == set(surrogates(model))


def _ratio(folder: Path, attacks: Sequence[str], n: int) -> float:
    """Return predicted over real seconds, one right after the other; without attacks, of a diagnosis."""
    study = Study(folder, Subject(learnt(), "net", None), digits(n, "test"), 360, Linf(0.03))
    few = n // 10 if attacks else 0
    predicted = cost_of_study(study, attacks, curve_samples=few, diagnosis=not attacks).seconds
    started = time.perf_counter()
    carry_out(study, attacks, curve_samples=few) if attacks else carry_out_diagnosis(study)
    return predicted / (time.perf_counter() - started)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attacks", "n"),
    [(["fgsm", "pgd20", "pgd100", "cw"], 200), (["autoattack"], 20), ([], 60)],
    ids=["whitebox", "autoattack", "diagnosis"],
)
def test_an_evaluation_takes_the_time_that_was_predicted(attacks: list[str], n: int, tmp_path: Path) -> None:
    """Within 30 %, at one of five attempts: other processes come and go in between, a wrong price stays wrong."""
    ratios = []
    for attempt in range(5):
        ratios.append(_ratio(tmp_path / str(attempt), attacks, n))
        if 0.7 <= ratios[-1] <= 1.3:
            return
    pytest.fail(f"predicted over real: {ratios}")
