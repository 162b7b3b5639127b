"""What values are made of: a tensor's bits, an object's attributes, a function's names, TorchScript's code."""

import functools
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor


def bits_of(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a tensor's numbers; of one that is packed or sparse, those of what it stands for."""
    if not tensor.numel():
        return
    if tensor.is_quantized:
        yield from (tensor.int_repr().cpu().numpy().tobytes(), str(tensor.qscheme()).encode())
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.device.type == "meta":
        return
    plain = tensor.detach().resolve_conj().resolve_neg()
    yield plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def attributes(value: object) -> dict[str, object]:
    """Return what an object keeps by name."""
    kept = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            place = f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, place):
                kept[place] = getattr(value, place)
    return {str(name): attribute for name, attribute in kept.items()}


def wrapped(value: object) -> Iterable[object]:
    """Return the functions in what a class, or a partial, wraps them in."""
    match value:
        case property():
            return value.fget, value.fset
        case staticmethod() | classmethod():
            return (value.__func__,)
        case functools.partial():
            return value.args, value.keywords, value.func
    return ()


def reduced(value: object) -> Iterable[object]:
    """Return what a library's object would be pickled as; nothing of one that cannot be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = value.__reduce_ex__(2)
    except Exception:  # a lock, a file, a generator
        return ()
    return (
        [made]
        if isinstance(made, str)
        else [list(part) if hasattr(part, "__next__") else part for part in made]
    )


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names in some code and in the functions that it makes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def contents(cell: Any) -> object:
    """Return what a function closes over."""
    try:
        return cell.cell_contents
    except ValueError:  # a variable that was never set
        return "an empty cell"


def archived(module: torch.jit.ScriptModule) -> Iterator[bytes]:
    """Yield what TorchScript would save of a module: code, attributes and constants."""
    file = io.BytesIO()
    torch.jit.save(module, file)
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist(), key=lambda name: unmangled(name.encode())):
            if not name.endswith((".debug_pkl", "serialization_id")):  # places of sources, a checksum of them
                yield unmangled(archive.read(name))


def unmangled(code: bytes) -> bytes:
    """Return code without the numbers by which TorchScript tells classes of one name apart in a process."""
    return re.sub(rb"\.?___torch_mangle_\d+", b"", code)
