"""What a probe answers and counts, against torch's own derivatives."""

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import Probe
from fsrobust.types import InputError
from tests.helpers import images


def test_the_jacobian_is_torchs(small_net: nn.Module) -> None:
    """Columns and their gradients are those of jacrev, for one query and a backward pass a column."""
    x, mixing = images(3), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 2.0], [0.5, 0.0]])
    small_net.requires_grad_(requires_grad=False)

    def outputs(logits: Tensor) -> Tensor:
        return logits @ mixing

    probe = Probe(small_net)
    with torch.no_grad():  # whatever mode the caller is in
        columns, gradients = zip(*probe.jacobian(x, outputs), strict=True)
    values = outputs(small_net(x))
    torch.testing.assert_close(torch.stack(columns, 1), values)
    for i in range(3):
        whole = torch.func.jacrev(lambda one: outputs(small_net(one[None]))[0])(x[i])
        # float32's sums in another order
        torch.testing.assert_close(torch.stack([g[i] for g in gradients]), whole, rtol=1e-4, atol=1e-6)
    assert (probe.forwards, probe.backwards) == (3, 6)


def test_a_jacobian_of_nan_is_refused() -> None:
    """A network with finite logits and NaN gradients cannot be judged column by column either."""
    x = images(2)
    probe = Probe(lambda pixels: pixels.flatten(1)[:, :2] + (0 * pixels).square().sum().sqrt())
    with pytest.raises(InputError, match="finite logits and gradients"):
        list(probe.jacobian(x, lambda logits: logits))
