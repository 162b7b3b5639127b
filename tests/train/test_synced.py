"""Synchronised batch norms, as far as one process without a GPU has them."""

from torch import nn

from fsrobust.train.synced import SyncedNorms
from tests.runs import net


def test_synced_norms_stand_in_and_leave() -> None:
    """While the model learns its batch norms are torch's synchronised ones, of the same tensors; after, its own."""
    model = net(fsr="paper").train()
    own = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    next(iter(own.values())).eval()
    synced = SyncedNorms(model)
    next(iter(own.values())).momentum = None  # later, as the statistics of averaged weights are made
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    with synced.standing_in():
        for name, norm in own.items():
            twin = model.get_submodule(name)
            assert isinstance(twin, nn.SyncBatchNorm)
            assert twin.training == norm.training
            assert twin.momentum == norm.momentum
        assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    assert all(model.get_submodule(name) is norm for name, norm in own.items())
