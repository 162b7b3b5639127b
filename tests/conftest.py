"""Fixtures of all tests: seeds, and networks of a few thousand parameters."""

from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch
from torch import nn

from fsrobust.plugin import Guarded, create_model

collect_ignore = ["fuzz/guided.py"]  # a command that instruments what it imports
# a fixed stream of examples: a red run can be repeated, and a shared machine's load fails no test
hypothesis.settings.register_profile("fsrobust", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("fsrobust")
# tiny networks gain nothing from a second thread, and on a busy machine they wait for it: 20 times slower
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own stream, seeded."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def small_net() -> nn.Module:
    """A bare convolutional network for images of 3 × 8 × 8 and four classes, in eval mode."""
    return create_model("resnet_small", classes=4, width=4).eval()


@pytest.fixture
def guarded_net() -> Guarded:
    """The same network with the plug-in at the paper's place, in eval mode."""
    model = create_model("resnet_small", classes=4, width=4, fsr="paper").eval()
    assert isinstance(model, Guarded)
    return model


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the run-time shape checks off, as they are for a user, to see what our own checks say."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
