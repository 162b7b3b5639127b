"""Fingerprints of Python values: of settings, objects, functions, classes and networks, by what tells them apart."""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fsrobust.evaluate.sources import Sources, is_known, is_library, version
from fsrobust.evaluate.values import (
    archived,
    attributes,
    bits_of,
    contents,
    names_in,
    reduced,
    unmangled,
    wrapped,
)

_DEPTH: Final = 40
"""How deep values are looked into; memory knows circles, this keeps a chain from exhausting the stack."""
_MOST: Final = 1_000_000
"""How many values are looked into."""
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device)
_OF_TORCH: Final = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
"""What every module has; of it only the hooks say something that the state does not."""
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_BY_TYPE: Final = ("logging", "threading", "multiprocessing", "concurrent", "asyncio")
"""Packages whose objects are machinery: locks and threads of a process say nothing of what a network answers."""
_ITEMS: Final = (list, tuple, dict, set, frozenset)


def hooks_of(module: nn.Module) -> Iterator[Any]:
    """Yield what torch calls before and after a module, forward and backward."""
    for name in _HOOKS:
        yield from getattr(module, name, {}).values()


class Fingerprints:
    """Fingerprints of values, each made once; modules of ``model`` are known by their names."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self._names = {id(part): name for name, part in model.named_modules()} if model is not None else {}
        # values are kept, or their ids would be used again
        self._made: dict[object, tuple[object, bytes]] = {}
        self._sources = Sources()

    def of(self, value: object, depth: int = 0) -> bytes:
        """Return the fingerprint of a value; one that holds itself, or lies too deep, counts there by its type."""
        key = id(value)
        if isinstance(value, _PLAIN):
            return _sealed(_named(type(value)), repr(value).encode())
        if key not in self._made:
            self._made[key] = value, _sealed(_named(type(value)))
            if depth <= _DEPTH and len(self._made) <= _MOST:
                self._made[key] = value, _sealed(_named(type(value)), *self._parts(value, depth + 1))
        return self._made[key][1]

    def network(self, model: nn.Module, depth: int = 0) -> Iterator[bytes]:
        """Yield, for each module of a network, its name and all that the state leaves out."""
        scripted: list[str] = []
        for name, module in model.named_modules():
            if any(name.startswith(prefix) for prefix in scripted):
                continue
            yield name.encode()
            if isinstance(module, torch.jit.ScriptModule):
                scripted.append(f"{name}." if name else "")
                yield from archived(module)
                yield from (self.of(hook, depth) for hook in hooks_of(module))
            else:
                yield self.of(type(module), depth)
                yield from self.instance(module, depth)

    def instance(self, module: nn.Module, depth: int = 0) -> Iterator[bytes]:
        """Yield a module's settings, the buffers that the state leaves out, and its hooks."""
        for key, found in sorted(self.settings(module, depth).items()):
            yield from (key.encode(), found)
        yield from (self.of(hook, depth) for hook in hooks_of(module))

    def settings(self, module: nn.Module, depth: int = 0) -> dict[str, bytes]:
        """Return the fingerprint of each attribute and buffer that the state leaves out."""
        values = {key: value for key, value in vars(module).items() if key not in _OF_TORCH}
        if isinstance(module, torch.fx.GraphModule):  # its graph holds objects of the tracer's
            values = {key: value for key, value in values.items() if isinstance(value, (*_PLAIN, Tensor))}
            values["code"] = module.code
        if type(module).__module__.startswith("torch._"):
            values = {}  # of a compiled network: what it compiled is a part of it
        unsaved = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        return {key: self.of(value, depth) for key, value in {**values, **unsaved}.items()}

    def state(self, state: Mapping[str, object]) -> Iterator[bytes]:
        """Yield names and bits of a state; what is no tensor in it counts as any value does."""
        for name, value in state.items():
            yield name.encode()
            yield from bits_of(value) if isinstance(value, Tensor) else (self.of(value),)

    def _parts(self, value: object, depth: int) -> Iterator[bytes]:
        match value:
            case nn.Module():
                yield from self._module(value, depth)
            case Tensor():
                yield from (str((value.dtype, tuple(value.shape))).encode(), *bits_of(value))
            case np.ndarray() | np.generic():
                yield from self._array(np.asarray(value), depth)
            case torch.Generator():
                yield from bits_of(value.get_state())
            case type():
                yield from self._class(value, depth)
            case FunctionType():
                yield from self._function(value, depth)
            case MethodType() | BuiltinFunctionType():
                yield value.__qualname__.encode()
                owner = getattr(value, "__self__", None)
                bound = getattr(value, "__func__", None), None if isinstance(owner, ModuleType) else owner
                yield from (self.of(part, depth) for part in bound)
            case ModuleType():
                yield from self._python_module(value, frozenset(), depth)
            case torch.jit.ScriptFunction():
                yield unmangled(str(value.code).encode())
            case _:
                yield from self._object(value, depth)

    def _module(self, module: nn.Module, depth: int) -> Iterator[bytes]:
        """Yield a module's place in the model or, of one outside it, weights and all."""
        if id(module) in self._names:
            yield self._names[id(module)].encode()
            return
        yield from self.state(module.state_dict())
        yield from self.network(module, depth)

    def _array(self, array: Any, depth: int) -> Iterator[bytes]:
        yield str((array.dtype, array.shape)).encode()
        yield self.of(array.tolist(), depth) if array.dtype.hasobject else array.tobytes()

    def _object(self, value: object, depth: int) -> Iterator[bytes]:
        """Yield an object's class, what it contains, and what it keeps in attributes and slots."""
        kind = type(value)
        yield self.of(kind, depth)
        if isinstance(value, _ITEMS):
            yield from self._items(value, depth)
        for part in wrapped(value):
            yield self.of(part, depth)
        if kind.__module__.partition(".")[0] in _BY_TYPE or kind.__module__.startswith("torch._"):
            return
        for name, attribute in sorted(attributes(value).items()):
            yield from (name.encode(), self.of(attribute, depth))
        if kind not in _ITEMS:
            yield from (self.of(part, depth) for part in reduced(value))

    def _items(self, value: Any, depth: int) -> Iterator[bytes]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from (self.of(key, depth), self.of(item, depth))
            return
        found = [self.of(item, depth) for item in value]
        yield from sorted(found) if isinstance(value, set | frozenset) else found

    def _class(self, cls: type, depth: int) -> Iterator[bytes]:
        """Yield names and versions of a class's bases; of somebody's own also their files and all that they define."""
        for base in cls.__mro__:
            yield _named(base)
            if is_known(base):
                continue
            if _is_of_library(base):
                yield version(base.__module__).encode()
                continue
            yield self._source(base).encode()
            for key, value in sorted(vars(base).items()):
                if not (key.startswith("__") and key.endswith("__")) or isinstance(value, FunctionType):
                    yield from (key.encode(), self.of(value, depth))

    def _function(self, function: FunctionType, depth: int) -> Iterator[bytes]:
        """Yield a function's name, files and bytecode, and the values that it has, closes over and names."""
        yield function.__qualname__.encode()
        if function.__code__.co_filename.startswith("<@beartype"):
            # what it checks with has names of this process
            yield self.of(vars(function).get("__wrapped__"), depth)
            return
        if is_known(function):
            return
        if _is_of_library(function):
            yield version(function.__module__).encode()
            return
        yield self._source(function).encode()
        yield from self._code(function.__code__, depth)
        closed = [contents(cell) for cell in function.__closure__ or ()]
        for setting in (function.__defaults__, function.__kwdefaults__, vars(function), *closed):
            yield self.of(setting, depth)
        names = frozenset(names_in(function.__code__))
        yield from self._globals(function.__globals__, names, depth)

    def _globals(self, there: Mapping[str, object], names: frozenset[str], depth: int) -> Iterator[bytes]:
        """Yield what the names in somebody's code stand for; of a module, what those after its own may stand for."""
        for name in sorted(names):
            value = there.get(name)
            if isinstance(value, ModuleType):
                key = id(value), names
                if key not in self._made:
                    self._made[key] = value, b""
                    self._made[key] = value, _sealed(*self._python_module(value, names, depth + 1))
                yield from (name.encode(), self._made[key][1])
            elif name in there:
                yield from (name.encode(), self.of(value, depth))

    def _python_module(self, module: ModuleType, names: frozenset[str], depth: int) -> Iterator[bytes]:
        yield module.__name__.encode()
        file = getattr(module, "__file__", None)
        if is_library(module.__name__, file):
            yield version(module.__name__).encode()
        elif depth <= _DEPTH:
            yield self._sources.of(module.__name__, file or "").encode()
            yield from self._globals(vars(module), names, depth)

    def _code(self, code: CodeType, depth: int) -> Iterator[bytes]:
        yield code.co_code
        yield repr(code.co_names).encode()
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from self._code(constant, depth)
            else:
                yield self.of(constant, depth)

    def _source(self, made: type | FunctionType) -> str:
        return self._sources.of(made.__module__, _file_of(made) or "")


def _named(kind: type) -> bytes:
    return kind.__qualname__.encode()


def _sealed(*parts: bytes) -> bytes:
    """Return the digest of some bytes and of where each of them ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()


def _file_of(made: type | FunctionType) -> str | None:
    """Return the file that something's code is from, whatever its module is called today."""
    functions = [made] if isinstance(made, FunctionType) else vars(made).values()
    files = (function.__code__.co_filename for function in functions if isinstance(function, FunctionType))
    own = next((file for file in files if not file.startswith("<")), None)
    if own is not None:
        return own
    return getattr(sys.modules.get(made.__module__), "__file__", None)


def _is_of_library(made: type | FunctionType) -> bool:
    return is_library(str(made.__module__), _file_of(made))
