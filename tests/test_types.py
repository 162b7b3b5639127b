"""The error that callers meet."""

import pytest

from fsrobust.types import InputError, unknown_name


def test_input_error_is_a_value_error() -> None:
    """Callers that catch ValueError, Python's own word for bad input, catch InputError too."""
    with pytest.raises(ValueError, match="because"):
        raise InputError("because")


def test_unknown_name_offers_the_nearest() -> None:
    """A misspelt name is answered with the nearest known one, and with all of them."""
    message = str(unknown_name("model", "resnet81", ["vgg16", "resnet18"]))
    assert message == 'Unknown model "resnet81"; did you mean "resnet18"? Known: vgg16, resnet18'


def test_unknown_name_does_not_guess_wildly() -> None:
    """A name that resembles nothing gets the list and no suggestion."""
    message = str(unknown_name("model", "zzz", ["vgg16", "resnet18"]))
    assert message == 'Unknown model "zzz". Known: vgg16, resnet18'


def test_unknown_name_reads_any_iterable() -> None:
    """Names may come from an iterator: they are read once."""
    assert "Known: a, b" in str(unknown_name("loss", "q", iter(["a", "b"])))
