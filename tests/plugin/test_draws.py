"""The masks of a batch in parts are those of the whole batch."""

import torch
from torch import nn

from fsrobust.plugin.draws import BatchShare, drawing_share, drawn_again
from fsrobust.plugin.mask import logistic_like
from tests.helpers import guarded, images


def test_a_share_draws_what_the_whole_batch_would() -> None:
    """The masks of rows 2, 3 and 4 of 6, by their seed, are rows 2, 3 and 4 of the masks that torch's seed gives."""
    model = guarded().train()
    f = torch.randn(6, 16, 2, 2)
    point = model.fsr[0]
    torch.manual_seed(7)
    whole = [logistic_like(f), logistic_like(f)]
    with drawing_share(model, BatchShare(7, first=2, whole=6)):
        rows = [point.draw(f[2:5]), point.draw(f[2:5])]  # type: ignore[operator]
    for mine, theirs in zip(rows, whole, strict=True):
        assert torch.equal(mine, theirs[2:5])
    assert point.draw is logistic_like


def test_noise_is_drawn_again() -> None:
    """What a share's mask and dropout draw inside, they draw after; then they go on."""
    model, x = guarded().train(), images(4)
    dropout = nn.Dropout(0.5)
    with drawing_share(model, BatchShare(1, first=0, whole=4)), torch.random.fork_rng(devices=[]):
        with drawn_again(model, x.device):
            first = model.parts(x).mask[0], dropout(x)
        second = model.parts(x).mask[0], dropout(x)
        third = model.parts(x).mask[0], dropout(x)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(second[1], third[1])
    # batch norms in train mode see the same batch each time
    assert torch.equal(first[0], second[0])
    assert not torch.equal(second[0], third[0])
