"""Reproducing tables: what is planned, what is skipped, what the table says."""

import json
from pathlib import Path

import numpy as np
import pytest

from fsrobust.cli import run
from fsrobust.evaluate import Outcome
from fsrobust.recipes.paper import COLUMNS, paper_table, paper_tables
from fsrobust.recipes.reproduce import plan, scaled
from fsrobust.report.spread import Spread, SpreadRow, spread, spread_csv, spread_latex, spread_markdown
from fsrobust.types import InputError


def outcome(correct: int, n: int = 200) -> Outcome:
    """Return an outcome in which every attack leaves the first ``correct`` samples right."""
    right = np.arange(n) < correct
    names = ("fgsm", "pgd20", "pgd100", "cw")
    return Outcome(
        np.arange(n),
        right,
        {a: np.ones(n, bool) for a in names},
        dict.fromkeys(names, ~right),
        dict.fromkeys(names, ~right),
    )


def smoke(folder: Path, *arguments: str) -> int:
    """Run the command at smoke scale."""
    return run(["reproduce", *arguments, "--scale", "smoke", "--out", str(folder), "--device", "cpu"])


def test_two_rows_run_are_kept_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table says that it is no evidence and shows no published number; a second call runs nothing."""
    assert smoke(tmp_path, "S5", "--rows", "at,mispredicted") == 0
    printed = capsys.readouterr().out
    assert "smoke: not evidence" in printed
    assert "85.02" not in printed
    assert printed.count("| at |") == 2  # last and best
    assert {file.name for file in (tmp_path / "S5-smoke").glob("table.*")} == {
        "table.md",
        "table.tex",
        "table.csv",
    }
    assert smoke(tmp_path, "S5", "--rows", "at,mispredicted") == 0
    again = capsys.readouterr()
    assert again.out == printed
    assert "1/" not in again.err
    assert smoke(tmp_path, "S5", "--dry-run", "--json") == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["state"] for cell in cells] == ["done", "new", "new", "new", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in paper_tables() if name not in ("S3", "main", "FigS1")])
def test_every_table_runs_at_smoke_scale(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row of it ends in the table, at both checkpoints."""
    assert smoke(tmp_path, name) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {row} |") == 2 for row in paper_table(name).rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"), [("S3", "at+fsr"), ("FigS1", "tau=0.5,lambda_rec=0"), ("main", "mart+fsr")]
)
def test_some_rows_of_the_long_tables_run_at_smoke_scale(tmp_path: Path, name: str, rows: str) -> None:
    """Their other rows differ from these in a number, or stand in another table too."""
    assert smoke(tmp_path, name, "--rows", rows) == 0
    assert len(list((tmp_path / f"{name}-smoke").glob("*/done"))) == len(rows.split(","))


def test_the_plan_has_a_cell_for_each_row_and_seed(tmp_path: Path) -> None:
    """Full size is the row's own run; nothing is published for another size."""
    table = paper_table("S7")
    cells = plan(table, scale="full", out=tmp_path, seeds=3)
    assert len(cells) == 12
    assert {cell.run.train.seed for cell in cells} == {0, 1, 2}
    assert len({cell.folder for cell in cells}) == 12
    assert cells[0].run == table.run("greedy")
    assert cells[0].run.published is not None
    small = scaled(table.run("greedy"), "small")
    assert (small.model.width, small.train.epochs, small.published) == (16, 8, None)
    with pytest.raises(InputError, match='did you mean "greedy"'):
        plan(table, scale="full", out=tmp_path, rows=["greddy"])


def test_a_missing_data_set_is_said_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, one sentence, no folder."""
    arguments = ["reproduce", "S1", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run(arguments) == 2
    assert "Expected CIFAR-100, fine labels in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_over_seeds_is_mean_and_deviation() -> None:
    """By hand: 50, 52 and 54 % are 52 ± 2; one seed has half a Wilson interval, (0.431, 0.569) for 100 of 200."""
    several = spread([outcome(100), outcome(104), outcome(108)], COLUMNS)["pgd20"]
    assert several.seeds == 3
    assert [several.mean, several.margin] == pytest.approx([0.52, 0.02])
    single = spread([outcome(100)], COLUMNS)["ensemble"]
    assert single.margin == pytest.approx(0.0686, abs=1e-4)
    table = Spread(
        "T", None, COLUMNS, [SpreadRow("a_b", "last", spread([outcome(100)] * 2, COLUMNS), {"pgd20": 48.22})]
    )
    assert "| a_b | last | 50.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 (48.22, +1.8) |" in spread_markdown(table)
    assert r"a\_b & last & $50.0 \pm 0.0$" in spread_latex(table)
    assert r"C\&W" in spread_latex(table)
    assert "a_b,last,pgd20,0.5,0.0,2,200,48.22" in spread_csv(table)
    assert "No row is finished yet" in spread_markdown(Spread("T", None, COLUMNS, []))
