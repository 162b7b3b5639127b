"""What the record of an attack holds: numbers, verdicts of every sample, pictures of some, images of all."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from fsrobust.attacks import Ball
from fsrobust.attacks.witness import SLACK, in_ball
from fsrobust.data import Dataset
from fsrobust.data.batches import pixels
from fsrobust.evaluate.engine import GALLERY, AttackResult
from fsrobust.evaluate.outcome import Bits
from fsrobust.types import Images

Arrays = dict[str, NDArray[Any]]
_ROUNDING: Final = 255 * SLACK / 2
"""What a pixel in steps of 1/255 may be off a step by: above float32's error, below what ``in_ball`` forgives."""


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


@dataclass(frozen=True, eq=False)
class Rounded:
    """Images in 8 bits a pixel, what the model says of them, and which of them are still in the ball."""

    images: UInt8[Tensor, "B C H W"]
    predicted: NDArray[np.int64]
    in_ball: Bits

    def fooled(self, labels: NDArray[np.int64]) -> Bits:
        """Return bool [N]: which images fool; one that has left the ball proves nothing."""
        wrong: Bits = self.predicted != labels
        return wrong & self.in_ball


def rounded(
    images: Images, data: Dataset, ball: Ball, predict: Callable[[Images], NDArray[np.int64]]
) -> Rounded:
    """Return images as a file of 8 bits a pixel would hold them, read back and judged by ``predict``."""
    x = pixels(data.images)
    kept = as_bytes(images, x, ball)
    read = pixels(kept)
    return Rounded(kept, predict(read), in_ball(ball, read, x).cpu().numpy())


def adversarial(
    result: AttackResult, data: Dataset, predicted: NDArray[np.int64], rounded: Rounded
) -> Arrays:
    """Return adversarial.npz: every sample's image and what the model says of it, and both in 8 bits a pixel."""
    return {
        "ids": data.ids.cpu().numpy(),
        "labels": data.labels.cpu().numpy(),
        "images": result.images.numpy(),
        "predicted": predicted,
        "rounded": rounded.images.cpu().numpy(),
        "rounded_predicted": rounded.predicted,
        "rounded_in_ball": rounded.in_ball,
    }


def as_bytes(images: Images, x: Images, ball: Ball) -> UInt8[Tensor, "B C H W"]:
    """Return images as a file of 8 bits a pixel would hold them, in the ball around ``x`` where that is possible.

    Plain rounding moves a pixel by up to half a step of 1/255. An attack that uses its ball up would leave it, by
    every pixel if eps is no multiple of 1/255, and what fools from outside is no evidence. So in L∞ each pixel
    goes to the nearest step within [x − eps, x + eps], and in any other norm an image that rounding takes out of
    the ball has each pixel rounded towards ``x`` instead, which makes no change larger if ``x`` itself is of 8
    bits, as our data are. Where no step is in reach the nearest one stays: ``in_ball`` knows of it.
    """
    wanted, clean = 255 * images, 255 * x
    nearest = wanted.round()
    if ball.norm == "linf":
        reach = 255 * ball.eps + _ROUNDING
        low, high = (clean - reach).ceil(), (clean + reach).floor()
        steps = torch.where(low <= high, nearest.clamp(low, high), nearest)
    else:
        # a pixel that is on a step but for float32's rounding stays there
        towards = torch.where(wanted > clean, (wanted + _ROUNDING).floor(), (wanted - _ROUNDING).ceil())
        inside = in_ball(ball, nearest / 255, x)
        steps = torch.where(inside[:, None, None, None], nearest, towards)
    return steps.clamp(0, 255).to(torch.uint8)


def _correct(data: Dataset, natural: NDArray[np.int64]) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = natural == data.labels.cpu().numpy()
    return correct
