"""Make a model by name, or from the weights of the authors' code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from fsrobust.models import ModelConfig, architecture
from fsrobust.plugin.attach import insert_configured
from fsrobust.types import InputError


class ModelOptions(TypedDict, total=False):
    """Optional fields of ModelConfig, as keyword arguments."""

    channels: int
    width: int | None
    stem: Literal["cifar", "imagenet"]
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None
    tau: float
    mask: Literal["gumbel"]
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
    net = architecture(config.name).build(config)
    model: nn.Module = insert_configured(net, config) if config.fsr else net
    model.config = config  # type: ignore[assignment]
    return model


def config_of(model: nn.Module) -> ModelConfig | None:
    """Return the configuration of a model of ours, None for a foreign one."""
    config = getattr(model, "config", None)
    return config if isinstance(config, ModelConfig) else None


def load_authors(file: str | Path, name: str, *, classes: int) -> nn.Module:
    """Return a model in eval mode with weights saved by the authors' code, or by a plain CIFAR ResNet.

    Understands a bare state dict, one under "state_dict", "net" or "model", and names behind ``module.``;
    width, channels and the presence of the plug-in are read off the shapes.

    Raises:
        InputError: a file that is not a state dict of that network (what is missing or left over is said).
    """
    weights = _read_state(Path(file))
    if "conv1.weight" not in weights or "linear.weight" not in weights:
        raise InputError(
            f'Expected the authors\' layout of {name} in "{file}" (conv1.weight … linear.weight), '
            f"but got {_some(list(weights))}"
        )
    width, channels = weights["conv1.weight"].shape[:2]
    fsr = "paper" if any(key.startswith("separation.") for key in weights) else None
    model = create_model(name, classes=classes, channels=channels, width=width, fsr=fsr)
    renamed = {_our_name(key, guarded=fsr is not None): value for key, value in weights.items()}
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f'"{file}" does not fit {name} with {classes} classes: {reason}') from error
    return model.eval()


def _read_state(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f'Expected a weights file, but there is no "{file}"')
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f'"{file}" is not a state dict that torch can load safely: {error}') from error
    for wrapper in ("state_dict", "net", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f'Expected "{file}" to hold a state dict, but got {type(state).__name__}')
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _our_name(theirs: str, *, guarded: bool) -> str:
    if not guarded:
        return theirs
    for prefix, ours in (
        ("separation.sep_net.", "fsr.0.separation."),
        ("recalibration.rec_net.", "fsr.0.recalibration."),
        ("aux.0.", "fsr.0.aux."),
    ):
        if theirs.startswith(prefix):
            return ours + theirs.removeprefix(prefix)
    return f"net.{theirs}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" … ({len(names)} names)" if len(names) > 4 else "")
