"""The paper's tables: every published row has a run, and each run differs from its base as its row says."""

from dataclasses import replace

import pytest

from fsrobust.models import architecture
from fsrobust.plugin import Guarded, build
from fsrobust.recipes import recipe
from fsrobust.recipes.paper import paper_table, paper_tables, svhn
from fsrobust.train import AT, MART, TRADES
from fsrobust.types import InputError

ROWS = [(table.name, row) for table in paper_tables().values() for row in table.rows]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=lambda value: value)
def test_every_row_can_be_made(table: str, row: str) -> None:
    """It names itself, its objective exists, its network builds at a small width."""
    run = recipe(f"{table}/{row}")
    assert run.recipe == f"{table}/{row}"
    assert run.objective.make().attack is not None
    small = replace(run.model, width=1 if architecture(run.model.name).width < 16 else 2)
    assert isinstance(build(small), Guarded) == bool(run.model.fsr)


def test_published_rows_and_our_rows_are_the_same() -> None:
    """No number without a run, no run of S1 … S7 without its numbers."""
    for name, table in paper_tables().items():
        if name.startswith("S"):
            assert set(table.rows) == set(table.published), name
        else:
            assert not table.published


def test_the_supplement_agrees_with_itself() -> None:
    """The default AT + FSR stands in four tables with the same numbers; an ensemble is below its parts."""
    default = paper_table("S4").published["block4"]
    assert paper_table("S5").published["mispredicted"] == default
    for name, row in (("S6", "gumbel"), ("S7", "learned")):
        theirs = paper_table(name).published[row]
        assert all(theirs[column] == default[column] for column in theirs if column in default)
    for table in paper_tables().values():
        for numbers in table.published.values():
            parts = [value for column, value in numbers.items() if column not in ("ensemble", "autoattack")]
            assert numbers["ensemble"] <= min(parts)
            assert numbers.get("autoattack", 0) <= numbers["ensemble"]
    assert default == recipe("cifar10-resnet18-at-fsr").published.accuracy  # type: ignore[union-attr]


def test_the_mean_gain_follows_from_the_rows() -> None:
    """Where the supplement prints both, FSR's mean gain in ensemble accuracy is that of its own rows, to 0.01."""
    for name in ("S1", "S2"):
        table = paper_table(name)
        gains = [
            table.published[f"{base}+fsr"]["ensemble"] - table.published[base]["ensemble"]
            for base in ("at", "trades", "mart")
        ]
        assert table.gain == pytest.approx(sum(gains) / 3, abs=0.01)
    assert (paper_table("main").gain, paper_table("main-svhn").gain) == (2.20, 2.30)


def test_rows_differ_from_their_base_as_their_names_say() -> None:
    """One look at each kind of change."""
    objectives = {row: paper_table("S1").run(row).objective.make() for row in paper_table("S1").rows}
    kinds = [type(objectives[row]) for row in ("at", "at+fsr", "trades+fsr", "mart")]
    assert kinds == [AT, AT, TRADES, MART]
    assert isinstance(objectives["trades"], TRADES)
    assert objectives["trades"].beta == 6.0
    assert isinstance(objectives["mart"], MART)
    assert objectives["mart"].weight == 5.0
    wide = paper_table("S3").run("mart+fsr")
    assert (wide.objective.mart_weight, wide.model.fsr, wide.model.width) == (6.0, ("final",), 10)
    assert paper_table("S4").run("block3+block4").model.fsr == ("layer3", "layer4")
    assert paper_table("S5").run("avg_targeted").objective.nonrobust == "average"
    assert paper_table("S6").run("binary").model.mask == "binary"
    assert paper_table("S7").run("greedy").model.separation == "greedy"
    assert paper_table("FigS1").run("tau=0.5").model.tau == 0.5
    assert paper_table("FigS1").run("lambda_sep=0").objective.lambda_sep == 0.0
    assert (paper_table("S2").base.data, paper_table("S2").base.model.classes) == ("tiny-imagenet", 200)


def test_svhn_has_its_own_settings() -> None:
    """Rate 0.01, steps of 1/255, no augmentation; the rest as CIFAR-10."""
    run = svhn()
    assert (run.train.lr, run.train.augment, run.train.epochs, run.train.batch) == (0.01, "none", 100, 128)
    assert (run.objective.step_size, run.objective.eps) == (1 / 255, 8 / 255)


@pytest.mark.parametrize(
    ("name", "message"),
    [("S8", 'did you mean "S[1-7]"'), ("S5/unifrm", 'did you mean "uniform"'), ("S9/at", "Unknown table")],
)
def test_unknown_tables_and_rows_are_refused(name: str, message: str) -> None:
    """The nearest is named; capitals are no difference."""
    assert paper_table("figs1") is paper_table("FigS1")
    with pytest.raises(InputError, match=message):
        recipe(name) if "/" in name else paper_table(name)
