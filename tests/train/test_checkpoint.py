"""Checkpoints: written whole, verified before use, the one before kept."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

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
    read_weights,
    save_checkpoint,
)
from fsrobust.types import InputError
from tests.helpers import fingerprint, images
from tests.runs import net


def state(step: int) -> dict[str, object]:
    """Return a training state as the loop writes it."""
    return {"optimiser": {"state": {0: torch.full((3,), float(step))}}, "position": {"step": step}}


def save(run: Path, step: int, *, best: bool = False, fsr: str | None = "paper") -> nn.Module:
    """Save a network of the seed ``step``; return it."""
    model = net(fsr=fsr, seed=step)
    save_checkpoint(run, step, model, state(step), best=best)
    return model


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


def test_a_foreign_networks_weights_are_kept_without_a_configuration(tmp_path: Path) -> None:
    """A guarded foreign network is saved and its tensors come back, but ``load`` cannot make it."""
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    model = attach(foreign, at="0", classes=4).eval()
    save_checkpoint(tmp_path, 1, model, state(1), best=False)
    tensors, config = read_weights(find_checkpoint(tmp_path) / WEIGHTS)
    assert config is None
    again = attach(foreign, at="0", classes=4).eval()
    again.load_state_dict(tensors)
    assert torch.equal(again(images(3)), model(images(3)))
    with pytest.raises(InputError, match="does not say which network"):
        load(tmp_path)
