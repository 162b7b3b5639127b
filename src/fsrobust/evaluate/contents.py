"""What the record of an attack holds: numbers, verdicts of every sample, pictures of some, images of all."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from fsrobust.data import Dataset
from fsrobust.evaluate.engine import GALLERY, AttackResult
from fsrobust.types import Images

Arrays = dict[str, NDArray[Any]]


def accuracies(result: AttackResult, data: Dataset, natural: NDArray[np.int64]) -> dict[str, object]:
    """Return the record's numbers; ``natural`` [N] are the classes predicted for the clean images of ``data``."""
    correct = _correct(data, natural)
    content: dict[str, object] = {
        "accuracy": {
            "natural": float(correct.mean()),
            "paper": float((~result.fooled_last).mean()),
            "strict": float((correct & ~result.fooled_any).mean()),
        },
        "path": result.path,
        "forwards": result.forwards,
        "backwards": result.backwards,
        "seconds": result.seconds,
    }
    if result.standing is not None:
        content["stages"] = [asdict(cost) for cost in result.standing.costs]
    return content


def verdicts(result: AttackResult, data: Dataset, natural: NDArray[np.int64]) -> Arrays:
    """Return samples.npz: one entry per sample, of a cascade also which stage fooled it."""
    correct = _correct(data, natural)
    bits: Arrays = {
        "ids": data.ids.cpu().numpy(),
        "attacked": result.attacked,
        "fooled_last": result.fooled_last,
        "fooled_any": result.fooled_any | ~correct,
        "natural_correct": correct,
        "predicted": result.predicted,
    }
    return bits if result.standing is None else {**bits, "fooled_by": result.standing.fooled_by}


def gallery(result: AttackResult, data: Dataset, natural: NDArray[np.int64]) -> Arrays:
    """Return gallery.npz: the first samples, clean and attacked, with what the model says of them."""
    return {
        "images": data.images[:GALLERY].cpu().numpy(),
        "attacked": result.last,
        "labels": data.labels[:GALLERY].cpu().numpy(),
        "natural_predicted": natural[:GALLERY],
        "predicted": result.predicted[:GALLERY],
        "ids": data.ids[:GALLERY].cpu().numpy(),
    }


def adversarial(
    result: AttackResult, data: Dataset, predicted: NDArray[np.int64], rounded: NDArray[np.int64]
) -> Arrays:
    """Return adversarial.npz: every sample's image, what the model says of it, and of it in 8 bits a pixel."""
    return {
        "ids": data.ids.cpu().numpy(),
        "labels": data.labels.cpu().numpy(),
        "images": result.images.numpy(),
        "predicted": predicted,
        "rounded_predicted": rounded,
    }


def as_bytes(images: Images) -> UInt8[Tensor, "B C H W"]:
    """Return images as a file of 8 bits a pixel would hold them."""
    return (images * 255).round().to(torch.uint8)


def _correct(data: Dataset, natural: NDArray[np.int64]) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = natural == data.labels.cpu().numpy()
    return correct
