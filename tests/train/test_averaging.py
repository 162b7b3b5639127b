"""Averages of weights: their formulas, their statistics, and that a kill changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsrobust.data import hold_out
from fsrobust.data.batches import pixels, training_batches
from fsrobust.train import AT, AWP, Natural, fit, load
from fsrobust.train.averaging import Average, refresh_statistics
from fsrobust.train.checkpoint import find_checkpoint, load_state
from fsrobust.train.control import Stopwatch
from fsrobust.train.objectives import Loss
from fsrobust.types import Images, InputError, Labels
from tests.faults import Fault, every_fault, killed_at
from tests.helpers import fingerprint
from tests.runs import at, digits, net, short, train

KINDS: dict[str, dict[str, Any]] = {
    "ema": {"averaging": "ema", "ema_decay": 0.8},
    "swa": {"averaging": "swa", "swa_start": 0.0},
}


def weights(model: nn.Module) -> Tensor:
    """Return all trained weights as one float64 vector."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def trained(epochs: int, count: int = 20, **changes: Any) -> nn.Module:
    """Return a network after some epochs at a constant rate; 20 digits are two batches of 9."""
    model = net()
    settings: dict[str, Any] = {"milestones": (), "batch": 9, "epochs": epochs, **changes}
    fit(model, digits(count), objective=at(steps=1), train=short(**settings))
    return model


def test_swa_is_the_mean_of_the_last_epochs() -> None:
    """With a start at half of four epochs: the mean of what plain runs of 3 and 4 epochs end with (float32)."""
    truth = torch.stack([weights(trained(epochs)) for epochs in (3, 4)]).mean(0)
    found = weights(trained(4, averaging="swa", swa_start=0.5))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-7)
    assert (found - weights(trained(4))).abs().max() > 1e-4


def test_ema_is_its_recursion() -> None:
    """An average is d·a + (1 − d)·w after each step, d = min(decay, (1 + n)/(10 + n)) (float32).

    One batch an epoch, so plain runs of 1, 2, … epochs end with the weights after each step.
    """
    steps = [weights(trained(epochs, batch=18)) for epochs in range(1, 6)]
    average = weights(net())
    for n, w in enumerate(steps):
        d = min(0.2, (1 + n) / (10 + n))
        average = d * average + (1 - d) * w
    found = weights(trained(5, batch=18, averaging="ema", ema_decay=0.2))
    torch.testing.assert_close(found, average, rtol=0, atol=1e-7)
    assert (found - steps[-1]).abs().max() > 1e-4


def test_statistics_are_the_mean_over_batches() -> None:
    """The first batch norm's are those of its input under the averaged weights, by hand in float64."""
    model, data = net(), digits(60)
    train_config = short(batch=9, **KINDS["ema"])
    fit(model, data, objective=Natural(), train=train_config)
    rest, _ = hold_out(data, count=train_config.validation, seed=0)
    convolution, norm = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)][:2]
    assert isinstance(norm, nn.BatchNorm2d)
    means, variances = [], []
    for indices in training_batches(len(rest), batch=9, seed=0, epoch=0):
        seen = convolution(pixels(rest.images[indices])).detach().double()
        means.append(seen.mean((0, 2, 3)))
        variances.append(seen.transpose(0, 1).flatten(1).var(1))
    assert len(means) == 6
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), torch.stack(means).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), torch.stack(variances).mean(0), rtol=1e-4, atol=0)
    assert norm.momentum == 0.1
    assert int(norm.num_batches_tracked or 0) == 12  # of two epochs' training, as if nothing had been shown


def test_statistics_are_those_of_the_attacks_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown to an adversarially trained average is attacked, as what the raw weights learnt from was."""
    seen: list[float] = []
    plain = AT.loss

    def spy(self: AT, model: nn.Module, x: Images, x_adv: Images, y: Labels) -> Loss:
        if not torch.is_grad_enabled():
            seen.append(float((x_adv - x).abs().amax()))
        return plain(self, model, x, x_adv, y)

    monkeypatch.setattr(AT, "loss", spy)
    trained(1, **KINDS["ema"])
    assert len(seen) == 2 * 2  # two batches, to close the epoch and to leave the model with the average
    assert all(reach == pytest.approx(0.1, abs=1e-6) for reach in seen)


def test_raw_weights_come_back_bit_for_bit() -> None:
    """Inside, the average and other statistics; after, whatever happened, the model as it was."""
    model = net(fsr="paper")
    average = Average(model, short(**KINDS["ema"]))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    average.after_step()
    before = fingerprint(model)

    def show() -> None:
        model.train()(pixels(digits(8).images))

    def fail() -> None:
        with average.installed(show):
            assert fingerprint(model) != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert fingerprint(model) == before


def test_before_there_is_an_average_the_raw_weights_stand(tmp_path: Path) -> None:
    """SWA that starts after half of two epochs: the first is a plain one, and its checkpoint the raw weights."""
    run = train(tmp_path / "run", epochs=2, averaging="swa", objective=at(steps=1))
    plain = train(tmp_path / "plain", epochs=2, objective=at(steps=1))
    assert run.lines[0] == plain.lines[0]
    first = "checkpoints/00000005/weights.safetensors"
    assert fingerprint(load(tmp_path / "run" / first)) == fingerprint(load(tmp_path / "plain" / first))
    average = Average(net(), short(averaging="swa"))
    with average.installed(lambda: pytest.fail("nothing to show")):
        assert fingerprint(average.model) == fingerprint(net())


def test_a_network_without_batch_norms_is_shown_nothing() -> None:
    """There are no statistics to make."""
    refresh_statistics(nn.Linear(2, 2), lambda: pytest.fail("shown"))


def test_checkpoints_offer_the_average_and_keep_the_raw_weights(tmp_path: Path) -> None:
    """``load`` gives the averaged model, which is what validation judged and what ``fit`` leaves."""
    run = train(tmp_path / "run", objective=at(steps=1), **KINDS["ema"])
    plain = train(tmp_path / "plain", objective=at(steps=1))
    loaded = load(tmp_path / "run")
    assert fingerprint(loaded) == fingerprint(run.model)
    state = load_state(find_checkpoint(tmp_path / "run"))
    raw = net()
    raw.load_state_dict(state["raw"])
    assert fingerprint(raw) == fingerprint(plain.model)  # averaging does not disturb what it averages
    assert [line["loss"] for line in run.lines] == [line["loss"] for line in plain.lines]
    _, held_out = hold_out(digits(90), count=1000, seed=0)
    right = (loaded(pixels(held_out.images)).argmax(1) == held_out.labels).float().mean()
    assert run.lines[-1]["validation_natural"] == pytest.approx(float(right))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 5, 7])
def test_stopped_and_resumed_is_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, steps: int
) -> None:
    """Stopped in the first epoch, at its end (5 batches) or in the second: same average, same raw weights."""
    settings: dict[str, Any] = {"fsr": "paper", "engine": "fast", "objective": at(steps=1), **KINDS[kind]}
    whole = train(tmp_path / "whole", **settings)
    answers = iter([None] * steps + ["the test says so"])
    with monkeypatch.context() as patch:
        patch.setattr(Stopwatch, "stop_reason", lambda _self: next(answers))
        stopped = train(tmp_path / "run", **settings)
    assert stopped.history.stopped == "the test says so"
    assert fingerprint(load(tmp_path / "run")) == fingerprint(stopped.model)
    resumed = train(tmp_path / "run", resume=True, **settings)
    assert resumed.lines == whole.lines
    assert fingerprint(resumed.model) == fingerprint(whole.model) == fingerprint(load(tmp_path / "run"))
    states = [load_state(find_checkpoint(tmp_path / name)) for name in ("run", "whole")]
    for name, value in states[0]["raw"].items():
        assert torch.equal(value, states[1]["raw"][name])
    assert states[0]["average"]["count"] == states[1]["average"]["count"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_anywhere_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """At each file operation of a whole run with weight perturbation: the same averages and metrics."""
    objective = AT(at().ball, steps=1, step_size=0.1, awp=AWP(5e-3, warmup=1))
    settings: dict[str, Any] = {"count": 20, "objective": objective, **KINDS[kind]}
    whole = train(tmp_path / "whole", **settings)

    def trial(k: int) -> Fault:
        out = tmp_path / str(k)
        with killed_at(monkeypatch, k) as fault:
            train(out, **settings)
        resumed = train(out, resume=True, **settings)
        assert fingerprint(resumed.model) == fingerprint(whole.model), f"killed at {k}"
        assert resumed.lines == whole.lines
        for which in ("last", "best"):
            theirs = load(tmp_path / "whole", checkpoint=which)
            assert fingerprint(load(out, checkpoint=which)) == fingerprint(theirs)
        return fault

    assert every_fault(trial) >= 20


@pytest.mark.parametrize("field", ["ema_decay", "swa_start"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_beyond_the_run_are_refused(field: str, value: float) -> None:
    """A decay or start of 1 would never average anything."""
    with pytest.raises(InputError, match=rf"train\.{field} in \[0, 1\)"):
        short(**{field: value})
