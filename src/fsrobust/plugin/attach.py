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

    def _replicate_for_data_parallel(self) -> "Guarded":
        """Refuse to be copied by nn.DataParallel, whose replicas would all run the first one's plug-in.

        Raises:
            InputError: always; torchrun does it with a process for each GPU.
        """
        raise InputError(
            "Expected one GPU a process, but nn.DataParallel copies the model; use torchrun instead"
        )

    def parts(self, x: Images) -> Parts:
        """Return logits, mask and the auxiliary logits of one and the same forward pass."""
        return parts_of(self, x)


def parts_of(model: nn.Module, x: Images) -> Parts:
    """Return the parts of one forward pass of any model with the plug-in, also of one that wraps a guarded network.

    Of a plug-in that runs several times in a pass it is the first.

    Raises:
        InputError: the pass leaves no gradient to a plug-in that learns, as reentrant checkpointing does.
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
    if torch.is_grad_enabled() and any(
        p.aux.weight.requires_grad and not s.robust.requires_grad for p, s in zip(points, seen, strict=True)
    ):
        raise InputError(
            "Expected a gradient from the plug-in's losses, but its layer ran without: if the network checkpoints "
            "activations there, let it not, or not around that layer"
        )
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
            tensor in a forward pass, a network that cannot be copied or run on the
            example, or a compiled or scripted one.
    """
    names = (at,) if isinstance(at, str) else tuple(at)
    make = functools.partial(FSR, classes=classes, tau=tau, init=init, mask=mask, separation=separation)
    if any(hasattr(module, "_orig_mod") for module in net.modules()):
        raise InputError(
            "Expected a network that is not compiled, since compiled code would go on without the plug-in; "
            "attach to what was given to torch.compile, and compile the result"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise InputError(
            "Expected a network in Python, but TorchScript takes no plug-in; attach to what was scripted or traced"
        )
    try:
        copied = copy.deepcopy(net)
    except Exception as error:  # whatever foreign modules raise
        raise InputError(f"Expected a network that can be copied, but got: {error}") from error
    return _insert(copied, names, make, classes=classes, example=example)


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
    maps = _feature_maps(net, names, example.to(weight), classes=classes)
    modules = [make(found.shape[1]).to(found) for found in maps]
    return Guarded(net, names, modules).train(net.training)


def _feature_maps(net: nn.Module, names: tuple[str, ...], example: Images, *, classes: int) -> list[Tensor]:
    """Run ``net`` once, without touching its state, and return the map that each layer yields."""
    if not names or len(set(names)) != len(names):
        raise InputError(f"Expected one or more different layers, but got {list(names)}")
    layers = [name for name, _ in net.named_modules() if name]
    for name in names:
        if name not in layers:
            raise unknown_name("layer", name, layers)
    try:
        logits, outputs = _outputs(net, names, example)
    except Exception as error:
        raise InputError(
            f"Expected a network that runs on images of shape {list(example.shape)}, but it failed with "
            f'"{error}"; give attach an example of the right shape'
        ) from error
    maps = [_map(name, found, len(example)) for name, found in zip(names, outputs, strict=True)]
    given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if given != [len(example), classes]:
        raise InputError(f"Expected logits of shape {[len(example), classes]}, but the network gives {given}")
    _check_channels(net, names, example, maps)
    return maps


def _check_channels(net: nn.Module, names: tuple[str, ...], example: Images, maps: list[Tensor]) -> None:
    """Refuse layers whose second axis grows with the image, as that of an NHWC map does."""
    try:
        _, outputs = _outputs(net, names, torch.cat([example, example], dim=2))
    except Exception:  # it takes images of one size only, and nothing is seen
        return
    for name, found, seen in zip(names, maps, outputs, strict=True):
        taller = _map(name, seen, len(example))
        if taller.shape[1] != found.shape[1]:
            raise InputError(
                f'Expected layer "{name}" to yield an NCHW tensor, but its second axis grows with the image: '
                f"{list(found.shape)}, of an image twice as high {list(taller.shape)}"
            )


def _outputs(net: nn.Module, names: tuple[str, ...], images: Images) -> tuple[object, list[list[object]]]:
    """Return what a network in eval mode answers, and all that each layer yields meanwhile."""
    outputs: dict[str, list[object]] = {name: [] for name in names}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, seen=outputs[name]: seen.append(output)
        )
        for name in names
    ]
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            return net(images), list(outputs.values())
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _map(name: str, outputs: list[object], batch: int) -> Tensor:
    """Return the one output of a layer, which must be a map for each image."""
    if len(outputs) != 1:
        raise InputError(
            f'Expected layer "{name}" to run once in a forward pass, but it ran {len(outputs)} times'
        )
    (output,) = outputs
    if not isinstance(output, Tensor):
        raise InputError(
            f'Expected layer "{name}" to yield one NCHW tensor, but it yields a {type(output).__name__}'
        )
    if output.ndim != 4 or len(output) != batch:
        raise InputError(
            f'Expected layer "{name}" to yield an NCHW tensor of {batch} images, but it yields shape '
            f"{list(output.shape)}"
        )
    return output
