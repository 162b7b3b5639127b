"""Settings of a command line: read into the right kind, refused with a sentence otherwise."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fsrobust.attacks import L2, Linf
from fsrobust.config import EvaluationConfig, ObjectiveConfig, default_folder, parse_fraction
from fsrobust.recipes import RECIPES, recipe
from fsrobust.settings import override
from fsrobust.train import AT, AWP, MART, TRADES, FastAT, FSRWeights, Natural
from fsrobust.types import InputError

BASE = "cifar10-resnet18-at-fsr"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("0.5/255", 0.5 / 255),  # as reports and config.json write it
        ("0.03", 0.03),
        ("1e-3", 1e-3),
        ("0", 0.0),
        (0.5, 0.5),
        ("  1/2 ", 0.5),
    ],
)
def test_fractions_are_read(text: str | float, value: float) -> None:
    """A radius is a fraction, a decimal or already a number, and 8/255 is the nearest float to it."""
    assert parse_fraction(text) == value


@pytest.mark.parametrize(
    "text", ["8/0", "eight", "8/255/1", "", "8 of 255", "nan", "inf", "1e400", "1e999999999"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    """Anything else is refused and shown in the message; so is what no float can hold."""
    with pytest.raises(InputError, match="such as 8/255") as refused:
        parse_fraction(text)
    assert f'"{text}"' in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.epochs=30", 30),
        ("train.lr=1e-3", 1e-3),
        ("train.lr=1", 1.0),
        ("objective.eps=4/255", 4 / 255),
        ("objective.eps=0.02", 0.02),
        ("evaluation.eps=16/255", 16 / 255),
        ("train.milestones=[0.5, 0.8]", (0.5, 0.8)),
        ("train.milestones=0.5,0.8", (0.5, 0.8)),
        ("train.milestones=0.5", (0.5,)),
        ("train.milestones=none", ()),
        ("model.fsr=layer3", ("layer3",)),
        ("model.fsr=layer3,layer4", ("layer3", "layer4")),
        ('model.fsr=["layer3", "layer4"]', ("layer3", "layer4")),
        ("model.fsr=none", ()),
        ("model.normalize=[[0.5, 0.5, 0.5], [0.2, 0.2, 0.2]]", ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))),
        ("model.normalize=none", None),
        ("train.augment=none", "none"),
        ("train.schedule=one-cycle", "one-cycle"),
        ("train.averaging=swa", "swa"),
        ("train.averaging=none", "none"),
        ("train.ema_decay=0.99", 0.99),
        ("train.swa_start=0.75", 0.75),
        ("objective.name=fast-at", "fast-at"),
        ("objective.label_smoothing=0.1", 0.1),
        ("objective.awp=5e-3", 5e-3),
        ("objective.awp_warmup=10", 10),
        ("train.engine=reference", "reference"),
        ("objective.name=natural", "natural"),
        (" train.seed = 7 ", 7),
    ],
)
def test_settings_have_the_kind_of_their_field(setting: str, value: object) -> None:
    """Integers, floats, fractions, choices, lists and "none" are read as the field declares them."""
    part, name = setting.partition("=")[0].strip().split(".")
    settings = ["train.epochs=9", "model.normalize=[[0.1, 0.1, 0.1], [1, 1, 1]]", "evaluation.eps=1/255"]
    start = override(recipe(BASE), settings)
    changed = override(start, [setting])
    found: Any = getattr(getattr(changed, part), name)
    assert found == value
    assert type(found) is type(value)
    inner = replace(getattr(start, part), **{name: value})
    assert changed == replace(start, **{part: inner})


@pytest.mark.parametrize(
    ("settings", "norm", "eps"),
    [
        (["objective.eps=2/255"], "linf", 2 / 255),
        (["objective.norm=l2", "objective.eps=0.5"], "l2", 0.5),
        (["objective.eps=2/255", "evaluation.eps=4/255"], "linf", 4 / 255),
        (["evaluation.eps=4/255"], "linf", 4 / 255),
        (["objective.steps=3"], "linf", 8 / 255),
    ],
)
def test_a_run_is_judged_in_the_ball_that_it_is_trained_for(
    settings: list[str], norm: str, eps: float
) -> None:
    """Unless both are set, or the recipe has two balls of its own."""
    judged = override(recipe(BASE), settings).evaluation
    assert (judged.norm, judged.eps) == (norm, eps)
    two = replace(recipe(BASE), evaluation=EvaluationConfig("linf", 1 / 255))
    assert override(two, ["objective.eps=2/255"]).evaluation.eps == 1 / 255


def test_the_last_setting_wins() -> None:
    """Settings are applied in order."""
    assert override(recipe(BASE), ["train.epochs=3", "train.lr=1", "train.epochs=4"]).train.epochs == 4


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.epoch=3", r'Unknown setting "train.epoch"; did you mean "train.epochs"\?'),
        ("trian.epochs=3", r'Unknown setting "trian"; did you mean "train"\?'),
        ("title=mine", 'Unknown setting "title"'),
        ("data=svhn", 'Unknown setting "data"'),
        ("=3", 'Unknown setting ""'),
        ("train.epochs", 'as KEY=VALUE, but got "train.epochs"'),
        ("train=3", r'"train" has parts; set one of train\.epochs, .*train\.seed'),
        ("train.lr.x=3", '"train.lr" has no parts'),
        ("train.epochs=many", '"train.epochs=many" is not usable: .*integer'),
        ("train.epochs=3.5", "integer"),
        ("train.epochs=0", "train.epochs to be at least 1, but got 0"),
        ("train.batch=-1", "train.batch to be at least 1, but got -1"),
        ("train.lr=0", "train.lr above 0"),
        ("train.lr=nan", "train.lr above 0"),
        ("train.lr=fast", "number"),
        ("train.engine=quick", "'fast' or 'reference'"),
        ("train.milestones=early", "number"),
        ("objective.norm=l1", "'linf' or 'l2'"),
        ("objective.eps=8/0", "such as 8/255"),
        ("model.tau=0", "tau above 0"),
        ("model.width=0", "model.width above 0"),
        ("model.stem=big", "cifar"),
    ],
)
def test_unusable_settings_are_refused(setting: str, sentence: str) -> None:
    """A wrong key names the nearest and a wrong value says what was expected, always as an InputError."""
    with pytest.raises(InputError, match=sentence):
        override(recipe(BASE), [setting])


@pytest.mark.parametrize("setting", ["train.momentum=-1", "train.weight_decay=-1"])
def test_rates_that_no_optimiser_takes_are_refused(setting: str) -> None:
    """What SGD would refuse later with a traceback is refused here with a sentence."""
    with pytest.raises(InputError, match=setting.partition("=")[0]):
        override(recipe(BASE), [setting])


def test_published_numbers_stay_with_what_they_speak_of() -> None:
    """Another seed, or a value set to what it was, keeps the published numbers; any other change drops them."""
    run = recipe(BASE)
    assert run.published is not None
    for kept in ([], ["train.seed=3"], ["train.epochs=100"], ["train.epochs=1", "train.epochs=100"]):
        assert override(run, kept).published == run.published
    for dropped in ("train.epochs=99", "objective.eps=4/255", "model.tau=0.5", "evaluation.eps=4/255"):
        assert override(run, [dropped]).published is None
    assert override(run, ["train.seed=3", "train.epochs=99"]).published is None


def test_all_images_keep_the_published_numbers() -> None:
    """They are of trainings without a validation split."""
    run = recipe(BASE)
    assert override(run, ["train.train_on=all"]).published == run.published
    assert override(run, ["train.train_on=all", "train.epochs=99"]).published is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["objective.name=trades", "model.fsr=layer3"], " with objective.name=trades, model.fsr=layer3"),
        (["train.epochs=1", "train.epochs=2"], " with train.epochs=2"),
        (["train.epochs=1", "train.epochs=100"], ""),
        (["train.seed=3", "objective.eps=8/255"], ""),
        ([" train.lr = 0.2 "], " with train.lr=0.2"),
    ],
)
def test_a_title_names_what_is_not_as_in_the_recipe(settings: list[str], named: str) -> None:
    """Two methods under one name would be taken for two seeds of one."""
    assert override(recipe(BASE), settings).title == recipe(BASE).title + named
    once_more = override(override(recipe(BASE), ["model.width=32"]), settings).title
    assert once_more == f"{recipe(BASE).title} with model.width=32{named.replace(' with', ',')}"


@pytest.mark.parametrize("part", ["objective", "evaluation"])
def test_another_norm_needs_a_radius(part: str) -> None:
    """What 8/255 is in L∞, it is not in L2; radii that are there already are taken."""
    with pytest.raises(
        InputError, match=rf"{part}\.eps with {part}\.norm=l2: a radius of 8/255 is meant in linf"
    ):
        override(recipe(BASE), [f"{part}.norm=l2"])
    run = override(recipe(BASE), [f"{part}.norm=l2", f"{part}.eps=0.5"])
    assert getattr(run, part).norm == "l2"
    assert override(run, [f"{part}.norm=l2"]) == run


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_described_in_plain_values(name: str) -> None:
    """The description survives JSON, and its radii are written as the field writes them."""
    described = recipe(name).describe()
    again = json.loads(json.dumps(described, allow_nan=False))
    assert set(again) == {
        "recipe", "title", "data", "model", "objective", "train", "evaluation", "published", "image_size", "init",
    }  # fmt: skip
    if name.startswith("cifar10"):
        assert again["objective"]["eps"] == again["evaluation"]["eps"] == "8/255"
        assert again["objective"]["step_size"] == ("10/255" if name.endswith("fast-at") else "2/255")
    assert parse_fraction(again["evaluation"]["eps"]) == recipe(name).evaluation.eps


def test_objectives_are_made_of_their_configuration() -> None:
    """Every field of an objective's configuration reaches the objective."""
    config = ObjectiveConfig("at", "l2", 0.5, steps=3, step_size=0.1, lambda_sep=2.0, lambda_rec=3.0)
    assert config.make() == AT(L2(0.5), 3, 0.1, FSRWeights(2.0, 3.0))
    assert ObjectiveConfig("natural", lambda_sep=2.0).make() == Natural(FSRWeights(2.0, 1.0))
    lifted = ObjectiveConfig("trades", label_smoothing=0.1, awp=5e-3, awp_warmup=2).make()
    assert lifted == TRADES(Linf(8 / 255), label_smoothing=0.1, awp=AWP(5e-3, 2))
    mart = ObjectiveConfig("mart", steps=2, mart_weight=6.0, label_smoothing=0.1, awp=5e-3).make()
    assert mart == MART(Linf(8 / 255), 2, weight=6.0, label_smoothing=0.1, awp=AWP(5e-3))
    assert ObjectiveConfig(label_smoothing=0.2, awp=1e-3).make() == AT(label_smoothing=0.2, awp=AWP(1e-3))
    fast = ObjectiveConfig("fast-at", eps=4 / 255, label_smoothing=0.1, awp=5e-3)
    assert fast.make() == FastAT(Linf(4 / 255), label_smoothing=0.1, awp=AWP(5e-3))
    assert ObjectiveConfig("natural", label_smoothing=0.1).make() == Natural(label_smoothing=0.1)
    assert ObjectiveConfig().make() == AT(Linf(8 / 255), 10, 2 / 255, FSRWeights(1.0, 1.0))
    with pytest.raises(InputError, match="eps"):
        ObjectiveConfig(eps=8.0).make()


def test_a_run_goes_into_a_folder_of_its_own() -> None:
    """The recipe and the seed name the run directory."""
    assert default_folder(override(recipe("digits-at"), ["train.seed=3"])).as_posix() == "runs/digits-at-s3"
