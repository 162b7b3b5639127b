"""Make a model by name."""

from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack

import torch
from torch import nn

from fsrobust.data.memory import free_memory
from fsrobust.models import ModelConfig, architecture
from fsrobust.plugin.attach import insert_configured
from fsrobust.plugin.module import FSR, Mask, Separation
from fsrobust.types import InputError


class ModelOptions(TypedDict, total=False):
    """Optional fields of ModelConfig, as keyword arguments."""

    channels: int
    width: int | float | None
    stem: Literal["cifar", "imagenet"]
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None
    tau: float
    mask: Mask
    separation: Separation
    fsr_init: Literal["paper", "identity"]


def create_model(
    name: str,
    *,
    classes: int,
    fsr: str | Sequence[str] | None = None,
    **options: Unpack[ModelOptions],
) -> nn.Module:
    """Return a freshly initialised network; its ``config`` says how to make it again.

    ``fsr``: None for the bare network, "paper" for the place where the paper puts the plug-in, or layer
    names. Other keywords are fields of ModelConfig; weights come from torch's default generator.

    >>> import torch
    >>> model = create_model("resnet_small", classes=10, channels=1, fsr="paper").eval()
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])

    Raises:
        InputError: an unknown model or layer, or a size that makes no sense.
    """
    row = architecture(name)
    at = (fsr,) if isinstance(fsr, str) else tuple(fsr or ())
    at = tuple(row.fsr_at if layer == "paper" else layer for layer in at)
    given = {key: value for key, value in options.items() if value is not None}
    given.setdefault("width", row.width)
    return build(ModelConfig(name, classes, fsr=at, **given))  # type: ignore[arg-type]


def build(config: ModelConfig) -> nn.Module:
    """Return a freshly initialised network of this configuration."""
    row = architecture(config.name)
    if config.width > 4 * row.width or config.classes > 10_000:
        _check_memory(config)
    net = row.build(config)
    model: nn.Module = insert_configured(net, config) if config.fsr else net
    if row.initialise is not None:
        row.initialise(model)  # the plug-in too: the paper's code draws all of a network alike
        for module in model.modules():
            if isinstance(module, FSR) and module.init == "identity":
                module.start_as_identity()
    model.config = config  # type: ignore[assignment]
    return model


def _check_memory(config: ModelConfig) -> None:
    """Refuse a network whose weights alone do not fit: where memory is overcommitted, the process would be killed."""
    with torch.device("meta"):
        net = architecture(config.name).build(config)
    size, free = sum(4 * p.numel() for p in net.parameters()), free_memory(torch.device("cpu"))
    if size > free:
        raise InputError(
            f"Expected a network that fits in memory, but {config.name} of width {config.width} and {config.classes} "
            f"classes takes {size / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
        )


def config_of(model: nn.Module) -> ModelConfig | None:
    """Return the configuration of a model of ours, None for a foreign one."""
    config = getattr(model, "config", None)
    return config if isinstance(config, ModelConfig) else None
