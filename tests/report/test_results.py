"""What a directory is read as, however much of it is there."""

import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fsrobust.attacks import L2, Linf
from fsrobust.evaluate import Study, Subject, carry_out
from fsrobust.evaluate import curves as curves
from fsrobust.evaluate.identity import weights_sha256
from fsrobust.report import read_run
from fsrobust.report.entries import cast
from fsrobust.report.facts import training_facts
from fsrobust.train import load
from fsrobust.train.checkpoint import save_checkpoint
from fsrobust.train.packing import pack
from fsrobust.types import InputError
from tests.report.builder import PUBLISHED, Fake, write_config, write_fake, write_run
from tests.runs import at, digits, net, train


def test_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What training and evaluation really write is read whole."""
    monkeypatch.setattr(curves, "STEPS", 2)
    trained = train(tmp_path, fsr="layer3", epochs=1)
    data = digits(10, "test")
    study = Study(tmp_path, Subject(trained.model, "real", "last"), data, 360, Linf(0.1))
    outcome = carry_out(study, ["fgsm", "pgd10"], curve_samples=4)
    run = read_run(tmp_path)
    (evaluation,) = run.evaluations
    assert run.config is not None
    assert len(run.metrics) == 1
    assert run.parameters == sum(p.numel() for p in trained.model.parameters())
    assert evaluation.outcome.attacks == ("fgsm", "pgd10")
    assert evaluation.outcome.accuracy("pgd10") == outcome.accuracy("pgd10")
    assert evaluation.curve is not None
    assert evaluation.curve.n == 4
    assert len(evaluation.paths["pgd10"]) == 11
    assert evaluation.masks is not None
    assert evaluation.masks.position == "layer3"
    np.testing.assert_array_equal(evaluation.galleries["fgsm"].images, data.images.numpy())
    assert run.remarks == []
    # trained from Python: the objective goes by its repr
    assert dict(training_facts(run))["Objective"] == repr(at())


def test_empty_directory(tmp_path: Path) -> None:
    """A directory with neither a run nor records is refused, and so is one that is not there."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="neither"):
            read_run(folder)


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    """Whoever names the folder that runs are in is told what is in it."""
    write_config(tmp_path / "a run")
    write_fake(tmp_path / "audit", Fake())
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="neither; name what is inside: ") as refused:
        read_run(tmp_path)
    assert str(refused.value).endswith(f"inside: '{tmp_path / 'a run'}' {tmp_path / 'audit'}")


def test_run_without_evaluation(tmp_path: Path) -> None:
    """A run that nobody attacked yet is a run."""
    write_config(tmp_path)
    assert read_run(tmp_path).evaluations == []


def test_audit_has_no_config(tmp_path: Path) -> None:
    """Records alone are an audit, titled by what was evaluated."""
    write_fake(tmp_path, Fake(checkpoint=None), source="pkg:factory")
    run = read_run(tmp_path)
    assert run.config is None
    assert run.title == "pkg:factory"


def test_an_audit_of_a_run_says_where_it_is(tmp_path: Path) -> None:
    """Records of a run that were made with another --out are not taken for those in the run."""
    runs = [write_run(tmp_path / "at", title="AT"), tmp_path / "elsewhere", tmp_path / "at 2"]
    for folder in runs[1:]:
        write_fake(folder, Fake(), source="at")
    labels = [entry.label for entry in cast([read_run(run) for run in runs]).entries]
    assert labels == ["AT", "at (evaluated in elsewhere)", "at (evaluated in at 2)"]


def test_runs_of_one_title_go_by_their_folders(tmp_path: Path) -> None:
    """Each evaluation of theirs says whose it is, also where its ball alone would tell it apart."""
    runs = [write_run(tmp_path / name, Fake(weights=k)) for k, name in enumerate(("a", "b"))]
    write_fake(runs[1], Fake(weights=1, ball=Linf(0.1)))
    labels = [entry.label for entry in cast([read_run(run) for run in runs]).entries]
    assert labels == [f"AT, {rest}" for rest in ("a", "b, L∞ 8/255", "b, L∞ 0.1")]


def test_other_weights_in_an_audit_are_another_model(tmp_path: Path) -> None:
    """Two files of one name in one folder are told apart by their digests; two of other names by these."""
    for weights in (1, 2):
        write_fake(tmp_path / "one", Fake(checkpoint=None, weights=weights), source="weights.safetensors")
        write_fake(tmp_path / "two", Fake(checkpoint=None, weights=weights), source=f"w{weights}.pth")
    write_fake(
        tmp_path / "one", Fake(checkpoint=None, weights=1, ball=Linf(0.1)), source="weights.safetensors"
    )
    one, two = read_run(tmp_path / "one"), read_run(tmp_path / "two")
    first, second = (weights_sha256(net(seed=seed))[:8] for seed in (1, 2))
    assert one.remarks == []
    assert {entry.label for entry in cast([one]).entries} == {
        f"weights {first}, L∞ 8/255",
        f"weights {first}, L∞ 0.1",
        f"weights {second}",
    }
    assert {entry.name for entry in cast([two]).entries} == {"two (w1.pth)", "two (w2.pth)"}


def test_checkpoints_and_balls_stay_apart(tmp_path: Path) -> None:
    """Each checkpoint, ball and evaluation seed is an entry; the last in the own ball comes first."""
    write_run(tmp_path, Fake(ball=Linf(4 / 255)))
    write_fake(tmp_path, Fake(checkpoint="best", weights=1))
    write_fake(tmp_path, Fake())
    write_fake(tmp_path, Fake(ball=L2(0.5)))
    write_fake(tmp_path, Fake(seed=1))
    found = [(e.checkpoint, e.norm, e.eps, e.record["seed"]) for e in read_run(tmp_path).evaluations]
    assert set(found[:2]) == {("last", "linf", "8/255", 0), ("last", "linf", "8/255", 1)}
    assert found[2:] == [
        ("last", "l2", "0.5", 0),
        ("last", "linf", "4/255", 0),
        ("best", "linf", "8/255", 0),
    ]


def test_newer_weights_replace_older(tmp_path: Path) -> None:
    """When a run went on and was evaluated again, only its present weights are shown, and it says so."""
    write_run(tmp_path, Fake())
    write_fake(tmp_path, Fake(weights=1, created="2026-03-01T00:00:00+00:00"))
    run = read_run(tmp_path)
    (evaluation,) = run.evaluations
    assert evaluation.record["created"].startswith("2026-03")
    assert run.remarks
    assert run.remarks[0] == "1 of 2 evaluations are not shown: of earlier weights of the same checkpoint."


def test_records_of_other_weights_are_left_out(tmp_path: Path) -> None:
    """What was measured before a run went on, or on another run, is not shown as the checkpoint that is there."""
    trained = train(tmp_path, epochs=1, train_on="all")
    data = digits(10, "test")

    def evaluate(model: nn.Module, checkpoint: str | None) -> None:
        carry_out(Study(tmp_path, Subject(model, "it", checkpoint), data, 360, Linf(0.1)), ["fgsm"])

    evaluate(net(seed=5), "last")
    run = read_run(tmp_path)
    assert run.evaluations == []
    assert [remark.partition(" (")[0] for remark in run.remarks] == [
        "1 record is left out, being of other weights"
    ]
    assert "than the last checkpoint that is there now: evaluate again." in run.remarks[0]
    evaluate(net(seed=6), None)  # a file's, into this folder
    evaluate(net(seed=7), "best")  # of which there is none
    evaluate(trained.model, "last")
    run = read_run(tmp_path)
    (one,) = run.evaluations
    assert one.record["weights_sha256"] == weights_sha256(trained.model)
    assert len(run.remarks) == 3
    assert any("best checkpoint" in remark and "not there any more" in remark for remark in run.remarks)
    shutil.rmtree(tmp_path / "checkpoints")  # nothing to compare with
    assert len(read_run(tmp_path).evaluations) == 3


def test_records_of_a_network_of_ones_own_are_of_its_weights(tmp_path: Path) -> None:
    """A file of weights keeps their order, so that nobody needs to make the network to know them again."""
    write_config(tmp_path)
    model = own_network()
    save_checkpoint(tmp_path, 1, model, {}, best=False)
    for seed, subject in enumerate((model, own_network())):
        study = Study(tmp_path, Subject(subject, "pkg:factory", "last"), digits(10, "test"), 360, Linf(0.1))
        carry_out(study, ["fgsm"])
        run = read_run(tmp_path)
        assert [one.record["weights_sha256"] for one in run.evaluations] == [weights_sha256(model)]
        assert len(run.remarks) == seed
    assert "1 record is left out, being of other weights" in run.remarks[0]


def own_network() -> nn.Module:
    """A network whose layers are named in another order than that of the alphabet."""
    layers = {"b": nn.Flatten(), "c": nn.Linear(64, 16), "a": nn.ReLU(), "_": nn.Linear(16, 10)}
    return nn.Sequential(OrderedDict(layers)).eval()


def test_a_record_goes_by_what_its_weights_are_now(tmp_path: Path) -> None:
    """What was evaluated as the last checkpoint and is the best one now is not lost: it would not be run again."""
    write_config(tmp_path)
    for name, seed in {"last": 1, "best": 2}.items():
        pack(net(seed=seed), tmp_path / "weights", name)
    subject = Subject(load(tmp_path, checkpoint="best"), "it", "last")
    carry_out(Study(tmp_path, subject, digits(10, "test"), 360, Linf(0.1)), ["fgsm"])
    run = read_run(tmp_path)
    assert [one.checkpoint for one in run.evaluations] == ["best"]
    assert run.remarks == []


def test_packed_weights_are_compared_as_they_are_evaluated(tmp_path: Path) -> None:
    """Weights packed in half precision are what was evaluated: records of the trained ones are not of them."""
    write_config(tmp_path)
    model = net(seed=3)
    pack(model, tmp_path / "weights", "last")
    write_fake(tmp_path, Fake(weights=3))
    assert read_run(tmp_path).evaluations == []
    study = Study(tmp_path, Subject(load(tmp_path), "it", "last"), digits(10, "test"), 360, Linf(0.1))
    carry_out(study, ["fgsm"])
    (one,) = read_run(tmp_path).evaluations
    assert one.outcome.n == 10


def test_damaged_weights_say_nothing(tmp_path: Path) -> None:
    """Records stay where the weights beside them cannot be read."""
    train(tmp_path, epochs=1)
    write_fake(tmp_path, Fake(weights=3))
    next(tmp_path.glob("checkpoints/0*/weights.safetensors")).write_bytes(b"torn")
    assert len(read_run(tmp_path).evaluations) == 1


def test_larger_sample_replaces_smaller(tmp_path: Path) -> None:
    """A first look on few samples is not shown beside the same attacks on more."""
    few = Fake(natural="1" * 5, fooled_last={"fgsm": "10000"}, fooled_any={})
    write_run(tmp_path, replace(few, created="2026-03-01T00:00:00+00:00"))
    write_fake(tmp_path, Fake())
    assert [e.outcome.n for e in read_run(tmp_path).evaluations] == [20]


def test_larger_sample_with_fewer_attacks_replaces_nothing(tmp_path: Path) -> None:
    """An attack that ran on few samples only is not lost to other attacks on more."""
    write_run(tmp_path, Fake(natural="1" * 5, fooled_last={"pgd10": "10000"}, fooled_any={}))
    write_fake(tmp_path, Fake())
    assert [e.outcome.n for e in read_run(tmp_path).evaluations] == [20, 5]


def test_damaged_arrays_are_passed_over(tmp_path: Path) -> None:
    """A record whose arrays cannot be read is left out with a sentence; the others stay."""
    write_run(tmp_path, Fake(parts=("gallery", "curve", "mask")))
    keys = {name: record["key"] for name, record in read_run(tmp_path).evaluations[0].records.items()}
    (tmp_path / "eval" / keys["cw"] / "samples.npz").write_bytes(b"torn")
    (tmp_path / "eval" / keys["fgsm"] / "gallery.npz").unlink()
    next(tmp_path.glob("eval/*/curves.json")).write_text("{")
    next(tmp_path.glob("eval/*/mask.npz")).unlink()
    run = read_run(tmp_path)
    (evaluation,) = run.evaluations
    assert evaluation.outcome.attacks == ("fgsm", "pgd20", "pgd100")
    assert set(evaluation.galleries) == {"pgd20", "pgd100"}
    assert evaluation.curve is None
    assert evaluation.masks is None
    assert len(run.remarks) == 4


def test_nothing_readable_is_an_evaluation_less(tmp_path: Path) -> None:
    """If no attack can be read, the evaluation is left out, not the report."""
    write_run(tmp_path)
    for file in tmp_path.glob("eval/*/samples.npz"):
        file.unlink()
    run = read_run(tmp_path)
    assert run.evaluations == []
    assert any("An evaluation is left out" in remark for remark in run.remarks)


@pytest.mark.parametrize(
    ("fake", "fits"),
    [
        (Fake(), True),
        (Fake(checkpoint="best"), False),
        (Fake(ball=Linf(4 / 255)), False),
        (Fake(ball=L2(0.5)), False),
        (Fake(data="digits"), False),
    ],
)
def test_published_numbers_are_of_one_setting(tmp_path: Path, fake: Fake, fits: bool) -> None:  # noqa: FBT001
    """Published numbers stand beside the ball and data they were published for, nowhere else."""
    run = read_run(write_run(tmp_path / "run", fake))
    assert run.published(run.evaluations[0]) == (PUBLISHED if fits else {})


def test_published_numbers_are_of_a_whole_training(tmp_path: Path) -> None:
    """A run that stopped an epoch early has none beside it."""
    run = read_run(write_run(tmp_path, epochs=3))
    assert run.published(run.evaluations[0]) == PUBLISHED
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert read_run(tmp_path).published(run.evaluations[0]) == {}


def test_strongest_attack(tmp_path: Path) -> None:
    """The gallery shows the attack that fooled most, on its way or at its end."""
    (evaluation,) = read_run(write_run(tmp_path / "run")).evaluations
    assert evaluation.strongest == "pgd100"


def test_pointer_cannot_leave_the_run(tmp_path: Path) -> None:
    """A checkpoint pointer that is not a step is not followed."""
    write_config(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last").write_text("../../secret\n")
    assert read_run(tmp_path).parameters is None
