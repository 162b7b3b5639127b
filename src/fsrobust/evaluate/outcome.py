"""What an evaluation found: bits per sample, from which every accuracy is computed later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsrobust.evaluate.joined import base_name
from fsrobust.evaluate.stats import Interval, wilson
from fsrobust.types import InputError, unknown_name

Bits = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Verdicts on N samples, all in IEEE float32.

    ``natural_correct`` [N]; per attack ``attacked``, ``fooled_last`` (the last iterate is misclassified) and
    ``fooled`` (the natural image or any iterate is), each bool [N].
    """

    ids: NDArray[np.int64]
    natural_correct: Bits
    attacked: Mapping[str, Bits]
    fooled_last: Mapping[str, Bits]
    fooled: Mapping[str, Bits]

    @property
    def n(self) -> int:
        """How many samples were evaluated."""
        return len(self.ids)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order they ran."""
        return tuple(self.fooled)

    def columns_of(self, name: str) -> list[str]:
        """Return the columns that an attack has, by whatever it was told apart; its name alone if it has none."""
        return [column for column in self.fooled if name in (column, base_name(column))] or [name]

    def correct(self, name: str, *, strict: bool = False) -> Bits:
        """Return bool [N]: which samples count for an attack, or for "natural".

        The paper's count asks only that the last attacked image be classified right, so an image that the
        attack happened to repair counts; ``strict`` asks for right when clean and under every iterate.
        """
        if name == "natural":
            return self.natural_correct
        if name not in self.fooled:
            raise unknown_name("attack in this outcome", name, ("natural", *self.fooled))
        missed = ~self.attacked[name] if not strict else ~self.attacked[name] & self.natural_correct
        if missed.any():
            raise InputError(
                f'"{name}" attacked {int(self.attacked[name].sum())} of {self.n} samples; the accuracy of a '
                "partial attack says nothing"
            )
        return self.natural_correct & ~self.fooled[name] if strict else ~self.fooled_last[name]

    def survivors(self, names: Sequence[str], *, strict: bool = False) -> Bits:
        """Return bool [N]: correct when clean and under every one of the attacks, in all columns that these have."""
        bits = self.natural_correct.copy()
        for name in names:
            for column in self.columns_of(name):
                bits &= self.correct(column, strict=strict)
        return bits

    def accuracy(self, name: str) -> float:
        """Return the paper's accuracy under an attack, or the natural one, in [0, 1]."""
        return float(self.correct(name).mean())

    def strict(self, name: str) -> float:
        """Return the share right when clean and under every iterate of an attack, in [0, 1]."""
        return float(self.correct(name, strict=True).mean())

    def ensemble(self, names: Sequence[str] | None = None, *, strict: bool = False) -> float:
        """Return the share right when clean and under all attacks, in [0, 1]; all that ran unless named."""
        return float(self.survivors(names or self.attacks, strict=strict).mean())

    def interval(self, names: str | Sequence[str], *, strict: bool = False) -> Interval:
        """Return the 95 % Wilson interval of an accuracy (one name) or of an ensemble (several)."""
        bits = (
            self.correct(names, strict=strict)
            if isinstance(names, str)
            else self.survivors(names, strict=strict)
        )
        return wilson(int(bits.sum()), self.n)

    def summary(self) -> dict[str, object]:
        """Return every accuracy with its interval as plain values: for JSON."""
        rows: dict[str, object] = {
            name: {
                "accuracy": self.accuracy(name),
                "interval": list(self.interval(name)),
                "strict": self.strict(name) if name != "natural" else self.accuracy(name),
            }
            for name in ("natural", *self.attacks)
        }
        together = {
            "accuracy": self.ensemble(),
            "interval": list(self.interval(self.attacks)),
            "strict": self.ensemble(strict=True),
        }
        return {"n": self.n, "accuracy": rows, "all": together}
