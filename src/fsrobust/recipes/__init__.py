"""Recipes: functions that return a whole run. A new one is a function and a row of RECIPES."""

from collections.abc import Callable
from typing import Final

from fsrobust.config import Run
from fsrobust.recipes.cifar10 import (
    cifar10_resnet18_at,
    cifar10_resnet18_at_fsr,
    cifar10_resnet18_best,
    cifar10_resnet18_fast_at,
    cifar10_resnet18_natural,
)
from fsrobust.recipes.digits import digits_at, digits_at_fsr, digits_natural
from fsrobust.recipes.finetune import finetune_at, finetune_at_fsr
from fsrobust.recipes.paper import paper_table
from fsrobust.types import unknown_name

RECIPES: Final[dict[str, Callable[[], Run]]] = {
    "cifar10-resnet18-natural": cifar10_resnet18_natural,
    "cifar10-resnet18-at": cifar10_resnet18_at,
    "cifar10-resnet18-at-fsr": cifar10_resnet18_at_fsr,
    "cifar10-resnet18-best": cifar10_resnet18_best,
    "cifar10-resnet18-fast-at": cifar10_resnet18_fast_at,
    "digits-natural": digits_natural,
    "digits-at": digits_at,
    "digits-at-fsr": digits_at_fsr,
    "finetune-at": finetune_at,
    "finetune-at-fsr": finetune_at_fsr,
}


def recipe(name: str) -> Run:
    """Return a run by the name of its recipe, or of a row of the paper, such as "S5/uniform".

    Raises:
        InputError: no such recipe; the message names the nearest.
    """
    if name in RECIPES:
        return RECIPES[name]()
    table, slash, row = name.partition("/")
    if slash:
        return paper_table(table).run(row)
    raise unknown_name("recipe", name, [*RECIPES, "TABLE/ROW, such as S5/uniform"])
