"""Reproducing tables: what is planned, what is skipped, what is left behind."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fsrobust.attacks import ATTACKS, PGD
from fsrobust.cli import run
from fsrobust.config import Run
from fsrobust.recipes.cost import attack_work
from fsrobust.recipes.paper import paper_table, paper_tables
from fsrobust.recipes.plan import SIZES, columns, finished, plan, scaled
from fsrobust.recipes.row import Row
from fsrobust.records import read_json
from fsrobust.report.html import TABLE
from fsrobust.report.spread import read_spread
from fsrobust.train import TrainingError, load
from fsrobust.train.packing import pack
from fsrobust.types import InputError
from tests.faults import Killed


def smoke(folder: Path, *arguments: str) -> int:
    """Run the command at smoke scale."""
    return run(["reproduce", *arguments, "--scale", "smoke", "--out", str(folder), "--device", "cpu"])


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for AutoAttack: a row of that name, which is all that reproduce knows of it."""
    monkeypatch.setitem(
        ATTACKS,
        "autoattack",
        lambda ball: PGD(ball, steps=3, step_size=ball.eps / 2, random_start=True, restarts=2),
    )


def test_rows_run_are_kept_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table says that it is no evidence and shows no published number; a second call runs nothing."""
    assert smoke(tmp_path, "S5", "--rows", "at,mispredicted") == 0
    printed = capsys.readouterr().out
    assert "smoke: not evidence" in printed
    assert "85.02" not in printed
    assert printed.count("| at |") == 2  # last and best
    folder = tmp_path / "S5-smoke"
    assert {file.suffix for file in folder.glob("table.*")} == {".md", ".tex", ".csv", ".json", ".html"}
    page = (folder / "table.html").read_text(encoding="utf-8")
    assert "smoke: not evidence" in page
    assert "paper" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert smoke(tmp_path, "S5", "--rows", "at,mispredicted") == 0
    again = capsys.readouterr()
    assert again.out == printed
    assert not re.search(r"^\d+/\d+ ", again.err, re.MULTILINE)
    assert "Everything is done" in again.err
    assert smoke(tmp_path, "S5", "--dry-run", "--json") == 0
    budget = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in budget["cells"]] == ["done", "new", "new", "new", "done"]
    assert "by what its finished epochs and attacks took" in budget["remarks"][0]


@pytest.mark.slow
def test_records_of_other_weights_are_in_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody has put other weights into a cell: what to do is said, and helps."""
    arguments = ("S5", "--rows", "mispredicted")
    assert smoke(tmp_path, *arguments) == 0
    (done,) = (tmp_path / "S5-smoke").glob("*/done")
    other = load(done.parent)
    with torch.no_grad():
        next(other.parameters()).neg_()
    for checkpoint in ("last", "best"):
        pack(other, done.parent / "weights", checkpoint)
    assert smoke(tmp_path, *arguments) == 2
    message = capsys.readouterr().err
    assert "of other weights than its last checkpoint" in message
    assert f'remove "{done}"' in message
    done.unlink()
    assert smoke(tmp_path, *arguments) == 0


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param("S3", "at+fsr", marks=pytest.mark.slow),
        ("S4", "block3"),
        pytest.param("S6", "binary", marks=pytest.mark.slow),
        pytest.param("S7", "random", marks=pytest.mark.slow),
        pytest.param("main-svhn", "trades", marks=pytest.mark.slow),
    ],
)
def test_a_row_of_each_kind_runs(tmp_path: Path, name: str, row: str) -> None:
    """Another network, another place of the plug-in, other masks, another objective."""
    assert smoke(tmp_path, name, "--rows", row) == 0
    assert len(list((tmp_path / f"{name}-smoke").glob("*/done"))) == 1


@pytest.mark.slow
def test_the_curves_of_figure_s2(tmp_path: Path) -> None:
    """Accuracy at each of 100 steps and at each radius up to 1, from clean accuracy on; both are drawn."""
    assert smoke(tmp_path, "FigS2", "--rows", "at") == 0
    made = read_spread(tmp_path / "FigS2-smoke" / TABLE)
    steps, eps = made.steps[0], made.eps[0]
    natural = made.rows[0].shares["natural"].mean
    assert list(steps.places) == list(range(101))
    assert steps.shares[0].mean == natural
    assert steps.shares[-1].mean == made.rows[0].shares["pgd100"].mean
    assert (eps.places[0], eps.places[-1], eps.shares[0].n) == (0.0, 1.0, 2)
    assert (tmp_path / "FigS2-smoke" / "table.html").read_text(encoding="utf-8").count("<figure") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("cascade")
@pytest.mark.parametrize("name", paper_tables())
def test_every_table_runs_at_smoke_scale(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row of it ends in the table, at both checkpoints, with a number in every column."""
    assert smoke(tmp_path, name) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0][2:] for line in rows] == [
        row for row in paper_table(name).rows for _ in "lb"
    ]
    assert "not run" not in printed
    assert ("AutoAttack" in printed) == (name == "S6")


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
    assert (small.model.width, small.train.epochs, small.published) == (8, 8, None)
    with pytest.raises(InputError, match='did you mean "greedy"'):
        plan(table, scale="full", out=tmp_path, rows=["greddy"])


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_scale_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest is named, and nothing is written."""
    assert run(["reproduce", "S6", "--scale", "smal", "--out", str(tmp_path / "out")]) == 2
    assert 'did you mean "small"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_autoattack_there_is_no_column_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's own column is left out where nothing can fill it."""
    monkeypatch.delitem(ATTACKS, "autoattack", raising=False)
    for scale in SIZES:
        cells = plan(paper_table("S6"), scale=scale, out=tmp_path)
        assert "autoattack" not in columns(paper_table("S6"), cells)


@pytest.mark.usefixtures("cascade")
def test_autoattack_meets_as_many_samples_as_the_scale_says(tmp_path: Path) -> None:
    """All at full scale, 300 at small, in every table; at smoke scale only where the paper has the column."""
    asked = {
        (name, scale): plan(paper_table(name), scale=scale, out=tmp_path)[0].attacks.get("autoattack", "no")
        for name in ("S1", "S6")
        for scale in SIZES
    }
    assert asked["S1", "full"] is asked["S6", "full"] is None
    assert asked["S1", "small"] == asked["S6", "small"] == 300
    assert (asked["S1", "smoke"], asked["S6", "smoke"]) == ("no", 4)


def test_what_has_the_plug_in_meets_attacks_that_adapt_to_it(tmp_path: Path) -> None:
    """At full scale, on 1,000 samples, and priced; other rows have nothing to adapt to."""
    cells = {cell.row: cell for cell in plan(paper_table("S1"), scale="full", out=tmp_path)}
    assert {row: cell.attacks.get("adaptive") for row, cell in cells.items()} == {
        row: 1000 if row.endswith("+fsr") else None for row in cells
    }
    assert "adaptive" in columns(paper_table("S1"), list(cells.values()))
    assert attack_work(cells["at+fsr"], "adaptive") > attack_work(cells["at+fsr"], "autoattack") / 10
    small = plan(paper_table("S1"), scale="small", out=tmp_path)
    assert not any("adaptive" in cell.attacks for cell in small)


def test_a_small_row_of_larger_images_has_fewer_of_them(tmp_path: Path) -> None:
    """Images of 64 × 64 pixels cost four times as much: a quarter of them is trained on, held out, attacked."""
    (row,) = plan(paper_table("S2"), scale="small", out=tmp_path, rows=["at"])
    assert (row.images, row.run.train.validation, row.curve) == (2_500, 250, 25)
    assert row.attacks["pgd20"] == 250
    (row,) = plan(paper_table("S1"), scale="small", out=tmp_path, rows=["at"])
    assert (row.images, row.run.train.validation, row.curve) == (10_000, 1_000, 100)
    (row,) = plan(paper_table("S2"), scale="smoke", out=tmp_path, rows=["at"])
    assert row.images == 128


@pytest.mark.slow
def test_autoattack_is_made_up_for_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A finished row is begun again once ATTACKS has a row more, and only that attack is run."""
    monkeypatch.delitem(ATTACKS, "autoattack", raising=False)
    assert smoke(tmp_path, "S6", "--rows", "gumbel") == 0
    before = read_spread(tmp_path / "S6-smoke" / TABLE)
    request.getfixturevalue("cascade")
    (cell,) = plan(paper_table("S6"), scale="smoke", out=tmp_path, rows=["gumbel"])
    assert cell.state == "begun"
    study = importlib.import_module("fsrobust.evaluate.study")  # evaluate is also a function's name
    ran: list[str] = []
    real = study.run_attack

    def listening(*arguments: Any, name: str, **options: Any) -> Any:
        ran.append(name)
        return real(*arguments, name=name, **options)

    monkeypatch.setattr(study, "run_attack", listening)
    assert smoke(tmp_path, "S6", "--rows", "gumbel") == 0
    after = read_spread(tmp_path / "S6-smoke" / TABLE)
    assert ran == ["autoattack"]
    assert cell.state == "done"
    assert after.rows[0].shares["autoattack"].n == 4
    assert {c: s for c, s in after.rows[0].shares.items() if c != "autoattack"} == before.rows[0].shares
    assert list(after.columns) == [*before.columns, "autoattack"]


def test_a_missing_data_set_is_said_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, one sentence, no folder."""
    arguments = ["reproduce", "S1", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run(arguments) == 2
    assert "Expected CIFAR-100, fine labels in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_cell_cannot_go_on_with_is_said_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged file of one cell among many must be found."""
    (cell,) = plan(paper_table("S5"), scale="smoke", out=tmp_path, rows=["uniform"])
    cell.work.mkdir(parents=True)
    (cell.work / "config.json").write_text("{")
    assert smoke(tmp_path, "S5", "--rows", "uniform") == 2
    message = capsys.readouterr().err
    assert "S5 uniform, seed 0: " in message
    assert "is damaged" in message


def test_a_cell_that_fails_holds_up_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and the cell's sentence, the other cell made, and the table written from what is done."""
    bad, good = plan(paper_table("S6"), scale="smoke", out=tmp_path)
    bad.work.mkdir(parents=True)
    (bad.work / "config.json").write_text("{")
    assert smoke(tmp_path, "S6", "--json") == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("fsrobust: S6 binary, seed 0: ")
    assert [bad.state, good.state] == ["begun", "done"]
    assert {row["label"] for row in json.loads(printed.out)["rows"]} == {"gumbel"}
    assert {row.label for row in read_spread(tmp_path / "S6-smoke" / TABLE).rows} == {"gumbel"}


def test_all_that_failed_is_said_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 where it is not all for the user to mend; each sentence begins with the cell's name."""

    def fail(run: Run, *_arguments: object, **_options: object) -> Row:
        raise InputError("no") if "binary" in run.recipe else TrainingError("not finite")

    monkeypatch.setattr("fsrobust.recipes.cell.make_row", fail)
    assert smoke(tmp_path, "S6") == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last == "fsrobust: S6 binary, seed 0: no; S6 gumbel, seed 0: not finite"
    assert "No row is finished yet" in printed.out


@pytest.mark.slow
def test_the_table_has_all_that_is_done_whoever_asked_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows in the paper's order, with all their seeds; what is begun, or of another scale, is not in it."""
    assert smoke(tmp_path, "S6", "--rows", "gumbel", "--seeds", "2") == 0
    (tmp_path / "S6-smoke" / "gumbel-s3").mkdir()
    (tmp_path / "S6-smoke" / "gumbel-sum").mkdir()
    capsys.readouterr()
    assert smoke(tmp_path, "s6", "--rows", "binary", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    made = read_spread(tmp_path / "S6-smoke" / TABLE)
    last = [row for row in made.rows if row.checkpoint == "last"]
    assert [(row.label, row.seeds) for row in last] == [("binary", 1), ("gumbel", 2)]
    assert [row["label"] for row in printed["rows"]] == [row.label for row in made.rows]
    assert finished(paper_table("S6"), scale="small", out=tmp_path) == []
    assert Path(printed["folder"]) == tmp_path / "S6-smoke"


def test_a_cell_is_marked_as_done_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the mark is written, the cell is begun; an empty or torn mark is none."""
    (cell,) = plan(paper_table("S5"), scale="smoke", out=tmp_path, rows=["uniform"])
    cell.folder.mkdir(parents=True)

    def die(*_arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", die)
        with pytest.raises(Killed):
            cell.finish()
    assert not (cell.folder / "done").exists()
    (cell.folder / "done").write_text("")
    assert cell.state == "begun"
    cell.finish()
    assert cell.state == "done"
    assert read_json(cell.folder / "done")["attacks"] == list(cell.attacks)


@pytest.mark.slow
def test_out_of_time_the_plan_stops_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan says beforehand that it will not fit; what is there afterwards is an empty table, exit 0."""
    assert smoke(tmp_path, "S6", "--rows", "gumbel", "--time-limit", "0.01s") == 0
    captured = capsys.readouterr()
    assert "more than the time limit of 0 s" in captured.err
    assert "the same command goes on" in captured.err
    assert "No row is finished yet" in captured.out
    assert smoke(tmp_path, "S6", "--rows", "gumbel") == 0
    assert "| gumbel | last |" in capsys.readouterr().out
