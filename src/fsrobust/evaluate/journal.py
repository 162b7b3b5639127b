"""Progress of an attack in a file: what the batches so far found, joined. Killed, an attack goes on from there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from fsrobust.attacks import Search
from fsrobust.records import read_npz, write_npz
from fsrobust.types import InputError, NewerFormatError

T = TypeVar("T")
_PAUSE: Final = 20.0
"""Least seconds between two notes of progress on disk."""
_SHARE: Final = 0.05
"""Share of the time that noting progress may take."""
_DAMAGE: Final = (InputError, KeyError, ValueError, TypeError, IndexError, RuntimeError)
"""What reading a torn or foreign file may end in."""


_TENSORS: Final = ("last", "witness", "fooled_last", "fooled_any", "predicted")
# a field that a journal forgot would be lost in a kill
assert {*_TENSORS, "path", "forwards", "backwards"} == {f.name for f in fields(Search)}


@dataclass(eq=False)
class Pace:
    """When to note progress again: not a moment after the last time, and the less often the longer it takes."""

    _ended: float = field(default_factory=lambda: time.monotonic())
    _took: float = 0.0

    def note(self, write: Callable[[], object], *, now: bool = False) -> None:
        """Call ``write`` if it is due, or at once."""
        started = time.monotonic()
        if now or started - self._ended > max(_PAUSE, self._took / _SHARE):
            write()
            self._ended = time.monotonic()
            self._took = self._ended - started


def read_or_say(
    file: Path | None, make: Callable[[dict[str, NDArray[Any]]], T], say: Callable[[str], None]
) -> T | None:
    """Return what ``make`` makes of a file, None if there is none; where it is damaged, that is said."""
    if file is None or not file.is_file():
        return None
    try:
        return make(read_npz(file))
    except NewerFormatError:
        raise  # whole, and not to be written over
    except _DAMAGE as error:
        why = str(error) if isinstance(error, InputError) else f'"{file}" is damaged'
        say(f"{why}; the attack starts anew")
        return None


@dataclass(eq=False)
class Batches:
    """What an attack found in the batches that are done, in the samples' order, and how long that took."""

    file: Path | None
    found: list[Search] = field(default_factory=list)
    seconds: float = 0.0
    _pace: Pace = field(default_factory=Pace)

    @classmethod
    def read(cls, file: Path | None, n: int, say: Callable[[str], None]) -> "Batches":
        """Return where a killed attack on ``n`` samples was, nothing done if it had not got anywhere."""

        def make(arrays: dict[str, NDArray[Any]]) -> "Batches":
            seconds = float(arrays.pop("seconds"))
            found = _from_arrays(arrays)
            if not 0 < len(found.predicted) == len(found.witness) <= n:
                raise ValueError("verdicts of other samples")
            return cls(file, [found], seconds)

        return read_or_say(file, make, say) or cls(file)

    @property
    def done(self) -> int:
        """How many samples have been attacked."""
        return sum(len(part.predicted) for part in self.found)

    def add(self, part: Search, seconds: float) -> None:
        """Take over a batch, and note it on disk if that is due."""
        self.found.append(part)
        self.seconds += seconds
        self._pace.note(self.write)

    def joined(self) -> Search:
        """Return what was found in all batches."""
        return join(self.found)

    def write(self) -> None:
        """Note on disk what is done, if anything is."""
        if self.file is not None and self.found:
            whole = self.joined()
            self.found = [whole]
            write_npz(
                self.file,
                seconds=torch.tensor(self.seconds, dtype=torch.float64).numpy(),
                **_to_arrays(whole),
            )


def join(parts: Sequence[Search]) -> Search:
    """Return the search that batches make together; one whose search was over sooner stays as it ended."""
    length = max(len(part.path) for part in parts)

    def whole(name: str) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts])

    return Search(
        **{name: whole(name) for name in _TENSORS},
        path=[
            torch.cat([part.path[min(t, len(part.path) - 1)].cpu() for part in parts]) for t in range(length)
        ],
        forwards=sum(part.forwards for part in parts),
        backwards=sum(part.backwards for part in parts),
    )


def _to_arrays(found: Search) -> dict[str, NDArray[Any]]:
    tensors = {name: getattr(found, name) for name in _TENSORS}
    tensors["fooled_at"] = torch.stack(found.path) if found.path else torch.empty(0, 0)
    tensors["counts"] = torch.tensor([found.forwards, found.backwards])
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> Search:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    forwards, backwards = tensors.pop("counts").tolist()
    path = list(tensors.pop("fooled_at").unbind(0))
    return Search(
        **{name: tensors[name] for name in _TENSORS}, path=path, forwards=forwards, backwards=backwards
    )
