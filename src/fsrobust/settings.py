"""The strings by which a command line changes a run, and what the run is called then."""

import functools
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fsrobust.attacks.balls import meant_in
from fsrobust.config import Run
from fsrobust.types import InputError, unknown_name

_LARGEST: Final = 1e30
"""What a setting may be: products of it stay within float32, which ends at 3.4e38."""


def override(run: Run, settings: Iterable[str]) -> Run:
    """Return the run with settings such as "train.epochs=30" or "objective.eps=4/255" applied in order.

    A run that is trained for another ball is evaluated in that ball, unless ``evaluation`` is set, too. The title
    names what differs from the recipe in more than the seed; such a run shows published numbers only if all that
    differs is that it is trained on all images, as the published one was.

    >>> from fsrobust.recipes import RECIPES
    >>> override(RECIPES["digits-at"](), ["train.epochs=3"]).train.epochs
    3

    Raises:
        InputError: no such key (the nearest is named), or a value of the wrong kind.
    """
    before = run
    named: dict[str, str] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f'Expected a setting as KEY=VALUE, but got "{setting}"')
        named[path.strip()] = text.strip()
        run = _replace(run, path.strip(), path.strip().split("."), text.strip())
    if named:
        run = _follow(before, run, named)
        _refuse_norm_alone(before, run, named)
        run.evaluation.make()  # said now, not when the run is evaluated
    changes = _changes(before, run, named)
    if not changes:
        return run
    still_told_of = set(changes) == {"train.train_on"}
    return replace(depart(run, changes.values()), published=run.published if still_told_of else None)


def depart(run: Run, changes: Iterable[str]) -> Run:
    """Return the run under a title that names what it does not have from its recipe, without published numbers."""
    named = ", ".join(changes)
    joined = f"{run.title}, {named}" if " with " in run.title else f"{run.title} with {named}"
    return replace(run, title=joined if named else run.title, published=None)


def _changes(before: Run, run: Run, named: Mapping[str, str]) -> dict[str, str]:
    """Return the last setting of each key whose value, of more than the seed, is another than before."""
    return {
        path: f"{path}={text}"
        for path, text in named.items()
        if path != "train.seed" and _at(before, path) != _at(run, path)
    }


def _at(run: Run, path: str) -> object:
    return functools.reduce(getattr, path.split("."), run)


def _refuse_norm_alone(before: Run, run: Run, named: Collection[str]) -> None:
    """Refuse another norm with the radius that was meant in the one before."""
    for part in ("objective", "evaluation"):
        then, now = getattr(before, part), getattr(run, part)
        if now.norm != then.norm and f"{part}.eps" not in named and now.eps == then.eps:
            raise InputError(
                f"Expected {part}.eps with {part}.norm={now.norm}: {meant_in(then.norm, then.eps)}"
            )


def _follow(before: Run, run: Run, named: Collection[str]) -> Run:
    """Evaluate in the ball that is trained for, where the recipe does and the settings name the latter alone."""
    trained, judged = before.objective, before.evaluation
    for part in ("norm", "eps"):
        meant = getattr(trained, part) == getattr(judged, part) and trained.name != "natural"
        if meant and f"objective.{part}" in named and f"evaluation.{part}" not in named:
            followed = {part: getattr(run.objective, part)}
            run = replace(run, evaluation=replace(run.evaluation, **followed))
    return run


def _replace(value: Any, path: str, keys: list[str], text: str) -> Any:
    key, rest = keys[0], keys[1:]
    hints = get_type_hints(type(value), include_extras=True)
    prefix = path.removesuffix(".".join(keys))
    fixed = ("recipe", "title", "published", "data", "image_size", "init") if not prefix else ()
    known = [name for name in hints if name not in fixed]
    if key not in known:
        raise unknown_name("setting", prefix + key, [prefix + name for name in known])
    inner = getattr(value, key)
    if is_dataclass(inner):
        if not rest:
            names = ", ".join(f"{path}.{field.name}" for field in fields(inner))
            raise InputError(f'"{path}" has parts; set one of {names}')
        return replace(value, **{key: _replace(inner, path, rest, text)})
    if rest:
        raise InputError(f'"{prefix}{key}" has no parts, but got "{path}"')
    try:
        parsed = TypeAdapter(hints[key]).validate_python(_literal(text, hints[key]))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f'"{path}={text}" is not usable: {reason}') from error
    changed = replace(value, **{key: parsed})  # which refuses with better words
    _check_finite(f"{path}={text}", parsed)
    return changed


def _check_finite(setting: str, parsed: Any) -> None:
    """Refuse numbers that no file can hold, or whose products no float32 can, at any depth."""
    for part in parsed if isinstance(parsed, tuple) else (parsed,):
        if isinstance(part, tuple):
            _check_finite(setting, part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise InputError(f'"{setting}" is not usable: Expected a finite number')
        elif isinstance(part, float) and abs(part) > _LARGEST:
            raise InputError(f'"{setting}" is not usable: Expected a number of at most {_LARGEST:g}')


def _literal(text: str, hint: Any) -> Any:
    """Return a setting's text as JSON where it is JSON, as a list where one is due, else as it stands."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = text
    if isinstance(parsed, bool) and hint is not bool:
        return text  # true is no number
    if parsed == "none":
        return None if type(None) in get_args(hint) else [] if get_origin(hint) is tuple else parsed
    if get_origin(hint) is tuple and not isinstance(parsed, list):
        return text.split(",")
    return parsed
