"""How much of an official data set is at hand: published numbers are of the whole."""

from dataclasses import dataclass
from typing import Final

from fsrobust.data.catalog import DATASETS, DatasetSpec

NEARLY: Final = 0.99
"""More than this share of either split's samples must be there: without one class of CIFAR-100's it is just not."""


@dataclass(frozen=True)
class Portion:
    """Classes and samples there are of the data set that ``spec`` tells of; None where a count is not known."""

    name: str
    spec: DatasetSpec
    classes: int
    train: int | None
    test: int | None

    @property
    def comparable(self) -> bool:
        """Whether published numbers speak of it: every class, and more than 99 % of the samples known of."""
        return self.classes == self.spec.classes and all(
            NEARLY < there / whole < 1 / NEARLY for there, whole, _ in self._splits()
        )

    @property
    def remark(self) -> str | None:
        """A sentence on what is not as in the official set, None where nothing is.

        >>> made = portion("tiny-imagenet", classes=2, train=None, test=6)
        >>> made.remark
        'A part of tiny-imagenet: 2 of 200 classes, 6 of 10,000 test samples.'
        """
        counts = [(self.classes, self.spec.classes, "classes"), *self._splits()]
        other = [
            f"{there:,} {'of' if there < whole else 'instead of'} {whole:,} {what}"
            for there, whole, what in counts
            if there != whole
        ]
        how = "Nearly all" if self.comparable else "A part"
        return f"{how} of {self.name}: {', '.join(other)}." if other else None

    def _splits(self) -> list[tuple[int, int, str]]:
        """Return samples there, samples of the whole, and what they are, where they are known."""
        train, test = self.spec.samples or (0, 0)
        counts = ((self.train, train, "training samples"), (self.test, test, "test samples"))
        return [(there, whole, what) for there, whole, what in counts if there is not None]


def portion(name: str, *, classes: int, train: int | None, test: int | None) -> Portion | None:
    """Return how much of an official data set some counts are, None for data that nobody has counted officially.

    >>> portion("folder:photos", classes=2, train=10, test=6) is None
    True
    """
    spec = DATASETS.get(name)
    return None if spec is None or spec.samples is None else Portion(name, spec, classes, train, test)


def before_hold_out(rest: int, *, count: int) -> int:
    """Return of how many samples ``hold_out`` with that count left ``rest``, to one where it took a tenth.

    >>> before_hold_out(49_000, count=1000), before_hold_out(1294, count=1000)
    (50000, 1437)
    """
    return rest + min(count, rest // 9)
