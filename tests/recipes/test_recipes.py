"""Recipes: the paper's set-up field by field, and the numbers it published."""

from dataclasses import replace

import pytest
import torch

from fsrobust.attacks import Linf
from fsrobust.models import MODELS
from fsrobust.plugin import FSR, Guarded, build
from fsrobust.recipes import RECIPES, recipe
from fsrobust.recipes.asked import expand_attacks
from fsrobust.recipes.start import adapt, initial_model
from fsrobust.train import AT, Natural
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import digits

COLUMNS = ("natural", "fgsm", "pgd20", "pgd100", "cw", "ensemble")
# typed from the supplement's tables: S5, row AT; S4, row Block4
PUBLISHED = {
    "cifar10-resnet18-at": (85.02, 56.21, 48.22, 46.37, 47.38, 45.51),
    "cifar10-resnet18-at-fsr": (81.46, 58.07, 52.47, 51.02, 49.44, 48.34),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_made(name: str) -> None:
    """Each recipe names itself, says what to expect, and builds a network that answers with its classes."""
    run = recipe(name)
    assert run.recipe == name
    assert "xpect" in (RECIPES[name].__doc__ or "")
    assert run.objective.make() is not None
    assert run.evaluation.make().eps == run.objective.eps or run.objective.name == "natural"
    small = build(replace(run.model, width=4)).eval()
    size = 8 if run.data == "digits" else 32
    with torch.no_grad():
        assert small(torch.zeros(2, run.model.channels, size, size)).shape == (2, run.model.classes)
    assert isinstance(small, Guarded) == name.endswith(("-fsr", "-best"))


@pytest.mark.parametrize("name", ["cifar10-resnet18-at", "cifar10-resnet18-at-fsr"])
def test_the_papers_set_up(name: str) -> None:
    """CIFAR-10 as in the paper: epochs, batch, optimiser, schedule, attack, augmentation, evaluation."""
    run = recipe(name)
    train, model = run.train, run.model
    assert (run.data, train.epochs, train.batch) == ("cifar10", 100, 128)
    assert (train.lr, train.momentum, train.weight_decay) == (0.1, 0.9, 5e-4)
    assert train.milestones == (0.75, 0.9)
    assert train.augment == "crop_flip"
    assert (model.name, model.classes, model.channels, model.width) == ("resnet18", 10, 3, 64)
    assert (model.normalize, model.stem, model.tau, model.mask) == (None, "cifar", 0.1, "gumbel")
    assert model.fsr_init == "paper"
    objective = run.objective.make()
    assert isinstance(objective, AT)
    assert (objective.ball, objective.steps, objective.step_size) == (Linf(8 / 255), 10, 2 / 255)
    assert (objective.fsr.separation, objective.fsr.recalibration) == (1.0, 1.0)
    assert run.evaluation.make() == Linf(8 / 255)
    assert model.fsr == (("layer4",) if name.endswith("fsr") else ())
    assert not model.fsr or MODELS["resnet18"].fsr_at == "layer4"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_the_papers(name: str) -> None:
    """The numbers shown beside ours are those of the supplement, with their place."""
    published = recipe(name).published
    assert published is not None
    assert published.accuracy == dict(zip(COLUMNS, PUBLISHED[name], strict=True))
    assert "Table S" in published.source


def test_only_rows_of_the_paper_have_published_numbers() -> None:
    """Digits and natural training were never published: no number stands beside them."""
    assert {name for name in RECIPES if recipe(name).published is not None} == set(PUBLISHED)


def test_arms_differ_in_the_plug_in_alone() -> None:
    """AT and AT + FSR share everything but the insertion point, and their names."""
    for data in ("cifar10-resnet18", "digits"):
        base, guarded = recipe(f"{data}-at"), recipe(f"{data}-at-fsr")
        model = replace(guarded.model, fsr=())
        same = {"recipe": base.recipe, "title": base.title}
        assert replace(guarded, model=model, **same) == base  # type: ignore[arg-type]
        assert isinstance(recipe(f"{data}-natural").objective.make(), Natural)


def test_a_near_name_is_suggested() -> None:
    """A misspelt recipe is answered with the nearest."""
    with pytest.raises(InputError, match='did you mean "digits-at-fsr"'):
        recipe("digits-at-frs")


def test_first_weights_depend_on_the_seed_alone() -> None:
    """The same seed gives the same network whatever was drawn before, another one another; callers see nothing."""
    run = recipe("digits-at-fsr")
    state = torch.get_rng_state()
    first = initial_model(run)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert fingerprint(initial_model(run)) == fingerprint(first)
    other = replace(run, train=replace(run.train, seed=1))
    assert fingerprint(initial_model(other)) != fingerprint(first)
    assert isinstance(first, Guarded)
    assert [point.tau for point in first.fsr if isinstance(point, FSR)] == [0.1]


def test_a_recipe_on_other_data_shows_no_published_number() -> None:
    """On one's own data the model takes its channels and classes, and the paper's numbers are gone."""
    run = adapt(recipe("cifar10-resnet18-at"), digits(20))
    assert (run.data, run.model.channels, run.model.classes, run.published) == ("digits", 1, 10, None)


def test_attacks_are_named_once_in_order() -> None:
    """Suites unfold, doubles go, spaces do not matter, unknown names are answered."""
    assert expand_attacks(" cw , whitebox,cw") == ["cw", "fgsm", "pgd20", "pgd100"]
    with pytest.raises(InputError, match='did you mean "whitebox"'):
        expand_attacks("whitbox")
    with pytest.raises(InputError, match="got none"):
        expand_attacks(" , ")
