"""A folder on disk is, sample for sample, the folder in memory: to a reader, and to a training run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fsrobust.data import Dataset, Streamed, hold_out, load_dataset, open_dataset, sources
from fsrobust.data.streamed import _leave_signals, stream_folder
from fsrobust.plugin import create_model
from fsrobust.records import Metrics
from fsrobust.train import Natural, control, fit
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.images import make_folder
from tests.orphans import LINUX, await_end, children, with_tests
from tests.runs import at, short, timeless


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 training and 4 test images, 8 × 8."""
    return make_folder(tmp_path_factory.mktemp("images"))


def both(folder: Path, *, workers: int = 0) -> tuple[Dataset, Streamed]:
    """Return the training split in memory, as `load_dataset` reads it, and on disk."""
    name = f"folder:{folder}"
    streamed = open_dataset(name, "train", keep="disk")
    assert isinstance(streamed, Streamed)
    return load_dataset(name, "train"), Streamed(**{**vars(streamed), "workers": workers})


def same(a: Dataset, b: Dataset) -> bool:
    """Return whether two data sets hold the same samples."""
    tensors = ("images", "labels", "ids")
    return (
        all(torch.equal(getattr(a, n), getattr(b, n)) for n in tensors) and vars(a).keys() == vars(b).keys()
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_the_data_set_in_memory(folder: Path, workers: int) -> None:
    """Samples, their fingerprint, some of them in another order, and those held out agree to the last bit."""
    resident, streamed = both(folder, workers=workers)
    assert same(streamed.resident(), resident)
    assert streamed.sha256 == resident.sha256
    some = [7, 3, 30]
    assert same(streamed.select(some, "some").resident(), resident.select(some, "some"))
    assert streamed.select(some).sha256 == resident.select(some).sha256 != resident.sha256
    for theirs, ours in zip(
        hold_out(streamed, count=4, seed=1), hold_out(resident, count=4, seed=1), strict=True
    ):
        assert same(theirs.resident(), ours)
        assert theirs.split == ours.split
    shape = (len(streamed), streamed.classes, streamed.channels, streamed.image_size)
    assert shape == (len(resident), resident.classes, resident.channels, resident.image_size)
    assert streamed.nbytes == resident.images.nbytes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_has_the_images_of_its_rows(folder: Path, workers: int) -> None:
    """Each row's images are at hand while it is out; any other samples can be asked for in between."""
    resident, streamed = both(folder, workers=workers)
    order = torch.randperm(40)[:36].view(4, 9)
    state = torch.get_rng_state()
    for row, expected in zip(streamed.stream(order), order, strict=True):
        assert torch.equal(row, expected)
        assert torch.equal(streamed.at(row), resident.at(row))
        assert torch.equal(streamed.at(row[:4]), resident.at(row[:4]))
    assert torch.equal(torch.get_rng_state(), state)  # the loader draws nothing from the caller


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_training_from_disk_gives_the_bits_of_training_from_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Same weights, same metrics, same configuration; stopped in mid-epoch, either goes on with the other's run."""

    def train(
        out: Path, data: Dataset | Streamed, *, resume: bool = False
    ) -> tuple[str, list[dict[str, object]]]:
        torch.manual_seed(0)
        model = create_model("resnet_small", classes=2, width=4, fsr="paper")
        settings = short(engine=engine, augment="crop_flip", validation=4, batch=8)
        fit(model, data, objective=at(), train=settings, out=out, resume=resume)
        return fingerprint(model), timeless(Metrics(out / "metrics.jsonl").rows())

    resident, streamed = both(folder, workers=2)
    whole = train(tmp_path / "memory", resident)
    assert train(tmp_path / "disk", streamed) == whole
    asked = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(control.Stopwatch, "stop_reason", lambda _: "now" if next(asked) >= 6 else None)
        train(tmp_path / "both", streamed)
    assert train(tmp_path / "both", streamed, resume=True) == whole
    asked = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(control.Stopwatch, "stop_reason", lambda _: "now" if next(asked) >= 2 else None)
        train(tmp_path / "other", streamed)
    assert train(tmp_path / "other", resident, resume=True) == whole


def test_size_against_memory_decides_and_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of what is free is the limit; either word overrules it, and only the choice is said."""
    said: list[str] = []
    need = 40 * 3 * 8 * 8
    for free, expected in ((4 * need, Dataset), (4 * need - 1, Streamed)):
        monkeypatch.setattr(sources, "free_memory", lambda _device, free=free: float(free))
        assert isinstance(open_dataset(f"folder:{folder}", "train", say=said.append), expected)
    assert "40 images of 8×8" in said[0]
    assert "kept in memory" in said[0]
    assert "--keep memory" in said[1]
    monkeypatch.setattr(sources, "free_memory", lambda _device: 1.0)
    assert isinstance(open_dataset(f"folder:{folder}", "train", keep="memory", say=said.append), Dataset)
    monkeypatch.setattr(sources, "free_memory", lambda _device: 1e12)
    assert isinstance(open_dataset(f"folder:{folder}", "train", keep="disk", say=said.append), Streamed)
    assert len(said) == 2


def test_what_is_no_folder_is_in_memory() -> None:
    """Other data are as they were, and cannot be asked to stay on disk."""
    assert same(open_dataset("digits", "test"), load_dataset("digits", "test"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="but got digits; leave out --keep disk"):
        open_dataset("digits", "test", keep="disk")
    with pytest.raises(InputError, match='memory or disk, but got "ram"'):
        open_dataset("digits", "test", keep="ram")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unusable_image_is_named(tmp_path: Path, workers: int) -> None:
    """Broken or of another size: the fingerprint, the stream and the loading each end in one sentence."""
    folder = make_folder(tmp_path)
    bad = folder / "train" / "class1" / "003.png"
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(bad)
    with pytest.raises(InputError, match=r"8×8 and .*003\.png is 8×6.*--image-size 64"):
        _ = both_on_disk(folder, workers).sha256
    bad.write_bytes(b"\x89PNG torn")
    for ask in (
        lambda data: data.sha256,
        lambda data: data.resident(),
        lambda data: list(data.stream(torch.arange(40).view(4, 10))),
    ):
        with pytest.raises(InputError, match=r"^Expected an image in .*003\.png, but got"):
            ask(both_on_disk(folder, workers))


def both_on_disk(folder: Path, workers: int) -> Streamed:
    """Return the training split on disk."""
    streamed = stream_folder(folder, "train", name="own")
    return Streamed(**{**vars(streamed), "workers": workers})


def test_workers_leave_signals_to_the_training() -> None:
    """SIGTERM to a whole group of processes ends no worker: the training process checkpoints first."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _leave_signals(0)
        for number in before:
            os.kill(os.getpid(), number)  # would end this very process
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


KILLED = """
import sys
from pathlib import Path
from tests.data.test_streamed import train_large
train_large(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def train_large(
    folder: Path, out: Path, *, resume: bool = False, time_limit: float | None = None
) -> str | None:
    """Train from disk in batches of 96 KiB, more than a pipe holds, which two workers decode; return why it stopped."""
    data = Streamed(**{**vars(stream_folder(folder, "train", name="own", image_size=64)), "workers": 2})
    model = create_model("resnet_small", classes=2, width=4)
    train = short(epochs=1000, batch=8, validation=4)
    history = fit(
        model, data, objective=Natural(), train=train, out=out, resume=resume, time_limit=time_limit
    )
    return history.stopped


@pytest.mark.skipif(not LINUX, reason="finds processes as Linux names them")
def test_a_killed_training_leaves_no_worker_that_holds_its_folder(tmp_path: Path) -> None:
    """SIGKILL while a worker is blocked, its batch unread: it is gone at once, and the run can be resumed."""
    folder, out = make_folder(tmp_path / "images", train=200), tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(out)], env=with_tests())
    while not (out / "config.json").exists() or len(workers := children(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # they decode ahead, and then wait for it
    process.kill()
    process.wait()
    await_end(workers, seconds=2)  # by themselves they look for it every 5 seconds, unless they are blocked
    assert train_large(folder, out, resume=True, time_limit=0) == "the time limit is reached"
