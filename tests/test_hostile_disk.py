"""A disk that is full, read-only, torn or rotten: a sentence or the state before, never a silently wrong result."""

import contextlib
import datetime
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fsrobust.attacks import ATTACKS
from fsrobust.cli import run
from fsrobust.evaluate import carry_out, read_records
from fsrobust.evaluate.cascade import Journal, StageCost, Standing
from fsrobust.evaluate.naming import record_folder
from fsrobust.evaluate.shards import Shard
from fsrobust.evaluate.study import carry_out_shard
from fsrobust.records import Metrics, digest, read_json, read_npz, write_json, write_npz
from fsrobust.train import load
from fsrobust.train.packing import pack
from fsrobust.types import InputError
from tests.evaluate.test_shards import _short
from tests.evaluate.test_study import plan
from tests.faults import refused_from
from tests.helpers import fingerprint
from tests.test_cli import TINY

TRAIN = ["train", "digits-at-fsr", "--data", "npz:own.npz", *TINY, "--set", "train.epochs=2", "--out"]
ATTACK = ["--attacks", "fgsm", "--limit", "6", "--curve-samples", "1"]
Command = Callable[[Path], list[str]]


def evaluate(folder: Path, *more: str) -> list[str]:
    """Return the command that attacks a run; what is on record is not run again."""
    return ["evaluate", str(folder), *ATTACK, *more]


def resume(folder: Path) -> list[str]:
    """Return the command that goes on with a run."""
    return [*TRAIN, str(folder), "--resume"]


def show(folder: Path) -> list[str]:
    """Return the command that writes a page on a run."""
    return ["report", str(folder), "--out", str(folder / "page.html")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two epochs, attacked; and beside it its data and the same weights, packed."""
    out = tmp_path_factory.mktemp("disk") / "run"
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 4
    np.savez(out.with_name("own.npz"), x_train=x, y_train=y, x_test=x, y_test=y)
    with contextlib.chdir(out.parent):  # the data's name is the same wherever this is run
        yield _made(out)


def _made(out: Path) -> Path:
    assert run([*TRAIN, str(out)]) == 0
    pack(load(out), out.parent / "packed" / "weights", "last")
    shutil.copy(out / "config.json", out.parent / "packed")
    assert run(evaluate(out)) == 0
    return out


def result(command: str, folder: Path, printed: str) -> object:
    """Return what a command found: the weights, or what it printed about whatever folder."""
    if command == "resume":
        return fingerprint(load(folder)), fingerprint(load(folder, checkpoint="best"))
    return printed.replace(str(folder), "RUN")


COMMANDS: dict[str, Command] = {
    "evaluate": evaluate,
    "evaluate best": lambda folder: evaluate(folder, "--checkpoint", "best"),
    "resume": resume,
    "report": show,
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _content: b"",
    "torn": lambda content: content[: len(content) // 3],
    "cut short": lambda content: content[:-1],
    "flipped": lambda content: flipped(content, 0.8),
}


def flipped(content: bytes, at: float) -> bytes:
    """Return bytes of which one bit is another."""
    content = content or b"?"
    place = int(at * len(content))
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


@dataclass(frozen=True)
class Row:
    """A file (the last that matches) and what commands do when it is damaged.

    "refused": exit 2 and a sentence that names it. "said": the right result, and a sentence that names it. "shown": the
    page is written and names it. "same": the right result, nothing depends on the file.
    """

    file: str
    outcomes: dict[str, str]
    kind: str | None = None


ROWS = [
    Row("checkpoints/0*/weights.safetensors", {"evaluate": "refused", "resume": "said"}),
    Row("checkpoints/0*/state.pt", {"evaluate": "refused", "resume": "said"}),
    Row("checkpoints/0*/sha256", {"evaluate": "refused", "resume": "said"}),
    Row("checkpoints/last", {"evaluate": "refused", "resume": "said"}),
    Row("checkpoints/best", {"evaluate best": "refused", "resume": "same"}),
    Row("config.json", {"evaluate": "refused", "resume": "refused", "report": "refused"}),
    Row("metrics.jsonl", {"evaluate": "same", "report": "shown"}),
    Row("lock", {"evaluate": "same", "resume": "same"}),
    Row("eval/index.json", {"evaluate": "same"}),
    Row("eval/*/record.json", {"evaluate": "said", "report": "shown"}, "attack"),
    Row("eval/*/samples.npz", {"evaluate": "said", "report": "shown"}, "attack"),
    Row("eval/*/gallery.npz", {"evaluate": "said", "report": "shown"}, "attack"),
    Row("eval/*/curves.json", {"evaluate": "said", "report": "shown"}, "curve"),
    Row("eval/*/mask.npz", {"evaluate": "said", "report": "shown"}, "mask"),
]
TEXTS = (".json", ".jsonl", "last", "best", "sha256")
CASES = [
    pytest.param(row, command, damage, id=f"{row.file}-{command}-{damage}")
    for row in ROWS
    for command in row.outcomes
    for damage in (["torn"] if command == "report" else DAMAGE)
]


def find(folder: Path, row: Row) -> Path:
    """Return the file of a row."""
    files = sorted(folder.glob(row.file))
    if row.kind:
        kinds = {file: json.loads((file.parent / "record.json").read_text())["kind"] for file in files}
        files = [file for file in files if kinds[file] == row.kind]
    return files[-1]


@pytest.fixture(scope="module")
def right(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What each command finds where nothing is damaged."""
    found: dict[str, object] = {}
    for name, command in COMMANDS.items():
        folder = tmp_path_factory.mktemp("right") / "run"
        shutil.copytree(whole, folder)
        with pytest.MonkeyPatch.context() as patch:
            lines: list[str] = []
            patch.setattr("typer.echo", lines.append)
            assert run(command(folder)) == 0
        found[name] = result(name, folder, "".join(f"{line}\n" for line in lines))
    return found


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("row", "command", "damage"), CASES)
def test_damage_is_never_passed_on(
    row: Row,
    command: str,
    damage: str,
    whole: Path,
    right: dict[str, object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is damaged is refused, replaced, or left out, and named; a result is the right one or there is none."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    file, expected = find(folder, row), row.outcomes[command]
    before = file.read_bytes()
    file.write_bytes(DAMAGE[damage](before))
    name = str(file.parent) if file.parent.parent.name == "checkpoints" else str(file)
    if file.name.endswith(TEXTS) and file.read_bytes().strip() == before.strip():
        expected = "same"  # the line feed at the end, or nothing at all, was lost
    code = run(COMMANDS[command](folder))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    if expected == "refused":
        assert code == 2
        assert printed.out == ""
        last = printed.err.splitlines()[-1]
        assert last.startswith("fsrobust: ")
        assert name in last
        return
    assert code == 0, printed.err
    assert result(command, folder, printed.out) == right[command]
    if expected == "said":
        assert name in printed.err
    if expected == "shown":
        assert "left out" in (folder / "page.html").read_text(encoding="utf-8")


def test_one_damaged_record_blocks_nothing(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another attack in the same folder is run; the damaged record is kept aside and no longer spoken of."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    file = find(folder, Row("eval/*/record.json", {}, "attack"))
    file.write_text("{")
    other = ["evaluate", str(folder), "--attacks", "pgd20", "--limit", "6", "--curve-samples", "0"]
    assert run(other) == 0
    aside = folder / "eval" / "damaged" / f"{file.parent.name}-1"
    assert str(aside) in capsys.readouterr().err
    assert (aside / "record.json").read_text() == "{"
    assert (aside / "samples.npz").is_file()
    assert run(other) == 0
    assert "damaged" not in capsys.readouterr().err


# --- files that are whole, but not what was written ---

Record = dict[str, Any]
ATTACKED = Row("eval/*/record.json", {}, "attack")


def changed_record(folder: Path, change: Callable[[Record], object], kind: str = "attack") -> Path:
    """Change a record, seal it again as anybody can, and return its folder."""
    file = find(folder, Row("eval/*/record.json", {}, kind))
    record = read_json(file)
    change(record)
    write_json(file, {name: value for name, value in record.items() if name != "format"}, sealed=True)
    return file.parent


def old_record(folder: Path, kind: str = "attack") -> Path:
    """Take the digests out of a record, as those of before have none, and return its folder."""
    return changed_record(folder, lambda record: record.pop("files"), kind)


def changed_arrays(file: Path, change: Callable[[dict[str, NDArray[Any]]], object]) -> None:
    """Rewrite arrays with some of them changed; the file is as whole as before."""
    arrays = read_npz(file)
    change(arrays)
    write_npz(file, **arrays)


def test_a_record_names_the_digest_of_each_of_its_files(whole: Path) -> None:
    """What lies beside record.json is sealed in it: verdicts, pictures, curve and masks."""
    seen = set()
    for file in (whole / "eval").glob("*/record.json"):
        beside = {path for path in file.parent.iterdir() if path != file}
        assert read_json(file)["files"] == {path.name: digest(path.read_bytes()) for path in beside}
        seen |= {path.name for path in beside}
    assert seen == {"samples.npz", "gallery.npz", "curves.json", "mask.npz"}


PICTURES: dict[str, Callable[[dict[str, NDArray[Any]]], object]] = {
    "no images": lambda a: a.pop("images"),
    "floats": lambda a: a.update(images=a["images"] * 1e9),
    "fewer images": lambda a: a.update(images=a["images"][:1]),
    "not a number": lambda a: a.update(attacked=a["attacked"] * np.nan),
    "classes without a name": lambda a: a.update(labels=a["labels"] + 99),
}


def turn(arrays: dict[str, NDArray[Any]]) -> None:
    """Turn verdicts round, and pictures' order."""
    arrays.update({k: ~v if v.dtype == bool else v[::-1].copy() for k, v in arrays.items()})


def test_verdicts_of_another_making_are_not_believed(
    whole: Path, right: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verdicts turned round in a sound file: left out of a report, and made again."""
    folder, file = tmp_path / "run", "samples.npz"
    shutil.copytree(whole, folder)
    place = find(folder, ATTACKED).parent
    changed_arrays(place / file, turn)
    assert run(show(folder)) == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "is not the file that" in page
    capsys.readouterr()
    with pytest.raises(InputError, match="is not the file that"):
        list(read_records(folder))
    assert run(evaluate(folder)) == 0
    printed = capsys.readouterr()
    assert str(place / file) in printed.err
    assert result("evaluate", folder, printed.out) == right["evaluate"]
    assert len(list(read_records(folder))) == 3
    assert (folder / "eval" / "damaged" / f"{place.name}-1" / file).is_file()


@pytest.mark.parametrize("change", ["another digest", *PICTURES])
def test_pictures_go_alone(
    change: str, whole: Path, right: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other pictures than were sealed, or none at all, cost no verdict: a report and `evaluate` do without them."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    sealed = change == "another digest"
    place = find(folder, ATTACKED).parent if sealed else old_record(folder)
    changed_arrays(place / "gallery.npz", turn if sealed else PICTURES[change])
    assert run(show(folder)) == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "A gallery is left out" in page
    assert "A record is left out" not in page
    before = (place / "record.json").read_bytes()
    capsys.readouterr()
    for sentence in (f"{place / 'gallery.npz'}", "fgsm: already on record"):
        assert run(evaluate(folder)) == 0
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert result("evaluate", folder, printed.out) == right["evaluate"]
    assert (place / "record.json").read_bytes() == before
    assert (folder / "eval" / "damaged" / place.name / "gallery.npz-1").is_file()


def test_a_record_of_before_digests_is_read(
    whole: Path, right: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records of the same format that name no digests are taken as they are."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for kind in ("attack", "curve", "mask"):
        old_record(folder, kind)
    capsys.readouterr()
    assert run(evaluate(folder)) == 0
    printed = capsys.readouterr()
    assert "fgsm: already on record" in printed.err
    assert result("evaluate", folder, printed.out) == right["evaluate"]


CHANGES: dict[str, Callable[[Record], object]] = {
    "no settings": lambda r: r.pop("attack"),
    "settings in words": lambda r: r.update(attack="x"),
    "settings of no attack": lambda r: r["attack"].pop("steps"),
    "draws in words": lambda r: r["attack"].update(draws="x"),
    "stages of its settings": lambda r: r["attack"].update(stages=3),
    "stages": lambda r: r.update(stages=[{"name": "x"}]),
    "n in words": lambda r: r["data"].update(n="x"),
    "no n": lambda r: r["data"].update(n=None),
    "n of nothing": lambda r: r["data"].update(of=0),
    "another n": lambda r: r["data"].update(n=5),
    "huge n": lambda r: r["data"].update(n=10**400, of=10**401),
    "class names": lambda r: r["data"].update(class_names=3),
    "few class names": lambda r: r["data"].update(class_names=["a"]),
    "split": lambda r: r["data"].update(split={}),
    "eps as a number": lambda r: r["ball"].update(eps=3),
    "no eps": lambda r: r["ball"].update(eps="nan"),
    "huge eps": lambda r: r["ball"].update(eps="1e999999"),
    "norm": lambda r: r["ball"].update(norm="l9"),
    "created at the end of time": lambda r: r.update(created="9999-12-31T23:59:59.999999+00:00"),
    "created whenever": lambda r: r.update(created="yesterday"),
    "created nowhere": lambda r: r.update(created="2026-11-25T17:25:42"),
    "checkpoint": lambda r: r.update(checkpoint={"a": 1}),
    "seed": lambda r: r.update(seed=[1]),
    "model": lambda r: r.update(model=[1]),
    "accuracy": lambda r: r.update(accuracy="x"),
    "endless seconds": lambda r: r.update(seconds=10**400),
    "path": lambda r: r.update(path=["x"]),
    "provenance": lambda r: r.update(provenance=3),
    "files": lambda r: r.update(files=["samples.npz"]),
    "files elsewhere": lambda r: r.update(files={"../config.json": "0" * 64}),
    "a mask": lambda r: r.update(kind="mask"),
    "a diagnosis": lambda r: r.update(kind="diagnosis"),
    "a curve": lambda r: r.update(kind="curve"),
}
ARRAYS: dict[str, Callable[[dict[str, NDArray[Any]]], object]] = {
    "no identities": lambda a: a.pop("ids"),
    "fewer identities": lambda a: a.update(ids=a["ids"][:5]),
    "fewer samples": lambda a: a.update({k: v[:5] for k, v in a.items()}),
    "numbers for bits": lambda a: a.update(fooled_last=a["fooled_last"] * np.nan),
    "words for bits": lambda a: a.update(fooled_any=np.array(["x"] * 6)),
    "words for identities": lambda a: a.update(ids=np.array(["x"] * 6)),
    "stages in words": lambda a: a.update(fooled_by=np.array(["x"] * 6)),
}


def every_command_ends_well(
    folder: Path, whole: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report leaves the record out, a comparison too; evaluating sets it aside, and makes one that is sound."""
    assert run(show(folder)) == 0
    assert "left out" in (folder / "page.html").read_text(encoding="utf-8")
    assert run(["compare", str(folder), str(whole)]) in (0, 2)
    capsys.readouterr()
    assert run(evaluate(folder)) == 0
    printed = capsys.readouterr()
    assert f'"{damaged}' in printed.err
    assert "set aside" in printed.err
    assert "Error" not in printed.err
    list(read_records(folder))  # all of them are sound now


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", CHANGES)
def test_a_record_that_says_anything_else_is_damaged(
    what: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sealed or not, a record without what its readers need, or with something else in its place."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    every_command_ends_well(folder, whole, changed_record(folder, CHANGES[what]), capsys)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_of_another_kind_are_damaged(
    what: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same of its arrays, where no digest says so already."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    place = old_record(folder)
    changed_arrays(place / "samples.npz", ARRAYS[what])
    every_command_ends_well(folder, whole, place, capsys)


@pytest.mark.parametrize("change", [{"eps": [1]}, {"eps": "x"}, {"n": "x"}, {"accuracy": None}])
def test_a_curve_of_another_kind_is_damaged(
    change: dict[str, Any], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of the curve, sealed in itself."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    place = old_record(folder, "curve")
    values = {name: value for name, value in read_json(place / "curves.json").items() if name != "format"}
    write_json(place / "curves.json", {**values, **change}, sealed=True)
    every_command_ends_well(folder, whole, place, capsys)


@pytest.mark.parametrize("kept_later", [False, True])
def test_torn_images_are_made_again(
    kept_later: bool,  # noqa: FBT001
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Images kept with their record or after it, and torn since, are kept anew where they are wanted."""
    out = str(tmp_path / "out")
    command = evaluate(whole, "--out", out)
    for line in ([command] if kept_later else []) + [[*command, "--save-images"]]:
        assert run(line) == 0
    (images,) = tmp_path.glob("out/eval/*/adversarial.npz")
    before = images.read_bytes()
    images.write_bytes(before[:500])
    capsys.readouterr()
    assert run([*command, "--save-images"]) == 0
    assert f'"{images}" is damaged' in capsys.readouterr().err
    assert images.read_bytes() == before
    assert run([*command, "--save-images"]) == 0
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("file", ["last.sha256", "last-1-of-1.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_packed_weights_are_refused(
    file: str, damage: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packed weights are verified like a checkpoint's; the file is named."""
    folder = tmp_path / "packed"
    shutil.copytree(whole.parent / "packed", folder)
    target = folder / "weights" / file
    before = target.read_bytes()
    target.write_bytes(DAMAGE[damage](before))
    harmless = file.endswith("sha256") and target.read_bytes().strip() == before.strip()
    assert run(evaluate(folder)) == (0 if harmless else 2)
    assert harmless or str(folder / "weights") in capsys.readouterr().err


@pytest.mark.slow
def test_damaged_table_and_mark_of_a_reproduction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged ``done`` is made again from the records; a damaged table is refused, and the same command mends it."""
    again = ["reproduce", "S1", "--scale", "smoke", "--rows", "at", "--out", str(tmp_path), "--device", "cpu"]
    assert run([*again, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    cell = tmp_path / "S1-smoke" / "at-s0"
    for file in (cell / "done", tmp_path / "S1-smoke" / "table.json"):
        file.write_bytes(DAMAGE["torn"](file.read_bytes()))
    assert run(["report", str(tmp_path / "S1-smoke"), "--out", str(tmp_path / "page.html")]) == 2
    assert "table.json" in capsys.readouterr().err
    assert run([*again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    record = next(cell.glob("eval/*/samples.npz")).parent / "record.json"
    record.write_bytes(DAMAGE["flipped"](record.read_bytes()))
    assert run(again) == 2  # left out, a seed would be missing from the table
    assert f'remove "{cell / "done"}"' in capsys.readouterr().err
    (cell / "done").unlink()
    assert run([*again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize("damage", [*DAMAGE, "of other samples"])
def test_a_damaged_journal_starts_the_attack_anew(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal of a killed cascade is a help, no condition: without it the verdicts are the same, and it is said."""
    monkeypatch.setitem(ATTACKS, "short", _short)
    study, said = plan(tmp_path), list[str]()
    expected = carry_out(plan(tmp_path / "undisturbed"), ["short"])
    file = Shard(0, 1).file(record_folder(study, "short"), "progress")
    n = 3 if damage == "of other samples" else len(study.data)
    images = study.data.images[:n] / 255
    standing = Standing(np.full(n, -1, np.int16), images, [StageCost("apgd-ce")], 0)
    Journal(file).write(standing, now=True)
    if damage in DAMAGE:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    sound = Journal(file).read(images, lambda _text: None) is not None  # a bit that nobody reads
    outcome = carry_out(study, ["short"], say=said.append)
    np.testing.assert_array_equal(outcome.fooled["short"], expected.fooled["short"])
    assert any(str(file) in text and "starts anew" in text for text in said) or (
        sound and damage == "flipped"
    )


def test_a_damaged_part_says_what_to_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A torn part of a sharded attack is named with its remedy, which works."""
    del capsys
    study = plan(tmp_path)
    for number in range(2):
        carry_out_shard(study, ["fgsm"], Shard(number, 2))
    part = record_folder(study, "fgsm") / "part-0-of-2.npz"
    part.write_bytes(part.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"part-\*\.npz"):
        carry_out(study, ["fgsm"])
    for file in part.parent.glob("part-*.npz"):
        file.unlink()
    assert carry_out(study, ["fgsm"]).n == 20


# --- a disk that refuses ---


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_training_that_cannot_write_loses_nothing(
    number: int,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused at any write, training ends in a sentence; resumed, it ends in the undisturbed run's weights."""
    met = 0
    for at in range(1, 60, 12):
        out = tmp_path / str(at)
        with refused_from(monkeypatch, at, number) as refusal:
            code = run([*TRAIN, str(out)])
        err = capsys.readouterr().err
        if not refusal.met:
            assert code == 0
            break
        met += 1
        assert code == (2 if number == errno.EROFS or at == 1 else 1), err
        assert os.strerror(number) in err.splitlines()[-1]
        assert "Traceback" not in err
        assert not list(out.glob("checkpoints/.*.partial"))
        assert run(resume(out)) == 0
        assert fingerprint(load(out)) == fingerprint(load(whole))
        assert len(Metrics(out / "metrics.jsonl").rows()) == 2
    assert met >= 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_an_evaluation_that_cannot_write_loses_nothing(
    number: int,
    whole: Path,
    right: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused at any write, an evaluation ends in a sentence; the same command then finds what it would have found."""
    met = 0
    for at in range(1, 40, 8):
        out = tmp_path / str(at)
        command = evaluate(whole, "--out", str(out))
        with refused_from(monkeypatch, at, number) as refusal:
            code = run(command)
        printed = capsys.readouterr()
        if not refusal.met:
            break
        met += 1
        assert code == (2 if number == errno.EROFS or at == 1 else 1), printed.err
        assert os.strerror(number) in printed.err.splitlines()[-1]
        assert run(command) == 0
        said = capsys.readouterr().out.replace(f"report {out}", f"report {whole}")
        assert result("evaluate", out, said).replace(str(whole), "RUN") == right["evaluate"]  # type: ignore[attr-defined]
    assert met >= 2


LIMITED = """
import resource, sys
from fsrobust.attacks import ATTACKS
from fsrobust.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
sys.exit(run(sys.argv[1:]))
"""


def test_a_limit_on_files_is_a_full_disk(whole: Path, tmp_path: Path) -> None:
    """In a process whose files may not grow (RLIMIT_FSIZE) the kernel itself refuses: exit 1, no half checkpoint."""
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *TRAIN, str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Make room" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(out.glob("checkpoints/*"))
    assert run(resume(out)) == 0
    assert fingerprint(load(out)) == fingerprint(load(whole))


# --- places and clocks ---


def test_a_run_goes_on_elsewhere_and_long_ago(whole: Path, tmp_path: Path) -> None:
    """Moved to another folder, all its files dated 1970, a stopped run is resumed to the same weights."""
    assert run([*TRAIN, str(tmp_path / "here"), "--time-limit", "0s"]) == 0
    there = tmp_path / "far" / "away"
    there.parent.mkdir()
    (tmp_path / "here").rename(there)
    for file in there.rglob("*"):
        os.utime(file, (0, 0))
    assert run(resume(there)) == 0
    assert fingerprint(load(there)) == fingerprint(load(whole))


def test_a_clock_set_back_makes_no_record_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which record is the newest decides what a report shows; it is the one that was written last."""

    class Clock(datetime.datetime):
        year_now = 2030

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            """Return the first of January of whatever year it is."""
            return cls(cls.year_now, 1, 1, tzinfo=tz)

    study = plan(tmp_path)  # before the clock is another: what it imports looks at the class
    monkeypatch.setattr(datetime, "datetime", Clock)
    carry_out(study, ["fgsm"])
    Clock.year_now = 2020
    carry_out(study, ["pgd10"])
    created = {r["name"]: r["created"] for r in read_records(tmp_path) if r["kind"] == "attack"}
    assert created["pgd10"] >= created["fgsm"] >= "2030"
