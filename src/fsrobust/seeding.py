"""Counter-based noise: a pure function of (seed, sample id, purpose, step), and of nothing else.

A generator's stream depends on how often it was asked before, so shards, batch sizes and resumed runs
would each see other noise. Here the i-th number of a sample is one evaluation of SplitMix64
(Steele, Lea and Flood, 2014) at counter i of the sample's own key, computed with wrapping int64
arithmetic on whatever device holds the ids: the same bits on CPU and GPU, in any batch.
"""

import hashlib
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fsrobust.types import Ids, InputError


def _signed(word: int) -> int:
    """Return the int64 that has the bits of a 64-bit word."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN: Final = _signed(0x9E3779B97F4A7C15)
_MULTIPLIER_1: Final = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2: Final = _signed(0x94D049BB133111EB)


LARGEST_SEED: Final = 2**63 - 1
"""What a record can hold of a seed, either side of 0."""


def check_seed(name: str, seed: int) -> None:
    """Refuse a seed that no record could hold.

    Raises:
        InputError: it is too large.
    """
    if abs(seed) > LARGEST_SEED:
        raise InputError(f"Expected a {name} below 2^63 in size, but got {seed}")


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which torch's generators, the CPU's and the device's, are as they were before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def derive(*words: int | str) -> int:
    """Return a 64-bit key for a purpose, such as ``derive(seed, "pgd20", restart)``.

    >>> derive(0, "start") == derive(0, "start"), derive(0, "start") == derive(1, "start")
    (True, False)
    """
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest, "little"))


def _shift(words: Tensor, bits: int) -> Tensor:
    # int64's shift is arithmetic: clear the copies of the sign bit
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(counters: Tensor) -> Tensor:
    """Return SplitMix64's output word for each int64 state, as int64 bits; any shape."""
    z = (counters ^ _shift(counters, 30)) * _MULTIPLIER_1
    z = (z ^ _shift(z, 27)) * _MULTIPLIER_2
    return z ^ _shift(z, 31)


@dataclass(frozen=True)
class Noise:
    """Noise of one purpose for a batch of samples: ``ids`` int64 [B], on the device of the result.

    >>> noise = Noise.of(torch.tensor([7, 3]), 0, "example")
    >>> alone = Noise.of(torch.tensor([3]), 0, "example")
    >>> torch.equal(noise.uniform((2,))[1:], alone.uniform((2,)))
    True
    """

    key: int
    ids: Ids

    @classmethod
    def of(cls, ids: Ids, *words: int | str) -> "Noise":
        """Return the noise of the purpose that ``words`` name, seed first."""
        return cls(derive(*words), ids)

    def fold(self, *words: int | str) -> "Noise":
        """Return independent noise for a further purpose, such as a restart or a step."""
        return Noise(derive(self.key, *words), self.ids)

    def select(self, kept: Tensor) -> "Noise":
        """Return the same noise for some of the samples: ``kept`` bool [B] or indices."""
        return Noise(self.key, self.ids[kept])

    def words(self, shape: tuple[int, ...]) -> Tensor:
        """Return int64 ``[B, *shape]`` words whose 64 bits are all uniform."""
        per_sample = splitmix64(splitmix64(self.ids * _GOLDEN + self.key) + _GOLDEN)
        counters = torch.arange(1, math.prod(shape) + 1, device=self.ids.device)
        return splitmix64(per_sample[:, None] + counters * _GOLDEN).view(-1, *shape)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Return float32 ``[B, *shape]`` in [0, 1): 24 random bits each."""
        return _shift(self.words(shape), 40).float() * 2.0**-24

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return float32 ``[B, *shape]`` from N(0, 1), two uniforms each (Box and Muller, 1958)."""
        words = self.words(shape)
        radius = (((_shift(words, 40) + 1).float() * 2.0**-24).log() * -2).sqrt()
        angle = (words & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
        return radius * angle.cos()
