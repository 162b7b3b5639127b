"""One run over two processes is the run of one, and outlives any of them; pieces of a batch are the batch."""

import functools
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsrobust.cli import run
from fsrobust.data.batches import pixels, training_batches
from fsrobust.evaluate.shards import torchrun_shard
from fsrobust.records import Metrics, locked, read_json
from fsrobust.train import fit, load
from fsrobust.train.distributed import check_shares, environment_rank, own_device
from fsrobust.types import InputError
from tests.crew import CASES, FIRST, SEVENTH, Result
from tests.helpers import fingerprint
from tests.runs import TIMES, Listener, at, digits, short

ROOT = Path(__file__).parents[2]
RECIPE = (
    *("train", "digits-at-fsr", "--device", "cpu", "--set", "model.width=4", "--set", "objective.steps=2"),
    *("--set", "train.batch=256", "--set", "train.epochs=2", "--set", "train.validation=100"),
)
"""Five steps an epoch, with batch norms."""
SAME = 1e-9
"""Two orders of summing float64 differ by 10⁻¹⁶ a step; ten steps with momentum leave that far below this."""


def torchrun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a module in two processes and wait for them: less than two minutes, or it hangs."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [*torchrun, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@dataclass(frozen=True)
class Job:
    """What two processes left: the results of each by name, the run of a command and what was said."""

    folder: Path
    results: tuple[dict[str, Result], dict[str, Result]]
    run: Path
    said: str


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return what two processes made of all cases, and of a command."""
    folder = tmp_path_factory.mktemp("job")
    done = torchrun("tests.crew", "cases", str(folder), *RECIPE, "--out", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    first, second = (
        {name: Result(**values) for name, values in torch.load(folder / f"{rank}.pt").items()}
        for rank in (0, 1)
    )
    return Job(folder, (first, second), folder / "run", done.stdout + done.stderr)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference between two states of a network."""
    assert list(one) == list(other)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def check_alike(one: Result, other: Result) -> None:
    """Compare losses step by step, validation, and final weights."""
    assert len(one.losses) == len(other.losses) == 10
    assert one.losses[0] != one.losses[-1]
    assert max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True)) < SAME
    assert one.rows == other.rows
    assert distance(one.state, other.state) < SAME


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].norms])
def test_two_processes_are_one(job: Job, name: str) -> None:
    """AT, TRADES, MART, weights perturbed, each with FSR, and natural training: losses and weights of one process."""
    check_alike(job.results[0][name], alone(name))


@pytest.mark.slow
def test_all_processes_have_one_model(job: Job) -> None:
    """To the bit, with batch norms, averages and a host that is frozen for an epoch, too; rank 0 alone reports."""
    for name, case in CASES.items():
        first, second = (results[name] for results in job.results)
        assert first.rows == second.rows
        assert distance(first.state, second.state) == 0, name
        assert len(first.losses) == 10
        assert second.losses == []
        # the comparison can fail: these trainings move the weights
        assert distance(first.state, case.network().state_dict()) > 1e-3


@pytest.mark.slow
def test_statistics_are_those_of_the_shares(job: Job) -> None:
    """With batch norms two processes are not one, as documented; the loss is near, the model another."""
    one = alone("norms")
    two = job.results[0]["norms"]
    assert distance(one.state, two.state) > SAME
    assert max(abs(a - b) for a, b in zip(one.losses, two.losses, strict=True)) < 0.1 * one.losses[0]


@pytest.mark.slow
def test_running_statistics_are_the_mean_of_the_processes(job: Job) -> None:
    """After one step: a tenth of the mean of what each half of the batch gives, by hand, and nine of what was."""
    convolution, norm = [
        (name, m) for name, m in FIRST.network().named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    ][:2]
    (batch,) = training_batches(90, batch=90, seed=0, epoch=1)
    seen = [convolution[1](pixels(digits(90).images[half]).double()).detach() for half in batch.chunk(2)]
    variances = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in seen])
    means = torch.stack([half.mean((0, 2, 3)) for half in seen])
    state = job.results[1]["first"].state
    torch.testing.assert_close(state[f"{norm[0]}.running_mean"], 0.1 * means.mean(0), rtol=0, atol=SAME)
    torch.testing.assert_close(
        state[f"{norm[0]}.running_var"], 0.9 + 0.1 * variances.mean(0), rtol=0, atol=SAME
    )
    # the comparison can fail: the halves differ, and so does the variance of the whole
    assert (means[0] - means[1]).abs().max() > 1e-4
    assert (torch.cat(seen).transpose(0, 1).flatten(1).var(1) - variances.mean(0)).abs().max() > 1e-6


@pytest.mark.slow
def test_all_stop_at_one_step_and_one_process_goes_on(job: Job, tmp_path: Path) -> None:
    """SIGTERM to process 1 stops both after that step; resumed by one process, the run ends as if never stopped."""
    for results in job.results:
        assert results["stopped"].stopped in ("received SIGTERM", "another process was asked to stop")
    assert len(job.results[0]["stopped"].losses) == SEVENTH
    out = shutil.copytree(job.folder / "stopped", tmp_path / "run")
    assert [path.name for path in sorted((out / "checkpoints").glob("0*"))] == ["00000005", "00000007"]
    rest = CASES["at"].train(out, resume=True)
    assert len(rest.losses) == 10 - SEVENTH
    assert distance(rest.state, alone("at").state) < SAME


@pytest.mark.slow
def test_rank_0_writes_and_speaks_alone(job: Job) -> None:
    """One row an epoch, one line of each kind, no warnings of torch's; config.json has the number of processes."""
    assert [row["epoch"] for row in Metrics(job.run / "metrics.jsonl").rows()] == [1, 2]
    for text in ("training on", "epoch 1/2", "epoch 2/2", "Trained into"):
        assert job.said.count(text) == 1, job.said
    assert "Warning" not in job.said
    assert read_json(job.run / "config.json")["provenance"]["processes"] == 2


@pytest.mark.slow
def test_a_time_limit_stops_all_processes(job: Job, tmp_path: Path) -> None:
    """Whosever clock runs out first, both stop at one step, exit 0, and say once how to go on; to the same weights."""
    command = ["fsrobust", *RECIPE, "--out", str(tmp_path / "run")]
    stopped = torchrun(*command, "--time-limit", "1s")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("Stopped: ") == 1, stopped.stdout
    resumed = torchrun(*command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert fingerprint(load(tmp_path / "run")) == fingerprint(load(job.run))


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_it_goes_on(job: Job, tmp_path: Path) -> None:
    """SIGKILL to one: the other says so in a sentence and fails; resumed, weights and metrics are as if undisturbed."""
    command = [*RECIPE, "--out", str(tmp_path / "run")]
    ended = torchrun("tests.crew", "doomed", *command)
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("fsrobust:")]
    assert len(said) == 1, ended.stderr
    assert "Process 1 of 2" in said[0]
    assert "--resume" in said[0]
    resumed = torchrun("fsrobust", *command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at epoch 2, batch 0" in resumed.stderr
    assert fingerprint(load(tmp_path / "run")) == fingerprint(load(job.run))
    rows, whole = (Metrics(folder / "metrics.jsonl").rows() for folder in (tmp_path / "run", job.run))
    for mine, theirs in zip(rows, whole, strict=True):
        assert {k: mine[k] for k in mine if k not in TIMES} == {
            k: theirs[k] for k in theirs if k not in TIMES
        }


@pytest.mark.slow
def test_an_error_of_all_processes_is_said_once(tmp_path: Path) -> None:
    """A bug that every process meets ends in one sentence that names it, whoever notices first."""
    ended = torchrun("tests.crew", "wrong", *RECIPE, "--out", str(tmp_path / "run"))
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("fsrobust:")]
    assert len(said) == 1, ended.stderr
    assert "a bug of all processes" in said[0]


@functools.cache
def alone(name: str) -> Result:
    """Return what one process makes of a case, its batches whole."""
    return CASES[name].train(accumulate=1)


@pytest.mark.parametrize(("name", "pieces"), [("at", 4), ("mart", 2)])
def test_pieces_are_the_batch(name: str, pieces: int) -> None:
    """Attacked and learnt in two or four pieces, a batch gives the losses and weights of the whole."""
    check_alike(CASES[name].train(accumulate=pieces), alone(name))


def test_a_run_goes_on_in_other_pieces(tmp_path: Path) -> None:
    """How a batch is shared out is no part of what a run is: one that was begun in two pieces goes on in one."""
    checkpoints = tmp_path / "run" / "checkpoints"
    CASES["at"].train(tmp_path / "run", accumulate=2)
    shutil.rmtree(checkpoints / "00000010")
    (checkpoints / "last").write_text("00000005\n")
    rest = CASES["at"].train(tmp_path / "run", resume=True)
    assert len(rest.losses) == 5
    assert distance(rest.state, alone("at").state) < SAME


@pytest.mark.parametrize(
    ("batch", "processes", "pieces", "advice"),
    [
        (30, 4, 1, "train.batch=28 or 32 would do"),
        (6, 2, 4, "train.batch=8 would do"),
        (16, 3, 2, "train.batch=12 or 18 would do"),
        (90, 4, 1, "train.batch=88 would do"),  # 92 would be cut to the 90 that there are
        (90, 100, 1, "only 90 samples to share"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(
    batch: int, processes: int, pieces: int, advice: str
) -> None:
    """The sentence names the numbers on both sides that can, of 90 samples."""
    with pytest.raises(InputError, match=advice):
        check_shares(batch, processes, pieces, samples=90)


def test_pieces_that_are_uneven_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, before it writes anything."""
    settings = ["--set", "train.batch=50", "--set", "train.accumulate=4", "--out", str(tmp_path / "run")]
    assert run(["train", "digits-at", "--device", "cpu", *settings]) == 2
    assert "train.batch=48 or 52" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_dropout_differs_between_pieces() -> None:
    """What is no mask's noise is drawn for each piece: two pieces of the same image are not dropped alike."""
    seen: list[Tensor] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.drop = nn.Linear(64, 10), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            dropped = self.drop(torch.ones_like(x))
            if self.training:
                seen.append(dropped)
            logits: Tensor = self.head((x * dropped).flatten(1))
            return logits

    train: Any = short(accumulate=2, epochs=1, train_on="all")
    fit(Net(), digits(16), objective=at(), train=train, reporter=Listener())
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_a_size_without_a_rank_is_not_torchruns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other launchers set WORLD_SIZE or RANK alone: training, shards and errors then know of one process."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert environment_rank() == (0, 1)
    assert torchrun_shard() is None
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits for a first process"))
    assert run(["report", "no-such-run"]) == 2
    assert "no-such-run" in capsys.readouterr().err


def test_there_must_be_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 3 of a machine with two GPUs is told; with enough of them each has its own; a CPU serves all."""
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"process 3 .* finds 2; start torchrun with --nproc-per-node 2"):
        own_device(torch.device("cuda"))
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device(torch.device("cuda")) == torch.device("cuda", 3)


@pytest.mark.slow
def test_an_evaluation_by_two_processes_is_held_by_the_first(job: Job, tmp_path: Path) -> None:
    """In use, both end and it is said once; free, they share the attack and leave one record."""
    out = tmp_path / "out"
    command = ["fsrobust", "evaluate", str(job.run), "--out", str(out), "--attacks", "pgd20", "--limit", "40"]
    command += ["--curve-samples", "0", "--device", "cpu"]
    with locked(out):
        refused = torchrun(*command)
    assert refused.returncode != 0
    said = [line for line in refused.stderr.splitlines() if line.startswith("fsrobust:")]
    assert len(said) == 1, refused.stderr
    assert "in use by another process" in said[0]
    assert not (out / "eval").exists()
    done = torchrun(*command, "--save-images")
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("eval/*/adversarial.npz"))) == 1
    assert not list(out.glob("eval/*/part-*"))


@pytest.mark.slow
def test_folders_that_are_not_shared_are_refused(job: Job, tmp_path: Path) -> None:
    """With a disk each, no process waits for parts that it cannot see; it is said once, and nothing is left."""
    command = (
        f"evaluate {job.run} --out mine --attacks pgd20 --limit 40 --curve-samples 0 --device cpu".split()
    )
    refused = torchrun("tests.crew", "apart", str(tmp_path), *command)
    assert refused.returncode != 0
    said = [line for line in refused.stderr.splitlines() if line.startswith("fsrobust:")]
    assert len(said) == 1, refused.stderr
    assert "on a disk that all of them share" in said[0]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
