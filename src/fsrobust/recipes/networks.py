"""Find a trained network: in a run, in a weights file, or somebody's own, from a factory."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsrobust.attacks.compiled import first_line
from fsrobust.attacks.probe import as_input, under_attack
from fsrobust.models import ModelConfig
from fsrobust.plugin import Guarded, attach, config_of
from fsrobust.records import read_config
from fsrobust.seeding import derive
from fsrobust.train import load
from fsrobust.train.trained import read_trained
from fsrobust.types import InputError


@dataclass(frozen=True, eq=False)
class Network:
    """A model in eval mode and what it is made of; ``config.name`` has a colon where a factory makes it.

    ``config`` is None where only the network itself could say.
    """

    model: nn.Module
    config: ModelConfig | None


def find_network(text: str, *, checkpoint: str = "last") -> Network:
    """Return the network that RUN, FILE or pkg.module:factory names.

    Raises:
        InputError: there is no such thing, or it yields no network.
    """
    path = Path(text)
    if path.is_dir():
        made = read_config(path).get("model") or {}
        if ":" in str(made.get("name", "")):
            return _restore(path, made, checkpoint)
        model = load(path, checkpoint=checkpoint)
        return Network(model, config_of(model))
    if checkpoint != "last":
        raise InputError(
            f'Expected a run directory with --checkpoint {checkpoint}, but got "{text}"; leave one of them out'
        )
    if path.is_file():
        model = load(path)
        return Network(model, config_of(model))
    if ":" not in text:
        raise InputError(
            f'Expected a run directory, a weights file or pkg.module:factory, but there is no "{text}"'
        )
    return Network(call_factory(text), None)


def call_factory(text: str) -> nn.Module:
    """Return what pkg.module:factory makes, in eval mode; random weights are the same at each call.

    Raises:
        InputError: it cannot be imported or called, or makes something else.
    """
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        # last: one's own module is found, now and when it imports others later, and no file of a stranger's folder
        # stands in for a library
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # somebody's module may do anything when it is imported
        raise InputError(
            f'Expected an importable pkg.module:factory, but got "{text}": {_reason(error)}'
        ) from error
    if isinstance(factory, nn.Module):
        return factory.eval()
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise InputError(
            f'Expected "{text}" to be called without arguments, but it cannot: {error}'
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "factory"))
        try:
            model = factory()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f'Expected "{text}" to return a torch module, but it failed: {_reason(error)}'
            ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f'Expected "{text}" to return a torch module, but got {type(model).__name__}')
    return model.eval()


def _reason(error: BaseException) -> str:
    return (
        first_line(error)
        if isinstance(error, ImportError)
        else f"{type(error).__name__}: {first_line(error)}"
    )


def _restore(run: Path, made: Mapping[str, Any], checkpoint: str) -> Network:
    """Return a run's network that a factory made: the factory's, the plug-in where it was, the run's weights."""
    tensors = read_trained(run, checkpoint).tensors
    try:
        config = ModelConfig(**{**made, "fsr": tuple(made["fsr"])})
    except (KeyError, TypeError) as error:
        raise InputError(f'"{run / "config.json"}" is damaged: it names no model ({error})') from error
    try:
        model = call_factory(config.name)
    except InputError as error:
        raise InputError(
            f'"{run}" holds weights of a network that "{config.name}" makes, which is not to be had here; '
            f"go to where its module can be imported ({error})"
        ) from error
    if config.fsr and not isinstance(model, Guarded):
        shape = tuple((read_config(run).get("init") or {}).get("shape", ()))
        model = attach_configured(model, config, shape)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f'"{config.name}" makes another network than "{run}" was trained with: {reason}'
        ) from error
    return Network(model.eval(), config)


def attach_configured(net: nn.Module, config: ModelConfig, shape: tuple[int, ...]) -> Guarded:
    """Return a foreign network with the plug-in as ``config`` says; ``shape`` is C, H, W of its images."""
    return attach(
        net,
        at=config.fsr,
        classes=config.classes,
        tau=config.tau,
        init=config.fsr_init,
        mask=config.mask,
        separation=config.separation,
        example=torch.zeros(1, *shape),
    )


def check_answers(model: nn.Module, shape: tuple[int, ...], classes: int, *, who: str, where: str) -> None:
    """Refuse a network that does not give one logit a class for images of C, H, W; ``where`` they come from.

    Raises:
        InputError: it fails on such images, or answers otherwise.
    """
    weight = next(model.parameters(), torch.zeros(()))
    try:
        with under_attack(model), torch.no_grad():
            logits: object = model(as_input(model, torch.zeros(1, *shape, device=weight.device)))
    except Exception as error:  # whatever a foreign network does with images it was not made for
        raise InputError(
            f"Expected {who} to run on images of {where}, of shape {list(shape)}, "
            f'but it failed with "{first_line(error)}"'
        ) from error
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [1, classes]:
        raise InputError(
            f"Expected logits of {classes} classes, those of {where}, but {who} gives {got} for one image; "
            "a factory can replace the last layer"
        )
