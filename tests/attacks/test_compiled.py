"""Compiling is an attempt: what fails to compile runs as it is written, and says so."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fsrobust.attacks.compiled import compiled_or_eager, first_line, is_out_of_memory


def test_what_fails_to_compile_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is answered all the same; the compiler is asked once."""
    asked: list[object] = []

    def broken(function: object, **_options: object) -> object:
        def fast(_x: Tensor) -> Tensor:
            asked.append(function)
            raise RuntimeError("no C++ compiler\nand a long trace")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    notes: list[str] = []
    double = compiled_or_eager(lambda x: 2 * x, "doubling", notes)
    assert double(torch.ones(1)).item() == 2
    assert double(torch.ones(1) * 2).item() == 4
    assert len(asked) == 1
    assert notes == ["doubling runs uncompiled (no C++ compiler)"]


def test_a_later_failure_to_compile_runs_eagerly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another shape, say; an error of the function itself is nobody's else's."""
    compiled = torch.compile
    rooms: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        rooms.append(len(rooms))
        if len(rooms) > 1:
            raise RuntimeError("no kernel for this shape")
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend=backend, **options))
    notes: list[str] = []
    double = compiled_or_eager(lambda x: 2 * x, "doubling", notes)
    assert double(torch.ones(1)).item() == 2
    assert double(torch.ones(2)).tolist() == [2, 2]
    assert double(torch.ones(4)).tolist() == [2, 2, 2, 2]
    assert len(notes) == 1
    assert "no kernel for this shape" in notes[0]
    assert len(rooms) == 2


def test_a_later_error_of_the_function_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once compiled code has answered, what it raises goes to the caller, and is not tried again."""
    asked: list[int] = []

    def doubled(x: Tensor) -> Tensor:
        asked.append(len(x))
        if len(x) == 3:
            raise ValueError("three")
        return 2 * x

    monkeypatch.setattr(torch, "compile", lambda function, **_options: function and (lambda x: doubled(x)))
    notes: list[str] = []
    double = compiled_or_eager(doubled, "doubling", notes)
    double(torch.ones(1))
    with pytest.raises(ValueError, match="three"):
        double(torch.ones(3))
    assert (asked, notes) == ([1, 3], [])


def test_out_of_memory_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the caller, who can take a smaller batch."""

    def broken(_function: object, **_options: object) -> object:
        def fast(_x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    notes: list[str] = []
    with pytest.raises(torch.OutOfMemoryError):
        compiled_or_eager(lambda x: x, "x", notes)(torch.ones(1))
    assert notes == []


def test_out_of_memory_is_recognised_on_a_cpu() -> None:
    """Torch's CPU allocator raises a plain RuntimeError: ask it for more than any machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert first_line(ValueError()) == "ValueError"
