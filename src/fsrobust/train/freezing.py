"""The first epochs of fine-tuning, in which only the plug-in learns and its host network stands still.

A plug-in that has learnt nothing sends a trained host large, useless gradients; so it learns first, on the
features that the host has, with the statistics that the host's batch norms have.
"""

from typing import Any

from torch import nn

from fsrobust.plugin import Guarded
from fsrobust.types import InputError


def check_host(model: nn.Module, *, frozen_epochs: int) -> None:
    """Refuse epochs in which nothing would learn, before anything is written.

    Raises:
        InputError: the model has no plug-in, which alone learns while the host is frozen.
    """
    if frozen_epochs and not isinstance(model, Guarded):
        raise InputError(
            "Expected a model with the plug-in, since train.frozen_epochs leaves learning to it alone; "
            "attach it, or set train.frozen_epochs=0"
        )


class Host:
    """The network that carries the plug-in, and which of its parameters learn when it is not frozen.

    A layer that was frozen before stays so. Without a plug-in, the host is empty: see ``check_host``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.net = model.net if isinstance(model, Guarded) else nn.Sequential()
        self._learning = [p for p in self.net.parameters() if p.requires_grad]
        self.frozen = False

    def freeze(self, *, frozen: bool) -> bool:
        """Freeze the host or let it learn; return whether that is a change."""
        changed, self.frozen = frozen != self.frozen, frozen
        for p in self._learning:
            p.requires_grad_(not frozen)
        return changed

    def settle(self) -> None:
        """Put a frozen host in eval mode, after the model as a whole was put in train mode."""
        if self.frozen:
            self.net.eval()


def parameter_groups(model: nn.Module, host_lr: float) -> list[dict[str, Any]]:
    """Return groups for the optimiser: the host's learning rate is ``host_lr`` times that of the plug-in.

    One group of all if there is no difference.
    """
    if host_lr == 1.0 or not isinstance(model, Guarded):
        return [{"params": list(model.parameters())}]
    host = list(model.net.parameters())
    return [{"params": list(model.fsr.parameters())}, {"params": host, "lr_factor": host_lr}]
