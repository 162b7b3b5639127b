"""Which diagnosis of a model counts, where several are on record: none that found a sign is outvoted."""

from collections.abc import Iterable

from fsrobust.evaluate.identity import subject_key
from fsrobust.evaluate.trust import UNTRUSTED
from fsrobust.report.evaluations import Record


def judgement(record: Record, diagnoses: Iterable[Record]) -> tuple[Record | None, list[str]]:
    """Return the diagnosis that counts of what an attack's record is of, and a sentence if others say something else.

    One that found a sign does, whatever its seed and however few its samples: that others did not see it takes nothing
    back. Of equals it is the one on most samples, then the newest.
    """

    def subject(one: Record) -> tuple[object, ...]:
        return subject_key(one), one["ball"], one["data"]["name"], one["data"]["split"]

    same = [one for one in diagnoses if subject(one) == subject(record)]
    if not same:
        return None, []
    same.sort(key=lambda one: (one["state"] == UNTRUSTED, one["n"], one["created"], one["key"]), reverse=True)
    if len({one["state"] for one in same}) == 1:
        return same[0], []
    said = ", ".join(f"“{one['state']}” on {one['n']:,} samples (seed {one['seed']})" for one in same)
    ball = f"{record['ball']['norm']}, eps {record['ball']['eps']}"
    return same[0], [
        f"Diagnoses of {record['source']} in one ball ({ball}) disagree: {said}. The first one counts."
    ]


def unheard(diagnoses: Iterable[Record], attacked: Iterable[Record]) -> list[str]:
    """Return sentences on diagnoses of models that have the weights of attacked ones, but were not attacked."""
    attacked = list(attacked)
    weights = {record["weights_sha256"] for record in attacked}
    models = {subject_key(record) for record in attacked}
    strangers = [
        one for one in diagnoses if one["weights_sha256"] in weights and subject_key(one) not in models
    ]
    return [
        f"A diagnosis of {source} is on record, but no attack on that very model: of the same weights in other code or "
        "with other settings. It is not shown."
        for source in dict.fromkeys(one["source"] for one in strangers)
    ]
