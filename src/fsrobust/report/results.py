"""Read a run or audit directory into one frozen value; no model is run."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fsrobust.evaluate import read_records
from fsrobust.evaluate.identity import subject_key
from fsrobust.evaluate.joined import precision_of
from fsrobust.records import Metrics, read_config
from fsrobust.report.evaluations import Evaluation, Record, read_evaluation
from fsrobust.report.judgement import judgement, unheard
from fsrobust.report.portions import whole
from fsrobust.report.weights import count_parameters, of_these_weights
from fsrobust.types import InputError


@dataclass(frozen=True, eq=False)
class RunResults:
    """A directory as found: ``config`` is None for an audit, ``evaluations`` empty for a run never attacked.

    ``remarks`` are sentences on what was passed over, ``on_verdicts`` those of them that numbers may change by.
    ``parameters`` counts those of the last checkpoint.
    """

    folder: Path
    config: Record | None
    metrics: Sequence[Record]
    evaluations: Sequence[Evaluation]
    parameters: int | None
    remarks: Sequence[str]
    on_verdicts: Sequence[str]

    @property
    def title(self) -> str:
        """What the run calls itself, else the one thing that was evaluated, else the folder's name."""
        folder = self.folder.resolve().name
        if self.config and self.config.get("title"):
            return str(self.config["title"])
        sources = {str(one.record["source"]) for one in self.evaluations}
        if len(sources) != 1 or self.config is not None:
            return folder
        (source,) = sources
        # of a run that may be on the page itself
        of_a_run = self.evaluations[0].checkpoint is not None and source != folder
        return f"{source} (evaluated in {folder})" if of_a_run else source

    def published(self, evaluation: Evaluation) -> dict[str, float]:
        """Return published accuracies (%) by attack, {} unless they are of this ball, whole data set and last epoch."""
        config = self.config or {}
        meant = config.get("evaluation") or {}
        same_ball = (meant.get("norm"), meant.get("eps")) == (evaluation.norm, evaluation.eps)
        same_data = (config.get("data") or {}).get("name") == evaluation.record["data"]["name"]
        trained = self.metrics[-1].get("epoch") if self.metrics else 0
        at_the_end = evaluation.checkpoint != "best" and trained == (config.get("train") or {}).get("epochs")
        same = same_ball and same_data and at_the_end and whole(evaluation.record, config)
        if not (config.get("published") and same):
            return {}
        return dict(config["published"]["accuracy"])


def read_run(folder: Path | str) -> RunResults:
    """Return what a run or audit directory holds.

    Raises:
        InputError: it holds neither a run nor records, or a file that is damaged.
    """
    folder = Path(folder)
    damaged: list[str] = []
    records = list(read_records(folder, damaged.append))
    has_run = (folder / "config.json").is_file()
    if not has_run and not any(record["kind"] == "attack" for record in records):
        if damaged:
            raise InputError(f"{damaged[0]}; evaluate again")
        inside = sorted(str(place) for place in folder.glob("*") if _holds_something(place))
        hint = (
            f"name what is inside: {' '.join(map(shlex.quote, inside))}"
            if inside
            else "run train or evaluate first"
        )
        raise InputError(
            f'Expected a run directory or records of an evaluation in "{folder}", but there are neither; {hint}'
        )
    config = read_config(folder) if has_run else None
    metrics = Metrics(folder / "metrics.jsonl")
    records, others = of_these_weights(folder, records)
    details: list[str] = []
    evaluations, replaced = _evaluations(folder, records, details, run=has_run)
    on_verdicts = [*(f"A record is left out: {why}" for why in damaged), *others, *replaced]
    return RunResults(
        folder=folder,
        config=config,
        metrics=metrics.rows(),
        evaluations=sorted(evaluations, key=lambda one: _order(one, config)),
        parameters=count_parameters(folder),
        remarks=[
            *(f"Epochs are left out: {why}" for why in (metrics.damage(),) if why),
            *on_verdicts,
            *details,
        ],
        on_verdicts=on_verdicts,
    )


def _holds_something(folder: Path) -> bool:
    return (folder / "config.json").is_file() or any(folder.glob("eval/*/record.json"))


class _Place(NamedTuple):
    """What two evaluations must share for one to be able to replace the other."""

    checkpoint: str
    norm: str
    eps: str
    data: str
    split: str
    seed: int


def _place(record: Record) -> _Place:
    ball, data = record["ball"], record["data"]
    checkpoint = record["checkpoint"] or ""
    return _Place(checkpoint, ball["norm"], ball["eps"], data["name"], data["split"], record["seed"])


def _evaluations(
    folder: Path, records: Iterable[Record], details: list[str], *, run: bool
) -> tuple[list[Evaluation], list[str]]:
    """Return the evaluations worth showing, and sentences on the others; ``details`` gets those on parts of one."""
    groups: dict[tuple[_Place, str, str], list[Record]] = {}
    diagnoses: list[Record] = []
    for record in records:
        if record["kind"] == "diagnosis":  # often on fewer samples: it joins whatever is of its model
            diagnoses.append(record)
            continue
        samples = record["data"]["sha256"]
        groups.setdefault((_place(record), subject_key(record), samples), []).append(record)
    details += unheard(diagnoses, (record for group in groups.values() for record in group))
    found: list[Evaluation] = []
    remarks: list[str] = []
    for group in groups.values():
        diagnosis, disagreement = judgement(group[0], diagnoses)
        remarks += [sentence for sentence in disagreement if sentence not in remarks]
        try:
            found.append(read_evaluation(folder, group, diagnosis, details))
        except InputError as error:
            remarks.append(f"An evaluation is left out: {error}")
    reasons = [next(filter(None, (_replaced(one, other, run=run) for other in found)), None) for one in found]
    for reason, count in Counter(filter(None, reasons)).items():
        remarks.append(f"{count} of {len(found)} evaluations are not shown: {reason}.")
    return [one for one, reason in zip(found, reasons, strict=True) if reason is None], remarks


def _order(evaluation: Evaluation, config: Record | None) -> tuple[object, ...]:
    """Return what to sort by: the last checkpoint in the run's own ball first."""
    order = {"last": 0, "": 1, "best": 2}.get(evaluation.checkpoint or "", 3)
    own = (config or {}).get("evaluation") or {}
    foreign = (own.get("norm"), own.get("eps")) != (evaluation.norm, evaluation.eps)
    return order, foreign, evaluation.norm, len(evaluation.eps), evaluation.eps, -evaluation.outcome.n


def _replaced(one: Evaluation, other: Evaluation, *, run: bool) -> str | None:
    """Return why ``other`` makes ``one`` superfluous, None if it does not.

    Only a ``run`` has earlier weights of a checkpoint: elsewhere, other weights are another model.
    """
    new, old = other.record, one.record
    if other is one or _place(new) != _place(old):
        return None
    if new["weights_sha256"] != old["weights_sha256"]:
        earlier = run and one.checkpoint is not None and new["created"] > old["created"]
        return "of earlier weights of the same checkpoint" if earlier else None
    if subject_key(new) != subject_key(old):
        return None
    covered = _asked(other) >= _asked(one) and other.outcome.n > one.outcome.n
    return "covered by a larger one" if covered else None


def _asked(one: Evaluation) -> set[tuple[object, ...]]:
    """Return what was attacked with: another precision or another surrogate fools others."""
    return {
        (record["name"], precision_of(record), str(record["attack"].get("gradients_of")))
        for record in one.records.values()
    }
