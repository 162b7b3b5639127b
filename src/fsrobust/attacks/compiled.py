"""Compile where the compiler can, and go on without it where it cannot."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def compiled_or_eager(function: Callable[..., T], what: str, notes: list[str]) -> Callable[..., T]:
    """Return ``function`` compiled for the shapes it meets.

    Should the first call fail to compile, it is answered eagerly, as all later ones are, and ``notes`` gets a
    sentence about ``what``. Running out of memory is no failure to compile.
    """
    chosen: list[Callable[..., T]] = []

    def call(*arguments: Any) -> T:
        if chosen:
            return chosen[0](*arguments)
        fast = torch.compile(function, dynamic=False)
        try:
            result = fast(*arguments)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            notes.append(f"{what} runs uncompiled ({first_line(error)})")
            chosen.append(function)
            return function(*arguments)
        chosen.append(fast)
        return result

    return call


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch could not get memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def first_line(error: BaseException) -> str:
    """Return what an error says, in a line; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
