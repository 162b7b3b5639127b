"""Trained weights, from a run's checkpoint, its packed weights, or a file."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fsrobust.models import ModelConfig
from fsrobust.plugin import build
from fsrobust.records import FORMAT
from fsrobust.train.checkpoint import WEIGHTS, find_checkpoint
from fsrobust.train.packing import find_packed
from fsrobust.types import InputError


def read_weights(file: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    """Return tensors and model configuration of a weights file; the latter is None for a foreign network.

    Raises:
        InputError: no such file, or not one of ours.
    """
    if not file.is_file():
        raise InputError(f'Expected a weights file, but there is no "{file}"')
    try:
        with safe_open(file, framework="pt") as archive:
            header = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no dict
    except Exception as error:  # safetensors and torch each have their own ways to say "damaged"
        raise InputError(f'"{file}" is not a readable safetensors file: {error}') from error
    if "model" in header and header.get("format") != str(FORMAT):
        raise InputError(f'Expected "{file}" to be of format {FORMAT}, but got {header.get("format")}')
    try:
        fields = json.loads(header.get("model", "null"))
        return tensors, _model_config(fields) if fields is not None else None
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'"{file}" names a model that cannot be made: {error}') from error


def _model_config(fields: dict[str, Any]) -> ModelConfig:
    normalize = fields.get("normalize")
    return ModelConfig(
        **{
            **fields,
            "fsr": tuple(fields.get("fsr", ())),
            "normalize": tuple(map(tuple, normalize)) if normalize else None,
        }
    )


def read_trained(source: Path, checkpoint: str = "last") -> tuple[dict[str, Tensor], ModelConfig | None]:
    """Return tensors and model configuration of a run directory's checkpoint or packed weights, or of a file.

    Raises:
        InputError: nothing there, or damaged files.
    """
    files = [source]
    if source.is_dir():
        files = find_packed(source / "weights", checkpoint) or [find_checkpoint(source, checkpoint) / WEIGHTS]
    tensors, config = read_weights(files[0])
    for file in files[1:]:
        tensors |= read_weights(file)[0]
    return tensors, config


def load(
    source: str | os.PathLike[str], *, checkpoint: str = "last", into: nn.Module | None = None
) -> nn.Module:
    """Return a trained model in eval mode, from a run directory or a weights file.

    A directory without checkpoints may hold packed weights in ``weights/`` instead. A network of ours is made anew;
    of any other the file knows the weights alone, so they go ``into`` one that you have made as before, and attached
    to where that one was.

    Raises:
        InputError: nothing there, damaged files, weights of a foreign network that is to be made first, or of another
            network than ``into``.
    """
    tensors, config = read_trained(Path(source), checkpoint)
    if into is not None:
        return _filled(into, tensors, f'"{source}" does not fit the network that is to have its weights')
    if config is None:
        raise InputError(
            f'"{source}" does not say which network its weights belong to; make that network, attach to it where it '
            "had the plug-in, and give it as load(..., into=network)"
        )
    with torch.random.fork_rng(devices=[]):  # the weights about to be overwritten cost the caller no draws
        model = build(config)
    return _filled(model, tensors, f'"{source}" does not fit its own header')


def _filled(model: nn.Module, tensors: dict[str, Tensor], otherwise: str) -> nn.Module:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{otherwise}: {error}") from error
    return model.eval()
