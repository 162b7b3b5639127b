"""Runs small enough for a test: a few dozen digits, a network of a few thousand parameters, seconds."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fsrobust.attacks import Linf
from fsrobust.data import Dataset, load_dataset
from fsrobust.data.readers import Split
from fsrobust.plugin import create_model
from fsrobust.records import Metrics
from fsrobust.train import AT, History, Natural, Objective, TrainConfig, fit

TIMES = ("seconds", "images_per_second", "step_seconds", "peak_memory_bytes")
"""What two runs that do the same may differ in."""


@functools.cache
def digits(count: int, split: Split = "train") -> Dataset:
    """Return the first so many digits."""
    return load_dataset("digits", split).select(range(count))


def net(*, fsr: str | None = None, seed: int = 0, width: int = 4, tau: float = 0.1) -> nn.Module:
    """Return a network for digits whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model("resnet_small", classes=10, channels=1, width=width, fsr=fsr, tau=tau)


@functools.cache
def learnt(fsr: str | None = None) -> nn.Module:
    """Return a network that is right on most digits, in eval mode; the same one on every call: leave it alone."""
    model = net(fsr=fsr, width=8)
    fit(model, digits(600), objective=Natural(), train=short(epochs=4, lr=0.05))
    return model.eval()


def at(*, steps: int = 2, eps: float = 0.1) -> AT:
    """Return adversarial training with a short attack."""
    return AT(Linf(eps), steps=steps, step_size=eps / 2)


def short(**changes: Any) -> TrainConfig:
    """Return a training of two epochs in batches of 16 at a rate that does not explode."""
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch": 16,
        "lr": 0.02,
        "augment": "none",
        "engine": "reference",
    }
    return TrainConfig(**{**settings, **changes})


@dataclass
class Listener:
    """A reporter that remembers."""

    said: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Remember the sentence."""
        self.said.append(text)

    def batch(self, epoch: int, epochs: int, share: float, loss: float) -> None:
        """Remember the loss."""
        assert 1 <= epoch <= epochs
        assert 0 < share <= 1
        self.losses.append(loss)

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """Remember the row."""
        assert row["epoch"] <= epochs
        self.rows.append(row)


@dataclass(frozen=True)
class Trained:
    """What a run leaves: the network, its history, the lines of its metrics without their times."""

    model: nn.Module
    history: History
    lines: list[dict[str, Any]]


def train(
    out: Path,
    *,
    fsr: str | None = None,
    count: int = 90,
    objective: Objective | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    **changes: Any,
) -> Trained:
    """Train a fresh network on digits into ``out``."""
    model = net(fsr=fsr)
    history = fit(
        model,
        digits(count),
        objective=objective or at(),
        train=short(**changes),
        out=out,
        resume=resume,
        reporter=listener,
    )
    return Trained(model, history, timeless(Metrics(out / "metrics.jsonl").rows()))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics without what differs from run to run."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
