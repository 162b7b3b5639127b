"""The first epochs of fine-tuning, in which only the plug-in learns and its host network stands still.

A plug-in that has learnt nothing sends a trained host large, useless gradients; so it learns first, on the
features that the host has, with the statistics that the host's batch norms have.
"""

from typing import Any

from torch import nn

from fsrobust.plugin import Guarded, insertion_points
from fsrobust.types import InputError


def check_host(model: nn.Module, *, frozen_epochs: int, host_lr: float) -> None:
    """Refuse settings of a host for a model that is none, before anything is written.

    Raises:
        InputError: the model has no plug-in, which alone learns while the host is frozen, and whose learning rate the
            host's is a share of.
    """
    if host_lr != 1.0 and not insertion_points(model):
        raise InputError(
            "Expected a model with the plug-in, since train.host_lr is a share of its learning rate; attach it, or "
            "set train.host_lr=1 and train.lr"
        )
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

    One group of all if there is no difference. The host is all that is no plug-in, whatever wraps it.
    """
    if host_lr == 1.0:
        return [{"params": list(model.parameters())}]
    plugin = [p for point in insertion_points(model) for p in point.parameters()]
    own = {id(p) for p in plugin}
    host = [p for p in model.parameters() if id(p) not in own]
    return [{"params": plugin}, {"params": host, "lr_factor": host_lr}]
