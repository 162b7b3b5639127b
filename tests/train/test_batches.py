"""Batches: what is drawn is uniform, and a function of seed, epoch and sample alone."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from fsrobust.data.batches import crop_flip, evaluation_batches, pixels, training_batches
from fsrobust.seeding import Noise


def bytes_of(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    """Return images whose every pixel is at least 1, so that padding can be told apart."""
    generator = torch.Generator().manual_seed(5)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def noise(count: int, epoch: int = 1) -> Noise:
    """Return the noise of samples 0, 1, 2, … in an epoch."""
    return Noise.of(torch.arange(count), 0, "augment", epoch)


def by_hand(image: Tensor, top: int, left: int, *, mirrored: bool, padding: int = 4) -> Tensor:
    """Return one image padded, cropped and mirrored, pixel by pixel."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            source_row = row + top - padding
            source_column = (width - 1 - column if mirrored else column) + left - padding
            if 0 <= source_row < height and 0 <= source_column < width:
                for channel in range(channels):
                    result[channel, row, column] = image[channel, source_row, source_column]
    return result


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 8, 8), (1, 6, 9)])
def test_crop_and_flip_are_those_of_a_plain_loop(channels: int, height: int, width: int) -> None:
    """Each image equals its own pad, crop and mirror at the offsets that its noise stands for."""
    images = bytes_of(12, channels, height, width)
    augmented = crop_flip(images, noise(12))
    draws = noise(12).uniform((3,))
    assert augmented.dtype == torch.uint8
    for image, result, (top, left, flip) in zip(images, augmented, draws.tolist(), strict=True):
        expected = by_hand(image, int(9 * top), int(9 * left), mirrored=flip >= 0.5)
        assert torch.equal(result, expected)


def test_offsets_are_uniform_and_half_is_mirrored() -> None:
    """Read off the pixels: all 81 places and both orientations are equally likely, independently (χ²)."""
    count = 16_200
    marker = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(count, 1, 8, 8)
    result = crop_flip(marker, noise(count)).long()
    # the padding's zeros and one pixel that is inside every crop say where a crop began
    seen = result[:, 0].flatten(1).argmax(1)  # the largest pixel that the crop still holds …
    value = result[:, 0].flatten(1).amax(1) - 1  # … and where it was in the image
    row, column = seen // 8, seen % 8
    mirrored = (result[:, 0, :, 1:] - result[:, 0, :, :-1]).eq(-1).flatten(1).any(1)
    top = value // 8 - row + 4
    left = value % 8 - torch.where(mirrored, 7 - column, column) + 4
    assert [int(v) for v in (top.min(), top.max(), left.min(), left.max())] == [0, 8, 0, 8]
    cells = torch.bincount(top * 18 + left * 2 + mirrored.long(), minlength=162)
    # 100 expected in each of 162 cells; a fixed seed, so this cannot fail by chance later
    assert chisquare(cells.numpy()).pvalue > 0.01


def test_augmentation_does_not_depend_on_the_batch() -> None:
    """A sample is cropped the same way alone, in any order and in any batch; otherwise in other epochs."""
    images, draw = bytes_of(20), noise(20)
    together = crop_flip(images, draw)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(crop_flip(images[order], draw.select(order)), together[order])
    assert torch.equal(crop_flip(images[7:8], Noise(draw.key, torch.tensor([7]))), together[7:8])
    assert not torch.equal(crop_flip(images, noise(20, epoch=2)), together)


def test_augmented_images_are_channels_last_bytes() -> None:
    """Shape NCHW, memory channels-last, still uint8, and the input as it was."""
    images = bytes_of(4)
    before = images.clone()
    augmented = crop_flip(images, noise(4))
    assert augmented.shape == images.shape
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_pixels_are_k_of_255() -> None:
    """Every byte k becomes the float32 nearest to k/255."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (torch.arange(256, dtype=torch.float64) / 255).float().view(1, 1, 16, 16)
    assert torch.equal(pixels(levels), expected)


@pytest.mark.parametrize(("count", "batch", "steps"), [(10, 4, 2), (12, 4, 3), (5, 5, 1)])
def test_an_epoch_is_a_permutation(count: int, batch: int, steps: int) -> None:
    """Each sample comes at most once, and all but a ragged last batch come."""
    order = training_batches(count, batch=batch, seed=0, epoch=1)
    assert order.shape == (steps, batch)
    drawn = order.flatten().tolist()
    assert len(set(drawn)) == steps * batch
    assert set(drawn) <= set(range(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """The order is a function of seed and epoch, not of what was drawn before."""
    orders = {
        (seed, epoch): tuple(training_batches(64, batch=8, seed=seed, epoch=epoch).flatten().tolist())
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    }
    assert len(set(orders.values())) == 6
    torch.manual_seed(99)
    again = training_batches(64, batch=8, seed=1, epoch=2).flatten().tolist()
    assert tuple(again) == orders[1, 2]


def test_the_samples_left_out_change_from_epoch_to_epoch() -> None:
    """No sample is always in the ragged batch: over epochs all are seen."""
    seen = {
        i for epoch in range(1, 30) for i in training_batches(10, batch=4, seed=0, epoch=epoch)[0].tolist()
    }
    assert seen == set(range(10))


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (8, 4), (3, 10), (0, 4)])
def test_evaluation_covers_everything_in_order(count: int, batch: int) -> None:
    """The slices are 0 … count without a gap, none longer than a batch, none empty."""
    parts = [list(range(count))[part] for part in evaluation_batches(count, batch=batch)]
    assert [i for part in parts for i in part] == list(range(count))
    assert all(0 < len(part) <= batch for part in parts)
