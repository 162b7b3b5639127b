"""The rows of a page: each evaluation of each run, with a name of its own and a look of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fsrobust.evaluate.identity import subject_key
from fsrobust.report.evaluations import Evaluation, Record
from fsrobust.report.figures import NORMS, Style, style
from fsrobust.report.results import RunResults


@dataclass(frozen=True, eq=False)
class Entry:
    """An evaluation under a label that no other one on the page has; ``name`` is it as a sentence wants it.

    On a page of one run, whose title all labels leave out, the name has both.
    """

    label: str
    name: str
    run: RunResults
    evaluation: Evaluation
    style: Style


@dataclass(frozen=True, eq=False)
class Cast:
    """Who is on a page: entries, runs with a label and a style, and the words that all titles begin with."""

    common: str
    entries: Sequence[Entry]
    runs: Sequence[tuple[RunResults, str, Style]]


_Pair = tuple[RunResults, Evaluation | None]


def _training_seed(run: RunResults) -> str:
    train = (run.config or {}).get("train") or {}
    return f"seed {train['seed']}" if "seed" in train else ""


def _source(pair: _Pair) -> str:
    """Return what was evaluated, where the folder is of nothing in particular."""
    return str(pair[1].record["source"]) if pair[1] and pair[0].config is None else ""


def _checkpoint(pair: _Pair) -> str:
    return f"{pair[1].checkpoint} checkpoint" if pair[1] and pair[1].checkpoint else ""


def _weights(pair: _Pair) -> str:
    """Return which weights were evaluated, where a folder has records of several."""
    run, mine = pair
    if mine is None:
        return ""
    same = [
        one
        for one in run.evaluations
        if (one.checkpoint, _source((run, one))) == (mine.checkpoint, _source(pair))
    ]
    several = len({one.record["weights_sha256"] for one in same}) > 1
    return f"weights {mine.record['weights_sha256'][:8]}" if several else ""


def _version(pair: _Pair) -> str:
    """Return what tells a model from another one of the same weights."""
    return version(pair[1].record) if pair[1] else ""


def version(record: Record) -> str:
    """Return which code, or which configuration, a record's weights were run in."""
    code = record.get("code_sha256")
    return f"code {code[:8]}" if code else f"model {subject_key(record)[:8]}"


def _ball(pair: _Pair) -> str:
    return f"{NORMS.get(pair[1].norm, pair[1].norm)} {pair[1].eps}" if pair[1] else "not evaluated"


def _data(pair: _Pair) -> str:
    return f"{pair[1].record['data']['name']} {pair[1].record['data']['split']}" if pair[1] else ""


def _samples(pair: _Pair) -> str:
    return f"{pair[1].outcome.n} samples" if pair[1] else ""


def _evaluation_seed(pair: _Pair) -> str:
    return f"evaluation seed {pair[1].record['seed']}" if pair[1] else ""


_TRAITS: Final[tuple[Callable[[_Pair], str], ...]] = (
    _source,
    _checkpoint,
    _weights,
    _version,
    _ball,
    _data,
    _samples,
    _evaluation_seed,
)
"""What tells the evaluations of one run apart."""


def cast(runs: Sequence[RunResults]) -> Cast:
    """Return who is on the page; titles lose what all begin with, and gain what tells equal ones apart.

    A run has the colour of its first evaluation; each further one has its own, as lines of a figure must.
    """
    alone = len(runs) == 1 and len(runs[0].evaluations) > 1
    common = runs[0].title if alone else _common_start([run.title for run in runs])
    pairs: list[_Pair] = [(run, one) for run in runs for one in (run.evaluations or (None,))]
    names = [""] if alone else _names_of_runs(runs, common)
    own = [name for run, name in zip(runs, names, strict=True) for _ in (run.evaluations or (None,))]
    labels = own
    for trait in _TRAITS:
        labels = _told_apart(labels, [trait(pair) for pair in pairs])
    labels = _told_apart(labels, [f"no. {place}" for place in range(1, len(labels) + 1)])
    entries: list[Entry] = []
    shown: list[tuple[RunResults, str, Style]] = []
    met: set[int] = set()
    for place, ((run, evaluation), label) in enumerate(zip(pairs, labels, strict=True)):
        if evaluation is not None:
            name, traits = own[place] or common, label.removeprefix(own[place]).removeprefix(", ")
            in_words = f"{name} ({traits})" if traits else name
            entries.append(Entry(label, in_words, run, evaluation, style(place)))
        if id(run) not in met:
            met.add(id(run))
            shown.append(
                (run, label if len(run.evaluations) == 1 else names[len(shown)] or common, style(place))
            )
    return Cast(common.rstrip(", "), entries, shown)


def _names_of_runs(runs: Sequence[RunResults], common: str) -> list[str]:
    """Return a name for each run; the folder tells apart what goes by one title."""
    names = [run.title.removeprefix(common) for run in runs]
    folders = [run.folder.resolve() for run in runs]
    for traits in (
        [_training_seed(run) for run in runs],
        [folder.name for folder in folders],
        [folder.parent.name for folder in folders],
    ):
        names = _told_apart(names, traits)
    return names


def _common_start(titles: Sequence[str]) -> str:
    """Return the parts between commas that all titles begin with, short of a whole title.

    >>> _common_start(["Digits, AT", "Digits, AT + FSR"])
    'Digits, '
    """
    if len(titles) < 2:
        return ""
    parts = [title.split(", ")[:-1] for title in titles]
    kept = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        kept.append(column[0])
    return "".join(f"{part}, " for part in kept)


def _told_apart(labels: Sequence[str], traits: Sequence[str]) -> list[str]:
    """Return labels with a trait added where equal ones differ in it."""
    told = []
    for label, trait in zip(labels, traits, strict=True):
        among = {t for other, t in zip(labels, traits, strict=True) if other == label}
        told.append(", ".join(part for part in (label, trait) if part) if len(among) > 1 else label)
    return told


def unique_folders(runs: Sequence[Path | str]) -> list[Path]:
    """Return each directory once, in order, however it was written."""
    folders: dict[Path, Path] = {}
    for run in runs:
        folders.setdefault(Path(run).resolve(), Path(run))
    return list(folders.values())


def comparable(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return entries in groups that met the same samples in the same ball."""
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        data = entry.evaluation.record["data"]
        same = (entry.evaluation.norm, entry.evaluation.eps, data["sha256"], data["name"], data["split"])
        groups.setdefault(same, []).append(entry)
    return list(groups.values())
