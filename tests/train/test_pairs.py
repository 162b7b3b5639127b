"""Settings that cannot go together: every row of the table, by every way in."""

from pathlib import Path

import pytest

from fsrobust.attacks import Linf
from fsrobust.cli import run
from fsrobust.config import ObjectiveConfig
from fsrobust.train import AT, AWP, FastAT, Natural, fit
from fsrobust.train.config import TrainConfig
from fsrobust.train.pairs import PAIRS, refuse_pairs, settings_of
from fsrobust.types import InputError
from tests.runs import digits, net, short

CASES = {
    ("objective.name=natural", "objective.awp=0.005"): "no",
    ("objective.awp=0", "objective.awp_warmup=2"): "5e-3 is usual",
    ("objective.awp_warmup=3", "train.epochs=3"): "never be perturbed",
    ("objective.name=fast-at", "objective.steps=2"): "takes one step",
    ("objective.name=fast-at", "train.train_on=all"): "validation split",
    ("train.averaging=swa", "train.ema_decay=0.9"): "one average",
    ("train.averaging=ema", "train.swa_start=0.9"): "one average",
    ("train.schedule=cosine", "train.milestones=[0.5]"): "milestones",
    ("objective.awp=0.005", "train.accumulate=2"): "whole batch",
    ("objective.name=mart", "objective.beta=1"): "only objective.name=trades has a β",
    ("objective.name=trades", "objective.mart_weight=9"): "only objective.name=mart",
    ("objective.name=at", "objective.share_noise=true"): "objective.name=trades and objective.name=mart",
    ("model.fsr=none", "objective.lambda_sep=3"): "the model has none",
    ("model.fsr=none", "objective.lambda_rec=0"): "the model has none",
    ("model.fsr=none", "objective.nonrobust=uniform"): "the model has none",
    ("model.fsr=none", "model.tau=0.7"): "the model has none",
    ("model.fsr=none", "model.mask=binary"): "the model has none",
    ("model.fsr=none", "model.separation=random"): "the model has none",
    ("train.sync_bn=true", "device=cpu"): "GPUs alone",
    ("train.sync_bn=true", "processes=1"): "torchrun",
}
"""A pair of settings, and a word of the reason."""
NEEDED = {"objective.awp_warmup=3": ["objective.awp=5e-3"]}
"""What else a case needs to come to its row."""
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0"}
"""What torchrun says to a process; it is refused before it looks for others."""


def names(case: tuple[str, str]) -> tuple[str, str]:
    """Return the keys of a case."""
    first, second = (setting.partition("=")[0] for setting in case)
    return first, second


def test_every_row_has_a_case() -> None:
    """A row that is added is tested as well."""
    assert {names(case) for case in CASES} == {(pair.first, pair.second) for pair in PAIRS}


@pytest.mark.parametrize("case", CASES)
def test_a_pair_is_refused_by_a_sentence_with_both_names(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, str],
) -> None:
    """The command ends with status 2, names both options and the reason, and leaves no run behind."""
    given = [s for s in (*NEEDED.get(case[0], []), *case) if not s.startswith(("device", "processes"))]
    settings = [part for s in given for part in ("--set", s)]
    if case[1].startswith("device"):
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    assert run(["train", "digits-at", *settings, "--out", str(out), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    for name in names(case):
        assert f"{name}=" in said
    assert CASES[case] in said
    assert not (out / "config.json").exists()


def test_fit_refuses_what_it_is_given() -> None:
    """From Python as well: one-step training without a validation split, a warm-up as long as the run."""
    with pytest.raises(InputError, match=r"objective\.name=fast-at and train\.train_on=all"):
        fit(net(), digits(40), objective=FastAT(), train=short(train_on="all"))
    late = AT(Linf(0.1), awp=AWP(5e-3, warmup=2))
    with pytest.raises(InputError, match=r"objective\.awp_warmup=2 and train\.epochs=2"):
        fit(net(), digits(40), objective=late, train=short())


def test_natural_training_with_perturbed_weights_is_no_objective() -> None:
    """A configuration refuses what its objective would silently leave out."""
    with pytest.raises(InputError, match=r"objective\.name=natural and objective\.awp=0\.005"):
        ObjectiveConfig("natural", awp=5e-3).make()


@pytest.mark.parametrize("objective", [Natural(), AT(), AT(awp=AWP(5e-3)), FastAT()])
def test_defaults_go_together(objective: Natural | AT | FastAT) -> None:
    """No objective is refused with default settings."""
    refuse_pairs(settings_of(objective, TrainConfig()))
