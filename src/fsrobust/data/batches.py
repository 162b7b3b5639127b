"""Batches from uint8 images that stay on the device; everything random is keyed by seed, epoch and id."""

from collections.abc import Iterator

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from fsrobust.seeding import Noise, derive
from fsrobust.types import Images

Bytes = UInt8[Tensor, "B C H W"]


def pixels(images: Bytes) -> Images:
    """Return float32 pixels k/255 in [0, 1].

    >>> pixels(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return images.float() / 255


def crop_flip(images: Bytes, noise: Noise, *, padding: int = 4) -> Bytes:
    """Return each image zero-padded, cropped at a random place to its own size, and mirrored half the time.

    One gather on the device that holds the images. The result is NCHW in shape, channels-last in memory.
    """
    _, _, height, width = images.shape
    draws = noise.uniform((3,))
    offsets = (draws[:, :2] * (2 * padding + 1)).long()
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    columns = torch.where(draws[:, 2:] < 0.5, columns, columns.flip(1))
    padded = F.pad(images, (padding,) * 4)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def training_batches(count: int, *, batch: int, seed: int, epoch: int) -> Int[Tensor, "steps batch"]:
    """Return the indices of an epoch's batches: a seeded permutation, its last ragged batch left out.

    >>> training_batches(10, batch=4, seed=0, epoch=1).shape
    torch.Size([2, 4])
    """
    generator = torch.Generator().manual_seed(derive(seed, "shuffle", epoch))
    order = torch.randperm(count, generator=generator)
    return order[: count - count % batch].view(-1, batch)


def evaluation_batches(count: int, *, batch: int) -> Iterator[slice]:
    """Yield slices that cover 0 … count in order; the last may be short."""
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))
