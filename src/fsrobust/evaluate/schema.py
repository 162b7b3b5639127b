"""What a record of each kind must hold for the rest of the package to rely on it, one table per part."""

import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Check: TypeAlias = Callable[[Any], bool]
Schema: TypeAlias = Mapping[str, Check]

_RADIUS: Final = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?(/[1-9][0-9]{0,9})?")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def follows(value: object, schema: Schema) -> bool:
    """Return whether a value is an object that holds all that a schema names, each as it must be."""
    return isinstance(value, dict) and all(
        name in value and check(value[name]) for name, check in schema.items()
    )


def _text(value: object) -> bool:
    return isinstance(value, str)


def _whole(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _number(value: object) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _table(value: object) -> bool:
    return isinstance(value, dict)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _any(_value: object) -> bool:
    return True


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _radius(value: object) -> bool:
    if not isinstance(value, str) or not _RADIUS.fullmatch(value):
        return False
    above, _, below = value.partition("/")
    return math.isfinite(float(above) / float(below or 1))


def _time(value: object) -> bool:
    """Return whether a text is a time with its zone, and one that others can follow."""
    try:
        time = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return _text(value) and time.tzinfo is not None and time.year < datetime.MAXYEAR


def _digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _data(value: object) -> bool:
    schema = {
        "name": _text, "split": _text, "sha256": _text, "n": _count, "of": _count, "class_names": _list_of(_text),
    }  # fmt: skip
    return follows(value, schema) and 1 <= value["n"] <= value["of"]  # type: ignore[index]


def _attack(value: object) -> bool:
    """Return whether a value describes an attack; of the settings, those that others read."""
    if not follows(value, {"type": _text}):
        return False
    settings: dict[str, Any] = value  # type: ignore[assignment]
    schema: dict[str, Check] = {"ball": _ball}
    if settings["type"] == "PGD":
        schema |= {
            "loss": _text,
            "steps": _count,
            "restarts": _count,
            "step_size": _number,
            "random_start": _any,
        }
    if "stages" in settings:
        schema["stages"] = _list_of(lambda stage: follows(stage, {"name": _text}))
    if "draws" in settings:
        schema["draws"] = _count
    if "gradients_of" in settings:
        schema["gradients_of"] = lambda rival: follows(rival, {"source": _text, "weights_sha256": _text})
    return follows(settings, schema)


def _ball(value: object) -> bool:
    return follows(value, {"norm": lambda norm: norm in ("linf", "l2"), "eps": _radius})


def _sign(value: object) -> bool:
    return follows(
        value,
        {
            "name": _text, "found": lambda found: found is None or isinstance(found, bool), "hits": _count,
            "n": _count, "threshold": _number, "meaning": _text,
            "interval": _or_none(lambda ends: _list_of(_number)(ends) and len(ends) == 2),
        },
    )  # fmt: skip


def _stage(value: object) -> bool:
    counts = dict.fromkeys(("attacked", "fooled", "forwards", "backwards"), _count)
    return follows(value, {"name": _text, **counts, "seconds": _number})


RECORD_SCHEMA: Final[Schema] = {
    "kind": _text, "key": _text, "name": _text, "weights_sha256": _text, "created": _time, "source": _text,
    "ball": _ball, "data": _data, "checkpoint": _or_none(_text), "seed": _whole, "provenance": _table,
    "model": lambda model: model is None or isinstance(model, dict | str),
}  # fmt: skip
"""What every record holds."""

OPTIONAL: Final[Schema] = {
    "files": lambda files: (
        _table(files) and all("/" not in name for name in files) and all(map(_digest, files.values()))
    ),
    "stages": _list_of(_stage),
    "precision": _text,
    "code_sha256": _text,
    "image_shape": lambda shape: _list_of(_count)(shape) and len(shape) == 3,
}
"""What a record may hold: fields of some attacks, and those that are younger than the format."""

KINDS: Final[Mapping[str, Schema]] = {
    "attack": {
        "attack": _attack,
        "accuracy": lambda shares: follows(shares, dict.fromkeys(("natural", "paper", "strict"), _number)),
        "path": _list_of(_number), "forwards": _count, "backwards": _count, "seconds": _number,
    },
    "curve": {},
    "mask": {"attack": _text},
    "diagnosis": {"state": _text, "verdict": _text, "n": _count, "signs": _list_of(_sign)},
}  # fmt: skip
"""What a record of each kind holds besides; a kind that is not here has a reader elsewhere."""


def is_curve(values: object) -> bool:
    """Return whether a value is accuracy against eps."""
    schema = {"eps": _list_of(_number), "accuracy": _list_of(_number), "n": _count}
    return follows(values, schema) and len(values["eps"]) == len(values["accuracy"])  # type: ignore[index]


def are_verdicts(arrays: Mapping[str, NDArray[Any]], n: int) -> bool:
    """Return whether arrays are the verdicts on ``n`` samples."""
    kinds = {"ids": "i", "attacked": "b", "fooled_last": "b", "fooled_any": "b", "natural_correct": "b"}
    kinds |= {name: "iu" for name in ("predicted", "fooled_by") if name in arrays}
    return _are(arrays, {name: (kind, 1) for name, kind in kinds.items()}, n)


def are_masks(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether arrays are pictures of the mask."""
    if "position" not in arrays or arrays["position"].dtype.kind != "U" or arrays["position"].ndim:
        return False
    shapes = {"natural": ("f", 3), "attacked": ("f", 3)}
    return _are(arrays, shapes) and _are(arrays, {"histogram": ("iu", 2)}, 2)


def is_gallery(arrays: Mapping[str, NDArray[Any]], classes: int) -> bool:
    """Return whether arrays are pictures of the first samples, of classes that have a name."""
    schema = {"images": ("u", 4), "attacked": ("f", 4), "ids": ("i", 1)}
    named = ("labels", "natural_predicted", "predicted")
    return (
        _are_pictures(arrays, schema, named, classes) and arrays["images"].shape == arrays["attacked"].shape
    )


def are_images(arrays: Mapping[str, NDArray[Any]], classes: int) -> bool:
    """Return whether arrays are the attacked images of all samples, of classes that have a name."""
    return _are_pictures(arrays, {"images": ("f", 4), "ids": ("i", 1)}, ("labels", "predicted"), classes)


def _are_pictures(
    arrays: Mapping[str, NDArray[Any]],
    schema: Mapping[str, tuple[str, int]],
    named: Sequence[str],
    classes: int,
) -> bool:
    if not _are(arrays, {**schema, **dict.fromkeys(named, ("i", 1))}):
        return False
    numbers = [arrays[name] for name in named]
    return all(array.size == 0 or 0 <= array.min() <= array.max() < classes for array in numbers)


def _are(
    arrays: Mapping[str, NDArray[Any]], schema: Mapping[str, tuple[str, int]], n: int | None = None
) -> bool:
    """Return whether all arrays are there, of the kind and the number of axes that is due, and ``n`` long, or alike."""
    if not set(arrays) >= set(schema):
        return False
    fits = all(
        arrays[name].dtype.kind in kind and arrays[name].ndim == axes for name, (kind, axes) in schema.items()
    )
    lengths = {len(arrays[name]) for name in schema} if fits else set()
    finite = fits and all(np.isfinite(arrays[name]).all() for name in schema)
    return finite and (len(lengths) == 1 if n is None else lengths == {n})
