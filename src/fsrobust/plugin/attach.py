"""Insert the plug-in into any network whose named layer yields a feature map."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsrobust.models import ModelConfig
from fsrobust.plugin.module import FSR, Mask, Separation, insertion_points
from fsrobust.types import Images, InputError, Logits, unknown_name


@dataclass(frozen=True)
class Parts:
    """Logits with what the plug-in saw; lists have one entry per insertion point, in ``at``'s order.

    ``robust``, ``nonrobust`` and ``recalibrated`` are the auxiliary head's logits for f⁺, f⁻ and f̃⁻;
    ``mask`` is m in [0, 1], one value per unit of the feature map. ``separation_learns`` is False where no
    Separation Net made it.
    """

    logits: Logits
    robust: list[Logits]
    nonrobust: list[Logits]
    recalibrated: list[Logits]
    mask: list[Float[Tensor, "B _ _ _"]]
    separation_learns: bool = True


class Guarded(nn.Module):
    """A network with the plug-in at some of its layers. ``model(x)`` is logits, as before.

    ``net``: the network, its own code unchanged. ``fsr``: one FSR per insertion point. ``at``: their layers.
    """

    def __init__(self, net: nn.Module, at: Sequence[str], fsr: Sequence[FSR]) -> None:
        super().__init__()
        self.net = net
        self.fsr = nn.ModuleList(fsr)
        self.at = tuple(at)
        for name, module in zip(at, fsr, strict=True):
            net.get_submodule(name).register_forward_hook(module.replace_output)

    def forward(self, x: Images) -> Logits:
        """Return logits; the auxiliary heads are not run."""
        logits: Logits = self.net(x)
        return logits

    def parts(self, x: Images) -> Parts:
        """Return logits, mask and the auxiliary logits of one and the same forward pass."""
        return parts_of(self, x)


def parts_of(model: nn.Module, x: Images) -> Parts:
    """Return the parts of one forward pass of any model with the plug-in, also of one that wraps a guarded network.

    Of a plug-in that runs several times in a pass it is the first.
    """
    points = insertion_points(model)
    for point in points:
        point.tape = []
    try:
        logits = model(x)
        seen = [point.tape[0] for point in points if point.tape]
    finally:
        for point in points:
            point.tape = None
    assert len(seen) == len(points), "a guarded layer was not run in this forward pass"
    return Parts(
        logits=logits,
        robust=[s.robust for s in seen],
        nonrobust=[s.nonrobust for s in seen],
        recalibrated=[s.recalibrated for s in seen],
        mask=[s.mask for s in seen],
        separation_learns=any(point.separation is not None for point in points),
    )


def attach(  # noqa: PLR0913 - a network, places, and what a plug-in can be
    net: nn.Module,
    *,
    at: str | Sequence[str],
    classes: int,
    tau: float = 0.1,
    init: Literal["paper", "identity"] = "identity",
    mask: Mask = "gumbel",
    separation: Separation = "net",
    example: Images | None = None,
) -> Guarded:
    """Return a copy of ``net`` with the plug-in after the named layer or layers; ``net`` stays as it is.

    The identity start (the default) leaves every logit as it was, so a trained network keeps its accuracy
    and fine-tuning takes it from there. ``example`` [1, C, H, W] is what the network is tried on to learn the
    channels of each layer; without it, zeros of [1, 3, 32, 32].

    Raises:
        InputError: no such layer (the message lists those there are), a layer that does not yield one NCHW
            tensor in a forward pass, or a network that cannot run on the example.
    """
    names = (at,) if isinstance(at, str) else tuple(at)
    make = functools.partial(FSR, classes=classes, tau=tau, init=init, mask=mask, separation=separation)
    return _insert(copy.deepcopy(net), names, make, classes=classes, example=example)


def insert_configured(net: nn.Module, config: ModelConfig) -> Guarded:
    """Put the plug-in where ``config.fsr`` says, into ``net`` itself."""
    make = functools.partial(
        FSR,
        classes=config.classes,
        tau=config.tau,
        init=config.fsr_init,
        mask=config.mask,
        separation=config.separation,
    )
    example = torch.zeros(1, config.channels, 32, 32)
    return _insert(net, config.fsr, make, classes=config.classes, example=example)


def _insert(
    net: nn.Module,
    names: tuple[str, ...],
    make: Callable[[int], FSR],
    *,
    classes: int,
    example: Images | None,
) -> Guarded:
    weight = next(net.parameters(), torch.zeros(()))
    if example is None:
        example = torch.zeros(1, 3, 32, 32)
    widths = _feature_channels(net, names, example.to(weight), classes=classes)
    modules = [make(width).to(weight) for width in widths]
    return Guarded(net, names, modules).train(net.training)


def _feature_channels(net: nn.Module, names: tuple[str, ...], example: Images, *, classes: int) -> list[int]:
    """Run ``net`` once, without touching its state, and return the channels that each layer yields."""
    if not names or len(set(names)) != len(names):
        raise InputError(f"Expected one or more different layers, but got {list(names)}")
    layers = {name: module for name, module in net.named_modules() if name}
    outputs: dict[str, list[object]] = {name: [] for name in names}
    handles = []
    for name in names:
        if name not in layers:
            raise unknown_name("layer", name, layers)
        handles.append(
            layers[name].register_forward_hook(lambda _m, _i, output, seen=outputs[name]: seen.append(output))
        )
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            logits: object = net(example)
    except Exception as error:
        raise InputError(
            f"Expected a network that runs on images of shape {list(example.shape)}, but it failed with "
            f'"{error}"; give attach an example of the right shape'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    channels = [_channels(name, outputs[name]) for name in names]
    given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if given != [len(example), classes]:
        raise InputError(f"Expected logits of shape {[len(example), classes]}, but the network gives {given}")
    return channels


def _channels(name: str, outputs: list[object]) -> int:
    if len(outputs) != 1:
        raise InputError(
            f'Expected layer "{name}" to run once in a forward pass, but it ran {len(outputs)} times'
        )
    (output,) = outputs
    if not isinstance(output, Tensor):
        raise InputError(
            f'Expected layer "{name}" to yield one NCHW tensor, but it yields a {type(output).__name__}'
        )
    if output.ndim != 4:
        raise InputError(
            f'Expected layer "{name}" to yield an NCHW tensor, but it yields shape {list(output.shape)}'
        )
    return output.shape[1]
