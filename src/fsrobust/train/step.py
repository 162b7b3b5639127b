"""One optimisation step, twice: as one reads it, and as fast as the device allows."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

import torch
from torch import Tensor, nn

from fsrobust.attacks.compiled import compiled_or_eager
from fsrobust.attacks.probe import Probe, under_attack
from fsrobust.attacks.view import FrozenView, Plain, View, multiplies_bf16
from fsrobust.plugin.draws import BatchShare, drawing_share
from fsrobust.seeding import Noise
from fsrobust.train.awp import perturbed
from fsrobust.train.distributed import ALONE, Learn, Team, reduced
from fsrobust.train.freezing import Host
from fsrobust.train.objectives import Loss, Objective, mean_of
from fsrobust.train.telemetry import Laps
from fsrobust.types import Images, Labels, unknown_name

Engine = Literal["reference", "fast"]
_NARROW: Final = 16
"""Channels below which torch's strided 1×1 convolutions are not to be trained in channels-last order on a CPU."""


@dataclass(eq=False)
class Step:
    """Attack a batch, take the loss of the result, update the weights.

    ``view`` is the model as attacks and validation query it: its weights at the last refresh. ``precision``
    wraps the forward pass that learns and ``layout`` is the memory order of images; the reference engine has
    neither. ``gamma`` is the present γ of the weights' perturbation. ``notes`` collects what the engine had to do
    without. ``pieces``: how many parts of the batch are attacked and learnt from one after the other. ``norms`` wraps
    what learns, too.
    """

    model: nn.Module
    objective: Objective
    optimiser: torch.optim.Optimizer
    view: View
    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    layout: torch.memory_format = torch.contiguous_format
    compiled: bool = False
    gamma: float = 0.0
    notes: list[str] = field(default_factory=list)
    pieces: int = 1
    norms: Callable[[], AbstractContextManager[None]] = nullcontext
    laps: Laps = field(init=False)
    host: Host = field(init=False)
    _team: Team = field(init=False, default=ALONE)
    _loss: Learn = field(init=False)
    _shared: Learn = field(init=False)
    _apart: Callable[[], AbstractContextManager[None]] = field(init=False, default=nullcontext)

    def __post_init__(self) -> None:
        self.laps = Laps(next(self.model.parameters()).device)
        self.host = Host(self.model)
        self._loss = self.loss
        if self.compiled:
            self._loss = compiled_or_eager(self.loss, "the training pass", self.notes)
        self._shared = self._loss

    def join(self, team: Team) -> None:
        """Learn as one of a team, each with its rows of the batch; to be said again when other parameters learn."""
        if team.size > 1:
            self._team = team
            self._shared, self._apart = reduced(self.model, self._loss)

    def __call__(self, x: Images, y: Labels, noise: Noise, share: BatchShare | None = None) -> Loss:
        """Return the loss that was minimised; nothing here waits for the device.

        ``share`` says which rows of the whole batch these are, if they are not all.
        """
        x = x.contiguous(memory_format=self.layout)
        with self.laps.lap("attack"):
            x_adv = self.attack(x, y, noise)
        with self.laps.lap("learn"):
            return self.learn(x, x_adv, y, share)

    def attack(self, x: Images, y: Labels, noise: Noise) -> Images:
        """Return the training attack's images on the present weights: model in eval mode, all frozen."""
        attack = self.objective.attack
        if attack is None:
            return x
        with under_attack(self.model):
            self.view.refresh()
            found = [
                attack.run(Probe(self.view, checked=False), images, labels, Noise(noise.key, ids)).detach()
                for images, labels, ids in self._pieces(x, y, noise.ids)
            ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _pieces(self, *batch: Tensor) -> Sequence[tuple[Tensor, ...]]:
        return list(zip(*(tensor.chunk(self.pieces) for tensor in batch), strict=True))

    def learn(self, x: Images, x_adv: Images, y: Labels, share: BatchShare | None = None) -> Loss:
        """Update the weights on these images; the loss's terms gain the norm of its gradient.

        Where weights are perturbed, loss and gradient are those at the perturbed ones; the update, momentum and
        weight decay are of the weights as they were.
        """
        self.model.train()
        self.host.settle()
        self.optimiser.zero_grad(set_to_none=True)

        def ascent() -> Tensor:
            return self._loss(x, x_adv, y).total

        moved = perturbed(self.model, ascent, gamma=self.gamma, mean_=self._team.mean_)
        with self.norms(), drawing_share(self.model, share), moved:
            loss = self._backward(x, x_adv, y, share)
        self._mean_statistics()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss.terms["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
        _begin_momenta(self.optimiser)
        self.optimiser.step()
        return loss

    def _backward(self, x: Images, x_adv: Images, y: Labels, share: BatchShare | None) -> Loss:
        """Leave the gradient of the whole batch in the parameters and return the loss of these rows."""
        if self.pieces == 1:
            loss = self._shared(x, x_adv, y)
            loss.total.backward()  # type: ignore[no-untyped-call]
            return loss
        losses: list[Loss] = []
        for piece in self._pieces(x, x_adv, y):
            last = len(losses) == self.pieces - 1
            with nullcontext() if last else self._apart(), drawing_share(self.model, share):
                loss = self._shared(*piece)
                (loss.total / self.pieces).backward()  # type: ignore[no-untyped-call]
            losses.append(replace(loss, total=loss.total.detach()))
            share = share.later(len(piece[0])) if share is not None else None
        return mean_of(losses)

    def _mean_statistics(self) -> None:
        """Give all processes the mean of what their batch norms saw, so that they remain one model."""
        self._team.mean_(b for b in self.model.buffers() if b.is_floating_point())

    def look(self, x: Images, y: Labels, noise: Noise, share: BatchShare | None = None) -> None:
        """Pass a batch through as a step would, without learning: batch norms in train mode see what it shows."""
        x = x.contiguous(memory_format=self.layout)
        x_adv = self.attack(x, y, noise)
        self.model.train()
        with torch.no_grad(), self.norms(), drawing_share(self.model, share):
            self.loss(x, x_adv, y)
        self._mean_statistics()

    def loss(self, x: Images, x_adv: Images, y: Labels) -> Loss:
        """Return the objective's loss in the engine's precision."""
        with self.precision():
            return self.objective.loss(self.model, x, x_adv, y)


def _begin_momenta(optimiser: torch.optim.Optimizer) -> None:
    """Give parameters that learn for the first time a momentum of 0, whose outcome is that of none.

    A fused step takes momenta of all of a group or of none, and some of it may learn later than the rest.
    """
    fused = [group for group in optimiser.param_groups if group.get("fused") and group.get("momentum")]
    for p in (p for group in fused for p in group["params"] if p.grad is not None):
        if optimiser.state[p].get("momentum_buffer") is None:
            optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)


def reference_step(model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer) -> Step:
    """Return the plain loop: eager, float32, NCHW, attacks on the network itself."""
    return Step(model, objective, optimiser, Plain(model))


def fast_step(
    model: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    *,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    compiled: bool = False,
    whole: bool = True,
) -> Step:
    """Return the fast loop: channels-last, attacks on a frozen copy with folded batch norms, bf16 products.

    Precision "auto" is bf16 where the device multiplies it natively, float32 elsewhere; "bf16" is emulated there.
    Master weights, batch statistics, the mask and the loss are float32 always (autocast keeps them so). Of a batch that
    is not learnt ``whole``, in one pass of one process, only attacks are compiled.
    """
    device = next(model.parameters()).device
    if compiled:
        # code is kept per function, whichever network it asked, and is not told apart by hooks, which plug-ins
        # are: of two that differ in one alone the second would be asked without it. Nor are there more than 8 places
        torch.compiler.reset()
    layout = memory_order(model)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    low = precision == "bf16" or (precision == "auto" and multiplies_bf16(device))
    view = FrozenView(model, dtype=torch.bfloat16 if low else torch.float32, compiled=compiled)
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    if low:
        around = lambda: torch.autocast(device.type, torch.bfloat16)  # noqa: E731 - a value, not a name
    return Step(
        model,
        objective,
        optimiser,
        view,
        around,
        layout,
        compiled=compiled and whole,
        notes=view.notes,
    )


def memory_order(model: nn.Module) -> torch.memory_format:
    """Return the order of a network's images and weights in memory that trains fast and safely: channels-last, or NCHW.

    On a CPU the weight gradient of a strided 1×1 convolution of fewer than 16 channels writes beyond its memory in
    channels-last order (torch 2.13, maps of 56 × 56 and more): such networks are trained in NCHW.
    """
    narrow = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < _NARROW
        for module in model.modules()
    )
    on_cpu = next((p.device.type for p in model.parameters()), "cpu") == "cpu"
    return torch.contiguous_format if narrow and on_cpu else torch.channels_last


class MakeStep(Protocol):
    """How an engine is made."""

    def __call__(self, model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer) -> Step:
        """Return a step of this engine."""


ENGINES: Final[dict[str, MakeStep]] = {"reference": reference_step, "fast": fast_step}


def make_step(engine: str, model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer) -> Step:
    """Return a step by the name of its engine.

    Raises:
        InputError: an unknown engine.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    return ENGINES[engine](model, objective, optimiser)
