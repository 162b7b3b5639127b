"""Notes on a record that several attacks make: whom each of them fooled, so that none is run a second time."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fsrobust.evaluate.engine import AttackResult
from fsrobust.evaluate.journal import Pace, read_or_say
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.searching import Say, silent
from fsrobust.evaluate.stopping import Stop, Stopped, never
from fsrobust.records import digest_of, write_npz
from fsrobust.types import Ids


@dataclass(eq=False)
class Notes:
    """Whom the attacks fooled that make one record: of a record that was stopped, the rest alone is run.

    They lie in the record's ``folder``, and are of no use once it is written.
    """

    folder: Path | None = None
    stop: Stop = never
    say: Say = silent
    _pace: Pace = field(default_factory=Pace)

    @functools.cached_property
    def _found(self) -> dict[str, Bits]:
        return read_or_say(self._file("progress"), _all_bits, self.say) or {}

    def fooled(self, name: str, ids: Ids, attack: Callable[..., AttackResult]) -> Bits:
        """Return whom an attack fools: what is noted of it on samples with these ``ids``, or else run it.

        ``attack`` takes ``journal`` and ``stop`` as ``run_attack`` does.

        Raises:
            Stopped: it did; what is found is noted.
        """
        key = digest_of({"attack": name, "ids": ids.tolist()})[:20]
        journal = self._file(f"progress-{key}")
        known = self._found.get(key)
        if known is None or known.shape != ids.shape:
            try:
                self._found[key] = attack(journal=journal, stop=self.stop).fooled_any
            except Stopped:
                self._write()
                raise
            # an attack that was long enough for a journal is not to be run again, and its images need much room
            self._pace.note(self._write, now=journal is not None and journal.is_file())
            if journal is not None:
                journal.unlink(missing_ok=True)
        return self._found[key]

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.npz"

    def _write(self) -> None:
        file = self._file("progress")
        if file is not None and self._found:
            write_npz(file, **self._found)


def _all_bits(arrays: dict[str, NDArray[Any]]) -> dict[str, Bits]:
    if any(bits.dtype != bool or bits.ndim != 1 for bits in arrays.values()):
        raise ValueError("no verdicts")
    return arrays
