"""Sentences, computed from numbers: what a page says in words, so that a reader need not know the field."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fsrobust.evaluate import Interval, wilson
from fsrobust.evaluate.joined import precision_of
from fsrobust.report import portions
from fsrobust.report.entries import Entry, comparable
from fsrobust.report.evaluations import Record
from fsrobust.report.figures import ball_radius
from fsrobust.report.groups import cascade_in_words
from fsrobust.report.tables import Table, heading, percent, unvisited

UPPER_BOUND: Final = (
    "Robust accuracy is an upper bound: further attacks can only find more images on which the model fails, "
    "never fewer. The numbers say what these attacks found, not what no attack could find."
)
COUNTS: Final = (
    "The large number is the paper's count: an image counts when the model is right about the last image "
    "that the attack made, even where it was wrong about the clean one. “Strict” asks for more: right "
    "about the clean image and about every image that the attack tried on its way."
)
INTERVALS: Final = (
    "In grey: the 95 % interval (Wilson) for the accuracy on all images of this kind, of which these n are a "
    "sample. It knows of chance in the choice of images only, not of other trainings or stronger attacks."
)
SPACE: Final = "\N{NO-BREAK SPACE}"
LISTED: Final = 12
"""Ids that are listed before it is said how many more there are."""
PIXELS: Final = "on a scale from 0 (black) to 1 (white)"


def share(value: float, interval: Interval, n: int) -> str:
    """Return a share and its interval as prose gives them, "84 % (80–88 %)".

    >>> share(0.843, Interval(0.801, 0.880), 300).replace(SPACE, " ")
    '84 % (80–88 %)'
    """
    low, high = _whole(interval.low, n), _whole(interval.high, n)
    return f"{_whole(value, n)}{SPACE}% ({low}–{high}{SPACE}%)"


def _whole(value: float, n: int) -> str:
    """Return a share in whole %, but never 0 or 100 for what is not, nor whole on thousands of samples."""
    whole = f"{100 * value:.0f}"
    hides = (whole == "0" and value > 0) or (whole == "100" and value < 1)
    return percent(value, n) if n >= 1000 or hides else whole


def count(number: int) -> str:
    """Return a count with its thousands apart, "1,294"."""
    return f"{number:,}"


def ball_in_words(norm: str, eps: str) -> str:
    """Return what an attacker may do, for somebody who has not met a norm.

    >>> ball_in_words("linf", "8/255")
    'each pixel may move by up to 8/255 on a scale from 0 (black) to 1 (white)'
    """
    if norm == "linf":
        return f"each pixel may move by up to {eps} {PIXELS}"
    if norm == "l2":
        return f"each image may move by a Euclidean distance of up to {eps}, its pixels being {PIXELS}"
    return f"each image may move by up to {eps} in the norm {norm}, its pixels being {PIXELS}"


def sample_in_words(record: Record) -> str:
    """Return which images an evaluation used, "300 test images of digits (drawn from 360 by seed 0)"."""
    data = record["data"]
    text = f"{count(data['n'])} {data['split']} images of {data['name']}"
    if data["n"] == data["of"]:
        return f"{text} (all there are)"
    return f"{text} (drawn from {count(data['of'])} by seed {record['seed']})"


def listed(texts: Sequence[str]) -> str:
    """Return texts as a list in a sentence, "a, b and c"; semicolons part those that have commas."""
    if len(texts) == 1:
        return texts[0]
    comma = "; " if any("," in text for text in texts) else ", "
    return f"{comma.join(texts[:-1])}{comma if comma == '; ' else ' '}and {texts[-1]}"


def some(ids: Sequence[int]) -> str:
    """Return ids as a list that does not fill the page.

    >>> some(range(14))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more'
    """
    more = f" and {count(len(ids) - LISTED)} more" if len(ids) > LISTED else ""
    return ", ".join(str(one) for one in ids[:LISTED]) + more


def attack_in_words(attack: Mapping[str, Any]) -> str:
    """Return an attack's settings as prose; step sizes as parts of eps, so that they hold for any ball.

    >>> ball = {"norm": "linf", "eps": "0.5"}
    >>> settings = {"loss": "ce", "steps": 20, "step_size": 0.05, "random_start": False, "restarts": 1}
    >>> attack_in_words({"type": "PGD", "ball": ball, **settings})
    'gradient ascent on the cross-entropy, 20 steps of eps/10, from the clean image'
    """
    if attack.get("stages"):
        return cascade_in_words([stage["name"] for stage in attack["stages"]])
    if attack.get("type") != "PGD":
        hidden = ("type", "ball")
        settings = ", ".join(
            f"{name} {value}" for name, value in attack.items() if name not in hidden and value is not None
        )
        return f"{attack.get('type', 'unknown')}{': ' + settings if settings else ''}"
    radius = ball_radius(attack["ball"]["norm"], attack["ball"]["eps"])
    loss = {"ce": "cross-entropy", "cw": "margin loss of Carlini and Wagner"}.get(
        attack["loss"], attack["loss"]
    )
    steps, restarts = attack["steps"], attack["restarts"]
    start = "a random point of the ball" if attack["random_start"] else "the clean image"
    text = f"gradient ascent on the {loss}, {'one step' if steps == 1 else f'{steps} steps'} of "
    text += f"{_part_of_eps(attack['step_size'], radius)}, from {start}"
    return text if restarts == 1 else f"{text}, {restarts} times"


def _part_of_eps(step_size: float, radius: float) -> str:
    ratio = radius / step_size if step_size else 0.0
    if ratio and abs(ratio - round(ratio)) < 1e-6:
        return "eps" if round(ratio) == 1 else f"eps/{round(ratio)}"
    return f"{step_size:.4g}"


def attacks_in_words(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return each attack's title and settings; an attack that had several settings has several lines."""
    lines: dict[tuple[str, str], None] = {}
    for entry in entries:
        for name, record in entry.evaluation.records.items():
            low = precision_of(record) != "fp32"
            search = f"; searched in {precision_of(record)}, only IEEE float32 decided" if low else ""
            lines[heading(name), attack_in_words(record["attack"]) + search] = None
    return list(lines)


def strict_gap(table: Table) -> str:
    """Return by how much the two counts differ in a table."""
    gaps = [100 * (cell.accuracy - cell.strict) for row in table.rows for cell in row.cells.values()]
    largest = max(gaps, default=0.0)
    if largest == 0:
        return "On this page the two agree everywhere."
    return f"On this page they differ by {largest:.2g} percentage points at most."


def limits(entries: Sequence[Entry]) -> list[str]:
    """Return what the numbers of a page cannot say."""
    records = [entry.evaluation.record for entry in entries]
    met = {name for entry in entries for name in entry.evaluation.records}
    sentences = _limits_of_samples(entries)
    sentences += _limits_of_data(entries)
    sentences += _limits_of_comparison(entries)
    for entry in entries:
        for name, missed in unvisited(entry.evaluation.outcome).items():
            sentences.append(
                f"{entry.label}: {heading(name)} did not visit {count(missed)} images that no other "
                "attack fooled; the number at the top counts them as right."
            )
    if not any("autoattack" in name.lower() for name in met):
        kinds = {r["attack"].get("type") for entry in entries for r in entry.evaluation.records.values()}
        only = "Only attacks of the PGD kind were run. " if kinds == {"PGD"} else ""
        sentences.append(
            f"AutoAttack was not run. {only}A model that hides its gradients can look robust to such attacks "
            "and fall to others."
        )
    if any(len(entry.evaluation.records) == 1 for entry in entries):
        sentences.append("Some model met one attack only: its robust accuracy is the less certain for it.")
    if any(record["data"]["name"] == "digits" for record in records):
        sentences.append(
            "The digits are 8×8 pixels: a toy. They show that everything works, and say nothing about "
            "CIFAR-10 or other photographs."
        )
    sentences.append(
        "The ball is all an attacker may do here. Nothing is said about larger changes, other norms, "
        "rotations, weather, or images unlike those of the data set."
    )
    if any(record["provenance"].get("dirty") for record in records):
        sentences.append("Some records were made with uncommitted changes to the code; see “dirty” below.")
    return sentences


def _limits_of_samples(entries: Sequence[Entry]) -> list[str]:
    """Return on what each row rests, rows of the same images in one sentence, and what that leaves open."""
    rows: dict[str, list[Entry]] = {}
    for entry in entries:
        rows.setdefault(sample_in_words(entry.evaluation.record), []).append(entry)
    sentences = []
    for sample, group in rows.items():
        n = group[0].evaluation.outcome.n
        low, high = wilson(n // 2, n)
        who = "Everything here" if len(rows) == 1 else listed([entry.label for entry in group])
        sentences.append(
            f"{who}: {sample}. On so many, a share near one half is known to ±{50 * (high - low):.1f} points."
        )
    return sentences


def _limits_of_data(entries: Sequence[Entry]) -> list[str]:
    """Return what the data lack of the official ones that they go by the name of, rows of equal ones together."""
    rows: dict[str, list[str]] = {}
    for entry in entries:
        said = portions.remark(entry.evaluation.record, entry.run.config)
        if said is not None:
            rows.setdefault(said, []).append(entry.label)
    return [
        f"{'Everything here' if len(labels) == len(entries) else listed(labels)}: {said}"
        for said, labels in rows.items()
    ]


def _limits_of_comparison(entries: Sequence[Entry]) -> list[str]:
    sentences = []
    if len(comparable(entries)) > 1:
        sentences.append(
            "Not all rows are of the same samples in the same ball: compare those of one kind only."
        )
    trained = {entry.run.folder for entry in entries if entry.run.config is not None}
    if len(trained) > 1:
        sentences.append(
            "Each run is one training with one seed. What differs between two runs need not differ between "
            "two methods: that takes at least three seeds of each."
        )
    names = [
        entry.label.lower() + str((entry.run.config or {}).get("recipe", "")).lower() for entry in entries
    ]
    if any("smoke" in name for name in names):
        sentences.append("A smoke run only shows that the code runs; its accuracies mean nothing.")
    return sentences
