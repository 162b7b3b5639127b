"""Studies that are told to stop: they do before the next batch, and go on to the bits of one that was not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fsrobust.attacks import APGD, ATTACKS, Ball, Cascade, Linf, Square, Stage
from fsrobust.evaluate import Study, Subject, carry_out, curves, evidence
from fsrobust.evaluate.stopping import Stop, Stopped
from fsrobust.evaluate.study import carry_out_diagnosis
from fsrobust.records import read_npz, write_npz
from tests.endurance.killing import remains
from tests.runs import digits, learnt

Work = Callable[[Path, Stop], object]


def _two_stages(ball: Ball) -> Cascade:
    return Cascade(ball, (Stage("apgd-ce", APGD(ball, steps=2)), Stage("square", Square(ball, queries=5))))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little of everything; journals are not due within the test, so that only who stops writes them."""
    monkeypatch.setitem(ATTACKS, "autoattack", _two_stages)
    monkeypatch.setattr(curves, "STEPS", 2)
    monkeypatch.setattr(evidence, "QUERIES", 20)


def study(folder: Path, *, rival: bool = False) -> Study:
    """Return a study of a network that is right on most digits, on a few of them."""
    other = Subject(learnt("paper"), "another") if rival else None
    return Study(folder, Subject(learnt(), "a network"), digits(6, "test"), 360, Linf(0.1), surrogate=other)


def evaluated(folder: Path, stop: Stop) -> None:
    """Run a plain attack, a cascade and a curve in batches of four: each has two."""
    carry_out(study(folder), ["pgd10", "autoattack"], curve_samples=6, batch=4, stop=stop)


def transferred(folder: Path, stop: Stop) -> None:
    """Run an attack by another network's gradients."""
    carry_out(study(folder, rival=True), ["pgd10"], batch=4, stop=stop)


def diagnosed(folder: Path, stop: Stop) -> None:
    """Run a diagnosis."""
    carry_out_diagnosis(study(folder), batch=4, stop=stop)


def after(batches: int) -> Stop:
    """Return what says to stop once so many batches are done."""
    asked = 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return "it is time" if asked > batches else None

    return stop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "stops"),
    [(evaluated, 15), (transferred, 1), (diagnosed, 10)],
    ids=["evaluated", "transferred", "diagnosed"],
)
def test_stopped_after_every_batch_a_study_ends_as_if_it_never_was(
    work: Work, stops: int, tmp_path: Path
) -> None:
    """Each call does one batch more and none twice; records and files are the undisturbed ones, bit for bit."""
    work(tmp_path / "whole", lambda: None)
    count = 0
    while True:
        try:
            work(tmp_path / "stopped", after(1))
        except Stopped:
            count += 1
            assert count < 100, "nothing is noted: the same batch again and again"
        else:
            break
    assert count >= stops
    assert remains(tmp_path / "stopped") == remains(tmp_path / "whole")


def test_what_is_on_record_is_returned_however_late_it_is(tmp_path: Path) -> None:
    """Out of time nothing new is begun; there is nothing to stop where nothing is left to do."""
    evaluated(tmp_path, lambda: None)
    evaluated(tmp_path, after(0))
    with pytest.raises(Stopped, match="it is time"):
        carry_out(study(tmp_path), ["fgsm"], stop=after(0))
    carry_out(study(tmp_path), ["fgsm"], stop=after(1))


def test_of_damaged_notes_nothing_is_believed(tmp_path: Path) -> None:
    """Torn, or no verdicts: it is said, and the curve starts anew."""
    carry_out(study(tmp_path / "whole"), ["fgsm"], curve_samples=6)
    for number, content in enumerate([b"PK", None]):
        folder, said = tmp_path / str(number), list[str]()
        with pytest.raises(Stopped):
            carry_out(study(folder), ["fgsm"], curve_samples=6, stop=after(3))
        (notes,) = (folder / "eval").glob("*/progress.npz")
        known = read_npz(notes)
        assert len(known) == 2
        write_npz(notes, **{key: bits.astype(float) for key, bits in known.items()})
        if content is not None:
            notes.write_bytes(content)
        carry_out(study(folder), ["fgsm"], curve_samples=6, say=said.append)
        assert "damaged" in said[-1]
        assert "starts anew" in said[-1]
        assert remains(folder) == remains(tmp_path / "whole")
