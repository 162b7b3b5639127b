"""What users import: the public names, and a core that runs where the rest is not installed."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fsrobust
from fsrobust.cli import run
from fsrobust.records import package_version
from fsrobust.train import fit
from tests.helpers import fingerprint
from tests.runs import at, digits, net, short

PUBLIC = {
    "ATTACKS", "AT", "AWP", "DATASETS", "Dataset", "FSRWeights", "FastAT", "InputError", "L2", "Linf", "MART", "MODELS",
    "Diagnosis", "Natural", "Outcome", "TRADES", "TrainConfig", "attach", "compare", "create_model", "diagnose",
    "doctor", "estimate", "evaluate", "fit", "load", "load_authors", "load_dataset", "perturb", "report",
}  # fmt: skip
CORE = ["models", "plugin", "attacks", "train", "evaluate", "records"]
AROUND = ["pydantic", "typer", "click", "rich", "matplotlib", "jinja2", "pooch", "sklearn", "PIL"]

BLOCKED = """
import sys
import importlib

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {around!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import {packages}
loaded = sorted(set(sys.modules) & set({around!r}))
assert not loaded, loaded
print("ok")
"""


def test_the_public_names_are_these() -> None:
    """A name that comes or goes changes the contract: it does so here as well."""
    public = {
        name
        for name, value in vars(fsrobust).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"package_version"} == PUBLIC
    assert fsrobust.__version__ == package_version()


def test_paths_may_be_strings(tmp_path: Path) -> None:
    """As everywhere in Python; and the version is one option away."""
    model, data = net(width=4), digits(40)
    fit(model, data, objective=at(), train=short(epochs=1), out=str(tmp_path / "run"))
    assert fingerprint(fsrobust.load(str(tmp_path / "run"))) == fingerprint(model)
    with pytest.raises(fsrobust.InputError, match="nowhere"):
        fsrobust.load_dataset("cifar10", "test", root=str(tmp_path / "nowhere"))


def test_the_version_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the command itself."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == fsrobust.__version__


def importing(*packages: str) -> "subprocess.CompletedProcess[str]":
    """Import packages in a process where what surrounds the core cannot be imported."""
    code = BLOCKED.format(packages=", ".join(packages), around=AROUND)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_core_needs_no_more_than_it_says() -> None:
    """Models, plug-in, attacks, training, evaluation, records import with torch, numpy, scipy, safetensors."""
    done = importing("fsrobust", *(f"fsrobust.{package}" for package in CORE))
    assert done.stdout == "ok\n", done.stderr


def test_the_blocker_blocks() -> None:
    """The test above can fail: the command line does need what is blocked."""
    done = importing("fsrobust.cli")
    assert done.returncode == 1
    assert "is not installed here" in done.stderr
