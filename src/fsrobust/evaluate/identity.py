"""What makes a model this model: every weight; of a foreign network also the code that it runs and its settings.

Records are found again by this. A network of ours is its configuration and its weights. Anybody else's may be edited
between two evaluations: another ``forward``, another temperature in an attribute, another hook are another model.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Final

import torch
from torch import Tensor, nn

from fsrobust.plugin import config_of
from fsrobust.records import digest

_KNOWN: Final = ("torch", "fsrobust", "builtins")
"""Packages whose code is not part of a network: their versions are in the record's provenance."""
_OF_TORCH: Final = frozenset(vars(nn.Module()))
"""What every module has; of it only the hooks say something that the state does not."""
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks")
_DEPTH: Final = 8
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), torch.dtype)


def identify(model: nn.Module) -> dict[str, object]:
    """Return what makes this model this model, as JSON values."""
    config = config_of(model)
    weights = {"weights_sha256": weights_sha256(model)}
    if config is not None:
        return {**weights, "model": asdict(config)}
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # addresses of this process
    return {**weights, "model": shown, "code_sha256": code_sha256(model)}


def weights_sha256(model: nn.Module) -> str:
    """Return the fingerprint of every tensor of a model's state, name and bits."""
    return digest(
        *(part for name, value in model.state_dict().items() for part in (name.encode(), *_bits(value)))
    )


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
        if base.__module__.partition(".")[0] not in _KNOWN:
            yield base.__qualname__.encode()
            yield _source(base) or b"".join(
                part for value in vars(base).values() if callable(value) for part in _of_callable(value)
            )


def _of_instance(module: nn.Module) -> Iterator[bytes]:
    for key, value in sorted(vars(module).items()):
        if key not in _OF_TORCH:
            yield key.encode()
            yield from _of_value(value)
    for name in sorted(module._non_persistent_buffers_set):
        yield from _of_value(module._buffers[name])
    for hooks in _HOOKS:
        for hook in getattr(module, hooks).values():
            yield from _of_callable(hook)


def _of_value(value: object, depth: int = 0) -> Iterator[bytes]:
    """Yield what tells a value from others of its kind, down to a depth that a value which holds itself also has."""
    yield type(value).__qualname__.encode()
    if isinstance(value, Tensor):
        yield from _bits(value)
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif depth > _DEPTH:
        return
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _of_value(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key).encode() if isinstance(key, _PLAIN) else b""
            yield from _of_value(item, depth + 1)
    elif callable(value) and not isinstance(value, nn.Module):
        yield from _of_callable(value)


def _of_callable(value: Callable[..., object]) -> Iterator[bytes]:
    """Yield a function's name, source file, bytecode and the plain values that it closes over."""
    if isinstance(value, functools.partial):
        yield from _of_value((value.args, value.keywords))
        value = value.func
    function = value.__func__ if isinstance(value, MethodType) else value
    yield getattr(function, "__qualname__", type(function).__qualname__).encode()
    if isinstance(function, FunctionType) and function.__module__.partition(".")[0] not in _KNOWN:
        yield _source(function)
        yield from _of_code(function.__code__)
        for cell in function.__closure__ or ():
            if isinstance(cell.cell_contents, (*_PLAIN, Tensor)):
                yield from _of_value(cell.cell_contents)


def _of_code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        elif isinstance(constant, _PLAIN):
            yield repr(constant).encode()


def _source(made: type | FunctionType) -> bytes:
    """Return the file that something is defined in, its helpers included; nothing where there is none."""
    try:
        file = inspect.getsourcefile(made)
        return Path(file).read_bytes() if file else b""
    except (OSError, TypeError):  # typed at a prompt
        return b""
