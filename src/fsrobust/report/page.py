"""A page as plain values: everything that is computed, before a template gives it a form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fsrobust.evaluate import wilson
from fsrobust.report import words
from fsrobust.report.entries import Cast, Entry
from fsrobust.report.facts import Facts, evaluation_facts, provenance_facts, training_facts
from fsrobust.report.figures import (
    Line,
    Style,
    ball_radius,
    eps_figure,
    iterations_figure,
    loss_figure,
    mask_figure,
    training_figure,
)
from fsrobust.report.pictures import HeatMaps, Shot, data_uri, gallery_shots, heat_maps, magnification
from fsrobust.report.results import RunResults
from fsrobust.report.tables import TITLES, Cell, Table, accuracy_table, as_csv, worst_case


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, what it shows for those who cannot see it, and its caption."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True, eq=False)
class EvaluationPart:
    """What one evaluation adds to its run's section; ``missing`` are sentences on what is not there."""

    label: str | None
    facts: Facts
    attack: str | None
    factor: float
    shots: Sequence[Shot]
    heat: HeatMaps | None
    heat_caption: str
    histogram: Picture | None
    missing: Sequence[str]


@dataclass(frozen=True, eq=False)
class RunPart:
    """A run's own section."""

    label: str
    style: Style
    folder: str
    training: Facts
    provenance: Facts
    curves: Sequence[Picture]
    evaluations: Sequence[EvaluationPart]
    missing: Sequence[str]


@dataclass(frozen=True, eq=False)
class Page:
    """All that a report shows."""

    title: str
    subtitle: str
    summary: Sequence[str]
    tiles: Sequence[tuple[Entry, Cell, Cell]]
    table: Table
    published: Sequence[str]
    csv: str
    strict_gap: str
    attacks: Sequence[tuple[str, str]]
    shared: Sequence[Picture]
    missing: Sequence[str]
    runs: Sequence[RunPart]
    limits: Sequence[str]


def build_page(who: Cast) -> Page:
    """Return the page on some runs."""
    entries = who.entries
    table = accuracy_table(
        {entry.label: entry.evaluation.outcome for entry in entries},
        {entry.label: entry.run.published(entry.evaluation) for entry in entries},
    )
    shared, missing = _shared(entries)
    return Page(
        title=_title(who),
        subtitle=_subtitle(entries),
        summary=words.summary(entries)
        or ["None of these runs has been evaluated yet: there is no number to show."],
        tiles=[(e, worst_case(e.evaluation.outcome), natural_cell(table, e.label)) for e in entries],
        table=table,
        published=_sources(entries),
        csv=data_uri(as_csv(table).encode(), "text/csv"),
        strict_gap=words.strict_gap(table),
        attacks=words.attacks_in_words(entries),
        shared=shared,
        missing=missing,
        runs=[_run_part(run, label, style, who.entries) for run, label, style in who.runs],
        limits=words.limits(entries) if entries else [],
    )


def natural_cell(table: Table, label: str) -> Cell:
    """Return a row's natural accuracy."""
    return next(row for row in table.rows if row.label == label).cells["natural"]


def _title(who: Cast) -> str:
    if len(who.runs) == 1:
        return who.runs[0][0].title
    return who.common or f"{len(who.runs)} models side by side"


def _subtitle(entries: Sequence[Entry]) -> str:
    """Return when, and with which version, the numbers were made."""
    records = [record for entry in entries for record in entry.evaluation.records.values()]
    if not records:
        return "Not evaluated yet"
    dates = sorted(record["created"][:10] for record in records)
    versions = sorted({str(record["provenance"].get("fsrobust")) for record in records})
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"Evaluated {when} with fsrobust {words.listed(versions)}"


def _sources(entries: Sequence[Entry]) -> list[str]:
    """Return where published numbers stand, one sentence per row that has some."""
    shown = [e for e in entries if e.run.published(e.evaluation)]
    return [f"{entry.label}: {(entry.run.config or {})['published']['source']}" for entry in shown]


def _picture(svg: str, alt: str, caption: str) -> Picture:
    return Picture(data_uri(svg.encode(), "image/svg+xml"), alt, caption)


def _shared(entries: Sequence[Entry]) -> tuple[list[Picture], list[str]]:
    """Return the figures that all entries share, and sentences on who is missing from them."""
    pictures: list[Picture] = []
    missing: list[str] = []
    for norm in sorted({entry.evaluation.norm for entry in entries}):
        with_curve = [e for e in entries if e.evaluation.norm == norm and e.evaluation.curve is not None]
        if with_curve:
            pictures.append(_eps_picture(with_curve, norm))
    _note(missing, entries, lambda e: e.evaluation.curve is not None, "accuracy against eps was not recorded")
    longest = _longest(entries)
    if longest is not None:
        pictures.append(_iterations_picture([e for e in entries if longest in e.evaluation.paths], longest))
        _note(
            missing,
            entries,
            lambda e: longest in e.evaluation.paths,
            f"{TITLES.get(longest, longest)} was not run, so its steps are not shown",
        )
    elif entries:
        missing.append("No attack with several steps is on record, so accuracy against steps is not shown.")
    return pictures, missing


def _note(missing: list[str], entries: Sequence[Entry], has: Callable[[Entry], bool], what: str) -> None:
    without = [entry.label for entry in entries if not has(entry)]
    if without:
        missing.append(f"{words.listed(without)}: {what}.")


def _eps_picture(entries: Sequence[Entry], norm: str) -> Picture:
    lines, texts = [], []
    for entry in entries:
        curve = entry.evaluation.curve
        assert curve is not None
        lines.append(Line(curve.eps, curve.accuracy, curve.n, entry.style))
        texts.append(
            f"{entry.label} from {_right(curve.accuracy[0], curve.n)} to {_right(curve.accuracy[-1], curve.n)}"
        )
    radii = sorted({ball_radius(norm, entry.evaluation.eps) for entry in entries})
    sizes = words.listed(sorted({words.count(line.n) for line in lines}))
    caption = (
        f"Accuracy against the size of the perturbation: PGD-100 at each radius, strict count, n = {sizes} "
        "images per model; bands are 95 % intervals. The dotted line is the eps of the table. The curve must "
        "fall to 0 % where every image is within reach."
    )
    return _picture(
        eps_figure(lines, norm=norm, eps=radii), f"Accuracy against eps: {'; '.join(texts)}.", caption
    )


def _right(share: float, n: int) -> str:
    return words.share(share, wilson(round(share * n), n), n)


def _longest(entries: Sequence[Entry]) -> str | None:
    """Return the attack with the most steps that any entry met, of equals the one that most met."""
    met: dict[str, list[int]] = {}
    for entry in entries:
        for name, path in entry.evaluation.paths.items():
            met.setdefault(name, []).append(len(path))
    return max(met, key=lambda name: (max(met[name]), len(met[name]), name), default=None)


def _iterations_picture(entries: Sequence[Entry], name: str) -> Picture:
    lines, texts = [], []
    for entry in entries:
        path, n = entry.evaluation.paths[name], entry.evaluation.outcome.n
        lines.append(Line(list(range(len(path))), path, n, entry.style))
        texts.append(f"{entry.label} from {_right(path[0], n)} to {_right(path[-1], n)}")
    sizes = words.listed(sorted({words.count(line.n) for line in lines}))
    title = TITLES.get(name, name)
    caption = (
        f"Accuracy at each step of {title}, n = {sizes} images per model; bands are 95 % intervals. A curve that "
        "still falls at its end asks for a longer attack."
    )
    return _picture(
        iterations_figure(lines), f"Accuracy at each step of {title}: {'; '.join(texts)}.", caption
    )


def _run_part(run: RunResults, label: str, style: Style, entries: Sequence[Entry]) -> RunPart:
    mine = [entry for entry in entries if entry.run is run]
    missing = list(run.remarks)
    if run.config is None:
        missing.append(
            "These weights were not trained in this directory: it holds records of an evaluation only."
        )
    elif not run.metrics:
        missing.append("No epoch is on record, so there are no training curves.")
    if not mine:
        missing.append("This run has not been evaluated: there is no number that says how robust it is.")
    return RunPart(
        label=label,
        style=style,
        folder=run.folder.resolve().name,
        training=training_facts(run),
        provenance=provenance_facts(run),
        curves=_training_pictures(run, style),
        evaluations=[_evaluation_part(entry, alone=len(mine) == 1) for entry in mine],
        missing=missing,
    )


def _training_pictures(run: RunResults, style: Style) -> list[Picture]:
    if not run.metrics:
        return []
    found = []
    accuracy, loss = training_figure(run.metrics, style), loss_figure(run.metrics, style)
    if accuracy is not None:
        caption = f"Accuracy in training, natural and attacked as in training{_held_out(run)}."
        found.append(_picture(accuracy, "Training and validation accuracy per epoch.", caption))
    if loss is not None:
        found.append(_picture(loss, "Terms of the loss per epoch.", _about_loss(run)))
    return found


def _held_out(run: RunResults) -> str:
    """Return how many validation images there were, as far as the run's files say."""
    most = ((run.config or {}).get("train") or {}).get("validation")
    if not any("validation_natural" in row for row in run.metrics) or not most:
        return ""
    return f"; validation on at most {words.count(most)} images, and at most a tenth, held out by seed"


def _about_loss(run: RunResults) -> str:
    if any("separation" in row for row in run.metrics):
        return "The loss and its terms, before weighting, on the images that were trained on."
    return "The loss on the images that were trained on."


def _evaluation_part(entry: Entry, *, alone: bool) -> EvaluationPart:
    one, missing = entry.evaluation, []
    names = one.record["data"]["class_names"]
    attack = next((a for a in (one.strongest, *one.outcome.attacks) if a in one.galleries), None)
    if attack is None:
        missing.append("No pictures of attacked images are on record.")
    masks, heat, histogram, caption = one.masks, None, None, ""
    if masks is not None:
        title = TITLES.get(masks.attack, masks.attack)
        histogram = _picture(
            mask_figure(masks.histogram, entry.style),
            "Histogram of the mask on clean and attacked images.",
            f"How often the mask after {masks.position} takes each value, on {len(masks.natural)} images, clean and "
            f"attacked by {title}.",
        )
        caption = f"mean over the channels after {masks.position}; attacked by {title}"
        if masks.attack in one.galleries:
            heat = heat_maps(masks, one.galleries[masks.attack], names)
    elif (
        (one.record.get("model") or {})
        and isinstance(one.record["model"], dict)
        and one.record["model"].get("fsr")
    ):
        missing.append("This model has the plug-in, but no pictures of its mask are on record.")
    return EvaluationPart(
        label=None if alone else entry.label,
        facts=evaluation_facts(one),
        attack=TITLES.get(attack, attack) if attack else None,
        factor=magnification(one.galleries[attack]) if attack else 1.0,
        shots=gallery_shots(one.galleries[attack], names) if attack else [],
        heat=heat,
        heat_caption=caption,
        histogram=histogram,
        missing=missing,
    )
