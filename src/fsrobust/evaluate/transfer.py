"""Attack one network and ask another: what an attacker does who cannot see the model, only train one like it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fsrobust.attacks import Attack, Search, search
from fsrobust.attacks.base import drawing, draws_of
from fsrobust.attacks.cascade import Cascade, stage_seed
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
    ``path`` has one entry. What the surrogate says of an image ends no search, since it is not the one to be fooled: it
    may be wrong on the clean image, and the model right. The image is the last iterate; an attack that hands back the
    clean one (FAB) carries over that which fooled the surrogate by the widest margin. A cascade's stages attack, one by
    one, what the model withstood of those before, and the model is asked once for each. ``search(..., surrogate=...)``
    is the other thing: there the model judges every iterate.

    ``view`` is what the attack queries instead of the surrogate. The counts are the queries of both networks.

    Raises:
        InputError: what ``perturb`` refuses, of either network.
        Stopped: as ``run_attack``.
    """
    carry = _Carry(surrogate, model, view, draws_of(attack))

    def attack_part(part: slice) -> Search:
        samples = x[part], y[part], ids[part]
        if isinstance(attack, Cascade):
            return carry.cascade(attack, *samples, seed=stage_seed(seed))
        return carry(attack, *samples, seed=seed)

    size = batch or min(choose_batch(surrogate, x), choose_batch(model, x))
    size = batch_for(attack, size, x.device, each=pass_bytes(surrogate, x[:1]))
    return attack_in_batches(
        attack_part, len(x), size, name=name, progress=progress, say=say, journal=journal, stop=stop
    )


@dataclass(frozen=True, eq=False)
class _Carry:
    """From whom images are carried over, and to whom."""

    surrogate: nn.Module
    model: nn.Module
    view: View | None
    draws: int

    def __call__(self, attack: Attack, x: Images, y: Labels, ids: Ids, *, seed: int) -> Search:
        """Make an attack's images and ask the model about them."""
        found = search(
            attack, self.surrogate, x, y, ids=ids, seed=seed, view=self.view, draws=self.draws, patient=True
        )
        unmoved = (found.last == x).flatten(1).all(1)[:, None, None, None]
        carried = torch.where(unmoved, found.witness, found.last)
        return self._asked(found, carried, y, seed)

    def cascade(self, attack: Cascade, x: Images, y: Labels, ids: Ids, *, seed: int) -> Search:
        """Make each stage's images of those samples alone that the model is right on still."""
        nobody = torch.zeros_like(y, dtype=torch.bool)
        clean = Search(x, x, nobody, nobody, y, path=[], forwards=0, backwards=0)
        result = self._asked(clean, x, y, seed)
        with under_attack(self.surrogate):
            classes = Probe(self.surrogate).logits(x[:1].clone()).shape[1]
        for stage in attack.applicable(classes):
            left = (~result.fooled_any).nonzero()[:, 0]
            if len(left) == 0:
                break
            found = self(stage.attack, x[left], y[left], ids[left], seed=seed)
            result = _with_rows(result, left, found)
        return result

    def _asked(self, found: Search, carried: Images, y: Labels, seed: int) -> Search:
        """Return a search with these images and what the model says of them."""
        with under_attack(self.model), ieee_fp32(), drawing(derive(seed, "verdict"), carried.device):
            predicted = predict(Probe(self.model, draws=self.draws), carried)
        fooled = predicted != y
        return replace(
            found,
            last=carried,
            witness=carried,
            fooled_last=fooled,
            fooled_any=fooled,
            predicted=predicted,
            path=[],
            forwards=found.forwards + self.draws * len(y),
        )


def _with_rows(whole: Search, rows: Tensor, part: Search) -> Search:
    """Return ``whole`` with these rows as in ``part``, and the passes of both."""

    def put(old: Tensor, new: Tensor) -> Tensor:
        changed = old.clone()
        changed[rows] = new
        return changed

    return Search(
        last=put(whole.last, part.last),
        witness=put(whole.witness, part.witness),
        fooled_last=put(whole.fooled_last, part.fooled_last),
        fooled_any=put(whole.fooled_any, part.fooled_any),
        predicted=put(whole.predicted, part.predicted),
        path=[],
        forwards=whole.forwards + part.forwards,
        backwards=whole.backwards + part.backwards,
    )
