"""Signs that a robust accuracy is owed to masked gradients, and the verdict that follows from them.

Each sign counts samples: it is found if the lower end of the share's 95 % Wilson interval lies above a threshold,
so that a few chance hits find nothing. What is looked for goes back to Athalye et al. (2018), Carlini et al. (2019),
Croce and Hein (2020) and Pintor et al. (2022).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn

from fsrobust.attacks import Ball
from fsrobust.attacks.base import check_samples
from fsrobust.attacks.probe import Query
from fsrobust.evaluate.engine import Progress
from fsrobust.evaluate.evidence import QUERIES, Evidence
from fsrobust.evaluate.notes import Notes
from fsrobust.evaluate.outcome import Bits
from fsrobust.evaluate.patient import ROUNDING
from fsrobust.evaluate.stats import Interval, wilson
from fsrobust.types import Ids, Images, InputError, Labels

LEAST: Final = 30
"""Right samples below which the absence of a sign says nothing."""


@dataclass(frozen=True)
class Sign:
    """What was looked for and what came out: ``hits`` of ``n`` samples.

    ``found`` is None where it could not be looked for; ``meaning`` then says why not.
    """

    name: str
    found: bool | None
    hits: int
    n: int
    threshold: float
    interval: Interval | None
    meaning: str


@dataclass(frozen=True)
class Diagnosis:
    """All signs, on ``n`` samples that the model classifies right."""

    signs: tuple[Sign, ...]
    n: int

    @property
    def found(self) -> tuple[Sign, ...]:
        """The signs that were found."""
        return tuple(sign for sign in self.signs if sign.found)

    @property
    def state(self) -> Literal["no sign found", "not to be trusted", "inconclusive"]:
        """The verdict in a word or three."""
        if self.found:
            return "not to be trusted"
        looked = [sign for sign in self.signs if sign.found is not None]
        return "no sign found" if self.n >= LEAST and len(looked) >= len(self.signs) - 1 else "inconclusive"

    @property
    def verdict(self) -> str:
        """The verdict in a sentence."""
        if self.found:
            return f"not to be trusted because {'; '.join(sign.meaning for sign in self.found)}"
        looked = sum(sign.found is not None for sign in self.signs)
        if self.n < LEAST:
            return (
                f"inconclusive: {looked} of {len(self.signs)} checks on {self.n} right samples; "
                f"at least {LEAST} samples are needed"
            )
        if self.state == "inconclusive":
            unseen = "; ".join(f"{sign.name}: {sign.meaning}" for sign in self.signs if sign.found is None)
            return f"inconclusive: {looked} of {len(self.signs)} checks on {self.n} right samples ({unseen})"
        few, some, many = (detectable(self.n, threshold) for threshold in (0.01, 0.05, 0.25))
        return (
            f"no sign found ({looked} checks, {self.n} right samples; would have been seen: {few:.1%} of them fooled "
            f"by what should fool nobody, {some:.1%} on which attacks stand still or stop early, {many:.1%} whose "
            "gradients mislead)"
        )

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values: for JSON."""
        return {
            "state": self.state,
            "verdict": self.verdict,
            "n": self.n,
            "signs": [asdict(sign) for sign in self.signs],
        }


def detectable(n: int, threshold: float) -> float:
    """Return the least share of n samples that finds a sign of this threshold.

    >>> detectable(100, 0.05)
    0.1
    """
    hits = next(hits for hits in range(1, n + 1) if hits == n or wilson(hits, n).low > threshold)
    return hits / n


@dataclass(frozen=True)
class Look:
    """A row of SIGNS: which samples bear the sign, how many must, and what it means.

    Samples that are masked cannot be judged and do not count; None is all of them.
    """

    bearing: Callable[[Evidence], "Bits | np.ma.MaskedArray[Any, Any] | None"]
    threshold: float
    meaning: str


def _differ(a: Any, b: Any) -> Bits:
    """Return whose logits differ by a thousandth of their spread, float32's rounding aside.

    What is added to all of a sample's logits changes no decision: it neither is a difference nor hides one.
    """
    one, other = (z - z.mean(axis=1, keepdims=True, dtype=np.float64) for z in (a, b))
    least = 1e-3 * np.abs(one).max(axis=1) + ROUNDING * np.abs(a).max(axis=1)
    differ: Bits = np.abs(one - other).max(axis=1) > least
    return differ


def _probabilities(evidence: Evidence) -> Bits:
    z = evidence.logits
    sums_to_one: Bits = (z >= 0).all(axis=1) & (np.abs(z.sum(axis=1) - 1) < 1e-3)
    return sums_to_one


def _depend_on_the_batch(evidence: Evidence) -> Bits | None:
    """Return whose logits are others alone; None of a random model, whose logits are others anyway."""
    if _differ(evidence.logits, evidence.logits_again).any():
        return None
    return _differ(evidence.logits, evidence.logits_alone)


SIGNS: Final[dict[str, Look]] = {
    "random outputs": Look(
        lambda e: _differ(e.logits, e.logits_again),
        0.0,
        "the same image gets other logits the second time: one draw is no verdict; evaluate with expectation "
        "over the randomness",
    ),
    "batch-dependent outputs": Look(
        _depend_on_the_batch,
        0.0,
        "an image's logits depend on what else is in the batch; is the model in eval mode?",
    ),
    "probabilities for logits": Look(
        _probabilities,
        0.5,
        "the outputs are probabilities: a softmax on top of them flattens every gradient; return logits",
    ),
    "vanishing gradients": Look(
        lambda e: ~(e.gradient_sizes > 1e-12),
        0.05,
        "input gradients of the cross-entropy vanish or are not finite: gradient attacks stand still",
    ),
    "gradients that lead nowhere": Look(
        lambda e: np.ma.masked_array(~(e.gains > 0.25), np.isnan(e.gains)),
        0.25,
        "a small step along the gradient does not raise the margin as the gradient promises",
    ),
    "noise does as well": Look(
        lambda e: e.outdone_by_noise,
        0.25,
        "noise fools in balls no larger than those in which the gradient does: attacks that climb it go astray",
    ),
    "more steps are weaker": Look(
        lambda e: e.one_step & ~e.many_steps,
        0.05,
        "20 steps fail where a single one succeeds",
    ),
    "a larger ball is safer": Look(
        lambda e: e.many_steps & ~e.twice_the_radius,
        0.05,
        "an attack in a ball twice as large fails where the smaller one succeeds",
    ),
    "not 0 % unbounded": Look(
        lambda e: ~e.unbounded,
        0.05,
        "samples survive although every image can be reached: the attack fails, not the attacker's room",
    ),
    "not converged": Look(
        lambda e: e.longer,
        0.05,
        "four times as many steps fool more: the attack was stopped too early",
    ),
    "black box beats white box": Look(
        lambda e: e.black_box,
        0.01,
        f"random search with {QUERIES} queries fools samples that every gradient attack failed on",
    ),
    "transfer beats direct": Look(
        lambda e: e.only_transferred,  # as many starts on either side: a surrogate's gain is no restart's
        0.01,
        "gradients of a surrogate fool samples that the model's own gradients do not",
    ),
}
"""Thresholds were written down before any control was run on a sign."""
_UNSEEN: Final = {
    "batch-dependent outputs": "cannot be told: the model is random",
    "gradients that lead nowhere": "cannot be told: gradients promise less than float32's rounding of the logits",
    "transfer beats direct": "the model offers no surrogate, and none was given",
}
"""Why a sign could not be looked for."""


def diagnose(  # noqa: PLR0913 - the public entry, as evaluate
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: Ball,
    ids: Ids | None = None,
    seed: int = 0,
    batch: int | None = None,
    surrogates: Mapping[str, Query] | None = None,
    progress: Progress | None = None,
    notes: Notes | None = None,
) -> Diagnosis:
    """Look for every sign that this model's robust accuracy is owed to attacks that fail.

    ``x`` float [B, C, H, W] in [0, 1], ``y`` int64 [B]; some 2,700 forward passes a sample that withstands them. A
    model with the plug-in offers ``surrogates`` of itself; for others, networks of one's own may be given, by name.
    What is in ``notes`` is not run again.

    Raises:
        InputError: what ``perturb`` refuses; no sample is classified right.
        Stopped: the notes were told to stop.
    """
    ids = torch.arange(len(x)) if ids is None else ids
    check_samples(model, x, y, ids)
    evidence = Evidence.of(
        model,
        x,
        y,
        ids=ids.to(x.device),
        ball=ball,
        seed=seed,
        batch=batch,
        surrogates=surrogates,
        progress=progress,
        notes=notes,
    )
    if len(evidence) == 0:
        raise InputError(f"Expected samples that the model classifies right, but it gets all {len(x)} wrong")
    return Diagnosis(tuple(_look(name, look, evidence) for name, look in SIGNS.items()), len(evidence))


def _look(name: str, look: Look, evidence: Evidence) -> Sign:
    n = len(evidence)
    try:
        bearing = look.bearing(evidence)
    except InputError as error:
        if "by gradient" in str(error):  # what gradient attacks cannot judge is no evidence of robustness
            return Sign(name, True, n, n, look.threshold, wilson(n, n), str(error))
        return Sign(name, None, 0, n, look.threshold, None, str(error))
    judged = 0 if bearing is None else int(np.ma.count(bearing))
    if bearing is None or not judged:
        return Sign(name, None, 0, n, look.threshold, None, _UNSEEN[name])
    hits, n = int(bearing.sum()), judged
    interval = wilson(hits, n)
    return Sign(name, interval.low > look.threshold, hits, n, look.threshold, interval, look.meaning)
