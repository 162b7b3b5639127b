"""What makes a model this model: every weight; of a foreign network also the code that it runs and its settings.

Records are found again by this. A network of ours is its configuration and its weights. Anybody else's may be edited
between two evaluations: another ``forward``, another temperature in an attribute, another hook are another model.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn

from fsrobust.models import ModelConfig
from fsrobust.plugin import FSR, config_of
from fsrobust.records import digest, digest_of

_KNOWN: Final = ("torch", "fsrobust", "builtins")
"""Packages whose code is not part of a network: their versions are in the record's provenance."""
_OF_TORCH: Final = frozenset(vars(nn.Module()))
"""What every module has; of it only the hooks say something that the state does not."""
_OF_CLASSES: Final = frozenset({"__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__"})
"""What every class has."""
_DEPTH: Final = 8
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
_SETTINGS: Final = (*_PLAIN, Tensor, list, tuple, dict, set, frozenset)
"""What is looked at of the values that a function has at hand."""
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
    modules = list(model.modules())
    hooks = [hook for module in modules for hook in _hooks_of(module)]
    settings = {(part.tau, part.mask, part.kind) for part in modules if isinstance(part, FSR)}
    return (
        not all(_is_known(type(module)) and "forward" not in vars(module) for module in modules)
        or not all(_is_known(hook) for hook in hooks)
        or not settings <= {(config.tau, config.mask, config.separation)}
    )


def _is_known(made: object) -> bool:
    return str(getattr(made, "__module__", "")).partition(".")[0] in _KNOWN


def weights_sha256(model: nn.Module) -> str:
    """Return the fingerprint of every tensor of a model's state, name and bits."""
    return state_sha256(model.state_dict())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of a model's state, whose order counts."""
    return digest(*(part for name, value in state.items() for part in (name.encode(), *_bits(value))))


def code_sha256(model: nn.Module) -> str:
    """Return the fingerprint of what a network runs beside its state.

    That is, of each of its modules: the source files of its classes, or their bytecode where there is no file; its
    plain attributes and tensors that the state leaves out; its hooks and methods of its own. Objects of other kinds
    count by their type alone.
    """
    return digest(
        *(
            part
            for name, module in model.named_modules()
            for part in (name.encode(), *_of_class(type(module)), *_of_instance(module))
        )
    )


def _bits(tensor: Tensor) -> Iterator[bytes]:
    if tensor.numel():
        bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield bits.numpy().tobytes()


def _of_class(cls: type) -> Iterator[bytes]:
    for base in cls.__mro__:
        if not _is_known(base):
            yield base.__qualname__.encode()
            source = _source(base)
            yield source
            if not source:
                yield from _of_value(
                    {key: value for key, value in vars(base).items() if key not in _OF_CLASSES}
                )


def _of_instance(module: nn.Module) -> Iterator[bytes]:
    for key, value in sorted(vars(module).items()):
        if key not in _OF_TORCH:
            yield key.encode()
            yield from _of_value(value)
    for name in sorted(module._non_persistent_buffers_set):
        yield from _of_value(module._buffers[name])
    for hook in _hooks_of(module):
        yield from _of_callable(hook)


def _hooks_of(module: nn.Module) -> Iterator[Callable[..., object]]:
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        yield from getattr(module, name).values()


def _of_value(value: object, depth: int = 0) -> Iterator[bytes]:
    """Yield what tells a value from others of its kind, down to a depth that a value which holds itself also has."""
    yield type(value).__qualname__.encode()
    if isinstance(value, Tensor):
        yield from _bits(value)
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif depth <= _DEPTH:
        for part in _parts(value):
            yield from _of_value(part, depth + 1)
        if callable(value) and not isinstance(value, nn.Module):
            yield from _of_callable(value, depth + 1)


def _parts(value: object) -> Iterable[object]:
    """Return what a container, or what a class wraps its functions in, is made of."""
    match value:
        case list() | tuple():
            return value
        case dict():
            return itertools.chain.from_iterable(value.items())
        case set() | frozenset():
            return sorted(repr(item) for item in value if isinstance(item, _PLAIN))
        case property():
            return value.fget, value.fset
        case classmethod():
            return (value.__func__,)
        case functools.partial():
            return value.args, value.keywords, value.func
    return ()


def _of_callable(value: Callable[..., object], depth: int = 0) -> Iterator[bytes]:
    """Yield a function's name, source file and bytecode, and the plain values that it has, closes over and names."""
    function = value.__func__ if isinstance(value, MethodType | staticmethod) else value
    yield getattr(function, "__qualname__", type(function).__qualname__).encode()
    if isinstance(function, FunctionType) and not _is_known(function):
        yield _source(function)
        yield from _of_code(function.__code__)
        named = [function.__globals__.get(name) for name in function.__code__.co_names]
        closed = [cell.cell_contents for cell in function.__closure__ or ()]
        for setting in (function.__defaults__, function.__kwdefaults__, *named, *closed):
            if isinstance(setting, _SETTINGS):  # functions may name each other in a circle
                yield from _of_value(setting, depth + 1)


def _of_code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        else:
            yield from _of_value(constant)


def _source(made: type | FunctionType) -> bytes:
    """Return the file that something's code is from, its helpers included; nothing where there is none."""
    functions = [made] if isinstance(made, FunctionType) else vars(made).values()
    for function in functions:
        if isinstance(function, FunctionType):
            try:
                return Path(function.__code__.co_filename).read_bytes()
            except OSError:  # typed at a prompt
                return b""
    return b""
