"""Batch norms whose statistics are those of the whole batch, wherever its rows are (torch's SyncBatchNorm)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncedNorms:
    """A twin for each batch norm of a model, of the same weights and statistics, that asks the other processes.

    Twins stand in while the model learns. Attacks, validation and the caller find the model's own layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._twins: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        for parent in model.modules():
            for name, norm in parent.named_children():
                if isinstance(norm, _BatchNorm):
                    twin = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
                    twin._forward_hooks = norm._forward_hooks  # a plug-in may sit there
                    self._twins.append((parent, name, norm, twin))

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Put the twins in the layers' places while inside."""
        for parent, name, norm, twin in self._twins:
            twin.training, twin.momentum = norm.training, norm.momentum
            parent._modules[name] = twin
        try:
            yield
        finally:
            for parent, name, norm, _ in self._twins:
                parent._modules[name] = norm
