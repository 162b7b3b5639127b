"""Fine-tuning: while the host is frozen it stands still to the last bit, and only the plug-in learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fsrobust.plugin import Guarded
from fsrobust.train import control, fit, graph, learner
from fsrobust.train.freezing import parameter_groups
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import Listener, at, digits, net, short, train

ENGINES = pytest.mark.parametrize("engine", ["reference", "fast"])


def trained(model: nn.Module, **changes: object) -> Guarded:
    """Return the model after a short training."""
    fit(model, digits(40), objective=at(), train=short(**changes))
    assert isinstance(model, Guarded)
    return model


@ENGINES
def test_a_frozen_host_stands_still(engine: str) -> None:
    """Weights, batch statistics and counters of the host keep their bits; each part of the plug-in moves."""
    before, after = net(fsr="paper"), trained(net(fsr="paper"), engine=engine, epochs=2, frozen_epochs=2)
    assert isinstance(before, Guarded)
    assert fingerprint(after.net) == fingerprint(before.net)
    theirs = dict(before.fsr.named_parameters())
    for name, value in after.fsr.named_parameters():
        assert not torch.equal(value, theirs[name]), name
    statistics = dict(after.fsr.named_buffers())
    assert all(int(v) == 4 for name, v in statistics.items() if name.endswith("num_batches_tracked"))


@ENGINES
def test_then_all_learn(engine: str) -> None:
    """From the epoch after, every parameter of the host moves; training leaves nothing frozen behind."""
    before = net(fsr="paper")
    listener = Listener()
    after = net(fsr="paper")
    fit(
        after,
        digits(40),
        objective=at(),
        train=short(engine=engine, epochs=2, frozen_epochs=1),
        reporter=listener,
    )
    theirs = dict(before.named_parameters())
    assert all(p.requires_grad for p in after.parameters())
    assert not [name for name, p in after.named_parameters() if torch.equal(p, theirs[name])]
    assert [text for text in listener.said if text.startswith("epoch")] == [
        "epoch 1: only the plug-in learns",
        "epoch 2: all learn",
    ]


def test_what_was_frozen_before_stays_so() -> None:
    """A layer that its owner froze does not learn when the host is let go."""
    model = net(fsr="paper")
    assert isinstance(model, Guarded)
    first = next(model.net.parameters())
    value = first.detach().clone()
    first.requires_grad_(False)
    trained(model, epochs=2, frozen_epochs=1)
    assert torch.equal(first, value)
    assert not first.requires_grad


@ENGINES
@pytest.mark.parametrize("steps", [2, 5, 7])
def test_stopped_and_resumed_is_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, steps: int
) -> None:
    """Stopped while frozen, at the thaw (after 5 batches) or after it: same weights, same metrics."""
    changes: dict[str, Any] = {"engine": engine, "frozen_epochs": 1, "host_lr": 0.5}
    whole = train(tmp_path / "whole", fsr="paper", **changes)
    asked = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(control.Stopwatch, "stop_reason", lambda _: "enough" if next(asked) >= steps else None)
        stopped = train(tmp_path / "parts", fsr="paper", **changes)
    assert stopped.history.stopped == "enough"
    assert all(p.requires_grad for p in stopped.model.parameters())
    resumed = train(tmp_path / "parts", fsr="paper", resume=True, **changes)
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert resumed.lines == whole.lines


def test_the_hosts_rate_is_a_share_of_the_plug_ins() -> None:
    """One step of plain gradient descent moves the host half as far at half its rate, the plug-in as far."""
    start = dict(net(fsr="paper").named_parameters())
    plain: dict[str, Any] = {"epochs": 1, "batch": 36, "momentum": 0.0, "weight_decay": 0.0, "lr": 0.01}
    full = dict(trained(net(fsr="paper"), **plain).named_parameters())
    half = dict(trained(net(fsr="paper"), host_lr=0.5, **plain).named_parameters())
    for name, origin in start.items():
        share = 0.5 if name.startswith("net.") else 1.0
        # a float32 weight near 1 keeps its moves of 1e-4 to about 1e-3 of them
        torch.testing.assert_close(half[name] - origin, share * (full[name] - origin), rtol=2e-3, atol=3e-7)


def test_every_parameter_is_in_one_group() -> None:
    """Groups cover the model, none twice, with and without a plug-in."""
    for model in (net(), net(fsr="paper")):
        for host_lr in (1.0, 0.1):
            listed = [p for group in parameter_groups(model, host_lr) for p in group["params"]]
            assert len(listed) == len({id(p) for p in listed}) == len(list(model.parameters()))


def test_a_wrapped_host_has_its_own_rate() -> None:
    """A normalisation around a guarded network, too, is of the host; what is no plug-in learns at its rate."""
    inner = net(fsr="paper")
    assert isinstance(inner, Guarded)
    plugin, host = parameter_groups(nn.Sequential(nn.BatchNorm2d(1), inner), 0.5)
    assert {id(p) for p in plugin["params"]} == {id(p) for p in inner.fsr.parameters()}
    assert len(host["params"]) == 2 + len(list(inner.net.parameters()))
    assert host["lr_factor"] == 0.5


def test_parameters_that_learn_later_join_a_fused_step() -> None:
    """With one rate for all, the thawed host and the plug-in are one group: the numbers are those of a plain step."""
    prints = []
    for fused in (False, True):
        settings = short(engine="fast", epochs=2, frozen_epochs=1)
        made = learner.Learner(net(fsr="paper"), digits(64), at(), settings, batch=16, say=lambda _text: None)
        for group in made.optimiser.param_groups:
            group["fused"] = fused  # as on a GPU
        for step in range(6):
            if step % 3 == 0:
                made.begin(1 + step // 3, lr=0.02)
            made.learn(torch.arange(16), step)
        prints.append(made.model.state_dict())
    plain, together = prints
    for name, value in plain.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_an_optimisers_state_from_elsewhere_takes_this_devices_ways() -> None:
    """A fused step's momenta in another order in memory come to lie as their parameters do, and it is fused no more."""
    made, other = (
        learner.Learner(net(), digits(64), at(), short(), batch=16, say=lambda _text: None) for _ in range(2)
    )
    for one in (made, other):
        one.begin(1, lr=0.02)
    made.learn(torch.arange(16), 0)
    state = made.optimiser.state_dict()
    state["param_groups"][0]["fused"] = True
    turned = {
        k: v["momentum_buffer"].contiguous(memory_format=torch.channels_last)
        for k, v in state["state"].items()
        if v["momentum_buffer"].ndim == 4
    }
    assert any(momentum.stride() != momentum.contiguous().stride() for momentum in turned.values())
    for k, momentum in turned.items():
        state["state"][k]["momentum_buffer"] = momentum
    other.load_optimiser(state)
    assert not other.optimiser.param_groups[0]["fused"]
    for p, q in zip(made.model.parameters(), other.model.parameters(), strict=True):
        momentum = other.optimiser.state[q]["momentum_buffer"]
        assert momentum.stride() == q.stride()
        assert torch.equal(momentum, made.optimiser.state[p]["momentum_buffer"])


@pytest.mark.parametrize("changes", [{"frozen_epochs": 1}, {"host_lr": 0.5}])
def test_a_model_without_plug_in_has_no_host(changes: dict[str, float]) -> None:
    """Nothing would learn, or nothing would come of the rate: the setting is named."""
    with pytest.raises(InputError, match=rf"train\.{next(iter(changes))}="):
        fit(net(), digits(40), objective=at(), train=short(**changes))


@pytest.mark.parametrize("changes", [{"frozen_epochs": -1}, {"host_lr": 0.0}, {"host_lr": 1.5}])
def test_settings_that_make_no_sense_are_refused(changes: dict[str, float]) -> None:
    """Negative epochs, a host that goes nowhere or faster than the plug-in."""
    with pytest.raises(InputError, match=r"train\.(frozen_epochs|host_lr)"):
        short(**changes)


def test_recorded_steps_survive_the_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording needs the momenta that the host gets in its first step: recorded or not, the same bits."""
    recorded: list[int] = []

    def record(work: graph.Work, indices: torch.Tensor) -> graph.Work:
        recorded.append(len(indices))
        return lambda batch: work(batch)  # no longer the eager step itself, as a graph is not

    monkeypatch.setattr(learner, "CapturedStep", record)
    prints = []
    for capturing in (False, True):
        settings = short(engine="fast", epochs=2, frozen_epochs=1)
        made = learner.Learner(net(fsr="paper"), digits(64), at(), settings, batch=16, say=lambda _text: None)
        made._capturing = capturing  # as on a GPU; here a recording repeats the eager step
        for step in range(6):
            if step % 3 == 0:
                made.begin(1 + step // 3, lr=0.02)
            made.learn(torch.arange(16), step)
        prints.append(fingerprint(made.model))
    assert prints[0] == prints[1]
    assert len(recorded) == 2
