"""The one gate around every attack: what is checked, restored and decided here, no attack has to remember."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from fsrobust.attacks.balls import Ball
from fsrobust.attacks.probe import Probe, Query, ieee_fp32, under_attack
from fsrobust.attacks.view import View
from fsrobust.attacks.witness import Witness, in_ball, in_range, predict
from fsrobust.seeding import Noise, derive, forked
from fsrobust.types import Flags, Ids, Images, InputError, Labels


@runtime_checkable
class Attack(Protocol):
    """A frozen value that turns images into adversarial ones; the model is an argument.

    ``family`` names the attack's noise: two attacks of one family that differ in length share their starts.
    """

    family: ClassVar[str]

    @property
    def ball(self) -> Ball:
        """Where the attack may search."""

    @property
    def cost(self) -> int:
        """About how many forward passes a sample costs that is not fooled; one way back counts as one."""

    def run(self, probe: Probe, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the last iterate. The gate has checked everything and will check the result."""


@dataclass(frozen=True)
class Search:
    """What one attack found on one batch.

    ``last``: the last iterate; where the search stopped because it had won, the image that won it.
    ``witness``: an iterate that fooled, else the last one. ``fooled_last`` and
    ``fooled_any`` are verdicts in IEEE float32 on exactly these images; ``path[t]`` says which samples the
    t-th query of the search misclassified. Counts are in samples.
    """

    last: Images
    witness: Images
    fooled_last: Flags
    fooled_any: Flags
    predicted: Labels
    path: list[Flags]
    forwards: int
    backwards: int


def perturb(
    attack: Attack,
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ids: Ids | None = None,
    seed: int = 0,
) -> Images:
    """Return adversarial images: the attack's last iterate, detached, in the ball and in [0, 1].

    The model is attacked in eval mode with frozen parameters; modes, gradients and ``requires_grad`` are as
    before afterwards, and a surrounding ``no_grad`` or ``inference_mode`` does no harm. All randomness is a
    function of (seed, id, attack), ids being 0, 1, 2, … unless given.

    Raises:
        InputError: images that are not float NCHW in [0, 1], labels that do not fit them or the model, an
            output that is not logits, or logits that do not depend on the pixels by gradient.
    """
    ids = torch.arange(len(x)) if ids is None else ids
    _check_batch(x, y, ids)
    with under_attack(model), ieee_fp32():
        # an inference tensor cannot enter autograd; its clone outside inference mode can
        x, y = x.detach().clone(), y.clone()
        _check_labels(y, classes=Probe(model).logits(x[:1]).shape[1])
        draws = draws_of(attack)
        witness = Witness(attack.ball, x, y, patient=draws > 1)
        probe = Probe(model, witness, draws=draws)
        return witness.taken(_run(attack, probe, x, y, ids.to(x.device), seed))


def search(  # noqa: PLR0913 - as perturb, and the view to search with
    attack: Attack,
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ids: Ids,
    seed: int = 0,
    view: View | None = None,
    surrogate: Query | None = None,
    draws: int | None = None,
    patient: bool = False,
) -> Search:
    """Attack as ``perturb`` does, and say who was fooled: by the last iterate, and by any.

    The search queries ``view`` where one is given, such as a copy in low precision. With a ``surrogate`` it climbs
    that one's gradients, and the view, or the model, is asked about every image on the way. The verdicts are
    always the model's own, in IEEE float32. Where the attack, or ``draws``, asks for several draws of a random
    model, a verdict is by the mean of as many, drawn anew. ``patient``, no search ends before its last step, whoever
    is fooled on the way: for images that are meant for another network.

    Raises:
        InputError: as ``perturb``; also logits that are not finite.
    """
    _check_batch(x, y, ids)
    with under_attack(model), ieee_fp32():
        x, y = x.detach().clone(), y.clone()
        _check_labels(y, classes=Probe(model).logits(x[:1]).shape[1])
        draws = draws or draws_of(attack)
        verdict = Probe(model, draws=draws)
        asked = surrogate or view or model
        witness = Witness(attack.ball, x, y, None if asked is model else verdict, patient or draws > 1)
        searching = Probe(asked, witness, judge=(view or model) if surrogate else None, draws=draws)
        last = witness.taken(_run(attack, searching, x, y, ids.to(x.device), seed))
        with drawing(derive(seed, "verdict"), x.device):
            predicted = predict(verdict, last)
            fooled_last = predicted != y
            first = torch.where(witness.found[:, None, None, None], witness.images, last)
            fooled_first = predict(verdict, first) != y
        # a query's verdict that does not hold on a second look is no verdict
        best = torch.where(fooled_first[:, None, None, None], first, last)
        fooled_any = fooled_last | fooled_first
    return Search(
        last=last,
        witness=best,
        fooled_last=fooled_last,
        fooled_any=fooled_any,
        predicted=predicted,
        path=witness.path,
        forwards=searching.forwards + verdict.forwards,
        backwards=searching.backwards,
    )


def _run(attack: Attack, probe: Probe, x: Images, y: Labels, ids: Ids, seed: int) -> Images:
    with drawing(seed, x.device):
        adversarial = attack.run(probe, x, y, Noise.of(ids, seed, attack.family)).detach()
    if not bool(in_ball(attack.ball, adversarial, x).all()):
        raise RuntimeError(f"{attack} left its ball (or met NaN): distance above {attack.ball.eps}")
    if not bool(in_range(adversarial).all()):
        raise RuntimeError(f"{attack} left the pixel range [0, 1]")
    return adversarial


def draws_of(attack: Attack) -> int:
    """Return how many answers of a random model the attack takes as one; 1 unless the attack says so."""
    return int(getattr(attack, "draws", 1))


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Let a random model's draws depend on ``seed`` and the batch alone."""
    with forked(device):
        torch.manual_seed(seed % 2**63)
        yield


def check_samples(model: nn.Module, x: Images, y: Labels, ids: Ids) -> None:
    """Refuse what no attack can start from, before anything is asked of the model that could fail on it.

    Raises:
        InputError: as ``perturb``.
    """
    _check_batch(x, y, ids)
    with under_attack(model), ieee_fp32():
        _check_labels(y, classes=Probe(model).logits(x[:1].detach().clone()).shape[1])


def _check_batch(x: Images, y: Labels, ids: Ids) -> None:
    # half precision has no room for a ball: pixels near 1 are 1/256 apart in bfloat16
    if x.ndim != 4 or x.dtype not in (torch.float32, torch.float64) or len(x) == 0:
        raise InputError(
            f"Expected float images [B, C, H, W], float32 or float64, but got {x.dtype} {list(x.shape)}"
        )
    if not y.shape == ids.shape == (len(x),) or ids.dtype != torch.int64:
        raise InputError(
            f"Expected one label and id per image, ids int64, but got labels {list(y.shape)} and {ids.dtype} "
            f"ids {list(ids.shape)} for {len(x)} images"
        )
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise InputError(
            f"Expected pixels in [0, 1], but got [{low:.3g}, {high:.3g}]; normalise inside the model"
        )


def _check_labels(y: Labels, *, classes: int) -> None:
    if y.dtype != torch.int64 or not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise InputError(
            f"Expected int64 labels in [0, {classes}) as the model has {classes} classes, "
            f"but got {y.dtype} in [{int(y.min())}, {int(y.max())}]"
        )
