"""Carry out doctor and estimate for what the command line names."""

from fsrobust.data.batches import pixels
from fsrobust.evaluate import Checkup, Study, doctor
from fsrobust.evaluate.store import device_of


def examine(study: Study) -> Checkup:
    """Return what the doctor finds of a study's model on its samples."""
    model = study.subject.model
    data = study.data.to(device_of(model))
    return doctor(model, pixels(data.images), data.labels, classes=data.classes)
