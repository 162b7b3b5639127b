"""Trained weights, from a run's checkpoint, its packed weights, or a file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fsrobust.models import ModelConfig
from fsrobust.plugin import build
from fsrobust.records import FORMAT
from fsrobust.train.checkpoint import WEIGHTS, find_checkpoint
from fsrobust.train.packing import find_packed
from fsrobust.types import InputError


class Weights(NamedTuple):
    """What a weights file holds, and what its header says of it."""

    tensors: dict[str, Tensor]
    config: ModelConfig | None
    """None for a foreign network."""
    in_order: bool
    """Whether the tensors are in the order of the network's state, which files of before it was kept do not know."""


def read_weights(file: Path) -> Weights:
    """Return the tensors of a weights file and what its header says of them.

    Raises:
        InputError: no such file, or not one of ours.
    """
    if not file.is_file():
        raise InputError(f'Expected a weights file, but there is no "{file}"')
    try:
        with safe_open(file, framework="pt") as archive:
            header = archive.metadata() or {}
            order = _order(header, list(archive.keys()))
            tensors = {name: archive.get_tensor(name) for name in order or archive.keys()}
    except Exception as error:  # safetensors and torch each have their own ways to say "damaged"
        raise InputError(f'"{file}" is not a readable safetensors file: {error}') from error
    if "model" in header and header.get("format") != str(FORMAT):
        raise InputError(f'Expected "{file}" to be of format {FORMAT}, but got {header.get("format")}')
    try:
        fields = json.loads(header.get("model", "null"))
        return Weights(tensors, _model_config(fields) if fields is not None else None, order is not None)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'"{file}" names a model that cannot be made: {error}') from error


def _order(header: Mapping[str, str], names: list[str]) -> list[str] | None:
    """Return a file's names in the order of the state that it was written from, None if it does not say."""
    order = json.loads(header.get("order", "null"))
    if order is not None and (not isinstance(order, list) or sorted(order) != sorted(names)):
        raise ValueError("its header lists other tensors than it holds")
    return order


def _model_config(fields: dict[str, Any]) -> ModelConfig:
    normalize = fields.get("normalize")
    return ModelConfig(
        **{
            **fields,
            "fsr": tuple(fields.get("fsr", ())),
            "normalize": tuple(map(tuple, normalize)) if normalize else None,
        }
    )


def read_trained(source: Path, checkpoint: str = "last") -> Weights:
    """Return what a run directory's checkpoint or packed weights hold, or a file.

    Raises:
        InputError: nothing there, or damaged files.
    """
    files = [source]
    if source.is_dir():
        files = find_packed(source / "weights", checkpoint) or [find_checkpoint(source, checkpoint) / WEIGHTS]
    first, *others = map(read_weights, files)
    for other in others:
        first.tensors.update(other.tensors)
    return first


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
    tensors, config, _ = read_trained(Path(source), checkpoint)
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
