"""The section of one run: how it was trained, what its attacked images and its mask look like."""

from collections.abc import Sequence
from dataclasses import dataclass

from fsrobust.report import words
from fsrobust.report.entries import Entry
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.extremes import ExtremePart, extremes
from fsrobust.report.facts import Facts, evaluation_facts, provenance_facts, training_facts
from fsrobust.report.figures import Style, loss_figure, mask_figure, training_figure
from fsrobust.report.overlap import OverlapPart, overlap_part
from fsrobust.report.pictures import (
    HeatMaps,
    Picture,
    Shot,
    gallery_shots,
    heat_maps,
    magnification,
    vector,
)
from fsrobust.report.results import RunResults
from fsrobust.report.stages import CascadePart, cascades, without_stages
from fsrobust.report.tables import heading
from fsrobust.report.verdict import VerdictPart, command, verdict_part


@dataclass(frozen=True)
class GalleryPart:
    """The first samples under an attack, perturbations magnified ``factor`` times."""

    attack: str
    factor: float
    shots: Sequence[Shot]


@dataclass(frozen=True)
class MaskPart:
    """The mask over the first samples, where their images are on record, and its histogram."""

    heat: HeatMaps | None
    caption: str
    histogram: Picture


@dataclass(frozen=True, eq=False)
class EvaluationPart:
    """What one evaluation adds to its run's section; ``missing`` are sentences on what is not there."""

    label: str | None
    facts: Facts
    gallery: GalleryPart | None
    mask: MaskPart | None
    missing: Sequence[str]
    verdict: VerdictPart | None
    command: str
    cascades: Sequence[CascadePart]
    overlap: OverlapPart | None
    extremes: Sequence[ExtremePart]


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


def run_part(run: RunResults, label: str, style: Style, entries: Sequence[Entry]) -> RunPart:
    """Return the section of a run, with those of the page's entries that are its own."""
    mine = [entry for entry in entries if entry.run is run]
    missing = list(run.remarks)
    if run.config is None:
        missing.append(
            "These weights were not trained in this directory: it holds records of an evaluation only."
        )
    elif not run.metrics:
        missing.append("No epoch is on record, so there are no training curves.")
    if not mine:
        missing.append(
            "No evaluation of these weights is on record: there is no number that says how robust they are."
        )
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
        found.append(vector(accuracy, "Training and validation accuracy per epoch.", caption))
    if loss is not None:
        found.append(vector(loss, "Terms of the loss per epoch.", _about_loss(run)))
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
    gallery, mask = _gallery(one), _mask(one, entry.style)
    if gallery is None:
        missing.append("No pictures of attacked images are on record.")
    if mask is None and one.has_plugin:
        missing.append("This model has the plug-in, but no pictures of its mask are on record.")
    missing += [
        f"{heading(name)} is a cascade, but what its stages did is not on record."
        for name in without_stages(one)
    ]
    if len(one.records) == 1:
        missing.append("One attack is on record, so it is not shown which attacks fool the same samples.")
    return EvaluationPart(
        label=None if alone else entry.label,
        facts=evaluation_facts(one),
        gallery=gallery,
        mask=mask,
        missing=missing,
        verdict=verdict_part(one.diagnosis) if one.diagnosis else None,
        command=command(entry.run, one),
        cascades=cascades(one),
        overlap=overlap_part(one.outcome),
        extremes=extremes(one),
    )


def _gallery(one: Evaluation) -> GalleryPart | None:
    """Return the pictures of the strongest attack that kept some."""
    names = (one.strongest, *one.outcome.attacks)
    attack = next((name for name in names if name in one.galleries), None)
    if attack is None:
        return None
    gallery = one.galleries[attack]
    shots = gallery_shots(gallery, one.record["data"]["class_names"])
    return GalleryPart(heading(attack), magnification(gallery), shots)


def _mask(one: Evaluation, style: Style) -> MaskPart | None:
    masks = one.masks
    if masks is None:
        return None
    attack = heading(masks.attack)
    gallery = one.galleries.get(masks.attack)
    return MaskPart(
        heat=heat_maps(masks, gallery, one.record["data"]["class_names"]) if gallery else None,
        caption=f"mean over the channels after {masks.position}; attacked by {attack}",
        histogram=vector(
            mask_figure(masks.histogram, style),
            "Histogram of the mask on clean and attacked images.",
            f"How often the mask after {masks.position} takes each value, n = {len(masks.natural)} images, "
            f"clean and attacked by {attack}.",
        ),
    )
