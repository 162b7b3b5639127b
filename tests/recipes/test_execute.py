"""Targets and settings that cannot be used are refused before anything is written or run."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fsrobust.attacks import L2, Linf
from fsrobust.cli import run
from fsrobust.evaluate import read_records
from fsrobust.plugin import create_model
from fsrobust.recipes import recipe
from fsrobust.recipes.asked import applicable, attacks_for
from fsrobust.recipes.execute import (
    find_target,
    pick_device,
    plan_study,
    train_run,
    training_device,
)
from fsrobust.recipes.start import initial_model, prepare
from fsrobust.records import write_json
from fsrobust.settings import override
from fsrobust.train.checkpoint import save_checkpoint, weights_bytes
from fsrobust.types import InputError
from tests.images import make_folder
from tests.runs import at, train

OWN = """
import torch

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
number = 3

def needs(x):
    return model

def make():
    return model.train()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds somebody's module, importable."""
    (tmp_path / "somebodys.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    return tmp_path


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "target",
    [":x", "..somebodys:model", "somebodys:", "somebodys:number", "somebodys:needs", "nobodys:x", "x"],
)
def test_what_yields_no_model_is_refused(target: str) -> None:
    """No module, no name in it, nothing to call, or arguments missing: always a sentence with the target."""
    with pytest.raises(InputError) as refused:
        find_target(target)
    assert f'"{target}"' in str(refused.value)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("target", ["somebodys:make", "somebodys:model"])
def test_a_module_or_what_makes_one_is_a_target(target: str) -> None:
    """Either is taken, in eval mode, and nothing is assumed of its data."""
    found = find_target(target)
    assert not found.subject.model.training
    assert (found.subject.source, found.folder, found.data) == (target, None, None)
    with pytest.raises(InputError, match="--data"):
        plan_study(found)


def test_ones_own_module_is_found_where_one_stands(own: Path) -> None:
    """The command finds a module of the working directory, as ``python -m`` does."""
    code = "from fsrobust.cli import main; main()"
    arguments = ["evaluate", "somebodys:make"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], cwd=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--data" in done.stderr  # the model was found; what to evaluate it on was not


def test_a_folder_for_a_foreign_target_is_named_after_it(own: Path) -> None:
    """Records of somebody's model go into runs/audit-…, in a name that is safe as a file's."""
    assert own.is_dir()
    study = plan_study(find_target("somebodys:make"), data="digits", limit=5)
    assert re.fullmatch(r"runs/audit-somebodys-make-[0-9a-f]{8}", str(study.folder))
    assert len(study.data) == 5
    assert study.total == 360


def test_files_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    """All checkpoints' files are called alike; the folder says which weights its records are of."""
    folders = []
    for name in ("a", "b", "a"):
        file = tmp_path / name / "weights.safetensors"
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            torch.manual_seed(ord(name))
            file.write_bytes(weights_bytes(create_model("resnet_small", classes=10, channels=1, width=4)))
        folders.append(plan_study(find_target(str(file)), data="digits", limit=5).folder)
    assert folders[0] == folders[2] != folders[1]


def test_records_do_not_go_into_another_runs_folder(tmp_path: Path) -> None:
    """There they would pass for that run's; one's own folder by another name is none."""
    made = override(recipe("digits-at"), ["model.width=4"])
    for name in ("one", "other"):
        data = {"name": made.data, "sha256": "0" * 64}
        write_json(tmp_path / name / "config.json", {**made.describe(), "data": data}, sealed=True)
        save_checkpoint(tmp_path / name, 1, initial_model(made), {}, best=False)
    target = find_target(str(tmp_path / "one"))
    with pytest.raises(InputError, match="is another run"):
        plan_study(target, limit=5, out=tmp_path / "other")
    assert plan_study(target, limit=5, out=tmp_path / "other" / ".." / "one").total == 360
    assert plan_study(target, limit=5, out=tmp_path / "third").folder == tmp_path / "third"


def test_a_run_from_python_is_judged_in_its_own_ball(tmp_path: Path) -> None:
    """``fit`` leaves the ball of its objective behind, as the command does."""
    train(tmp_path, epochs=1)
    assert plan_study(find_target(str(tmp_path)), limit=5).ball == at().ball


def test_classes_have_the_names_that_they_were_trained_by(tmp_path: Path) -> None:
    """Folders are numbered by their names: with others in between, every answer would count as another class."""
    there, renamed = make_folder(tmp_path / "a", classes=3), make_folder(tmp_path / "b", classes=3)
    run = override(recipe("digits-at"), ["model.width=4", "train.epochs=1", "train.validation=4"])
    start = prepare(run, data=f"folder:{there}")
    train_run(start.run, start.data, model=start.model, out=tmp_path / "run", device=torch.device("cpu"))
    target = find_target(str(tmp_path / "run"))
    assert plan_study(target, data=f"folder:{renamed}").total == 12
    for split in ("train", "test"):
        (renamed / split / "class2").rename(renamed / split / "Class2")
    with pytest.raises(InputError, match=r'calls its class 0 "class0", but folder:.* calls it "Class2"'):
        plan_study(target, data=f"folder:{renamed}")
    blank, labels = np.zeros((3, 3, 8, 8), np.uint8), np.arange(3)
    np.savez(
        tmp_path / "numbers.npz",
        train_images=blank,
        train_labels=labels,
        test_images=blank,
        test_labels=labels,
    )
    assert plan_study(target, data=f"npz:{tmp_path / 'numbers.npz'}").total == 3  # which has no names


@pytest.mark.usefixtures("own")
def test_another_norm_needs_its_own_radius() -> None:
    """In L2 a radius of L∞ is next to nothing, and a network that withstands it has shown nothing."""
    target = find_target("somebodys:make")
    with pytest.raises(InputError, match=r"--eps with --norm l2: a radius of 8/255 is meant in linf"):
        plan_study(target, data="digits", limit=5, norm="l2")
    assert plan_study(target, data="digits", limit=5, norm="l2", eps="0.5").ball == L2(0.5)
    assert plan_study(target, data="digits", limit=5, norm="linf").ball == Linf(8 / 255)


@pytest.mark.parametrize("device", ["warp9", "cuda:99", "", "meta"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    """A device must exist and hold numbers."""
    with pytest.raises(InputError, match=f'Device "{device}"'):
        pick_device(device)


def test_the_device_is_the_gpu_if_there_is_one() -> None:
    """Without a name, the first GPU, else the CPU."""
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_process_tries_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that torchrun started, the second leaves nothing on the first one's GPU."""
    asked: list[torch.device] = []

    def zeros(*_: int, device: torch.device) -> torch.Tensor:
        asked.append(device)
        return torch.ones(1)

    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", zeros)
    training_device("cuda")
    assert asked == [torch.device("cuda", 1)]


@pytest.mark.parametrize(
    "setting", ["objective.steps=0", "objective.step_size=-1", "objective.eps=2", "train.lr=0", "model.fsr=x"]
)
def test_a_refused_setting_leaves_no_run_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    """A setting that cannot work is refused before config.json: the corrected command needs no --resume."""
    out = tmp_path / "run"
    assert run(["train", "digits-at", "--set", setting, "--out", str(out), "--device", "cpu"]) == 2
    assert "Expected" in capsys.readouterr().err or setting.startswith("model")
    assert not (out / "config.json").exists()


def test_a_wrapped_plug_in_is_adapted_to_unasked() -> None:
    """A network around a guarded one, such as its normalisation, keeps its adaptive attack."""
    wrapped = torch.nn.Sequential(torch.nn.Identity(), create_model("resnet_small", classes=4, fsr="paper"))
    assert "adaptive" in attacks_for(wrapped, None)[0]
    assert applicable(["fgsm", "adaptive"], wrapped) == (["fgsm", "adaptive"], [])


@pytest.mark.usefixtures("own")
def test_there_is_nothing_to_adapt_to_in_a_network_without_the_plug_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside other attacks "adaptive" is left out, and that is said; alone it is refused.

    That attacks for black boxes climb the model's own gradients is said as well, unless they are given others.
    """
    target = ["evaluate", "somebodys:make", "--data", "digits", "--limit", "4", "--curve-samples", "0"]
    target += ["--eps", "0.01", "--out", str(tmp_path / "out")]
    assert run([*target, "--attacks", "fgsm,di-fgsm,adaptive"]) == 0
    shown = capsys.readouterr()
    assert '"adaptive" is left out' in shown.out + shown.err
    assert "di-fgsm: with the model's own gradients" in " ".join((shown.out + shown.err).split())
    attacked = {record["name"] for record in read_records(tmp_path / "out") if record["kind"] == "attack"}
    assert attacked == {"fgsm", "di-fgsm"}
    assert run([*target, "--attacks", "square", "--surrogate", "somebodys:model"]) == 0
    assert "--surrogate is left aside" in " ".join(capsys.readouterr().err.split())
    assert run([*target, "--attacks", "adaptive"]) == 2
    assert "nothing to adapt to" in capsys.readouterr().err
