"""Attack one network and ask another: what an attacker does who cannot see the model, only train one like it."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from fsrobust.attacks import Attack, Search, search
from fsrobust.attacks.base import drawing, draws_of
from fsrobust.attacks.probe import Probe, ieee_fp32, under_attack
from fsrobust.attacks.view import View
from fsrobust.attacks.witness import predict
from fsrobust.evaluate.engine import AttackResult, Progress, attack_in_batches
from fsrobust.evaluate.searching import Say, batch_for, choose_batch, pass_bytes
from fsrobust.evaluate.stopping import Stop, never
from fsrobust.seeding import derive
from fsrobust.types import Ids, Images, Labels


def transfer_attack(  # noqa: PLR0913 - as run_attack, and the surrogate
    attack: Attack,
    surrogate: nn.Module,
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ids: Ids,
    seed: int = 0,
    batch: int | None = None,
    view: View | None = None,
    name: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
    journal: Path | None = None,
    stop: Stop = never,
) -> AttackResult:
    """Attack ``surrogate`` on all samples, ask ``model`` about each attacked image once, return its verdicts.

    A true black box: the model sees nothing on the way, so a sample is fooled by its last image or not at all, and
    ``path`` has one entry. The image is what ``perturb`` returns for the surrogate: the last iterate or, where the
    attack stops once it has won, the image that won. ``search(..., surrogate=...)`` is the other thing: there the
    model judges every iterate.

    ``view`` is what the attack queries instead of the surrogate. The counts are the queries of both networks.

    Raises:
        InputError: what ``perturb`` refuses, of either network.
        Stopped: as ``run_attack``.
    """
    draws = draws_of(attack)

    def attack_part(part: slice) -> Search:
        found = search(attack, surrogate, x[part], y[part], ids=ids[part], seed=seed, view=view)
        with under_attack(model), ieee_fp32(), drawing(derive(seed, "verdict"), x.device):
            predicted = predict(Probe(model, draws=draws), found.last)
        fooled = predicted != y[part]
        return replace(
            found,
            witness=found.last,
            fooled_last=fooled,
            fooled_any=fooled,
            predicted=predicted,
            path=[],
            forwards=found.forwards + draws * len(fooled),
        )

    size = batch or min(choose_batch(surrogate, x), choose_batch(model, x))
    size = batch_for(attack, size, x.device, each=pass_bytes(surrogate, x[:1]))
    return attack_in_batches(
        attack_part, len(x), size, name=name, progress=progress, say=say, journal=journal, stop=stop
    )
