"""Compile where the compiler can, and go on without it where it cannot."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def compiled_or_eager(function: Callable[..., T], what: str, notes: list[str]) -> Callable[..., T]:
    """Return ``function`` compiled for the shapes it meets.

    Should a call fail to compile, it is answered eagerly, as all later ones are, and ``notes`` gets a sentence about
    ``what``. Running out of memory is no failure to compile; after the first call, nor is what no compiler raised.
    """
    compiled: Callable[..., T] | None = torch.compile(function, dynamic=False)
    answered = False

    def call(*arguments: Any) -> T:
        nonlocal compiled, answered
        if compiled is not None:
            try:
                result = compiled(*arguments)
            except Exception as error:
                if is_out_of_memory(error) or (answered and not _is_the_compilers(error)):
                    raise
                # of a wrapper the first line says next to nothing
                cause = getattr(error, "inner_exception", error)
                notes.append(f"{what} runs uncompiled ({first_line(cause)})")
                compiled = None
            else:
                answered = True
                return result
        return function(*arguments)

    return call


def _is_the_compilers(error: BaseException) -> bool:
    """Return whether an error comes from a part of torch that compiles."""
    parts = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
    return type(error).__module__.startswith(parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch could not get memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def first_line(error: BaseException) -> str:
    """Return what an error says, in a line; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
