"""Before a record is used again: does the network judge the clean images as it did then?

A key knows a network by its weights, its code and its settings. What a network reads while it runs, a file or the
environment, no key knows. A pass over the clean images does, mostly, and costs next to nothing.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fsrobust.evaluate.diagnose import SIGNS
from fsrobust.evaluate.evidence import QUERIES
from fsrobust.evaluate.kept import RECORD, read_record, read_samples
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.searching import Say
from fsrobust.evaluate.store import Study
from fsrobust.records import move_aside, read_json
from fsrobust.seeding import derive

_ROUNDING: Final = 1e-3
"""Share of the samples that another machine, or another batch, may judge otherwise."""
_SPREAD: Final = 3
"""How many times what it differs from itself by a network that draws may differ from its record."""


def curve_key(study: Study, n: int) -> str:
    """Return the key of accuracy against eps on the first ``n`` samples, of as many as there are."""
    return study.key("curve", {"samples": min(n, len(study.data))})


def diagnosis_key(study: Study, n: int) -> str:
    """Return the key of the signs of masked gradients on the first ``n`` samples."""
    looked_for = {name: look.threshold for name, look in SIGNS.items()}
    return study.key("diagnosis", {"samples": n, "signs": looked_for, "queries": QUERIES})


def withdraw_stale(
    study: Study, keys: Iterable[str], predict: Callable[[int], NDArray[np.int64]], say: Say
) -> None:
    """Set aside, under eval/stale/, those records of ``keys`` that another network must have made; say which.

    ``predict`` returns the classes predicted for the clean images by the draws of a seed: of another than the study's
    only where the first answer is not what is on record.
    """
    there = [key for key in keys if study.has(key)]
    if not there:
        return
    labels = study.data.labels.cpu().numpy()
    now: Bits = predict(study.seed) == labels

    @functools.cache
    def unsteady() -> int:
        return int(((predict(derive(study.seed, "again")) == labels) != now).sum())

    for key in there:
        changed = _changed(study, key, now)
        # what a network that draws differs by from itself tells nothing
        if not _is_beyond(changed, len(now)) or changed <= _SPREAD * unsteady():
            continue
        name = read_record(study.path(key) / RECORD)["name"]
        place = move_aside(study.path(key), study.folder / "eval" / "stale")
        say(
            f"{name}: on record, but {changed} of {len(now)} clean images are judged otherwise now than then, so the "
            f'network is another, by what no file of its code shows; the record is set aside as "{place}" and '
            "made again"
        )
        masks = study.path(study.key("mask", {"attack": key}))
        if masks.is_dir():
            move_aside(masks, study.folder / "eval" / "stale")


def _is_beyond(changed: int, n: int) -> bool:
    return changed >= 2 and changed > _ROUNDING * n


def _changed(study: Study, key: str, now: Bits) -> int:
    """Return of how many samples a record says otherwise than ``now``; of how many at least, where it has a number."""
    folder = study.path(key)
    record = read_record(folder / RECORD)
    if record["kind"] == "attack":
        return int((read_samples(folder)["natural_correct"] != now).sum())
    if record["kind"] == "diagnosis":
        return abs(int(record["n"]) - int(now.sum()))
    curve = read_json(folder / "curves.json")
    n: int = curve["n"]
    return abs(round(float(curve["accuracy"][0]) * n) - int(now[:n].sum()))
