"""IEEE float32 for verdicts: whatever the caller set is off inside the gate, and back after."""

from functools import reduce
from typing import Any

import pytest
import torch

from fsrobust.attacks.probe import ieee_fp32

SWITCHES = ["cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv"]


@pytest.mark.parametrize("name", SWITCHES)
def test_settings_per_operation_are_switched_off_and_restored(name: str) -> None:
    """A shortcut set through torch's newer settings is off inside, and as the caller set it after."""
    switch: Any = reduce(getattr, name.split("."), torch.backends)
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has the older settings only")
    before, theirs = switch.fp32_precision, "bf16" if name.startswith("mkldnn") else "tf32"
    switch.fp32_precision = theirs
    try:
        with ieee_fp32():
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == theirs
    finally:
        switch.fp32_precision = before


@pytest.mark.parametrize(
    "precision",
    [
        "highest",
        "high",
        "medium",
    ],
)
def test_the_older_setting_is_switched_off_and_restored(precision: str) -> None:
    """``set_float32_matmul_precision`` is "highest" inside, and what it was after; cuDNN's flag too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with ieee_fp32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_exception_restores_the_setting() -> None:
    """The setting comes back when what runs inside fails."""
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ArithmeticError), ieee_fp32():
            raise ArithmeticError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
