"""Weights small enough to keep and to carry: half precision, in files of at most 16 MiB.

What is measured on packed weights is measured on exactly those: pack first, then evaluate.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fsrobust.plugin import config_of
from fsrobust.records import FORMAT, write_bytes
from fsrobust.types import InputError

LARGEST: Final = 16 * 2**20
"""Bytes a file may have."""
_HEADER: Final = 2**17
"""Bytes left free for a file's header, which names every tensor twice."""


def pack(model: nn.Module, folder: Path, name: str) -> list[Path]:
    """Write ``folder/NAME-i-of-n.safetensors`` and ``NAME.sha256``; return the weights' files.

    Weights of two dimensions and more are stored as float16, its 11 bits being three more than bfloat16's;
    statistics, biases, and weights that would overflow stay float32: they are few and matter.
    """
    config = config_of(model)
    tensors = {name: _halved(value) for name, value in model.state_dict().items()}
    parts = _split(tensors)
    files, lines = [], []
    for number, part in enumerate(parts, start=1):
        header = {
            "model": json.dumps(asdict(config) if config else None),
            "part": f"{number} of {len(parts)}",
        }
        content = safetensors_bytes(part, header)
        file = folder / f"{name}-{number}-of-{len(parts)}.safetensors"
        write_bytes(file, content)
        files.append(file)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    write_bytes(folder / f"{name}.sha256", "".join(lines).encode())
    return files


def _halved(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    if value.dtype != torch.float32 or value.ndim < 2:
        return value
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def _split(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors in their order, in as few parts as their order and the limit allow."""
    parts: list[dict[str, Tensor]] = [{}]
    room = LARGEST - _HEADER
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if size > LARGEST - _HEADER:
            raise InputError(
                f"Expected tensors of at most {LARGEST} bytes in half precision, but {name} has {size}"
            )
        if size > room:
            parts.append({})
            room = LARGEST - _HEADER
        parts[-1][name] = value
        room -= size
    return parts


def find_packed(folder: Path, name: str) -> list[Path]:
    """Return the verified files of packed weights, in order; none if nothing of that name is packed.

    Raises:
        InputError: a part is missing, or is not what was written.
    """
    index = folder / f"{name}.sha256"
    if not index.is_file():
        return []
    try:
        lines = [line.split(maxsplit=1) for line in index.read_text().splitlines()]
        expected = {file.strip(): digest for digest, file in lines}
    except (OSError, ValueError) as error:
        raise InputError(f'"{index}" is damaged: {error}') from error
    if not expected:
        raise InputError(f'"{index}" is damaged: it names no file')
    for file, digest in expected.items():
        if not re.fullmatch(r"[\w.-]+", file) or not (folder / file).is_file():
            raise InputError(
                f'Expected "{folder / file}", a part of packed weights, but there is no such file'
            )
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise InputError(
                f'"{folder / file}" is damaged or was tampered with: it does not match its checksum'
            )
    return [folder / file for file in expected]


def safetensors_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Return tensors as safetensors with a header that keeps their order: the same bytes in every process.

    The library sorts tensors by their types and names, and writes the header's entries in an order of chance; here they
    are sorted.
    """
    order = json.dumps(list(tensors))
    content = to_safetensors(dict(tensors), metadata={"format": str(FORMAT), "order": order, **header})
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]
