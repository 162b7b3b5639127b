"""What training is said to cost: the arithmetic exactly, the prediction against a real run."""

import tempfile
import time
from pathlib import Path

import pytest
import torch

from fsrobust.config import Run
from fsrobust.data import load_dataset
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import train_run
from fsrobust.recipes.inspect import cost_of_run
from fsrobust.recipes.start import Start, initial_model
from fsrobust.settings import override
from fsrobust.train import estimate as estimating
from fsrobust.train.estimate import Estimate, estimate_training
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import at, digits, net, short


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate with as few looks as there may be."""
    monkeypatch.setattr(estimating, "ENOUGH", 0.0)


def test_the_parts_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 samples 10 are held out: 5 steps of 16 an epoch, one validation batch, one checkpoint each.

    With a clock that says 2 s for a first look and ½ s on average, every part is known.
    """
    monkeypatch.setattr(estimating, "timed", lambda work, _device: (work(), 2.0)[1])
    monkeypatch.setattr(estimating, "mean_seconds", lambda work, _device, **_: (work(), 0.5)[1])
    made = estimate_training(net(), digits(100), objective=at(), train=short(epochs=4))
    parts = {"warm-up": 1.5, "steps": 4 * 5 * 0.5, "validation": 4 * 2.0, "checkpoints": 4 * 2.0}
    assert made.parts == parts
    assert made.seconds == sum(parts.values())
    assert made.epoch_seconds == (made.seconds - 1.5) / 4
    whole = estimate_training(net(), digits(100), objective=at(), train=short(epochs=4, train_on="all"))
    assert (whole.parts["validation"], whole.parts["steps"]) == (0.0, 4 * 6 * 0.5)


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_nothing_of_the_callers_changes(engine: str) -> None:
    """Weights, statistics, gradients, modes and random numbers are as before; nothing is left on disk."""
    model = net(fsr="paper")
    before, left = fingerprint(model), set(Path(tempfile.gettempdir()).iterdir())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    made = estimate_training(model, digits(60), objective=at(), train=short(engine=engine, precision="fp32"))
    assert torch.equal(torch.rand(2), expected)
    assert fingerprint(model) == before
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not {p for p in set(Path(tempfile.gettempdir()).iterdir()) - left if (p / "checkpoints").exists()}
    assert all(seconds >= 0 for seconds in made.parts.values())
    assert made.peak_memory_bytes > 2**20


def test_an_evaluation_has_no_epochs() -> None:
    """Without epochs there is no cost of one; the summary holds both totals."""
    made = Estimate("cpu", {"natural": 1.0, "pgd20": 2.5}, 7)
    assert (made.seconds, made.epoch_seconds) == (3.5, None)
    assert made.summary()["seconds"] == 3.5


def test_what_cannot_be_trained_has_no_cost() -> None:
    """Too few samples to hold any out, and data of other classes, are refused as training refuses them."""
    with pytest.raises(InputError, match="hold out"):
        estimate_training(net(), digits(5), objective=at(), train=short())
    run = override(recipe("digits-at"), ["model.classes=7"])
    with pytest.raises(InputError, match="10 classes"):
        cost_of_run(Start(run, digits(50), initial_model(run)), torch.device("cpu"))


def _ratio(run: Run, folder: Path) -> float:
    """Return predicted over real seconds, one right after the other."""
    data, device = load_dataset("digits", "train").select(range(700)), torch.device("cpu")
    predicted = cost_of_run(Start(run, data, initial_model(run)), device).seconds
    started = time.perf_counter()
    train_run(run, data, out=folder, device=device)
    return predicted / (time.perf_counter() - started)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-at", "digits-at-fsr"])
def test_a_run_takes_the_time_that_was_predicted(name: str, tmp_path: Path) -> None:
    """Within 30 %, at one of five attempts: other processes come and go in between, a wrong price stays wrong."""
    run = override(recipe(name), ["train.epochs=3", "model.width=8"])
    ratios = []
    for attempt in range(5):
        ratios.append(_ratio(run, tmp_path / str(attempt)))
        if 0.7 <= ratios[-1] <= 1.3:
            return
    pytest.fail(f"predicted over real: {ratios}")
