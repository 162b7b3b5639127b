"""Records of one model on the same samples in one ball, side by side: each has a column, and all of them count."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]


class _Column(NamedTuple):
    """An attack's name, and what tells its record from others of that name."""

    name: str
    traits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.traits)})" if self.traits else self.name


def base_name(column: str) -> str:
    """Return whose column this is: an attack that has several records has several, told apart in brackets.

    >>> base_name("pgd20 (bf16 search)"), base_name("pgd20")
    ('pgd20', 'pgd20')
    """
    return column.partition(" (")[0]


def by_column(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return attack records, oldest first, by the name of their column.

    That is the name of the attack; of a transferred one with the surrogate's weights, for two may be called alike. Of
    several by one name the search in float32 keeps it and others say what they are; of equals the newest keeps it.
    What any of them fooled is fooled: see ``Outcome.survivors``.
    """
    searched: dict[_Column, set[str]] = {}
    for record in records:
        searched.setdefault(_attack(record), set()).add(precision_of(record))
    columns: dict[_Column, dict[str, Any]] = {}
    for record in records:
        column, precision = _attack(record), precision_of(record)
        if len(searched[column]) > 1 and precision != "fp32":
            column = _also(column, f"{precision} search")
        if column in columns:
            older = columns.pop(column)
            columns[_also(column, f"record {older['key'][:8]}")] = older
        columns[column] = record
    return {str(column): record for column, record in columns.items()}


def precision_of(record: Record) -> str:
    """Return what an attack searched in; records of before there was a choice do not say."""
    return str(record.get("precision", "fp32"))


def _attack(record: Record) -> _Column:
    rival = record["attack"].get("gradients_of")
    return _Column(record["name"], (rival["weights_sha256"][:8],) if rival else ())


def _also(column: _Column, trait: str) -> _Column:
    return _Column(column.name, (*column.traits, trait))
