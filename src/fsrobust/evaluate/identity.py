"""What makes a model this model: every weight; of a foreign network also the code that it runs and its settings.

Records are found again by this. A network of ours is its configuration and its weights. Anybody else's may be edited
between two evaluations: another ``forward``, another temperature in an attribute, another hook are another model.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, Final

import torch
from torch import nn

from fsrobust.evaluate.fingerprint import Fingerprints, hooks_of
from fsrobust.evaluate.sources import is_known
from fsrobust.models import ModelConfig
from fsrobust.plugin import config_of
from fsrobust.plugin.create import build
from fsrobust.records import digest, digest_of

_IDLE: Final = frozenset({"momentum", "inplace", "tape", "draw"})
"""Settings of layers of ours, and of torch's in them, that decide nothing in eval mode."""
_DEFAULTS: Final = {
    field.name: field.default for field in fields(ModelConfig) if field.default is not MISSING
}
"""What a configuration was before it had a field for it."""


def identify(model: nn.Module) -> dict[str, object]:
    """Return what makes this model this model, as JSON values.

    A network of ours that somebody has changed, by a hook, a class of their own or another setting, counts by its code,
    too.
    """
    config = config_of(model)
    weights = {"weights_sha256": weights_sha256(model)}
    if config is not None:
        altered = {"code_sha256": code_sha256(model)} if _altered(model, config) else {}
        return {**weights, "model": asdict(config), **altered}
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # addresses of this process
    return {**weights, "model": shown, "code_sha256": code_sha256(model)}


def subject_key(record: Mapping[str, Any]) -> str:
    """Return the fingerprint of what a record is of: weights, configuration and code.

    Records are joined by it, never by their weights alone: a network, and the same with a rounding in front, have one
    state and are two models.
    """
    model = record["model"]
    if isinstance(model, dict):
        model = {**_DEFAULTS, **model}
    return digest_of([record["weights_sha256"], model, record.get("code_sha256")])


def _altered(model: nn.Module, config: ModelConfig) -> bool:
    """Return whether a network is another than its configuration makes: a part, a setting, a hook."""
    if not all(is_known(hook) for module in model.modules() for hook in hooks_of(module)):
        return True
    return _settings(model) != _fresh_settings(config)


_Settings = dict[str, tuple[type, dict[str, bytes]]]


@functools.cache
def _fresh_settings(config: ModelConfig) -> _Settings:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return _settings(build(config))


def _settings(model: nn.Module) -> _Settings:
    """Return the class of each module by its name, and fingerprints of the settings that decide what it answers."""
    made = Fingerprints(model)
    return {
        name: (
            type(module),
            {key: found for key, found in made.settings(module).items() if key not in _IDLE},
        )
        for name, module in model.named_modules()
    }


def weights_sha256(model: nn.Module) -> str:
    """Return the fingerprint of every tensor of a model's state, name and bits."""
    return state_sha256(model.state_dict())


def state_sha256(state: Mapping[str, object]) -> str:
    """Return the fingerprint of a model's state, whose order counts."""
    return digest(*Fingerprints().state(state))


def code_sha256(model: nn.Module) -> str:
    """Return the fingerprint of what a network runs beside its state.

    That is, of each of its modules: its classes, its attributes, tensors that the state leaves out, its hooks. Classes
    and functions count by their files and the own files that these import, by their bytecode, and by the values of the
    names in it; objects by their classes and attributes, networks outside the state by their weights. Of installed
    packages it is the version, of torch and of fsrobust nothing: provenance says it. What a network reads while it
    runs, a file or a clock, no fingerprint knows.
    """
    return digest(*Fingerprints(model).network(model))
