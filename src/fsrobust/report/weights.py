"""What a run's weights say of themselves: how large its model is, and which records are of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, safe_open

from fsrobust.evaluate.identity import state_sha256, weights_sha256
from fsrobust.report.evaluations import Record
from fsrobust.train import load
from fsrobust.train.trained import read_trained
from fsrobust.types import InputError

_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked", "normalize.mean", "normalize.std")
GONE: Final = "gone"
UNKNOWN: Final = "unknown"


def count_parameters(folder: Path) -> int | None:
    """Return how many trainable numbers the last checkpoint holds, read from its header alone."""
    pointer = folder / "checkpoints" / "last"
    try:
        step = pointer.read_text(encoding="utf-8").strip()
        weights = pointer.parent / step / "weights.safetensors"
        if not step.isdigit() or not weights.is_file():
            return None
        with safe_open(weights, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError):
        return None
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(_STATISTICS))


def of_these_weights(folder: Path, records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """Return the records that are not of other weights than the folder's, and sentences on the others.

    A run that went on after it was evaluated has such, and a folder with records from elsewhere. Where weights are
    gone, damaged, or of a network that is not ours in a file that does not keep their order, nothing can be told, and
    records stay. Weights have one record, under the name that they were first met by: what was the last checkpoint and
    is the best one now goes by "best".
    """
    records = list(records)
    there = fingerprints(folder) if records else {}  # it takes making the networks
    kept: list[Record] = []
    others: Counter[tuple[str, str]] = Counter()
    for record in records:
        which, digest = record["checkpoint"] or "", record["weights_sha256"]
        known = {there[which]} if which in there else set(there.values()) if not which else set()
        if digest in known or UNKNOWN in known or not known:
            kept.append(record)
        elif now := next((name for name, found in there.items() if found == digest), None):
            kept.append(record | {"checkpoint": now})
        else:
            others[which, digest] += 1
    return kept, [_sentence(there, *other, count) for other, count in others.items()]


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the fingerprint of each checkpoint that a folder holds or should, ``GONE`` or ``UNKNOWN``."""
    found: dict[str, str] = {}
    for which in ("last", "best"):
        if (folder / "weights" / f"{which}.sha256").is_file() or (folder / "checkpoints" / which).is_file():
            try:
                found[which] = _digest(folder, which)
            except (InputError, OSError):
                found[which] = UNKNOWN
        elif (folder / "checkpoints" / "last").is_file():
            found[which] = GONE
    return found


def _digest(folder: Path, which: str) -> str:
    tensors, config, in_order = read_trained(folder, which)
    if config is not None:  # made for the order and the precision of its weights, not run
        return weights_sha256(load(folder, checkpoint=which))
    return state_sha256(tensors) if in_order else UNKNOWN


def _sentence(there: Mapping[str, str], which: str, digest: str, count: int) -> str:
    left_out = f"{count} {'record is' if count == 1 else 'records are'} left out, being of"
    if there.get(which) == GONE:
        return f"{left_out} a {which} checkpoint ({digest[:8]}) that is not there any more."
    what = f"the {which} checkpoint that is" if which else "the checkpoints that are"
    return f"{left_out} other weights ({digest[:8]}) than {what} there now: evaluate again."
