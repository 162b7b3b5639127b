"""What a model is made of: the value that a weights file carries in its header."""

from dataclasses import dataclass
from typing import Literal

from fsrobust.types import InputError


@dataclass(frozen=True)
class ModelConfig:
    """A network by name and size, and where the plug-in sits in it.

    ``width`` is the channels of the first stage for resnets and a multiplier for the others, where it may be a
    fraction: a vgg16 of width 0.25 begins with 16 channels. ``fsr`` names the layers whose output the plug-in
    recalibrates: () for none.
    """

    name: str
    classes: int
    channels: int = 3
    width: int | float = 64
    stem: Literal["cifar", "imagenet"] = "cifar"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    fsr: tuple[str, ...] = ()
    tau: float = 0.1
    mask: Literal["gumbel", "binary", "binary-st"] = "gumbel"
    separation: Literal["net", "random", "greedy", "none"] = "net"
    fsr_init: Literal["paper", "identity"] = "paper"

    def __post_init__(self) -> None:
        for field in ("classes", "channels"):
            value = getattr(self, field)
            if value < 1:
                raise InputError(f"Expected model.{field} to be at least 1, but got {value}")
        if not 0 < self.width < 10_000:
            raise InputError(f"Expected model.width above 0 and below 10000, but got {self.width}")
        if self.stem not in ("cifar", "imagenet"):
            raise InputError(f'Expected stem "cifar" or "imagenet", but got "{self.stem}"')
        if not self.tau > 0:
            raise InputError(f"Expected tau above 0, but got {self.tau}")
        if self.fsr_init not in ("paper", "identity"):
            raise InputError(f'Expected fsr_init "paper" or "identity", but got "{self.fsr_init}"')
        if self.normalize and {len(values) for values in self.normalize} != {self.channels}:
            raise InputError(
                f"Expected {self.channels} means and deviations to normalise with, but got {self.normalize}"
            )


def whole_width(config: ModelConfig) -> int:
    """Return the width of a network whose width counts channels.

    Raises:
        InputError: a fraction.
    """
    if config.width != int(config.width):
        raise InputError(
            f"Expected model.width of {config.name} to be a whole number of channels, but got {config.width}"
        )
    return int(config.width)


def scaled(config: ModelConfig, channels: int) -> int:
    """Return ``channels`` times the width of a network whose width multiplies, at least 1."""
    return max(1, round(channels * config.width))
