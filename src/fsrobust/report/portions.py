"""Whether published numbers may stand beside an evaluation: only where its data are the official ones, or nearly."""

from typing import Final

from fsrobust.data import Portion, portion
from fsrobust.data.portion import before_hold_out
from fsrobust.report.evaluations import Record

WITHHELD: Final = "Published numbers are of the whole data set and do not stand beside it."


def portion_of(record: Record, config: Record | None, *, drawn: int | None = None) -> Portion | None:
    """Return how much of an official data set an evaluation rests on, None where its data are nobody's but the user's.

    ``config`` is that of the run, if there is one; of a run on purpose on no more than ``drawn`` training images
    nothing is said of those.
    """
    data, trained = record["data"], (config or {}).get("data") or {}
    train = before(config or {}) if trained.get("name") == data["name"] else None
    if train is not None and drawn is not None and train >= drawn:
        train = None
    tested = data["of"] if data["split"] == "test" else None
    return portion(data["name"], classes=len(data["class_names"]), train=train, test=tested)


def remark(record: Record, config: Record | None) -> str | None:
    """Return a sentence on what an evaluation's data lack of the official ones, None where they lack nothing."""
    return in_words(portion_of(record, config), published=bool((config or {}).get("published")))


def in_words(found: Portion | None, *, published: bool) -> str | None:
    """Return a sentence on what data lack, and that numbers were ``published`` but not of such; None if nothing."""
    if found is None or found.remark is None:
        return None
    return f"{found.remark} {WITHHELD}" if published and not found.comparable else found.remark


def before(config: Record) -> int | None:
    """Return how many training images a run had before some were held out, None where it does not say."""
    rest, settings = (config.get("data") or {}).get("n"), config.get("train") or {}
    if not isinstance(rest, int):
        return None
    held_out = settings.get("train_on") == "minus_validation"
    return before_hold_out(rest, count=settings.get("validation", 0)) if held_out else rest


def whole(record: Record, config: Record | None) -> bool:
    """Return whether published numbers speak of an evaluation's data: see ``Portion.comparable``."""
    found = portion_of(record, config)
    return found is None or (record["data"]["split"] == "test" and found.comparable)
