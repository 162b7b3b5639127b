"""What a plan costs: work counted by hand, rates as measured, a disk and a time limit it may not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fsrobust.recipes.budget import Budget, Estimate, draw_up
from fsrobust.recipes.cost import (
    Rates,
    attack_work,
    calibrate,
    disk,
    epoch_work,
    measured,
    remaining,
)
from fsrobust.recipes.overall import Overall
from fsrobust.recipes.paper import paper_table
from fsrobust.recipes.plan import Cell, plan
from fsrobust.records import Metrics
from fsrobust.types import InputError
from tests.runs import Listener


def cell(out: Path, table: str = "S5", row: str = "at", scale: Any = "full") -> Cell:
    """Return a cell of a table."""
    (found,) = plan(paper_table(table), scale=scale, out=out, rows=[row])
    return found


class Watching(Listener):
    """A listener that remembers where a plan stood."""

    def __init__(self) -> None:
        super().__init__()
        self.stood: list[tuple[str, float, float]] = []

    def attack(self, name: str, done: int, total: int) -> None:
        """Take it."""

    def overall(self, text: str, share: float, left: float) -> None:
        """Remember where the plan stands."""
        self.stood.append((text, share, left))


def test_work_is_counted_in_gradients(tmp_path: Path) -> None:
    """CIFAR-10 at full size, by hand: 50,000 × (10 + 1.5) and 1,000 × 11 an epoch; 151 an image.

    AutoAttack takes 4,850 where it leaves an image standing, as it is expected to leave half.
    """
    at = cell(tmp_path)
    assert epoch_work(at) == 50_000 * 11.5 + 1_000 * 11
    assert [attack_work(at, name) for name in ("fgsm", "pgd100", "cw")] == [10_000, 1_000_000, 300_000]
    assert attack_work(at, "eps 0.0314") == 200 * 100
    # radii: ¼, ½ of 8/255, then 8, 16, 32, 64, 128 of 255 and 1
    left = remaining(at)
    assert left.training == 100 * epoch_work(at)
    autoattack = 4_850 * (0.5 + 0.5 * 0.1 / 20)
    assert left.evaluation == pytest.approx(2 * (10_000 * (151 + autoattack) + 8 * 200 * 100))
    assert epoch_work(cell(tmp_path, "main", "trades")) == 50_000 * 13.5 + 1_000 * 11
    assert epoch_work(cell(tmp_path, scale="small")) == 10_000 * 11.5 + 1_000 * 11


def test_disk_is_counted_in_parameters(tmp_path: Path) -> None:
    """ResNet-18 has 11,173,962: three checkpoints of weights and momentum, two of halves, and some for records."""
    needed = disk(cell(tmp_path))
    assert 28 * 11_173_962 < needed < 28 * 11_173_962 + 5_000_000


def test_what_was_measured_is_believed(tmp_path: Path) -> None:
    """Two epochs of 23 and 25 s: a gradient takes 48 s over what two epochs' steps are; two epochs fewer remain."""
    at, other = cell(tmp_path), cell(tmp_path, row="uniform")
    assert measured([at, other]) is None
    at.work.mkdir(parents=True)
    for epoch, seconds in ((1, 23.0), (2, 25.0)):
        Metrics(at.work / "metrics.jsonl").append({"epoch": epoch, "seconds": seconds})
    rates = measured([at, other])
    assert rates is not None
    assert rates.training == rates.evaluation == 48.0 / (2 * 50_000 * 11.5)
    assert remaining(at).training == 98 * epoch_work(at)
    budget = draw_up([at, other], torch.device("cpu"))
    assert [one.state for one in budget.estimates] == ["begun", "new"]
    assert budget.estimates[1].seconds == pytest.approx(rates.seconds(remaining(other)))
    assert budget.estimates[0].seconds < budget.estimates[1].seconds


def test_a_calibration_finds_the_rate_of_this_machine(tmp_path: Path) -> None:
    """A network of four times the width takes longer a gradient; both are within what a gradient can take."""
    narrow = cell(tmp_path, scale="smoke").run
    wide = replace(narrow, model=replace(narrow.model, width=32))
    slow, fast = (calibrate(run, torch.device("cpu"), seconds=0.2).training for run in (wide, narrow))
    assert 0 < fast < slow < 10


def budget_of(cells: list[Cell], **changes: Any) -> Budget:
    """Return a budget of 100 s and 1 GB a cell."""
    estimates = [Estimate(one, one.state, 100.0, 10**9) for one in cells]
    return replace(Budget(estimates, Rates(1.0, 1.0, "by hand"), 10**12), **changes)


def test_what_does_not_fit_is_said_before(tmp_path: Path) -> None:
    """More than the time limit is a remark, more than the disk an error."""
    cells = plan(paper_table("S6"), scale="full", out=tmp_path)
    fits = budget_of(cells, limit=1000.0)
    fits.check()
    assert fits.remarks() == [
        "About 3 min for one worker and 2.0 GB on disk (1000.0 GB free); estimated by hand."
    ]
    late = budget_of(cells, limit=120.0)
    late.check()
    assert "That is more than the time limit of 2 min" in late.text()
    full = budget_of(cells, free=10**9)
    assert "The disk cannot hold that." in full.text()
    with pytest.raises(InputError, match=r"Expected 2.0 GB free for .*S6-full.*but there are 1.0 GB"):
        full.check()
    assert "S6 binary, seed 0  new    2 min, 1.0 GB" in fits.text()
    assert fits.describe()["seconds"] == 200.0


def test_one_view_over_the_whole_plan(tmp_path: Path) -> None:
    """Two equal cells; at the end of the first, half is done and as long is left as it took, whatever was estimated."""
    cells = plan(paper_table("S6"), scale="smoke", out=tmp_path)
    work = remaining(cells[0])
    rates = Rates(1.0, 1.0, "by hand")
    each = rates.seconds(work)
    budget = Budget([Estimate(one, "new", each, 1) for one in cells], rates, 10**12)
    clock, watching = [0.0], Watching()
    view = Overall(watching, budget, clock=lambda: clock[0])
    view.begin(cells[0])
    assert watching.stood[-1] == ("1/2  S6 binary, seed 0", 0.0, 2 * each)
    clock[0] = 10.0
    view.batch(1, 1, 1.0, 0.5)
    assert watching.stood[-1][1] == pytest.approx(work.training / (2 * each))
    for name in cells[0].attacks:
        for done in (4, 8):
            view.attack(name, done, 8)
    assert watching.stood[-1][1] == pytest.approx(0.5)
    clock[0] = 40.0
    view.end()
    assert watching.stood[-1][1:] == pytest.approx((0.5, 40.0))
    view.begin(cells[1])
    view.end()
    assert watching.stood[-1][1:] == pytest.approx((1.0, 0.0))
    assert watching.losses == [0.5]  # the inner watcher hears everything
