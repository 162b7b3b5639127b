"""Files of format 1, kept as they were made, are read by today's code; a newer format is refused in a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fsrobust.cli import run as command
from fsrobust.data.batches import pixels
from fsrobust.evaluate import read_outcome, read_records
from fsrobust.evaluate.cascade import Journal
from fsrobust.evaluate.shards import Shard
from fsrobust.evaluate.store import write_index
from fsrobust.recipes.paper import paper_table
from fsrobust.recipes.plan import plan
from fsrobust.records import Metrics, read_json, read_npz
from fsrobust.report.results import read_run
from fsrobust.report.spread import read_spread
from fsrobust.train import find_checkpoint, fit, load
from fsrobust.train.checkpoint import WEIGHTS, load_state
from fsrobust.train.trained import read_weights
from fsrobust.types import InputError
from tests.formats.make import facts, tiny
from tests.helpers import fingerprint
from tests.runs import at, digits, short

V1 = Path(__file__).parent / "v1"
FACTS = json.loads((V1 / "facts.json").read_text())


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(V1, tmp_path / "v1"))


def one(folder: Path, pattern: str) -> Path:
    """Return the first of the files that match."""
    return sorted(folder.glob(pattern))[0]


def test_what_was_noted_is_read() -> None:
    """Weights of a run, its best, packed ones; step, losses, keys and accuracies; logits as close as float32 is."""
    found = dict(facts(V1))
    torch.testing.assert_close(
        torch.tensor(found.pop("logits")), torch.tensor(FACTS["logits"]), atol=1e-5, rtol=1e-4
    )  # other machines sum in another order
    assert found == {name: value for name, value in FACTS.items() if name != "logits"}
    assert (found["step"], found["best_step"], len(found["losses"])) == (8, 4, 2)
    assert sorted(kind for kind, *_ in found["records"].values()) == [
        "attack", "attack", "attack", "curve", "diagnosis", "mask", "mask",
    ]  # fmt: skip


def test_a_run_goes_on(copied: Path) -> None:
    """Complete, it says what it was; sent back to its first epoch, it trains the second as it did."""
    settings: dict[str, Any] = {"objective": at(), "train": short(validation=20), "config": {"title": "tiny"}}
    history = fit(tiny(), digits(80), out=copied / "run", resume=True, **settings)
    assert [row["loss"] for row in history.rows] == FACTS["losses"]
    (copied / "run" / "checkpoints" / "last").write_text("00000004\n")
    model = tiny()
    history = fit(model, digits(80), out=copied / "run", resume=True, **settings)
    assert history.rows[1]["loss"] == pytest.approx(FACTS["losses"][1], rel=1e-4)
    assert find_checkpoint(copied / "run").name == "00000008"


def test_a_run_of_before_a_setting_existed_goes_on(copied: Path) -> None:
    """A setting that its configuration lacks had what is now the default; another value is another run."""
    file = copied / "run" / "config.json"
    config = read_json(file)
    del config["train"]["schedule"]
    file.write_text(json.dumps(config))
    settings: dict[str, Any] = {
        "objective": at(),
        "config": {"title": "tiny"},
        "out": copied / "run",
        "resume": True,
    }
    history = fit(tiny(), digits(80), train=short(validation=20), **settings)
    assert len(history.rows) == 2
    with pytest.raises(InputError, match=r"another configuration \(train: schedule\)"):
        fit(tiny(), digits(80), train=short(validation=20, schedule="cosine"), **settings)


def test_records_are_read() -> None:
    """Outcomes, pictures, images, the curve, masks, the diagnosis and a transfer have what they had."""
    records = list(read_records(V1 / "audit"))
    attacks = [
        record for record in records if record["kind"] == "attack" and record["name"] != "fgsm from rival"
    ]
    outcome = read_outcome(V1 / "audit", attacks)
    assert (outcome.n, outcome.attacks) == (6, ("fgsm", "autoattack"))
    assert (outcome.accuracy("natural"), outcome.strict("autoattack")) == (4 / 6, 0.5)
    by_kind = {record["kind"]: V1 / "audit" / "eval" / record["key"] for record in records}
    assert set(read_json(by_kind["curve"] / "curves.json")) == {"format", "eps", "accuracy", "n"}
    assert read_npz(by_kind["mask"] / "mask.npz")["histogram"].shape == (2, 50)
    assert read_json(by_kind["diagnosis"] / "record.json")["state"] == "inconclusive"
    images = read_npz(one(V1, "audit/eval/*/adversarial.npz"))["images"]
    assert images.shape == (6, 1, 8, 8)
    assert images.dtype == np.float32
    transfer = next(record for record in records if record["name"] == "fgsm from rival")
    assert transfer["attack"]["gradients_of"]["source"] == "rival"
    (shown,) = read_run(V1 / "audit").evaluations  # another network was only diagnosed
    assert (set(shown.records), shown.curve is None, shown.masks is None) == (
        {
            "fgsm",
            "autoattack",
            f"fgsm from rival ({transfer['attack']['gradients_of']['weights_sha256'][:8]})",
        },
        False,
        False,
    )


def test_a_killed_evaluation_goes_on() -> None:
    """Its journal says where the cascade was."""
    x = pixels(digits(6, "test").images)[Shard(1, 2).rows(6)]
    standing = Journal(one(V1, "begun/eval/*/progress-1-of-2.npz")).read(x, print)
    assert standing is not None
    assert [cost.name for cost in standing.costs] == ["apgd-ce", "apgd-t 1", "fab-t 1", "square"]
    part = read_npz(one(V1, "begun/eval/*/part-1-of-2.npz"))
    assert part["rows"].tolist() == [1, 3, 5]
    assert np.array_equal(part["fooled_by"], standing.fooled_by)


def test_a_table_is_read(copied: Path) -> None:
    """Its rows and columns are there, and its cell counts as done."""
    made = read_spread(V1 / "table" / "table.json")
    assert [(row.label, row.checkpoint) for row in made.rows] == [("at", "last"), ("at", "best")]
    assert made.rows[0].shares["pgd20"].mean == 0.125
    assert (made.rows[0].shares["pgd20"].natural, made.gains) == (None, [])  # which tables did not have yet
    (cell,) = plan(paper_table("S5"), scale="smoke", out=copied, rows=["at"])
    assert cell.state == "new"
    cell.folder.mkdir(parents=True)
    shutil.copy2(V1 / "table" / "done", cell.folder / "done")
    assert cell.state == "done"


def newer(file: Path) -> None:
    """Make a file say that it is of format 2."""
    if file.suffix == ".npz":
        with np.load(file) as archive:
            np.savez(file, **{**archive, "format": np.array(2)})
    elif file.suffix == ".safetensors":
        with safe_open(file, "pt") as archive:
            header = {**archive.metadata(), "format": "2"}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no dict
        save_file(tensors, file, header)
    elif file.suffix == ".pt":
        torch.save({**torch.load(file, weights_only=True), "format": 2}, file)
    else:
        file.write_text(file.read_text().replace('"format": 1', '"format": 2'))


READERS: dict[str, Callable[[Path], object]] = {
    "run/config.json": lambda file: read_run(file.parent),
    "run/metrics.jsonl": lambda file: Metrics(file).rows(),
    f"run/checkpoints/00000008/{WEIGHTS}": read_weights,
    "run/checkpoints/00000008/state.pt": lambda file: load_state(file.parent),
    "packed/weights/last-1-of-1.safetensors": read_weights,
    "audit/eval/*/record.json": lambda file: list(read_records(file.parents[2])),
    "audit/eval/*/samples.npz": lambda file: read_outcome(
        file.parents[2], [read_json(file.with_name("record.json"))]
    ),
    "audit/eval/*/gallery.npz": read_npz,
    "audit/eval/*/adversarial.npz": read_npz,
    "audit/eval/*/curves.json": read_json,
    "audit/eval/*/mask.npz": read_npz,
    "begun/eval/*/progress-*.npz": lambda file: Journal(file).read(torch.zeros(3, 1, 8, 8), print),
    "begun/eval/*/part-*.npz": read_npz,
    "table/table.json": read_spread,
}


@pytest.mark.parametrize("pattern", READERS)
def test_a_newer_format_is_refused(copied: Path, pattern: str) -> None:
    """Each file's reader names the file, the format it knows and the one it met."""
    file = one(copied, pattern)
    READERS[pattern](file)
    newer(file)
    with pytest.raises(InputError, match=r"to be of format 1, but got 2") as refused:
        READERS[pattern](file)
    assert str(file.parent if file.suffix == ".pt" else file) in str(refused.value)


def test_a_newer_mark_is_no_mark(copied: Path) -> None:
    """A cell whose mark cannot be read counts as begun; the index is rebuilt from the records."""
    (cell,) = plan(paper_table("S5"), scale="smoke", out=copied, rows=["at"])
    cell.folder.mkdir(parents=True)
    shutil.copy2(V1 / "table" / "done", cell.folder / "done")
    newer(cell.folder / "done")
    assert cell.state == "begun"
    newer(copied / "audit" / "eval" / "index.json")
    write_index(copied / "audit")
    assert read_json(copied / "audit" / "eval" / "index.json")["records"]


def test_a_report_leaves_out_what_it_cannot_read(copied: Path) -> None:
    """A curve, a gallery or masks of a newer format are passed over with a remark that says why."""
    for pattern in ("curves.json", "gallery.npz", "mask.npz"):
        for file in copied.glob(f"audit/eval/*/{pattern}"):
            newer(file)
    remarks = read_run(copied / "audit").remarks
    for what in ("curve", "gallery", "mask"):
        assert any(what in remark and "format 1, but got 2" in remark for remark in remarks)


def test_the_command_line_says_it(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one sentence."""
    newer(copied / "run" / "config.json")
    assert command(["report", str(copied / "run"), "-o", str(copied / "report.html")]) == 2
    assert "format 1, but got 2" in capsys.readouterr().err


def test_weights_are_the_file_s(copied: Path) -> None:
    """The fingerprint notices a bit: it is of the tensors that the file holds."""
    assert fingerprint(load(copied / "run")) == FACTS["weights"] != FACTS["packed_weights"]
