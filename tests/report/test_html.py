"""The page as a stranger meets it: self-contained, escaped, the same every time, whatever is missing."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fsrobust.attacks import SUITES, Linf
from fsrobust.evaluate import Interval
from fsrobust.report import report
from fsrobust.report.words import share
from fsrobust.types import InputError
from tests.report.builder import Fake, write_config, write_fake, write_run

HOSTILE = '<script>alert("x")</script>'
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
VOID = {"meta", "img", "br", "line", "rect", "path", "circle", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, addresses and text, and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a tag, and where it points."""
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that is open."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Remember text."""
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, blanks made plain."""
        plain = "".join(self.pieces).replace("\N{WORD JOINER}", "").replace("\N{NO-BREAK SPACE}", " ")
        return " ".join(plain.split())


def page_of(*runs: Path, out: Path) -> Page:
    """Write a report and read it back."""
    return Page(report(runs, out).read_text(encoding="utf-8"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the report goes: a folder that is not there yet."""
    return tmp_path / "deep" / "report.html"


def test_self_contained(tmp_path: Path, out: Path) -> None:
    """Nothing is loaded from anywhere, and there is no script."""
    page = page_of(write_run(tmp_path / "a", Fake(parts=("gallery", "curve", "mask")), epochs=4), out=out)
    assert len(page.addresses) > 20
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    text = out.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_same_records_same_bytes(tmp_path: Path) -> None:
    """A page depends on the records alone."""
    runs = [write_run(tmp_path / name, Fake(weights=k), title=name, epochs=2) for k, name in enumerate("ab")]
    first, second = (report(runs, tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert first == second


def test_summary_of_one_run(tmp_path: Path, out: Path) -> None:
    """The first paragraph says how many of how many withstand what: 7 of 20, 19 when clean."""
    page = page_of(write_run(tmp_path / "a"), out=out)
    assert (
        "Of 20 test images of cifar10 (drawn from 10,000 by seed 0), 35 % (18–57 %) are still classified "
        "correctly by CIFAR-10, AT when each pixel may move by up to 8/255 on a scale from 0 (black) to 1 (white), "
        "whatever the attacks below tried; without an attack it is 95 % (76–99 %)." in page.text
    )


def test_summary_of_several_runs(tmp_path: Path, out: Path) -> None:
    """Runs on the same samples are ranked, and what the images do not show is said."""
    weak = Fake(fooled_last=dict.fromkeys(SUITES["whitebox"], "1" * 20), fooled_any={}, weights=1)
    runs = [
        write_run(tmp_path / "weak", weak, title="CIFAR-10, natural training"),
        write_run(tmp_path / "good", Fake(), title="CIFAR-10, AT"),
        write_run(tmp_path / "also", Fake(weights=2), title="CIFAR-10, AT + FSR"),
    ]
    text = page_of(*runs, out=out).text
    assert "All were shown the same 20 test images of cifar10" in text
    assert "35 % (18–57 %) by AT, 35 % (18–57 %) by AT + FSR and 0 % (0–16 %) by natural training" in text
    assert (
        "AT withstands more of the same 20 images than natural training (by 35.0 points, 95 % interval 11.7 to 56.7, "
        "p 0.047): by the exact McNemar test (Holm's adjustment for 3 pairs), chance" in text
    )
    assert "These 20 images alone do not show that AT withstands more than AT + FSR (by 0.0 points" in text
    assert "each run is one training" in text.lower()


def test_many_runs_stay_readable(tmp_path: Path, out: Path) -> None:
    """Of many runs the first paragraph names the first and the last."""
    seeds = [{"epochs": 1, "seed": seed} for seed in range(6)]
    runs = [write_run(tmp_path / f"r{t['seed']}", Fake(weights=t["seed"]), train=t) for t in seeds]
    text = page_of(*runs, out=out).text
    assert "from 35 % (18–57 %) by AT, seed 5 to 35 % (18–57 %) by AT, seed 0 are still classified" in text


def test_table_has_published_numbers(tmp_path: Path, out: Path) -> None:
    """Ours, theirs and the difference stand in one cell, with the source below."""
    text = page_of(write_run(tmp_path / "a"), out=out).text
    assert "75.0 53.1–88.8 strict 70.0 paper 60 ours +15.0" in text
    assert "Published numbers beside CIFAR-10, AT: Table S5, row AT." in text
    assert "by the same count" in text


def test_no_published_numbers_in_another_ball(tmp_path: Path, out: Path) -> None:
    """In another ball there is nothing to compare with."""
    assert "Published numbers" not in page_of(write_run(tmp_path / "a", Fake(ball=Linf(0.1))), out=out).text


def test_says_what_it_cannot_say(tmp_path: Path, out: Path) -> None:
    """Upper bound, AutoAttack, both counts and the toy are spoken of."""
    text = page_of(write_run(tmp_path / "a", Fake(data="digits", channels=1)), out=out).text
    assert "Robust accuracy is an upper bound" in text
    assert "AutoAttack was not run. Only attacks of the PGD kind were run." in text
    assert "The large number is the paper's count" in text
    assert "On this page they differ by 15 percentage points at most." in text
    assert "a toy" in text
    assert "20 test images of digits (drawn from 10,000 by seed 0)" in text


def test_smoke_is_called_smoke(tmp_path: Path, out: Path) -> None:
    """A smoke run's numbers are not taken for results."""
    assert "A smoke run" in page_of(write_run(tmp_path / "a", recipe="at-smoke"), out=out).text


def test_hostile_names(tmp_path: Path, out: Path) -> None:
    """Titles, folders, sources, class names and configurations are text, never markup."""
    fake = Fake(class_names=[HOSTILE] * 10, parts=("gallery", "curve", "mask"))
    config = {"recipe": HOSTILE, "objective": {"name": HOSTILE}, "model": {"name": HOSTILE, "fsr": [HOSTILE]}}
    run = write_run(tmp_path / "<b>run & 'co'", fake, title=f"$x^{{2$ {HOSTILE}", epochs=2, **config)
    audit = tmp_path / '"><img src=x onerror=alert(1)>'
    write_fake(audit, replace(fake, checkpoint=None), source="a:b" + HOSTILE)
    page = page_of(run, audit, out=out)
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert "<script" not in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "\N{RIGHT-TO-LEFT OVERRIDE}tac\N{RIGHT-TO-LEFT ISOLATE}",
        "x" * 5000,
        "a\0b\x1b[31mred\x07",
        "' onerror='x' \"",
        "",
    ],
    ids=["right to left", "long", "control", "quotes", "empty"],
)
def test_strange_names(tmp_path: Path, out: Path, name: str) -> None:
    """No name turns the text around it, widens the page, controls anything, or leaves its attribute."""
    fake = Fake(class_names=[f"{name}{k}" for k in range(10)], parts=("gallery", "curve", "mask"))
    run = write_run(tmp_path / "run", fake, title=f"Title {name}", epochs=2, recipe=name)
    audit = tmp_path / "audit"
    write_fake(audit, replace(fake, checkpoint=None, weights=1), source=f"a:{name}")
    page = page_of(run, audit, out=out)  # which fails if an attribute begins with "on"
    html = out.read_text(encoding="utf-8")
    assert not {c for c in html if c in TURNING or (ord(c) < 32 and c != "\n")}
    assert "overflow-wrap: anywhere" in html
    assert max(map(len, page.text.split())) <= 5100
    assert "Title" in page.text


def test_last_and_best_are_rows(tmp_path: Path, out: Path) -> None:
    """Both checkpoints of one run stand in the table under names of their own."""
    run = write_run(tmp_path / "a")
    write_fake(run, Fake(checkpoint="best", weights=1))
    text = page_of(run, out=out).text
    assert "by CIFAR-10, AT (last checkpoint)" in text
    assert "by CIFAR-10, AT (best checkpoint)" in text
    assert "L∞, eps 8/255" in text


def test_equal_titles_are_told_apart(tmp_path: Path, out: Path) -> None:
    """Two runs of one title and seed go by their folders."""
    runs = [write_run(tmp_path / name, Fake(weights=k)) for k, name in enumerate(("one", "two"))]
    text = page_of(*runs, out=out).text
    assert "AT, one" in text
    assert "AT, two" in text


def test_one_directory_given_twice(tmp_path: Path, out: Path) -> None:
    """The same run is not compared with itself."""
    run = write_run(tmp_path / "a")
    assert "All were shown" not in page_of(run, tmp_path / "." / "a", out=out).text


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (Fake(parts=()), "accuracy against eps was not recorded"),
        (Fake(parts=("curve",)), "No pictures of attacked images are on record."),
        (Fake(parts=("mask",)), "only its histogram is shown"),
        (Fake(fooled_last={"fgsm": "0" * 20}), "No attack with several steps is on record"),
        (Fake(fooled_last={"fgsm": "0" * 20}), "Some model met one attack only"),
        (Fake(attacked={"cw": "1" * 15 + "0" * 5}), '"cw" attacked 15 of 20 samples'),
        (Fake(attacked={"cw": "1" * 15 + "0" * 5}), "C&W did not visit 4 images that no other attack fooled"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, out: Path, fake: Fake, sentence: str) -> None:
    """Whatever was not recorded, the page is written and says so."""
    assert sentence in page_of(write_run(tmp_path / "a", replace(fake, fooled_any={})), out=out).text


def test_run_without_metrics(tmp_path: Path, out: Path) -> None:
    """A run that never finished an epoch has no curves."""
    assert "No epoch is on record" in page_of(write_run(tmp_path / "a"), out=out).text


def test_run_without_evaluation(tmp_path: Path, out: Path) -> None:
    """A run that nobody attacked is shown, and no number is made up."""
    write_config(tmp_path / "a")
    text = page_of(tmp_path / "a", out=out).text
    assert "No evaluation of these runs' weights is on record" in text
    assert "right under every attack tried" not in text


def test_guarded_model_without_pictures(tmp_path: Path, out: Path) -> None:
    """That a model has the plug-in is known from its records."""
    folder = tmp_path / "audit"
    write_fake(folder, Fake(checkpoint=None))
    for file in folder.glob("eval/*/record.json"):
        record = json.loads(file.read_text())
        record["model"]["fsr"] = ["layer3"]
        file.write_text(json.dumps(record))
    text = page_of(folder, out=out).text
    assert "no pictures of its mask are on record" in text
    assert "These weights were not trained in this directory" in text


def test_foreign_attack_is_described(tmp_path: Path, out: Path) -> None:
    """An attack of a kind that the page does not know shows its settings."""
    run = write_run(tmp_path / "a")
    for file in run.glob("eval/*/record.json"):
        record = json.loads(file.read_text())
        if record.get("name") == "cw":
            record |= {"attack": {"type": "Cascade", "ball": record["ball"], "queries": 5000}}
            file.write_text(json.dumps(record))
    text = page_of(run, out=out).text
    assert "C&W: Cascade: queries 5000." in text
    assert "Only attacks of the PGD kind" not in text


def test_rows_of_different_samples(tmp_path: Path, out: Path) -> None:
    """Rows that did not meet the same images are not ranked, and the page warns of comparing them."""
    other = Fake(natural="1" * 8, fooled_last={"fgsm": "0" * 8}, fooled_any={}, weights=1)
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", other, title="CIFAR-10, other")]
    text = page_of(*runs, out=out).text
    assert "All were shown" not in text
    assert "Not all rows are of the same samples in the same ball" in text


def test_nothing_to_report(tmp_path: Path, out: Path) -> None:
    """A directory with neither run nor records is refused, as is none at all; nothing is written."""
    with pytest.raises(InputError, match="neither"):
        report([tmp_path], out)
    with pytest.raises(InputError, match="at least one"):
        report([], out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [(0.843, 0.801, 0.88, "84 % (80–88 %)"), (0.998, 0.98, 1.0, "99.8 % (98–100 %)")],
)
def test_shares_in_prose(value: float, low: float, high: float, text: str) -> None:
    """Prose rounds to whole %, but never up to a hundred."""
    assert share(value, Interval(low, high), 300).replace("\N{NO-BREAK SPACE}", " ") == text
