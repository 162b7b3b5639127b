"""What an attack's record is called, what its key is made of, and where it lies."""

from collections.abc import Sequence
from pathlib import Path

from fsrobust.attacks import SCORE_BASED
from fsrobust.attacks.base import draws_of
from fsrobust.evaluate.adaptive import ADAPTIVE, find_attack
from fsrobust.evaluate.kept import IMAGES
from fsrobust.evaluate.store import Study, Subject, describe_attack


def common_draws(study: Study, attacks: Sequence[str]) -> int:
    """Return how many answers of a random model count as one: for all attacks what the most demanding asks for."""
    return max((draws_of(find_attack(name, study.ball, study.subject.model)) for name in attacks), default=1)


def record_key(study: Study, name: str) -> str:
    """Return the name of the folder of an attack's record."""
    return study.key("attack", {"name": label(name, study), **description(study, name)})


def description(study: Study, name: str) -> dict[str, object]:
    """Return an attack's settings, and whose gradients it takes if not the subject's."""
    other = rival(study, name)
    origin = {"gradients_of": {"source": other.source, **other.identity}} if other else {}
    return {**describe_attack(find_attack(name, study.ball, study.subject.model)), **origin}


def rival(study: Study, name: str) -> Subject | None:
    """Return whose gradients an attack takes in the subject's place, None where it takes the subject's or none."""
    return None if name in SCORE_BASED or name == ADAPTIVE else study.surrogate


def label(name: str, study: Study) -> str:
    """Return what an attack's record is called: where its gradients are another network's, after that."""
    other = rival(study, name)
    return name if other is None else f"{name} from {other.source}"


def lacks(study: Study, name: str, *, images: bool) -> bool:
    """Return whether an attack's record, or its images where they are wanted, are yet to be made."""
    wanted = images and not (record_folder(study, name) / IMAGES).is_file()
    return wanted or not study.has(record_key(study, name))


def record_folder(study: Study, name: str) -> Path:
    """Return where an attack's record goes."""
    return study.path(record_key(study, name))
