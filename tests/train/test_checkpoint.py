"""Checkpoints: written whole, verified before use, the one before kept."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fsrobust.plugin import attach, config_of
from fsrobust.train import find_checkpoint, load
from fsrobust.train.checkpoint import (
    DIGESTS,
    STATE,
    WEIGHTS,
    find_resumable,
    load_state,
    rewind,
    save_checkpoint,
    start_anew,
)
from fsrobust.train.packing import pack, safetensors_bytes
from fsrobust.train.trained import read_weights
from fsrobust.types import InputError
from tests.faults import Fault, every_fault, killed_at
from tests.helpers import fingerprint, images
from tests.runs import net


def state(step: int, best_step: int | None = None) -> dict[str, object]:
    """Return a training state as the loop writes it."""
    position = {"step": step} if best_step is None else {"step": step, "best_step": best_step}
    return {"optimiser": {"state": {0: torch.full((3,), float(step))}}, "position": position}


def save(
    run: Path, step: int, *, best: bool = False, fsr: str | None = "paper", best_step: int | None = None
) -> nn.Module:
    """Save a network of the seed ``step``; return it."""
    model = net(fsr=fsr, seed=step)
    save_checkpoint(run, step, model, state(step, best_step), best=best)
    return model


def save_bests(run: Path, *bests: int) -> None:
    """Save the steps 1, 2, … of which each knows its best so far."""
    for step, best in enumerate(bests, 1):
        save(run, step, best=best == step, best_step=best)


def names(run: Path) -> list[str]:
    """Return what lies in the checkpoints' folder."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("fsr", [None, "paper"])
def test_a_checkpoint_comes_back(tmp_path: Path, fsr: str | None) -> None:
    """Weights, statistics and state are those saved, bit for bit; the model is in eval mode."""
    model = save(tmp_path, 3, fsr=fsr)
    checkpoint = find_checkpoint(tmp_path)
    loaded = load(tmp_path)
    assert fingerprint(loaded) == fingerprint(model)
    assert config_of(loaded) == config_of(model)
    assert not loaded.training
    found = load_state(checkpoint)
    assert found["format"] == 1
    assert found["position"] == {"step": 3}
    assert torch.equal(found["optimiser"]["state"][0], torch.full((3,), 3.0))


def test_a_run_and_its_file_are_the_same_model(tmp_path: Path) -> None:
    """RUN and RUN/checkpoints/STEP/weights.safetensors load to the same network."""
    save(tmp_path, 3)
    file = find_checkpoint(tmp_path) / WEIGHTS
    assert fingerprint(load(file)) == fingerprint(load(str(tmp_path)))


def test_the_header_says_which_model(tmp_path: Path) -> None:
    """Any reader of safetensors finds the format and the whole configuration as JSON in the header."""
    model = save(tmp_path, 3)
    config = config_of(model)
    assert config is not None
    with safe_open(find_checkpoint(tmp_path) / WEIGHTS, framework="pt") as archive:
        header = archive.metadata()
    assert header["format"] == "1"
    assert json.loads(header["model"]) == json.loads(json.dumps(asdict(config)))


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    """``sha256sum -c sha256`` in the folder verifies both files, and notices a changed byte."""
    save(tmp_path, 3)
    folder = find_checkpoint(tmp_path)
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    check = ["sha256sum", "-c", DIGESTS]
    passed = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=True)
    assert passed.stdout == f"{WEIGHTS}: OK\n{STATE}: OK\n"
    flip(folder / WEIGHTS)
    assert subprocess.run(check, cwd=folder, capture_output=True, check=False).returncode == 1


def test_two_are_kept_and_the_best(tmp_path: Path) -> None:
    """The last two and the best stay, whatever came between; pointers name them; nothing else is left."""
    for step in range(1, 7):
        save(tmp_path, step, best=step == 2)
    assert names(tmp_path) == ["00000002", "00000005", "00000006", "best", "last"]
    assert find_checkpoint(tmp_path).name == "00000006"
    assert find_checkpoint(tmp_path, "best").name == "00000002"
    assert (tmp_path / "checkpoints" / "last").read_text() == "00000006\n"
    save(tmp_path, 7, best=True)
    assert names(tmp_path) == ["00000006", "00000007", "best", "last"]


def test_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    """Partial folders and partial files of a process that is gone go with the next save."""
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / ".00000009.partial").mkdir()
    (folder / ".00000009.partial" / WEIGHTS).write_bytes(b"half")
    (folder / ".last.12345.partial").write_bytes(b"0000")
    save(tmp_path, 2)
    assert names(tmp_path) == ["00000001", "00000002", "last"]


def flip(file: Path) -> None:
    """Change one bit in the middle of a file, keeping its length."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights tampered": lambda folder: flip(folder / WEIGHTS),
    "state tampered": lambda folder: flip(folder / STATE),
    "digests tampered": lambda folder: flip(folder / DIGESTS),
    "weights torn": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7]),
    "state torn": lambda folder: (folder / STATE).write_bytes(b""),
    "digests torn": lambda folder: (folder / DIGESTS).write_text("4f"),
    "digests empty": lambda folder: (folder / DIGESTS).write_text(""),
    "digests not text": lambda folder: (folder / DIGESTS).write_bytes(b"\xff\xfe\x00"),
    "weights missing": lambda folder: (folder / WEIGHTS).unlink(),
    "state missing": lambda folder: (folder / STATE).unlink(),
    "digests missing": lambda folder: (folder / DIGESTS).unlink(),
    "all missing": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(tmp_path: Path, damage: str) -> None:
    """Loading refuses in a sentence; resuming takes the one before and says so (nothing, if it is gone)."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    before, last = find_resumable(tmp_path)[0], find_checkpoint(tmp_path)
    assert before == last
    DAMAGE[damage](last)
    for refused in (find_checkpoint, load):
        with pytest.raises(InputError, match="damaged") as error:
            refused(tmp_path)
        assert str(last) in str(error.value)
    found, remarks = find_resumable(tmp_path)
    assert found is not None
    assert found.name == "00000001"
    if damage != "all missing":
        (remark,) = remarks
        assert str(last) in remark
        assert "damaged" in remark
        assert "the one before" in remark


def test_nothing_sound_is_nothing_to_resume(tmp_path: Path) -> None:
    """With every checkpoint damaged there is none, and a remark for each; with none ever made, no remark."""
    assert find_resumable(tmp_path) == (None, [])
    for step in (1, 2):
        save(tmp_path, step)
    for folder in (tmp_path / "checkpoints").glob("0*"):
        flip(folder / WEIGHTS)
    found, remarks = find_resumable(tmp_path)
    assert found is None
    assert len(remarks) == 2


def test_after_damage_two_sound_ones_are_kept_again(tmp_path: Path) -> None:
    """A run that went back behind a damaged checkpoint keeps two that it can resume from.

    What lies beyond ``last`` no longer counts: kept in their stead, it would leave one sound checkpoint.
    """
    for step in (10, 20, 30):
        save(tmp_path, step)
    flip(tmp_path / "checkpoints" / "00000030" / WEIGHTS)
    assert find_resumable(tmp_path)[0] == tmp_path / "checkpoints" / "00000020"
    save(tmp_path, 25)
    flip(tmp_path / "checkpoints" / "00000025" / WEIGHTS)
    found, _ = find_resumable(tmp_path)
    assert found is not None
    assert found.name == "00000020"


FAILURES = [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOMEM]


@pytest.mark.parametrize("number", FAILURES)
@pytest.mark.parametrize("file", [WEIGHTS, STATE, DIGESTS, "last"])
def test_a_file_that_cannot_be_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, file: str
) -> None:
    """A failing disk, no rights, no descriptors left: raised as it is, with the file's name, and nothing is touched."""
    for step in (1, 2):
        save(tmp_path, step)
    broken, opened, before = find_checkpoint(tmp_path) / file, Path.open, names(tmp_path)
    broken = broken if broken.exists() else tmp_path / "checkpoints" / file

    def fail(path: Path, *more: Any, **options: Any) -> Any:
        if path == broken:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *more, **options)

    monkeypatch.setattr(Path, "open", fail)
    for read in (find_resumable, find_checkpoint, load):
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            read(tmp_path)
        assert error.value.filename == str(broken)
    assert names(tmp_path) == before


def test_a_read_that_fails_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in the middle of a file has no name of its own: the sentence has it nevertheless."""
    save(tmp_path, 1)

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(OSError, match="Input/output") as error:
        find_resumable(tmp_path)
    assert error.value.filename == str(tmp_path / "checkpoints" / "00000001" / WEIGHTS)


def test_what_is_passed_over_is_kept_aside(tmp_path: Path) -> None:
    """A run goes back behind a damaged checkpoint: its files move to damaged/, each time under another name."""
    for turn in (1, 2):
        for step in (1, 2):
            save(tmp_path, step)
        last = find_checkpoint(tmp_path)
        flip(last / WEIGHTS)
        content = (last / WEIGHTS).read_bytes()
        rewind(tmp_path, 1, best=None)
        assert names(tmp_path) == ["00000001", "damaged", "last"]
        aside = tmp_path / "checkpoints" / "damaged" / f"00000002-{turn}"
        assert (aside / WEIGHTS).read_bytes() == content
        assert find_resumable(tmp_path) == (tmp_path / "checkpoints" / "00000001", [])


def test_what_a_kill_kept_from_being_dropped_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed anywhere in the last save, a run that is all trained ends with the checkpoints of an undisturbed one."""

    def trial(k: int) -> Fault:
        run = tmp_path / str(k)
        for step in (1, 2):
            save(run, step)
        with killed_at(monkeypatch, k) as fault:
            save(run, 3)
        found, _ = find_resumable(run)
        assert found is not None
        rewind(run, int(found.name), best=None)
        if found.name == "00000003":
            assert names(run) == ["00000002", "00000003", "last"]
        return fault

    assert every_fault(trial) >= 10


def test_a_rewind_killed_anywhere_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one to go on from and its best are sound, the damaged one is kept; the next rewind ends the same."""

    def trial(k: int) -> Fault:
        run = tmp_path / str(k)
        save_bests(run, 1, 1, 3)
        flip(run / "checkpoints" / "00000003" / STATE)
        with killed_at(monkeypatch, k) as fault:
            rewind(run, 2, best=1)
        found, _ = find_resumable(run)
        assert found == run / "checkpoints" / "00000002"
        rewind(run, 2, best=1)
        assert find_checkpoint(run).name == "00000002"
        assert find_checkpoint(run, "best").name == "00000001"
        assert names(run) == ["00000001", "00000002", "best", "damaged", "last"]
        assert sorted(p.name for p in (run / "checkpoints" / "damaged").iterdir()) == ["00000003-1"]
        return fault

    assert every_fault(trial) >= 5


@pytest.mark.parametrize("name", ["00000001", "00000055", "90000003"])
def test_a_last_that_names_none_is_said_and_the_newest_used(tmp_path: Path, name: str) -> None:
    """One flipped bit makes ``last`` name a step before all others, or beyond: no reason to begin anew."""
    for step in (1, 2, 3):
        save(tmp_path, step)
    pointer = tmp_path / "checkpoints" / "last"
    pointer.write_text(f"{name}\n")
    found, (remark,) = find_resumable(tmp_path)
    assert found == tmp_path / "checkpoints" / "00000003"
    assert str(pointer) in remark
    assert f"names {name}, which is not there" in remark


def test_one_that_did_not_count_is_better_than_none(tmp_path: Path) -> None:
    """All up to ``last`` damaged, the one beyond it, complete when the run was killed, is gone on from."""
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "last").write_text("00000001\n")
    assert find_resumable(tmp_path)[0] == tmp_path / "checkpoints" / "00000001"
    flip(tmp_path / "checkpoints" / "00000001" / STATE)
    found, (remark,) = find_resumable(tmp_path)
    assert found == tmp_path / "checkpoints" / "00000002"
    assert "00000001" in remark


def test_starting_anew_loses_nothing(tmp_path: Path) -> None:
    """Nothing sound: checkpoints, pointers and metrics go aside, and it is said; before any, nothing does."""
    assert start_anew(tmp_path) == []
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1}\n')
    assert start_anew(tmp_path) == []  # killed in between the first row and the first checkpoint
    assert metrics.exists()
    save(tmp_path, 1, best=True)
    flip(find_checkpoint(tmp_path) / WEIGHTS)
    (remark,) = start_anew(tmp_path)
    aside = tmp_path / "checkpoints" / "damaged"
    assert str(aside) in remark
    assert names(tmp_path) == ["damaged"]
    assert sorted(p.name for p in aside.iterdir()) == ["00000001-1", "best-1", "last-1", "metrics.jsonl-1"]
    assert (aside / "metrics.jsonl-1").read_text() == '{"epoch": 1}\n'
    assert start_anew(tmp_path) == []


def test_metrics_without_a_checkpoint_go_aside(tmp_path: Path) -> None:
    """Two epochs' are of a training whose checkpoints somebody has taken away."""
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n')
    (remark,) = start_anew(tmp_path)
    assert str(tmp_path / "checkpoints" / "damaged") in remark
    assert not metrics.exists()
    assert len((tmp_path / "checkpoints" / "damaged" / "metrics.jsonl-1").read_text().splitlines()) == 2


def test_packed_weights_are_not_trained_over(tmp_path: Path) -> None:
    """They are of a finished run, and would go on being taken for what is trained."""
    pack(net(), tmp_path / "weights", "last")
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        start_anew(tmp_path)


def test_the_best_of_each_that_is_kept_is_kept(tmp_path: Path) -> None:
    """Gone back behind the newest, ``best`` names what was the best then; what nobody needs any more goes."""
    save_bests(tmp_path, 1, 1, 3)
    assert names(tmp_path) == ["00000001", "00000002", "00000003", "best", "last"]
    flip(find_checkpoint(tmp_path) / STATE)
    found, _ = find_resumable(tmp_path)
    assert found is not None
    rewind(tmp_path, 2, best=load_state(found)["position"]["best_step"])
    assert find_checkpoint(tmp_path, "best").name == "00000001"
    shutil.rmtree(tmp_path / "checkpoints")
    save_bests(tmp_path, 1, 1, 3, 3)
    assert names(tmp_path) == ["00000003", "00000004", "best", "last"]


def test_a_best_that_is_gone_is_said(tmp_path: Path) -> None:
    """As a run of an older version may have it: the sentence says what is there."""
    for step in (1, 2):
        save(tmp_path, step, best=step == 1)
    shutil.rmtree(tmp_path / "checkpoints" / "00000001")
    with pytest.raises(InputError, match=r"00000001.*damaged or gone.*--checkpoint last.*of: 00000002"):
        find_checkpoint(tmp_path, "best")


def test_a_missing_pointer_is_refused(tmp_path: Path) -> None:
    """A run without a checkpoint, and one without a best one, are told apart."""
    with pytest.raises(InputError, match='Expected a checkpoint "last"'):
        find_checkpoint(tmp_path)
    save(tmp_path, 1)
    with pytest.raises(InputError, match="without a validation split"):
        find_checkpoint(tmp_path, "best")


class Exploit:
    """What a pickle may do when opened."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Ask the reader to fail loudly."""
        return (pytest.fail, ("the state's code was run",))


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    """The state is tensors and plain values: anything that would run code is refused."""
    save(tmp_path, 1)
    checkpoint = find_checkpoint(tmp_path)
    torch.save({"format": 1, "position": Exploit()}, checkpoint / STATE)
    with pytest.raises(InputError, match="no training state"):
        load_state(checkpoint)


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    """A state that says another format ends in a sentence."""
    save(tmp_path, 1)
    checkpoint = find_checkpoint(tmp_path)
    torch.save({"format": 2}, checkpoint / STATE)
    with pytest.raises(InputError, match="format 1, but got 2"):
        load_state(checkpoint)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (None, "does not say which network"),
        ({"format": "pt"}, "does not say which network"),
        ({"format": "1", "model": "null"}, "does not say which network"),
        ({"format": "1", "model": "{"}, "cannot be made"),
        ({"format": "1", "model": "[1]"}, "cannot be made"),
        ({"format": "1", "model": '"resnet18"'}, "cannot be made"),
        ({"format": "1", "model": '{"name": "resnet18"}'}, "cannot be made"),
        ({"format": "1", "model": '{"name": "resnet18", "classes": 10, "depth": 3}'}, "cannot be made"),
        ({"format": "1", "model": '{"name": "resnet18", "classes": 0}'}, "model.classes|cannot be made"),
        ({"format": "1", "model": '{"name": "resnet81", "classes": 10}'}, "resnet18"),
        ({"format": "1", "model": '{"name": "resnet_small", "classes": 10}'}, "does not fit its own header"),
        ({"format": "2", "model": '{"name": "resnet_small", "classes": 10}'}, "format"),
    ],
)
def test_foreign_weights_are_refused(tmp_path: Path, header: dict[str, str] | None, complaint: str) -> None:
    """A header that names no network, an unknown one, one of other shapes or of a newer format is refused."""
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(InputError, match=complaint):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"\xff" * 64, None])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Empty, torn, pickled and missing files end in a sentence that names the file."""
    file = tmp_path / "weights.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth"):
        load(file)


@pytest.mark.parametrize("order", ["[", '["a"]', '["a", "a"]', '["a", "c"]', '{"a": 0, "b": 1}', "0"])
def test_an_order_of_other_tensors_is_damage(tmp_path: Path, order: str) -> None:
    """A header that lists what is not there, or leaves out what is, is not believed."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes(safetensors_bytes({"b": torch.zeros(1), "a": torch.ones(2)}, {}))
    assert list(read_weights(file).tensors) == ["b", "a"]
    file.write_bytes(safetensors_bytes({"b": torch.zeros(1), "a": torch.ones(2)}, {"order": order}))
    with pytest.raises(InputError, match=r"weights\.safetensors\" is not a readable safetensors file"):
        read_weights(file)


def test_a_foreign_networks_weights_are_kept_without_a_configuration(tmp_path: Path) -> None:
    """A guarded foreign network is saved and its tensors come back into one made anew; ``load`` cannot make it."""
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    model = attach(foreign, at="0", classes=4).eval()
    save_checkpoint(tmp_path, 1, model, state(1), best=False)
    tensors, config, in_order = read_weights(find_checkpoint(tmp_path) / WEIGHTS)
    assert config is None
    assert in_order
    assert list(tensors) == list(model.state_dict())
    again = attach(foreign, at="0", classes=4).eval()
    again.load_state_dict(tensors)
    assert torch.equal(again(images(3)), model(images(3)))
    with pytest.raises(InputError, match="does not say which network"):
        load(tmp_path)
    blank = attach(foreign, at="0", classes=4, init="paper").train()
    assert load(tmp_path, into=blank) is blank
    assert not blank.training
    assert torch.equal(blank(images(3)), model(images(3)))
    with pytest.raises(InputError, match="does not fit the network that is to have its weights"):
        load(tmp_path, into=foreign)
