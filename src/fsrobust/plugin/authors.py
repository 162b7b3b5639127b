"""Read weights that the paper's own code has saved, and those of plain CIFAR ResNets."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from fsrobust.plugin.create import create_model
from fsrobust.types import InputError, unknown_name

State = dict[str, Tensor]

_PLUGIN: Final = (
    (r"^separation\.sep_net\.", "fsr.0.separation."),
    (r"^recalibration\.rec_net\.", "fsr.0.recalibration."),
    (r"^aux\.0\.", "fsr.0.aux."),
)


@dataclass(frozen=True)
class _Layout:
    """How the authors name one network: two entries it must have, its width, our names, entries it never uses."""

    first: str
    last: str
    width: Callable[[State], float]
    renames: tuple[tuple[str, str], ...] = ()
    unused: str | None = None


_WIDE: Final = _Layout(
    first="conv1.weight",
    last="fc.weight",
    width=lambda state: len(state["block1.layer.0.conv1.weight"]) / 16,
    renames=(
        (r"^(block\d)\.layer\.", r"\1."),
        (r"convShortcut", "shortcut"),
        (r"^bn1\.", "final.0."),
        (r"^fc\.", "linear."),
    ),
    unused="sub_block1.",  # a stage that is built and never run
)
_LAYOUTS: Final = {
    "resnet18": _Layout("conv1.weight", "linear.weight", lambda state: len(state["conv1.weight"])),
    "vgg16": _Layout(
        first="block0.0.weight",
        last="classifier.4.weight",
        width=lambda state: len(state["block0.0.weight"]) / 64,
        # ours are counted from 1, as the paper's Block1 … are; the last first, or two would meet
        renames=tuple((rf"^block{k}\.", f"block{k + 1}.") for k in reversed(range(5))),
    ),
    "wrn34_10": _WIDE,
    "wrn28_10": _WIDE,
}


def load_authors(file: str | Path, name: str, *, classes: int) -> nn.Module:
    """Return a model in eval mode with weights saved by the authors' code, or by a plain CIFAR ResNet-18.

    Understands a bare state dict, one under "state_dict", "net" or "model", and names behind ``module.``;
    width, channels and the presence of the plug-in are read off the shapes.

    Raises:
        InputError: a network without such a layout, or a file that is not a state dict of that network (what is
            missing or left over is said).
    """
    if name not in _LAYOUTS:
        raise unknown_name("layout of the authors' code", name, _LAYOUTS)
    layout, weights = _LAYOUTS[name], _read_state(Path(file))
    if layout.unused is not None:
        weights = {key: value for key, value in weights.items() if not key.startswith(layout.unused)}
    try:
        width, channels = layout.width(weights), weights[layout.first].shape[1]
        weights[layout.last]
    except (KeyError, IndexError) as error:
        raise InputError(
            f'Expected the authors\' layout of {name} in "{file}" ({layout.first} … {layout.last}), '
            f"but got {_some(list(weights))}"
        ) from error
    fsr = "paper" if any(key.startswith("separation.") for key in weights) else None
    model = create_model(
        name,
        classes=classes,
        channels=channels,
        width=int(width) if width == int(width) else width,
        fsr=fsr,
    )
    renamed = {_our_name(key, layout, guarded=fsr is not None): value for key, value in weights.items()}
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


def _our_name(theirs: str, layout: _Layout, *, guarded: bool) -> str:
    for pattern, ours in _PLUGIN if guarded else ():
        if re.match(pattern, theirs):
            return re.sub(pattern, ours, theirs)
    for pattern, ours in layout.renames:
        theirs = re.sub(pattern, ours, theirs)
    return f"net.{theirs}" if guarded else theirs


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" … ({len(names)} names)" if len(names) > 4 else "")
