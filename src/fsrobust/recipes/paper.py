"""Every table of the paper's supplement as runs: what a row changes of the plain run, and what was published.

Cost of a row at full size: 100 epochs × 11 passes over the training set; CIFAR-10 and ResNet-18, 1.28 PFLOP an
epoch for AT and 1.32 for AT + FSR; TRADES and MART some 10 % more; Tiny ImageNet eight times that; WRN-34-10
twelve times.
"""

import functools
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final, Literal

from fsrobust.config import ObjectiveConfig, Published, Run
from fsrobust.models import ModelConfig, architecture
from fsrobust.recipes.cifar10 import cifar10_resnet18_at
from fsrobust.types import unknown_name

Change = Callable[[Run], Run]


@dataclass(frozen=True)
class PaperTable:
    """A table or figure: the run that its rows change, its rows, and published accuracies in % by row.

    ``columns`` are the published ones; ``gain`` is the published mean gain in ensemble accuracy, in points, of FSR
    over AT, TRADES and MART.
    """

    name: str
    title: str
    base: Run
    rows: Mapping[str, Change]
    published: Mapping[str, Mapping[str, float]]
    columns: tuple[str, ...] = ()
    gain: float | None = None

    def run(self, row: str) -> Run:
        """Return the run of a row.

        Raises:
            InputError: no such row; the nearest is named.
        """
        if row not in self.rows:
            raise unknown_name(f"row of {self.name}", row, self.rows)
        run = self.rows[row](self.base)
        numbers = self.published.get(row)
        return replace(
            run,
            recipe=f"{self.name}/{row}",
            title=f"{self.name}, {row}",
            published=Published(f"supplement, {self.name}, row {row}", dict(numbers)) if numbers else None,
        )


def _fsr(run: Run, **model: Any) -> Run:
    at = model.pop("fsr", (architecture(run.model.name).fsr_at,))
    return replace(run, model=replace(run.model, fsr=at, **model))


def _objective(name: Literal["at", "trades", "mart"], *, fsr: bool) -> Change:
    def change(run: Run) -> Run:
        objective = replace(run.objective, name=name)
        if name == "mart" and run.model.name.startswith("wrn"):
            objective = replace(objective, mart_weight=6.0)
        run = replace(run, objective=objective)
        return _fsr(run) if fsr else run

    return change


def _with_fsr(**model: Any) -> Change:
    return lambda run: _fsr(run, **model)


def _with_loss(**objective: Any) -> Change:
    return lambda run: replace(_fsr(run), objective=replace(run.objective, **objective))


def _plain(run: Run) -> Run:
    return run


_METHODS: Final[dict[str, Change]] = {
    "at": _objective("at", fsr=False),
    "at+fsr": _objective("at", fsr=True),
    "trades": _objective("trades", fsr=False),
    "trades+fsr": _objective("trades", fsr=True),
    "mart": _objective("mart", fsr=False),
    "mart+fsr": _objective("mart", fsr=True),
}
_SWEEPS: Final[dict[str, Change]] = {
    **{f"tau={tau:g}": _with_fsr(tau=tau) for tau in (0.01, 0.05, 0.1, 0.5, 1.0)},
    **{f"lambda_sep={v:g}": _with_loss(lambda_sep=v) for v in (0.0, 0.1, 0.5, 2.0, 5.0)},
    **{f"lambda_rec={v:g}": _with_loss(lambda_rec=v) for v in (0.0, 0.1, 0.5, 2.0, 5.0)},
}
"""Figure S1: the paper's best is tau 0.1 with both lambdas 1, which stands once, among the taus."""

_ROWS: Final[dict[str, dict[str, Change]]] = {
    "S1": _METHODS,
    "S2": _METHODS,
    "S3": _METHODS,
    "S4": {
        **{f"block{k}": _with_fsr(fsr=(f"layer{k}",)) for k in (1, 2, 3, 4)},
        "block3+block4": _with_fsr(fsr=("layer3", "layer4")),
    },
    "S5": {
        "at": _plain,
        "uniform": _with_loss(nonrobust="uniform"),
        "entropy": _with_loss(nonrobust="entropy"),
        "avg_targeted": _with_loss(nonrobust="average"),
        "mispredicted": _with_fsr(),
    },
    "S6": {"binary": _with_fsr(mask="binary"), "gumbel": _with_fsr()},
    "S7": {
        "greedy": _with_fsr(separation="greedy"),
        "random": _with_fsr(separation="random"),
        "none": _with_fsr(separation="none"),
        "learned": _with_fsr(),
    },
    "FigS1": _SWEEPS,
    "FigS2": {"at": _plain, "at+fsr": _with_fsr()},
    "main": _METHODS,
    "main-svhn": _METHODS,
}


def _base(data: str, model: str, classes: int) -> Run:
    """Return AT on a data set with a network, CIFAR-10's set-up; the paper gives none of its own for the others."""
    width = architecture(model).width
    return replace(
        cifar10_resnet18_at(),
        data=data,
        model=ModelConfig(model, classes=classes, width=width),
        objective=ObjectiveConfig("at"),
        published=None,
    )


def svhn() -> Run:
    """Return AT on SVHN as the paper's code has it: rate 0.01, attack steps of 1/255, no augmentation."""
    base = _base("svhn", "resnet18", 10)
    return replace(
        base,
        objective=replace(base.objective, step_size=1 / 255),
        train=replace(base.train, lr=0.01, augment="none"),
    )


def paper_table(name: str) -> PaperTable:
    """Return a table by its number, in capitals or not: S1 … S7, FigS1, FigS2, main, main-svhn.

    Raises:
        InputError: no such table; the nearest is named.
    """
    tables = paper_tables()
    by_small = {known.lower(): table for known, table in tables.items()}
    if name.lower() not in by_small:
        raise unknown_name("table", name, tables)
    return by_small[name.lower()]


@functools.cache
def paper_tables() -> dict[str, PaperTable]:
    """Return every table and figure, in the paper's order."""
    numbers = tomllib.loads(files("fsrobust.recipes").joinpath("published.toml").read_text(encoding="utf-8"))
    bases = {
        "S1": _base("cifar100", "resnet18", 100),
        "S2": _base("tiny-imagenet", "resnet18", 200),
        "S3": _base("cifar10", "wrn34_10", 10),
        "main-svhn": svhn(),
    }
    tables = {}
    for name, rows in _ROWS.items():
        entry = numbers[name]
        heads = tuple(entry.get("columns", ()))
        tables[name] = PaperTable(
            name,
            entry["title"],
            bases.get(name, _base("cifar10", "resnet18", 10)),
            rows,
            {row: dict(zip(heads, values, strict=True)) for row, values in entry.get("rows", {}).items()},
            heads,
            entry.get("mean_ensemble_gain"),
        )
    return tables
