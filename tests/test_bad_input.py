"""Whatever a user gives that cannot be used: exit code 2 and one sentence, before anything is trained or written."""

import time
from pathlib import Path

import pytest

from fsrobust.cli import run
from fsrobust.records import locked
from tests.strangers import made
from tests.test_cli import TINY

TRAIN = "train digits-at"
TUNE = "train finetune-at-fsr"
ATTACK = "evaluate {run} --attacks fgsm --limit 2 --curve-samples 0"
FACTORY = "evaluate tests.strangers:%s --data digits --attacks fgsm --limit 4 --out {tmp}/o"

ROWS: dict[str, tuple[str, str]] = {
    # names, of which the nearest is said
    "command": ("warp", "warp"),
    "option": (f"{TRAIN} --warp", "--warp"),
    "no argument": ("train", "recipe"),
    "recipe": ("train digits-ta", 'did you mean "digits-at"'),
    "setting": (f"{TRAIN} --set train.epoch=3", 'did you mean "train.epochs"'),
    "data set": (f"{TRAIN} --data cifar11", "did you mean cifar10"),
    "synthetic set": (f"{TRAIN} --data synthetic:cifar11", "did you mean cifar10"),
    "fetch": ("data fetch cifar11", "did you mean cifar10"),
    "fetch, bundled": ("data fetch digits", "needs no download"),
    "attack": ("evaluate {run} --attacks pdg20", 'did you mean "pgd20"'),
    "norm": (f"{ATTACK} --norm l3", 'did you mean "l'),
    "layer": (f"{TRAIN} --set model.fsr=layer9", 'did you mean "layer3"'),
    "layer, attached": (f"{TRAIN} --attach layer9", 'did you mean "layer3"'),
    "model": (f"{TRAIN} --set model.name=resnet", 'did you mean "resnet18"'),
    "table": ("reproduce S9", 'did you mean "S'),
    "row": ("reproduce S1 --scale smoke --rows att", 'did you mean "at"'),
    "rows, empty": ("reproduce S1 --scale smoke --rows=", "leave it out for all rows"),
    "rows, none": ("reproduce S1 --scale smoke --rows ,", "leave it out for all rows"),
    "scale": ("reproduce S1 --scale smal", 'did you mean "small"'),
    "estimate": ("estimate digits-ta", 'did you mean "digits-at"'),
    "target": ("evaluate nowhere", "nowhere"),
    "doctor": ("doctor nowhere", "nowhere"),
    "diagnose": ("diagnose nowhere", "nowhere"),
    "device": (f"{TRAIN} --device warp9", "warp9"),
    "device without numbers": (f"{ATTACK} --device meta", "meta"),
    "checkpoint": ("evaluate {run} --checkpoint newest", "newest"),
    "checkpoint, path": ("evaluate {run} --checkpoint ../last", "../last"),
    "engine": (f"{TRAIN} --engine warp", "'fast' or 'reference'"),
    "keep": (f"{TRAIN} --keep ram", "auto, memory or disk"),
    "precision": (f"{ATTACK} --precision fp8", '"bf16"'),
    # numbers
    "eps": (f"{ATTACK} --eps 8", "8/255"),
    "eps, zero below": (f"{ATTACK} --eps 8/0", "8/0"),
    "eps, negative": (f"{ATTACK} --eps=-1/255", "eps in [0, 1]"),
    "eps, NaN": (f"{ATTACK} --eps nan", "such as 8/255"),
    "eps, empty": (f"{ATTACK} --eps=", "such as 8/255"),
    "limit": ("evaluate {run} --limit 0", "--limit"),
    "limit, word": ("evaluate {run} --limit few", "--limit"),
    "batch": (f"{ATTACK} --batch 0", "--batch"),
    "seed": (f"{ATTACK} --seed one", "--seed"),
    **{
        f"seed beyond records, {line.split()[0]}": (f"{line} --seed {'9' * 23}", "--seed")
        for line in (ATTACK, "diagnose {run}", "doctor {run}", "demo")
    },
    "seed beyond records, below": (f"{ATTACK} --seed=-{2**63}", "--seed"),
    "seed beyond records, train": (f"{TRAIN} --set train.seed={2**63}", "train.seed below 2^63"),
    "seeds, many": (f"reproduce S1 --scale smoke --seeds {'9' * 23}", "--seeds"),
    "shards": (f"{ATTACK} --shards 0", "--shards"),
    "shards, many": (f"{ATTACK} --shards 3", "at most a shard per sample, 2"),
    "curve": ("evaluate {run} --curve-samples -1", "--curve-samples"),
    "seeds": ("reproduce S1 --scale smoke --seeds 0", "--seeds"),
    "no attack": ("evaluate {run} --attacks ,", "got none"),
    "no attack, empty": ("evaluate {run} --attacks=", "got none"),
    "image size": (f"{TRAIN} --data @folder/sound --image-size 0", "1 to 4096 pixels"),
    "image size, huge": (f"{TRAIN} --data @folder/sound --image-size 99999999", "1 to 4096 pixels"),
    "duration": (f"{TRAIN} --time-limit soon", "25m"),
    "duration, empty": (f"{TRAIN} --time-limit=", "25m"),
    "home": (f"{TRAIN} --data folder:~nobody-of-that-name/x", "there is no such home"),
    "cpus": ("reproduce S1 --scale smoke --cpus 2", "--ray with --cpus"),
    "device of a cluster": ("reproduce S1 --scale smoke --ray local --device cpu", "leave --device out"),
    "duration, evaluation": (f"{ATTACK} --time-limit soon", "25m"),
    "duration, negative": ("reproduce S1 --scale smoke --time-limit=-5m", "25m"),
    # settings
    "set, form": (f"{TRAIN} --set train.epochs", "KEY=VALUE"),
    "set, kind": (f"{TRAIN} --set train.epochs=few", "integer"),
    "set, truth": (f"{TRAIN} --set train.epochs=true", "integer"),
    "set, infinite": (f"{TRAIN} --set train.lr=inf", "finite"),
    "set, beyond floats": (f"{TRAIN} --set train.weight_decay=1e400", "at most 1e+30, but got inf"),
    "set, rate beyond float32": (f"{TRAIN} --set train.lr=1e308", "finite train.lr above 0 and at most 1e+30"),
    "set, decay beyond float32": (f"{TRAIN} --set train.weight_decay=1e308", "at least 0 and at most 1e+30"),
    "set, step beyond float32": (f"{TRAIN} --set objective.step_size=1e308", "at most 1e+30"),
    "set, weight beyond float32": (f"{TRAIN} --set objective.lambda_sep=1e308", "at most 1e+30"),
    "set, NaN": (f"{TRAIN} --set objective.lambda_sep=nan", "finite"),
    "set, NaN in a list": (f"{TRAIN} --set train.milestones=[nan]", "number"),
    "set, null": (f"{TRAIN} --set objective.eps=null", "such as 8/255"),
    "set, list": (f"{TRAIN} --set objective.eps=[1]", "such as 8/255"),
    "set, negative": ("train digits-at-fsr --set objective.lambda_rec=-1", "lambda_rec of at least 0"),
    "set, beta": ("train digits-at --set objective.name=trades --set objective.beta=-1", "beta of at least 0"),
    "set, momentum": (f"{TRAIN} --set train.momentum=2", "train.momentum in [0, 1)"),
    "set, milestones": (f"{TRAIN} --set train.milestones=[75]", "shares of the run"),
    "set, steps": (f"{TRAIN} --set objective.steps=0", "steps"),
    "set, huge": (f"{TRAIN} --set model.width=9999", "fits in memory"),
    "set, beyond": (f"{TRAIN} --set model.width=1e9", "below 10000"),
    "set, classes": (f"{TRAIN} --set model.classes=3", "leave model.channels and model.classes alone"),
    "set, eps of training": (f"{TRAIN} --set objective.eps=8", "8/255"),
    "set, eps of evaluation": (f"{TRAIN} --set evaluation.eps=9", "eps in [0, 1]"),
    "set, deep": (f"{TRAIN} --set train.milestones={'[' * 9999}", "number"),
    # options that clash
    "attach and fsr": (f"{TRAIN} --attach layer2 --set model.fsr=layer3", "--set model.fsr and --attach"),
    "init and width": (f"{TRAIN} --init {{run}} --set model.width=4", "--set model.width and --init"),
    "engine twice": (f"{TRAIN} --engine fast --set train.engine=fast", "--set train.engine and --engine"),
    "attach twice": (f"{TUNE} --init {{run}} --data digits --attach layer2", "--attach layer2"),
    "resized arrays": (f"{TRAIN} --image-size 8", "leave out --image-size 8"),
    "resized, evaluation": ("evaluate {run} --image-size 8", "leave out --image-size 8"),
    "arrays on disk": (f"{TRAIN} --keep disk", "leave out --keep disk"),
    "nothing to freeze": (f"{TRAIN} --set train.frozen_epochs=1", "train.frozen_epochs=0"),
    "best of a file": ("evaluate tests.strangers:linear --checkpoint best", "--checkpoint best"),
    # places
    "out is a file": (f"{TRAIN} --out @file/", "got the file"),
    "out in a file": (f"{TRAIN} --out {{run}}/config.json/x", "is a file"),
    "out in a device": (f"{ATTACK} --out /dev/null/x", "is a file"),
    "out in /proc": (f"{ATTACK} --out /proc/x", "/proc"),
    "out, long": (f"{TRAIN} --out {'x' * 300}", "too long"),
    "out of demo": ("demo --out @file/", "got the file"),
    "out of diagnose": ("diagnose {run} --out @file/", "got the file"),
    "out of reproduce": ("reproduce S1 --scale smoke --out @file/", "got the file"),
    "report into a folder": ("report {run} --out {tmp}", "got the folder"),
    "report into a file": ("report {run} --out {run}/config.json/x", "is a file"),
    "run exists": ("train digits-at-fsr --out {run}", "--resume"),
    "other run": (f"{TRAIN} --out {{run}} --resume", "another"),
    "report of nothing": ("report {tmp}", "train or evaluate"),
    "compare nothing": ("compare , ,", "name one on each side"),
    "compare nothing with a run": ("compare , {run}", "as many seeds on both sides"),
    "compare with nothing": ("compare {run} {tmp}", "train or evaluate"),
    # data
    "data root": ("train cifar10-resnet18-at --data-root {tmp}", "--data-root"),
    "no folder": (f"{TRAIN} --data folder:{{tmp}}/x", "train/CLASS/"),
    "folder, long": (f"{TRAIN} --data folder:{'x' * 5000}", "too long"),
    "no array file": (f"{TRAIN} --data npz:{{tmp}}/x.npz", "no such file"),
    "array file of text": (f"{TRAIN} --data npz:{{run}}/config.json", "something else"),
    "null in a path": (f"{TRAIN} --data npz:a\0b", "null"),
    "no prefix": (f"{TRAIN} --data {{run}}", "did you mean folder:"),
    **{
        f"npz, {name}": (f"{TRAIN} --data @npz/{name}", part)
        for name, part in {
            "objects": "without pickled objects",
            "label-objects": "without pickled objects",
            "16-bit": "got uint16",
            "complex": "got complex128",
            "bright": "[1.5, 1.5]",
            "nan": "[nan, nan]",
            "between": "k/255",
            "flat": "N×C×H×W",
            "two-ways": "two ways",
            "no-pixels": "N×C×H×W",
            "float-labels": "got float64",
            "few-labels": "20 images and 3 labels",
            "negative-labels": "got -9",
            "huge-labels": "got 9223372036854775817",
            "number-names": "texts as class_names",
            "few-names": "10 texts as class_names",
        }.items()
    },
    "channels": ("evaluate {run} --data @npz/colour", "3 channels"),
    **{
        f"folder, {name}": (f"{TRAIN} --data @folder/{name}", part)
        for name, part in {
            "one-class": "at least two class folders",
            "empty-class": "add some or remove the class",
            "nested": "got none",
            "lonely-class": "class1",
            "no-test": "train/CLASS/",
            "depth-16": "8 bits a channel",
            "oblong": "--image-size 64",
            "huge": "DecompressionBomb",
            "text": "001.png",
            "torn": "001.png",
            "nothing": "001.png",
            "tiff": "convert it",
            "folder-as-image": "Is a directory",
            "dangling": "No such file",
        }.items()
    },
    "folder on disk, oblong": (f"{TRAIN} --keep disk --data @folder/oblong", "--image-size 64"),
    # models
    "no init": (f"{TUNE} --data digits", "--init RUN"),
    "no data to tune on": (f"{TUNE} --init {{run}}", "--data folder:PATH"),
    "init": (f"{TUNE} --init nowhere --data digits", "nowhere"),
    "init, no weights": (f"{TUNE} --init {{tmp}} --data digits", "config.json"),
    "init, classes": (f"{TUNE} --init tests.foreign:resnet --data @folder/sound", "logits of 2 classes"),
    "init, flat": (f"{TUNE} --init tests.strangers:linear --data digits --attach 1", "NCHW"),
    "init, layer": (f"{TUNE} --init tests.strangers:linear --data digits --attach x", 'Unknown layer "x"'),
    "no data": ("evaluate tests.strangers:linear", "--data"),
    **{
        f"factory, {name}": (FACTORY % name, part)
        for name, part in {
            "not_callable": "called without arguments",
            "no_module": "int",
            "needs_argument": "depth",
            "raises": "RuntimeError: weights of the network",
            "leaves": "SystemExit",
            "wrong_layer": "layer3",
            "flat_layer": "NCHW",
            "Fails": "a shape of 4 axes",
            "Several": "tuple",
            "NotANumber": "NaN",
            "nowhere": "nowhere",
        }.items()
    },
    **{
        f"module, {name}": (f"evaluate @module/{name} --data digits", part)
        for name, part in {
            "syntax": "SyntaxError",
            "import": "no_such_module",
            "raise": "ZeroDivisionError",
            "exit": "SystemExit",
        }.items()
    },
    "no such module": ("evaluate no.such:thing --data digits", "no.such"),
    "relative module": ("evaluate .a:f --data digits", "importable"),
    "surrogate": (f"{ATTACK} --surrogate nowhere", "nowhere"),
    "surrogate, damaged": (f"{ATTACK} --surrogate {{run}}/metrics.jsonl", "safetensors"),
    **{
        f"run, {name}": (f"evaluate @run/{name} --limit 2", part)
        for name, part in {
            "tampered": "tampered",
            "no-config": "config.json",
            "config-torn": "not JSON",
            "config-binary": "not JSON",
            "config-list": "no JSON object",
            "config-deep": "not JSON",
            "config-newer": "format 1, but got 2",
            "config-data": '"data" is not what a run writes there',
            "config-eps": '"evaluation" is not what a run writes there',
            "config-norm": 'Unknown norm "l7"',
            "last-torn": "names no checkpoint",
            "last-up": "names no checkpoint",
            "no-checkpoints": 'Expected a checkpoint "last"',
        }.items()
    },
    "report of a torn run": ("report @run/config-torn", "not JSON"),
    "compare torn records": ("compare @run/records-torn {run}", "there are none"),
    **{
        f"weights, {name}": (f"evaluate @weights/{name} --data digits", part)
        for name, part in {
            "nameless": "does not say which network",
            "newer": "format 1, but got 2",
            "unknown": "resnet18",
            "endless": "fits in memory",
            "unfitting": "does not fit its own header",
        }.items()
    },
    "weights, text": ("evaluate @file/ --data digits", "safetensors"),
}  # fmt: skip


LATE = {"folder on disk, oblong"}
"""What is found out by beginning: images that stay on disk are read with the folder held already."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a record."""
    out = tmp_path_factory.mktemp("bad") / "run"
    assert run(["train", "digits-at-fsr", *TINY, "--out", str(out)]) == 0
    assert run([*ATTACK.format(run=out).split()]) == 0
    return out


@pytest.fixture
def nothing_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a step of training is taken."""
    from fsrobust.train.learner import Learner

    monkeypatch.setattr(Learner, "learn", lambda *_arguments: pytest.fail("it was trained"))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return all that is below a folder, with sizes and times; what Python keeps of modules it imported apart."""
    files = ((path, path.lstat()) for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in files if not path.is_dir()}


@pytest.mark.usefixtures("nothing_trained", "unchecked")
@pytest.mark.parametrize("what", ROWS)
def test_bad_input_ends_in_a_sentence(
    what: str,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, one line on stderr that names what was wrong, nothing on stdout or on disk, no traceback, soon."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line, sentence = ROWS[what]
    words = [made(word, tmp_path, trained) for word in line.split(" ")]
    before, started = [listing(tmp_path), listing(trained)], time.monotonic()
    assert run([*words, "--json"] if words[0] != "warp" else words) == 2
    assert time.monotonic() - started < 10
    printed = capsys.readouterr()
    (said,) = [text for text in printed.err.splitlines() if text.startswith("fsrobust: ")]
    assert printed.err.splitlines()[-1] == said
    assert sentence in said
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert what in LATE or [listing(tmp_path), listing(trained)] == before


@pytest.mark.parametrize(
    "line", [ATTACK, "diagnose {run} --limit 2", "train digits-at-fsr --resume --out {run}"]
)
def test_a_run_in_use_is_refused(line: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While another process holds a run directory, every command that writes there says so."""
    before = (trained / "config.json").read_bytes()
    with locked(trained):
        assert run(line.format(run=trained).split()) == 2
    assert "in use by another process" in capsys.readouterr().err
    assert (trained / "config.json").read_bytes() == before
